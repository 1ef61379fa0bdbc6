"""The PostgreSQL role that questions in SQL are asked under: it may read the tables of the history, and no more.

What is asked under it belongs in `readonly.py`.
"""

import logging

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from flowscout.db.models import Base

logger = logging.getLogger(__name__)

READER = "flowscout_reader"
"""A role of the whole server, as all roles are: one for every history on it."""

# Somebody else may make it at the same time, from another database of the server: that is as good.
_MAKE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{READER}') THEN
        CREATE ROLE {READER} NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$
"""  # noqa: S608 - the name is ours
_JOIN = f"""
DO $$ BEGIN
    IF NOT pg_has_role(current_user, '{READER}', 'MEMBER') THEN
        GRANT {READER} TO CURRENT_USER;
    END IF;
END $$
"""


def grants() -> list[str]:
    """Return the statements that let the role read every table of the history and the view."""
    names = ", ".join([*sorted(Base.metadata.tables), "history"])
    return [f"GRANT USAGE ON SCHEMA public TO {READER}", f"GRANT SELECT ON {names} TO {READER}"]


def how_to_make(user: str) -> str:
    """Return what an administrator types to make the role for `user`."""
    return "; ".join([f"CREATE ROLE {READER} NOLOGIN", f'GRANT {READER} TO "{user}"', *grants()])


def ensure_reader(connection: Connection) -> None:
    """Make the role and grant it what it reads, where the user may; else say so in the log and go on."""
    if connection.dialect.name != "postgresql":
        return
    try:
        with connection.begin_nested():
            for statement in (_MAKE, _JOIN, *grants()):
                connection.execute(text(statement))
    except DBAPIError as error:
        logger.info("role %s was not made (%s): `flowscout sql` says how to make it", READER, error.orig)
