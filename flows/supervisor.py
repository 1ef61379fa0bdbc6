"""Services that run on: processes that are started again when they die, and ended together.

Which services there are belongs in `flows.serving`.
"""

import logging
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

BACK_OFF_S, BACK_OFF_MOST_S = 1.0, 60.0
"""What dies is started again after a second, and after twice as long each time that it dies soon again."""
STEADY_S = 60.0
"""What has lived so long did not die of how it was started: the next start comes at once again."""
POLL_S = 0.2
GRACE_S = 20.0
"""How long a service may take to end, the runs that it has in hand included."""
LOG_MOST = 10_000_000
"""A log that is longer is put aside, as NAME.log.1, when its service is started again."""


@dataclass(frozen=True)
class Service:
    """A process that is to run on. Its output is appended to `log`."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path


class Supervisor:
    """Starts services, starts again what dies, and ends all of them."""

    def __init__(self) -> None:
        self._running: list[_Running] = []

    def add(self, service: Service) -> None:
        """Start a service."""
        running = _Running(service)
        self._running.append(running)
        running.start()

    def look(self) -> list[str]:
        """Start again what has died, when it is its time; return a line for each that was found dead."""
        return [line for running in self._running if (line := running.look()) is not None]

    def pids(self) -> dict[str, int]:
        """Return the process ids of the services that live, by their names."""
        return {one.service.name: one.process.pid for one in self._running if one.process is not None}

    def run(self, stopped: Callable[[], bool], *, say: Callable[[str], None]) -> None:
        """Look after the services until told to stop."""
        while not stopped():
            for line in self.look():
                with suppress(OSError):  # a full disk or a closed terminal is no reason to end what runs
                    say(line)
            time.sleep(POLL_S)

    def stop(self, grace_s: float = GRACE_S) -> None:
        """End every service and whatever it has started: the first that was added when all others have ended.

        That one may hear what the others have to say at their end.
        """
        for running in self._running[1:]:
            running.ask()
        until = now_s() + grace_s
        while self._running[1:]:
            self._running.pop().stop(max(0.0, until - now_s()))
        while self._running:
            self._running.pop().stop(grace_s)


def now_s() -> float:
    """Return a time that only goes on."""
    return time.monotonic()


class _Running:
    """A service and its process; None while it is dead."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.process: subprocess.Popen[bytes] | None = None
        self._began = self._again = 0.0
        self._back_off_s = BACK_OFF_S
        self._asked = False
        self._children: list[psutil.Process] = []  # of when it was asked to end: nobody finds them once it has

    def start(self) -> None:
        service = self.service
        service.log.parent.mkdir(parents=True, exist_ok=True)
        if service.log.exists() and service.log.stat().st_size > LOG_MOST:
            service.log.replace(service.log.with_name(service.log.name + ".1"))
        with service.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - a command of ours
                list(service.command),
                stdin=subprocess.PIPE,  # the tether: see `flows.tether`
                stdout=log,
                stderr=log,
                env=dict(service.environment),
                cwd=service.log.parent,  # a user's folder may hold modules named like those that are imported
                start_new_session=True,  # Ctrl-C in the terminal is for us: we end the services in their order
            )
        self._began = now_s()

    def look(self) -> str | None:
        now = now_s()
        if self.process is None:
            return None if now < self._again else self._start_again(now)
        code = self.process.poll()
        if code is None:
            return None
        self._close()
        if now - self._began > STEADY_S:
            self._back_off_s = BACK_OFF_S
        wait_s = self._wait(now)
        what = f"code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        return (
            f"{self.service.name} has ended with {what}; it is started again in {wait_s:g} s. "
            f"What it said: {self.service.log}"
        )

    def _start_again(self, now: float) -> str | None:
        try:
            self.start()
        except OSError as error:  # a full disk, too many processes: the other services run on
            wait_s = self._wait(now)
            why = error.strerror or error
            return f"{self.service.name} cannot be started ({why}); it is tried again in {wait_s:g} s."
        return None

    def _wait(self, now: float) -> float:
        """Put the next start off; return for how long, which is longer the next time."""
        wait_s, self._back_off_s = self._back_off_s, min(2 * self._back_off_s, BACK_OFF_MOST_S)
        self._again = now + wait_s
        return wait_s

    def ask(self) -> None:
        """Tell the process to end, once: the second time a worker of Prefect's drops the runs in hand."""
        if self.process is not None and not self._asked:
            self._asked, self._children = True, _descendants(self.process.pid)
            self.process.terminate()

    def stop(self, grace_s: float) -> None:
        """End the process; what it has started and left, when the time is over, too."""
        if self.process is None:
            return
        self.ask()
        children = list(self._children)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=grace_s)
        if self.process.poll() is None:
            children += _descendants(self.process.pid)
        for child in children:  # a run is told first: it gives back what it holds
            with suppress(psutil.NoSuchProcess):
                child.terminate()
        if self.process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=GRACE_S / 4)
            self.process.kill()
        self.process.wait()
        _, left = psutil.wait_procs(children, timeout=GRACE_S / 4)
        for child in left:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self._close()

    def _close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
        self.process = None


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
