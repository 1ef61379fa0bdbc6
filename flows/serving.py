"""Everything that rounds which run themselves need on one machine: a server, workers, the shared deployments.

How a process is kept running belongs in `flows.supervisor`; what is deployed, in `flows.deploying`.
"""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flowscout.db import shown_url
from flowscout.errors import ConfigError, WorkError
from flowscout.flows import settings
from flowscout.flows.embedded import STARTUP_TIMEOUT_S, answers
from flowscout.flows.pool import LIMITS, POOL
from flowscout.flows.supervisor import GRACE_S, POLL_S, Service, Supervisor
from flowscout.loop.announcing import DEFAULT_URL

MIN_PASSWORD = 16
"""Characters of a password at least, where other machines may try: whoever knows it runs code on the workers."""


_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - this machine's end of every address


@dataclass(frozen=True)
class Serving:
    """What is to be served: Prefect's address, the databases, the queues with a worker, where logs lie."""

    host: str
    port: int
    database: str
    prefect_db: str | None
    queues: tuple[str, ...]
    home: Path

    @property
    def url(self) -> str:
        """Where Prefect's API is reached from this machine."""
        host = _ANY.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/api"

    @property
    def page(self) -> str:
        """Where people see Prefect's page, from other machines too if they reach it."""
        if self.host in _ANY:
            return f"http://{socket.gethostname()}:{self.port}"
        return self.url.removesuffix("/api")


def check_password(password: str | None) -> None:
    """Refuse to open a door to other machines that has no lock.

    Raises:
        ConfigError: there is no password, or it is too short.
    """
    name, _, secret = (password or "").partition(":")
    if name and len(secret) >= MIN_PASSWORD:
        return
    came = "is not set" if not password else "is not NAME:PASSWORD with so long a password"
    raise ConfigError(
        f"another host than 127.0.0.1 was asked for, and PREFECT_SERVER_API_AUTH_STRING {came}: whoever reaches "
        f"Prefect runs code on its workers. Set it to NAME:PASSWORD with {MIN_PASSWORD} characters of password or "
        "more, and PREFECT_API_AUTH_STRING to the same on other machines. Make one with: "
        "python -c 'import secrets; print(\"lab:\" + secrets.token_urlsafe(24))'"
    )


def serve(wanted: Serving, stopped: Callable[[], bool], *, say: Callable[[str], None]) -> None:
    """Run a server and workers until told to stop; what dies is started again.

    Raises:
        ConfigError: the port is taken.
        WorkError: the server does not start.
    """
    _refuse_taken(wanted)
    wanted.home.mkdir(parents=True, exist_ok=True)
    supervisor = Supervisor()
    worker = settings.worker_environment(wanted.home, wanted.url, database=wanted.database)
    say("starting Prefect's server, then the workers: half a minute or so ...")
    try:
        supervisor.add(_server(wanted))
        _wait(wanted, supervisor, stopped)
        if not stopped():
            _deploy(wanted, worker, stopped)
        if not stopped():
            for queue in wanted.queues:
                supervisor.add(_worker(wanted, queue, worker))
            say(f"Prefect's page and API: {wanted.page} (logs: {wanted.home})")
            if wanted.page != DEFAULT_URL.removesuffix("/api"):
                say(f"to schedule campaigns here: export PREFECT_API_URL={wanted.page}/api")
            if wanted.queues:
                say(f"history of the campaigns: {shown_url(wanted.database)}")
            say(f"workers of pool {POOL}: {', '.join(wanted.queues) or 'none here'}; Ctrl-C ends")
        supervisor.run(stopped, say=say)
        say(f"ending; runs in hand have {GRACE_S:.0f} s")
    finally:
        supervisor.stop()


def _server(wanted: Serving) -> Service:
    command = ("server", "start", "--host", wanted.host, "--port", str(wanted.port))
    environment = settings.server_environment(
        wanted.home, wanted.url, page=wanted.page, prefect_db=wanted.prefect_db
    )
    return Service("Prefect's server", _tethered(*command), environment, wanted.home / "server.log")


def _worker(wanted: Serving, queue: str, environment: Mapping[str, str]) -> Service:
    # Each worker counts its own live processes: a run that died holds no place.
    where = ("--pool", POOL, "--work-queue", queue, "--type", "process", "--limit", str(LIMITS.get(queue, 1)))
    name = f"{socket.gethostname()} {queue}"
    command = _tethered("worker", "start", *where, "--name", name)
    return Service(f"the worker of queue {queue}", command, environment, wanted.home / f"worker-{queue}.log")


def _tethered(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flowscout.flows.tether", "prefect", *arguments]


def _deploy(wanted: Serving, environment: Mapping[str, str], stopped: Callable[[], bool]) -> None:
    """Make pool, queues and shared deployments, in a process of its own: Prefect takes 150 MB to import."""
    command = [sys.executable, "-m", "flowscout.flows.deploying"]
    log, deadline = wanted.home / "deploying.log", time.monotonic() + STARTUP_TIMEOUT_S
    with log.open("wb") as said:
        process = subprocess.Popen(  # noqa: S603 - a command of ours
            command, env=dict(environment), cwd=wanted.home, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    try:
        while process.poll() is None and not stopped() and time.monotonic() < deadline:
            time.sleep(POLL_S)
    finally:
        late = process.poll() is None
        if late:
            process.kill()
            process.wait()
    if process.returncode != 0 and not stopped():
        why = f"they took longer than {STARTUP_TIMEOUT_S:.0f} s." if late else last_error(log)
        raise WorkError(f"the shared deployments could not be made: {why} See {str(log)!r}.")


def _wait(wanted: Serving, supervisor: Supervisor, stopped: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    log = wanted.home / "server.log"
    while not stopped() and not answers(wanted.url):
        if died := supervisor.look():
            raise WorkError(f"{died[0].split(';')[0]} before it answered: {last_error(log)} See {str(log)!r}.")
        if time.monotonic() > deadline:
            raise WorkError(
                f"Prefect's server did not answer at {wanted.url} within {STARTUP_TIMEOUT_S:.0f} s; the machine "
                f"may be busy: try again, or see {str(log)!r}."
            )
        time.sleep(POLL_S)


def last_error(log: Path) -> str:
    """Return the last line of a log that names an error, such as an extension that a database lacks."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-200:]
    named = [line.strip() for line in lines if re.search(r"\w(Error|Exception)\b", line)]
    return (named or lines or ["it said nothing."])[-1][:300]


def _refuse_taken(wanted: Serving) -> None:
    try:
        found = socket.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(
            f"{wanted.host} port {wanted.port} cannot be listened at ({error.strerror or error}), expected a free "
            "one: is `flowscout serve` running already? Give another --port or --host."
        ) from error
