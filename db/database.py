"""A database and its two kinds of transaction: `write` takes the lock at once, `read` never takes one.

What is stored belongs in `db.models`; who may change it, in the repositories.
"""

import json
import logging
import math
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session

from flowscout.db import migrate
from flowscout.db.timings import AWAY_S, BUSY_TIMEOUT_S
from flowscout.errors import NoHistoryError, SchemaError

logger = logging.getLogger(__name__)

SAY_AGAIN_S = 15.0
"""How often is said that a database is still away."""

_MAKERS_KEY = 0x666C6F7773636F75  # any number that another program is unlikely to lock: "flowscou"


def parse_url(url: str) -> URL:
    """Return `url` as SQLAlchemy reads it; a bare path means a SQLite file.

    Raises:
        SchemaError: the text is no database URL, or of a database that is not supported.
    """
    if "://" not in url:
        return URL.create("sqlite", database=url)  # not by way of text: a path may hold ? and #
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise SchemaError(
            f"database {url!r} is not a URL, expected sqlite:///FILE or postgresql://HOST/NAME; "
            "give one with --db."
        ) from error
    # Whatever driver is named, Prefect's asynchronous ones for instance: the history has one for each.
    drivers = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
    if parsed.get_backend_name() not in drivers:
        raise SchemaError(
            f"database {url!r} is of kind {parsed.get_backend_name()!r}, expected sqlite or postgresql; "
            "give one of these with --db."
        )
    return parsed.set(drivername=drivers[parsed.get_backend_name()])


def shown_url(url: str) -> str:
    """Return where a database is as people may read it: the file of SQLite, else the URL without its password."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return parsed.database
    return parsed.set(drivername="postgresql").render_as_string(hide_password=True)


class Database:
    """An open database whose schema is the one this version knows.

    `write()` and `read()` yield a `Session`. On SQLite a writing transaction begins with BEGIN IMMEDIATE:
    a deferred one that reads first and then writes fails at once with "database is locked", whatever the
    busy timeout. Readers hold `query_only` connections. On PostgreSQL a transaction waits to begin while the
    server is away, `patience_s` at most: nothing has been done in it yet, so that nothing is done twice.
    """

    patience_s = AWAY_S

    def __init__(self, url: str, *, create: bool = True) -> None:
        """Open the database at `url`; make its tables if it is empty and `create` is true.

        Raises:
            NoHistoryError: there is none, and it is not to be made.
            SchemaError: not a database, or of another schema version, or of another program.
        """
        self.url = parse_url(url)
        self._refuse_missing_file(create=create)
        self._writer = _engine(self.url, immediate=True)
        self._reader = _engine(self.url, immediate=False)
        try:
            self._prepare(create=create)
        except BaseException:
            self.close()
            raise

    @property
    def location(self) -> str:
        """What opens this database again: the path of a SQLite file, or the URL with its password."""
        if self.url.get_backend_name() == "sqlite" and self.url.database is not None:
            return str(Path(self.url.database).absolute())
        return self.url.render_as_string(hide_password=False)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Yield a session in a transaction that holds the write lock; commit at the end."""
        with self._named(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            self._connect(session)
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Yield a session on a consistent snapshot; it cannot write."""
        with self._named(), Session(self._reader, expire_on_commit=False) as session, session.begin():
            self._connect(session)
            yield session

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Yield one writing connection for several transactions that share temporary tables.

        Each of them is `with Session(connection) as session, session.begin()`, and takes the lock as `write` does.
        """
        with self._writer.connect() as connection:
            yield connection

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let an error that may pass say which database it is about."""
        try:
            yield
        except DBAPIError as error:
            if passing(error) is not None:
                error.add_note(f"database {self._shown}")
            raise

    def _connect(self, session: Session) -> None:
        """Take a connection that answers; a server that is away is waited for, and spoken of."""
        if self.url.get_backend_name() == "sqlite":
            return
        begun, pauses, said_at = time.monotonic(), iter((0.2, 0.5, 1.0)), -math.inf
        while True:
            try:
                session.connection()
            except OperationalError as error:
                left = self.patience_s - (time.monotonic() - begun)
                if passing(error) is None or left <= 0:
                    raise
                if time.monotonic() - said_at >= SAY_AGAIN_S:
                    said_at = time.monotonic()
                    logger.warning("%s does not answer (%s); waiting %.0f s more", self._shown, _said(error), left)
                time.sleep(min(next(pauses, 2.0), left))
            else:
                return

    def close(self) -> None:
        """Close every connection."""
        self._writer.dispose()
        self._reader.dispose()

    def _refuse_missing_file(self, *, create: bool) -> None:
        name = self.url.database
        if self.url.get_backend_name() != "sqlite":
            return
        if not name or name == ":memory:":
            raise SchemaError(
                "database sqlite:///:memory: cannot be shared by readers and writers, expected a file; "
                "give --db sqlite:///FILE."
            )
        path = Path(name)
        if not create and not path.exists():
            raise NoHistoryError(
                f"no history at {name!r}: nothing has been run there yet. "
                "Start with `flowscout run`, or name the database with --db."
            )
        if not path.parent.is_dir():
            raise SchemaError(f"folder {str(path.parent)!r} does not exist; make it, or give another --db.")

    def _prepare(self, *, create: bool) -> None:
        try:
            with self._reader.connect() as connection:
                found = current_revision(connection)
                if found is None:
                    self._refuse_foreign(connection)
            if found is None and create:
                with self._writer.begin() as connection:
                    _wait_for_other_makers(connection)
                    if current_revision(connection) is None:  # another process may have been first
                        migrate.upgrade(connection)
                    found = current_revision(connection)
        except OperationalError as error:
            raise SchemaError(f"database {self._shown} cannot be opened: {error.orig}.") from error
        except DatabaseError as error:
            raise SchemaError(
                f"{self._shown} is not a database that Flowscout can read ({error.orig}); "
                "name another file with --db."
            ) from error
        migrate.check_revision(found, self._shown)

    def _refuse_foreign(self, connection: Connection) -> None:
        """Refuse a file of another program. A PostgreSQL database may be shared with one."""
        if self.url.get_backend_name() != "sqlite":
            return
        tables = inspect(connection).get_table_names()
        if tables:
            raise SchemaError(
                f"{self._shown} holds tables of another program ({', '.join(tables[:3])}), expected a history or "
                "an empty database; name another file with --db."
            )

    @property
    def _shown(self) -> str:
        return self.url.render_as_string(hide_password=True)


def current_revision(connection: Connection) -> str | None:
    """Return the schema revision that the database is at, or None where there are no tables."""
    dialect = connection.dialect
    if not dialect.has_table(connection, "alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _wait_for_other_makers(connection: Connection) -> None:
    """Let one process at a time make the tables. On SQLite BEGIN IMMEDIATE has done so already."""
    if connection.dialect.name == "postgresql":
        # Two that make the same table at once fail on PostgreSQL with a duplicate key of its catalogue.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MAKERS_KEY})


def _write_ahead(cursor: Any) -> None:
    """Switch to write-ahead logging.

    SQLite does not wait for its busy timeout here: while another process makes the same switch it says at once
    that the database is locked.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


_AWAY = ("08", "53", "57P", "58030")
"""How SQLSTATE begins where a connection broke, a resource such as the disk ran out, a server ends or starts."""


def passing(error: BaseException) -> str | None:
    """Return why a database refused where that may pass by itself: it is away, its disk is full.

    What was not committed has not happened then, and may be done again.
    """
    if not isinstance(error, DBAPIError):
        return None
    if isinstance(error.orig, sqlite3.Error):
        words = ("disk is full", "disk I/O error", "database is locked")
        return _said(error) if any(word in str(error.orig) for word in words) else None
    state = getattr(error.orig, "sqlstate", None)
    lost = error.connection_invalidated or (state is None and isinstance(error, OperationalError))
    return _said(error) if lost or (state is not None and state.startswith(_AWAY)) else None


def _said(error: DBAPIError) -> str:
    """Return what a database said, on one line."""
    return " ".join(str(error.orig).split())[:200]


def write_engine(url: URL) -> Engine:
    """Return an engine that writes to a database whatever its schema is: for upgrades."""
    return _engine(url, immediate=True)


def _engine(url: URL, *, immediate: bool) -> Engine:
    if url.get_backend_name() != "sqlite":
        return _postgresql_engine(url, read_only=not immediate)
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        json_serializer=to_json,
    )

    @event.listens_for(engine, "connect")
    def _prepare_connection(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would otherwise begin transactions of its own
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
        cursor.execute("PRAGMA foreign_keys = ON")
        if immediate:
            _write_ahead(cursor)
            cursor.execute("PRAGMA synchronous = FULL")  # NORMAL loses dispatch rows when power is lost
        else:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _postgresql_engine(url: URL, *, read_only: bool) -> Engine:
    try:
        return create_engine(
            url,
            pool_pre_ping=True,
            isolation_level="REPEATABLE READ" if read_only else "READ COMMITTED",
            execution_options={"postgresql_readonly": read_only},
            json_serializer=to_json,
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise SchemaError(
            "PostgreSQL needs its driver, which is not installed; "
            "install it with: pip install 'flowscout[postgresql]'."
        ) from error


def to_json(content: Any) -> str:
    """Return `content` as JSON, with null for what is no finite number.

    Python would write NaN, which is not JSON: PostgreSQL refuses it, and with it the whole round.
    """
    return json.dumps(_finite(content), allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content


def sidecar_folder(url: URL) -> Path | None:
    """Return the folder for files that belong to a SQLite database, `NAME.files` beside it."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    path = Path(url.database).absolute()
    return path.with_name(re.sub(r"\.(db|sqlite3?)$", "", path.name) + ".files")
