"""Where the campaign of `faults` runs: PostgreSQL, `flowscout serve`, workers, an oracle, a small disk.

Who is killed and when is decided in `faults`.
"""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from crash_books import Books
from crash_campaign import Layout
from crash_nursery import Oracle
from faults_campaign import EVERY_S, NAME, Clock, flowscout, write
from postgres_server import Postgres

WORKERS = 2
PATIENCE_S = 240.0
DISK_MB = 8


class Place:
    """Everything that runs, and what is known of it. Nobody but `close` ends it."""

    def __init__(self, folder: Path, *, kind: str, seed: int, pause_s: float) -> None:
        self.folder, self.faults = folder, list[str]()
        self._disk = _SmallDisk(folder / "disk")
        self.database = Postgres(folder / "pg")
        self.database.start()
        for name in ("history", "prefect"):
            self.database.make(name)
        self.url = self.database.url("history")
        self.layout = Layout(folder / "campaign", self.url, kind, seed=seed, pause_s=pause_s)
        self.oracle = Oracle(self.layout)
        write(self.layout, artefacts=self._disk.folder)
        self.clock = Clock.found(folder / "clock")
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self._books: Books | None = None
        self._api = f"http://127.0.0.1:{_free_port()}/api"
        self._environment = os.environ | {"PREFECT_API_URL": self._api, "FLOWSCOUT_DB": self.url}
        self.serve = self._start_serve()
        self._schedule()
        for number in range(WORKERS):
            self.start_worker(f"worker {number + 1}")

    def _start_serve(self) -> "subprocess.Popen[bytes]":
        port = self._api.rpartition(":")[2].partition("/")[0]
        environment = dict(self._environment) | {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "2",
        }
        del environment["PREFECT_API_URL"]
        command = flowscout("serve", "--port", port, "--queues", "cpu", "--db", self.url)
        command += ["--prefect-db", self.database.url("prefect")]
        with (self.folder / "serve.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=log, stderr=log)
        self._until(
            lambda: "workers of pool" in self.log("serve.log") or process.poll() is not None, "serve starts"
        )
        return process

    def _schedule(self) -> None:
        """Schedule the rounds; their processes go by our clock."""
        command = flowscout("schedule", "campaign.yaml", "--every", str(EVERY_S), "--db", self.url, "--json")
        where = self.layout.folder
        done = subprocess.run(
            command, env=self._environment, cwd=where, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout}{done.stderr}\n{self.log('serve.log')}")
        self.deployment = json.loads(done.stdout)["deployment_id"]
        if self.clock is not None:
            environment = self.clock.environment(os.environ.get("PYTHONPATH"))
            self.ask("PATCH", f"deployments/{self.deployment}", {"job_variables": {"env": environment}})

    def start_worker(self, name: str) -> None:
        """Start a worker that calls the oracle, as a service manager would."""
        environment = dict(self._environment)
        if self.clock is not None:
            environment |= self.clock.environment(os.environ.get("PYTHONPATH"))
        command = flowscout("worker", "campaign.yaml", "--db", self.url)
        with (self.folder / "workers.log").open("ab") as log:
            self.workers[name] = subprocess.Popen(
                command, env=environment, cwd=self.layout.folder, stdout=log, stderr=log
            )

    def keep(self) -> None:
        """Start again which worker has ended without being killed, and note that it did."""
        for name, process in list(self.workers.items()):
            if process.poll() is not None:
                self.faults.append(f"{name} ended by itself with {process.returncode}:\n{self.log('workers.log')}")
                self.start_worker(name)
        if self.serve.poll() is not None:
            self.faults.append(f"serve ended by itself with {self.serve.returncode}:\n{self.log('serve.log')}")
            self.serve = self._start_serve()

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """Return what Prefect's server answers; None to nothing.

        Raises:
            OSError: it does not.
        """
        body = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._api}/{path}", data=body, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            said = answer.read()
        return json.loads(said) if said else None

    def books(self) -> Books:
        """Return a connection that reads the history; a new one where the last was cut."""
        if self._books is not None:
            with suppress(Exception):
                self._books.rows("SELECT 1")
                return self._books
            with suppress(Exception):
                self._books.close()
        self._books = Books(self.url)
        return self._books

    def rows(self, query: str, *values: Any) -> Sequence[tuple[Any, ...]]:
        """Return rows of the history, as soon as it can be read."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.books().rows(query, *values)
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def runner(self) -> int | None:
        """Return the process of the flow that holds the campaign, if one does."""
        [[owner]] = self.rows("SELECT lease_owner FROM campaign WHERE name = ?", NAME)
        if owner is None:
            return None
        pid = int(owner.split("|")[1])
        ours = {process.pid for process in self.workers.values()}
        return pid if pid not in ours and psutil.pid_exists(pid) else None

    def service(self, what: str) -> list[psutil.Process]:
        """Return the processes of a service that `serve` keeps: `server start` or `worker start`.

        Runs that a worker has started are not among them: they are processes of their own.
        """
        for child in psutil.Process(self.serve.pid).children():
            line = " ".join(child.cmdline())
            if what in line:
                inner = child.children(recursive=True) if what == "server start" else child.children()
                return [
                    child,
                    *(one for one in inner if what == "server start" or what in " ".join(one.cmdline())),
                ]
        return []

    def running(self) -> list[str]:
        """Return the ids of the runs of rounds that Prefect takes for running."""
        wanted = {
            "flow_runs": {
                "state": {"type": {"any_": ["RUNNING"]}},
                "deployment_id": {"any_": [self.deployment]},
            }
        }
        return [run["id"] for run in self.ask("POST", "flow_runs/filter", wanted)]

    def count_said(self, words: str) -> int:
        """Return how often runs have said these words."""
        logs = (self.folder / "prefect").glob("worker-*.log*")
        return sum(path.read_text(encoding="utf-8", errors="replace").count(words) for path in logs)

    def log(self, name: str) -> str:
        """Return the end of what was said."""
        path = self.folder / name
        return path.read_text(encoding="utf-8", errors="replace")[-3000:] if path.exists() else ""

    @property
    def small_disk(self) -> bool:
        """Whether the artefacts lie on a disk of their own."""
        return self._disk.mounted

    def halves(self) -> list[str]:
        """Return files of artefacts that were begun and not finished."""
        return self._disk.halves()

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Let the disk of the artefacts be full."""
        with self._disk.full():
            yield

    def stop_rounds(self) -> None:
        """Let no further round start."""
        command = flowscout("unschedule", "campaign.yaml", "--db", self.url)
        subprocess.run(command, env=self._environment, cwd=self.layout.folder, check=True, capture_output=True)

    def rest(self) -> None:
        """Let everybody finish what is begun, and end."""
        with suppress(subprocess.CalledProcessError):
            self.stop_rounds()
        with suppress(TimeoutError):
            self._until(lambda: self.runner() is None, "the last run ends", patience_s=90.0)
        self.serve.send_signal(signal.SIGTERM)
        for process in self.workers.values():
            process.send_signal(signal.SIGTERM)
        for process in (self.serve, *self.workers.values()):
            try:
                process.wait(timeout=90)
            except subprocess.TimeoutExpired:
                self.faults.append(f"{' '.join(process.args[3:5])} did not end when asked to")  # type: ignore[index]
                _kill_all(process.pid)

    def close(self) -> None:
        """End what is left."""
        for process in (self.serve, *self.workers.values()):
            if process.poll() is None:
                _kill_all(process.pid)
        if self._books is not None:
            self._books.close()
        self.oracle.end()
        self.database.end()
        self._disk.close()

    def _until(self, true: Any, what: str, *, patience_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"never: {what}\n{self.log('serve.log')}\n{self.log('prefect/server.log')}")
            time.sleep(0.2)


class _SmallDisk:
    """A file system of a few megabytes, where we may mount one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
        self.mounted = (
            os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
        )

    @contextmanager
    def full(self) -> Iterator[None]:
        ballast = self.folder / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(b"\0" * 4096)
            yield
        finally:
            ballast.unlink()

    def halves(self) -> list[str]:
        """Return files that were begun and not finished."""
        return [path.name for path in self.folder.iterdir() if path.suffix == ".part"]

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=False)


def _kill_all(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in [*parent.children(recursive=True), parent]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
