"""Checks of where a history lies: the database, its file system, its clock, the room on the disk."""

import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import psutil
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from flowscout.db import FileStore, parse_url
from flowscout.db.database import Database
from flowscout.doctor.checks import Check, broken, ok, warning
from flowscout.errors import FlowscoutError, NoHistoryError, SchemaError

REMOTE = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "afs",
    "ceph",
    "gluster",
    "lustre",
    "beegfs",
    "fuse.sshfs",
    "fuse.s3",
    "davfs",
)
"""How the types of file systems begin on which SQLite's locks and its shared memory cannot be trusted."""

CLOCKS_APART_S = 30.0
"""Times in a history are the database's; hooks and call-backs compare them with those of this machine."""
LITTLE_ROOM, NO_ROOM = 2 * 2**30, 200 * 2**20
"""Bytes that should be free, and that must be: the database and the artefacts of models grow with each round."""


def check_database(url: str) -> list[Check]:
    """Check that a database opens, with tables of this version, whole, and where it can be relied on."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _check_sqlite(url, Path(parsed.database or ""))
    return _check_postgresql(url)


def check_disk(folder: Path) -> Check:
    """Check the room on the disk that a folder lies on."""
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**30:.1f} GiB free for {folder}"
    if free < NO_ROOM:
        return broken("disk", found, "make room: a write that fails ends the round")
    if free < LITTLE_ROOM:
        return warning("disk", found, "make room before it ends: artefacts and the database grow")
    return ok("disk", found)


def check_artefacts(url: str) -> Check:
    """Check that a store of artefacts answers. Nothing is written to it."""
    try:
        FileStore(url, again_s=()).look("0" * 64)
    except FlowscoutError as error:
        return broken("artefacts", str(error), "as it says")
    return ok("artefacts", f"{url} answers")


def _check_sqlite(url: str, path: Path) -> list[Check]:
    if not path.exists():
        folder = path.absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            found = f"{path} cannot be made: {folder} is not a folder to write to"
            return [broken("database", found, "make the folder, or name another database with --db")]
        return [ok("database", f"{path} is not there yet: the first run makes it"), _where(folder)]
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            faults = [fault for (fault,) in connection.execute("PRAGMA integrity_check(3)") if fault != "ok"]
    except sqlite3.Error as error:
        return [broken("database", f"{path} cannot be read: {error}", _restore(path))]
    if faults:
        return [broken("database", f"{path} is damaged: {'; '.join(faults)}", _restore(path))]
    opened = _open(url, f"{path}, whole")
    checks = [opened, _where(path.absolute().parent)]
    if mode != "wal" and opened.state == "ok":
        checks.append(
            warning(
                "journal",
                f"{path} keeps its journal as {mode!r}, expected 'wal': readers and writers wait for each other",
                "nothing, if it is a copy: the next writer sets it; else look whether the disk is a local one",
            )
        )
    return checks


def _where(folder: Path) -> Check:
    """Check that a folder is on a local disk: SQLite's write-ahead log needs memory that all readers share."""
    kind = file_system(folder)
    if kind.lower().startswith(REMOTE):
        return broken(
            "local disk",
            f"{folder} is on a file system of type {kind}: SQLite can lose or damage a history there",
            "put the database on a disk of this machine (--db), or use PostgreSQL",
        )
    return ok("local disk", f"{folder} ({kind})")


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    for place in map(str, (folder.resolve(), *folder.resolve().parents)):
        if mounts.get(place):
            return mounts[place]
    return "unknown"


def _check_postgresql(url: str) -> list[Check]:
    shown = parse_url(url).set(drivername="postgresql").render_as_string(hide_password=True)
    opened = _open(url, shown)
    if opened.state != "ok":
        return [opened]
    try:
        with closing(Database(url, create=False)) as database, database.read() as session:
            began = time.time()
            theirs = float(session.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
            ours = (began + time.time()) / 2
    except NoHistoryError:
        return [opened]
    except (SchemaError, SQLAlchemyError) as error:
        return [broken("database", f"{shown} does not answer: {error}", "look at the server and its log")]
    apart = abs(theirs - ours)
    if apart > CLOCKS_APART_S:
        return [
            opened,
            warning(
                "clock",
                f"the clocks of the database and of this machine are {apart:.0f} s apart",
                "let both follow a time server (chrony, systemd-timesyncd)",
            ),
        ]
    return [opened, ok("clock", f"{apart:.1f} s apart from the database's")]


def _open(url: str, shown: str) -> Check:
    """Check that the tables are this version's."""
    from flowscout.db.migrate import HEAD

    try:
        Database(url, create=False).close()
    except NoHistoryError:
        return ok("database", f"{shown}, without tables yet: the first run makes them")
    except SchemaError as error:
        return broken("database", str(error), "as it says; `flowscout db upgrade FILE` brings older tables up")
    return ok("database", f"{shown}, schema {HEAD}")


def _restore(path: Path) -> str:
    return f"stop all that use it, move {path} away with its -wal and -shm, and put a backup in its place"
