"""The history on a real PostgreSQL server against the contract of storage."""

from collections.abc import Iterator

import pytest

from flowscout.db import History
from flowscout.testing.storage import HistoryContract


class TestPostgresql(HistoryContract):
    @pytest.fixture
    def url(self, postgresql_url: str) -> str:
        return postgresql_url

    @pytest.fixture
    def history(self, url: str) -> Iterator[History]:
        with History(url) as history:
            yield history
