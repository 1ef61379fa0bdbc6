"""Questions in a user's own SQL, which the database itself keeps from writing and from looking elsewhere.

SQLite: a connection of its own, opened read-only, whose authorizer allows SELECT and nothing beside.
PostgreSQL: a READ ONLY transaction under a role that may read the history and no more.
"""

import json
import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from flowscout.db.database import Database
from flowscout.db.reader_role import READER, how_to_make
from flowscout.errors import QueryError

TIMEOUT_S = 30.0
ROW_LIMIT = 1000

_CELL_BYTES = 64 * 2**20  # one cell of a result on SQLite: zeroblob() could otherwise fill the memory
_STEPS = 10_000  # of SQLite's machine between two looks at the clock: well under a millisecond
_LOADS_CODE = {"load_extension", "fts3_tokenizer"}
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}


@dataclass(frozen=True)
class Answer:
    """What came back: the names of the columns, the rows, and whether the limit cut more of them off."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    cut: bool


def ask_sql(
    database: Database, statement: str, *, limit: int | None = ROW_LIMIT, timeout_s: float = TIMEOUT_S
) -> Answer:
    """Return the rows of one SELECT, at most `limit` of them (None: all).

    Raises:
        QueryError: it is wrong, is not one question, would change or reach something else, or takes too long.
    """
    if not math.isfinite(timeout_s) or timeout_s <= 0 or (limit is not None and limit < 1):
        raise QueryError(
            f"limit is {limit!r} and timeout {timeout_s!r} s, expected a limit of 1 row or more and a positive "
            "number of seconds."
        )
    ask = _ask_sqlite if database.url.get_backend_name() == "sqlite" else _ask_postgresql
    columns, rows = ask(database.url, statement, limit=limit, timeout_s=timeout_s)
    cut = limit is not None and len(rows) > limit
    return Answer(columns, tuple(rows[:limit]), cut)


def _ask_sqlite(
    url: URL, statement: str, *, limit: int | None, timeout_s: float
) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    assert url.database is not None
    deadline = time.monotonic() + timeout_s
    path = Path(url.database).absolute().as_uri()
    connection = sqlite3.connect(f"{path}?mode=ro", uri=True, timeout=timeout_s, isolation_level=None)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _CELL_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), _STEPS)
        connection.set_authorizer(_authorize)
        cursor = connection.execute(statement)
        if cursor.description is None:
            raise _refused("it returns no rows", statement)
        rows = cursor.fetchall() if limit is None else cursor.fetchmany(limit + 1)
        return tuple(column[0] for column in cursor.description), rows
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        if time.monotonic() > deadline:
            raise _too_long(timeout_s) from error
        raise _refused(str(error), statement) from error
    finally:
        connection.close()


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Allow to read and to compute; deny ATTACH, PRAGMA, transactions, extensions and every change.

    The arguments after the action are what SQLite says of it: the name of a function comes second.
    """
    if action in _ALLOWED:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and (second or first or "").lower() not in _LOADS_CODE:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


# The question runs within a SECURITY DEFINER function that the reader owns, because nobody can change his role
# within one. In plain SQL, set_config('role', 'none', true) could undo SET LOCAL ROLE in the middle of a
# question, and query_to_xml() then ask another as the user who connected. A cursor takes one question only.
_FUNCTION = """
CREATE FUNCTION pg_temp.flowscout_ask(question text, most bigint) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    found record;
    n bigint := 0;
BEGIN
    FOR found IN EXECUTE question LOOP
        RETURN NEXT (SELECT json_agg(value)::text FROM json_each(row_to_json(found)));
        n := n + 1;
        EXIT WHEN n >= most;
    END LOOP;
END $$
"""
_MAY_TOO_MUCH = """
SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls
    OR EXISTS (SELECT 1 FROM pg_auth_members WHERE member = pg_roles.oid)
FROM pg_roles WHERE rolname = :role
"""


def _ask_postgresql(
    url: URL, statement: str, *, limit: int | None, timeout_s: float
) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    from psycopg import Error
    from psycopg.errors import QueryCanceled

    most = 2**62 if limit is None else limit + 1
    with _as_reader(url, timeout_s=timeout_s) as raw:
        columns = _described(raw, statement)
        try:
            found = raw.execute("SELECT * FROM pg_temp.flowscout_ask(%s, %s)", (statement, most)).fetchall()
        except QueryCanceled as error:
            raise _too_long(timeout_s) from error
        except (Error, ValueError) as error:
            said = error.diag.message_primary if isinstance(error, Error) else None
            raise _refused(said or str(error), statement) from error
    return columns, [tuple(json.loads(line)) if line else () for (line,) in found]


@contextmanager
def _as_reader(url: URL, *, timeout_s: float) -> Iterator[Any]:
    """Yield a psycopg connection of its own in a READ ONLY transaction under the reader's role."""
    engine = create_engine(url, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            user = connection.execute(text("SELECT current_user")).scalar_one()
            too_much = connection.execute(text(_MAY_TOO_MUCH), {"role": READER}).scalar()
            if too_much is None:
                raise _no_role(f"there is no role {READER!r}", user)
            if too_much:
                raise QueryError(
                    f"PostgreSQL role {READER!r} may do more than read, expected one without attributes and "
                    f"memberships; drop it, then: {how_to_make(user)}"
                )
            try:
                connection.execute(text("SET LOCAL TIME ZONE 'UTC'"))
                connection.execute(text(f"SET LOCAL statement_timeout = {max(1, round(timeout_s * 1000))}"))
                connection.execute(text(f"SET LOCAL ROLE {READER}"))
                connection.execute(text(_FUNCTION))
                connection.execute(text("SET TRANSACTION READ ONLY"))
            except DBAPIError as error:
                raise _no_role(str(error.orig), user) from error
            yield connection.connection.driver_connection
            # Nothing is committed: the function goes with the transaction.
    finally:
        engine.dispose()


def _described(raw: Any, statement: str) -> tuple[str, ...]:
    """Return the names of the columns of a question, without asking it; there is only one in it."""
    from psycopg.pq import ExecStatus

    try:
        question = statement.encode(raw.info.encoding)
        prepared = raw.pgconn.prepare(b"", question)
    except (ValueError, LookupError) as error:  # a NUL in the text, a letter that the database has not
        raise _refused(str(error), statement) from error
    if prepared.status != ExecStatus.COMMAND_OK:
        raise _refused(prepared.error_message.decode(errors="replace").split("\n")[0], statement)
    columns = raw.pgconn.describe_prepared(b"")
    if columns.nfields == 0:
        raise _refused("it returns no columns", statement)
    return tuple((columns.fname(i) or b"").decode(raw.info.encoding) for i in range(columns.nfields))


def _refused(said: str, statement: str) -> QueryError:
    shown = statement if len(statement) <= 80 else statement[:77] + "..."
    return QueryError(
        f"the database refuses {shown!r} ({said.strip()}), expected one SELECT of the tables or of the view "
        "`history`; nothing can be changed or reached by SQL here."
    )


def _too_long(timeout_s: float) -> QueryError:
    return QueryError(
        f"the question took longer than {timeout_s:g} s and was ended; ask for less, or give it more time with "
        "--timeout."
    )


def _no_role(said: str, user: str) -> QueryError:
    return QueryError(
        f"this question cannot be kept read-only ({said}), expected a PostgreSQL role {READER!r} that may only "
        f"read; an administrator makes it by: {how_to_make(user)}"
    )
