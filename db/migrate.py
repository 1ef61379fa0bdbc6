"""Bring a database's schema up, or down, by Alembic's migrations."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from flowscout.db.reader_role import ensure_reader
from flowscout.errors import NoHistoryError, SchemaError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0004"
"""The revision this version works with. Kept by hand, so that opening a database does not load Alembic;
a test compares it with the migrations on disk."""


def config(connection: Connection) -> "Config":
    """Return an Alembic configuration that runs on `connection`, within its transaction."""
    from alembic.config import Config

    settings = Config()
    folder = str(Path(__file__).parent / "migrations")
    settings.set_main_option("script_location", folder.replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    settings.attributes["connection"] = connection
    return settings


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run the migrations up to `revision`, and let the reader's role read the tables."""
    from alembic import command

    command.upgrade(config(connection), revision)
    ensure_reader(connection)


def downgrade(connection: Connection, revision: str = "base") -> None:
    """Undo the migrations down to `revision`."""
    from alembic import command

    command.downgrade(config(connection), revision)


def check_revision(found: str | None, shown: str) -> None:
    """Refuse a database of another schema version.

    Raises:
        NoHistoryError: `found` is None: there are no tables yet.
        SchemaError: `found` is not the revision that this version works with.
    """
    if found == HEAD:
        return
    if found is None:
        raise NoHistoryError(
            f"{shown} holds no Flowscout history yet; start with `flowscout run`, or name the right database "
            "with --db."
        )
    if not re.fullmatch(r"\d{4}", found):
        raise SchemaError(
            f"{shown} has schema {found!r}, which is none of Flowscout's: it is a database of another program; "
            "name the right one with --db."
        )
    if found > HEAD:
        raise SchemaError(
            f"{shown} has schema {found}, newer than {HEAD}, the newest this version of Flowscout knows; "
            "upgrade Flowscout to open it."
        )
    raise SchemaError(
        f"{shown} has schema {found}, older than {HEAD}; bring its tables up with `flowscout db upgrade FILE`."
    )
