"""Upkeep of a database: backups while others write, and upgrades to this version's tables.

What may be wrong with a history belongs in `checks.py`.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from flowscout.db import migrate
from flowscout.db.archive import copy_artefact
from flowscout.db.database import Database, current_revision, parse_url, sidecar_folder, write_engine
from flowscout.db.filestore import FileStore
from flowscout.db.rowfiles import whole_file
from flowscout.errors import ConfigError, NoHistoryError, WorkError


@dataclass(frozen=True)
class Upgraded:
    """The schema that was found, the one that stands now, and where the file as it was is kept (SQLite)."""

    found: str
    now: str
    backup: Path | None


@dataclass(frozen=True)
class BackedUp:
    """A copy of a SQLite history: its size, and how many artefacts lie beside it."""

    path: Path
    size_bytes: int
    artefacts: int


def backup(database: Database, path: Path, *, in_a_store: Callable[[int], bool] = lambda _: False) -> BackedUp:
    """Copy a SQLite history to `path`, with its artefacts beside it, while others read and write.

    The copy is one snapshot, checked before it takes its name; writers do not wait for it. Artefacts of campaigns,
    by their ids, that are kept `in_a_store` stay there.

    Raises:
        ConfigError: the history is on PostgreSQL, or `path` is there already or cannot be written.
        WorkError: the copy is damaged, or an artefact is.
    """
    url = database.url
    if url.get_backend_name() != "sqlite":
        shown = url.set(drivername="postgresql", password=None).render_as_string()
        raise ConfigError(
            "this history is on PostgreSQL, which makes backups itself. Run: pg_dump "
            f"--format=custom --file='{path}' '{shown}'; or write the campaign to a "
            "folder with: flowscout export FILE --to FOLDER."
        )
    if path.exists():
        raise ConfigError(f"{str(path)!r} is there already; nothing was written. Name another file with --to.")
    files, own = sidecar_folder(parse_url(str(path))), sidecar_folder(url)
    assert files is not None
    assert own is not None  # neither is in memory
    with whole_file(path) as temporary:
        _copy(Path(str(url.database)), temporary)
        with closing(sqlite3.connect(temporary)) as copy:
            found = copy.execute("PRAGMA integrity_check").fetchall()
            rows = copy.execute("SELECT campaign_id, sha256 FROM artefact").fetchall()
        if found != [("ok",)]:
            raise WorkError(
                f"the copy is damaged ({found[0][0]}), and so is the history: nothing was written. "
                "`flowscout db check` says what is wrong with it."
            )
        beside, target = FileStore(own / "artefacts"), FileStore(files / "artefacts")
        away = {number for number, _ in rows if in_a_store(number)}
        hashes = [sha256 for number, sha256 in rows if number not in away or beside.look(sha256) != "missing"]
        for sha256 in hashes:
            copy_artefact(beside, target, sha256, "artefact")
    return BackedUp(path, path.stat().st_size, len(hashes))


def _copy(source: Path, target: Path) -> None:
    """Copy in one step, from one snapshot: a copy in several begins anew after each write of another process."""
    uri = f"{source.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as reading, closing(sqlite3.connect(target)) as writing:
        reading.backup(writing, pages=-1)
        writing.execute("PRAGMA journal_mode = DELETE")  # one file, whole by itself


def upgrade(url: str) -> Upgraded:
    """Bring the tables of an older version up to this one's; a SQLite file is copied first, beside itself.

    Raises:
        NoHistoryError: there is no history.
        SchemaError: it is of a newer version, or of another program.
    """
    parsed = parse_url(url)
    path = Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None
    if path is not None and not path.is_file():
        raise NoHistoryError(f"no history at {str(path)!r}; name the database with --db.")
    engine = write_engine(parsed)
    try:
        with engine.connect() as connection:
            found = current_revision(connection)
        if found is None or found >= migrate.HEAD or not found.isdecimal():
            migrate.check_revision(found, parsed.render_as_string(hide_password=True))
            return Upgraded(migrate.HEAD, migrate.HEAD, None)
        kept = None if path is None else path.with_name(f"{path.stem}.schema-{found}{path.suffix}")
        if path is not None and kept is not None:
            with whole_file(kept) as temporary:
                _copy(path, temporary)
        with engine.begin() as connection:
            migrate.upgrade(connection)
            now = current_revision(connection)
        migrate.check_revision(now, parsed.render_as_string(hide_password=True))
        return Upgraded(found, migrate.HEAD, kept)
    finally:
        engine.dispose()
