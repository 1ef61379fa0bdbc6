"""Many rows into a table by the fastest way of the driver: COPY on PostgreSQL, one prepared statement on SQLite.

Columns that are left out take the database's own default; those that only Python has must be given.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table
from sqlalchemy.orm import DeclarativeBase, Session


def insert_rows(session: Session, model: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that have the same columns, in their order, within the session's transaction."""
    if not rows:
        return
    session.flush()  # what the rows refer to is there
    table = model.__table__
    assert isinstance(table, Table)
    dialect = session.get_bind().dialect
    columns = [table.c[name] for name in rows[0]]
    made = []
    for name, column in zip(rows[0], columns, strict=True):
        cells = [row[name] for row in rows]
        process = column.type.dialect_impl(dialect).bind_processor(dialect)
        made.append(cells if process is None else list(map(process, cells)))
    load_rows(session, table.name, [column.name for column in columns], list(zip(*made, strict=True)))


def load_rows(session: Session, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Load cells as the driver takes them, in the order of `columns`, within the session's transaction."""
    names = ", ".join(f'"{column}"' for column in columns)
    connection: Any = session.connection().connection.driver_connection
    if session.get_bind().dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        connection.executemany(f'INSERT INTO "{table}" ({names}) VALUES ({marks})', rows)  # noqa: S608
        return
    with connection.cursor() as cursor, cursor.copy(f'COPY "{table}" ({names}) FROM STDIN') as copy:
        for row in rows:
            copy.write_row(row)
