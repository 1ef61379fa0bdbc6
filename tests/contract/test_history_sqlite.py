"""The history in a SQLite file against the contract of storage."""

from collections.abc import Iterator

import pytest

from flowscout.db import History
from flowscout.testing.storage import HistoryContract


class TestSqlite(HistoryContract):
    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        return sqlite_url

    @pytest.fixture
    def history(self, url: str) -> Iterator[History]:
        with History(url) as history:
            yield history
