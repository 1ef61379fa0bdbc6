"""Those who work on the campaign of `crash`: started, killed, stopped, watched, and let come to rest.

Whom to kill and when is decided in `crash`.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

from crash_books import Books, Deeds, seconds
from crash_campaign import LEASE_S, STOP, TELLING, TOKEN_ENV, TURN, WORKERS, Layout
from crash_nursery import Nursery

ENDPOINT = "endpoint"


class Swarm:
    """The processes that work on the campaign: who they are, what they do now, and their ends.

    `settle` waits until the oracle has said all that it has to say.
    """

    def __init__(self, layout: Layout, nursery: Nursery, settle: Callable[[], None]) -> None:
        self.layout, self.nursery, self.deeds, self._settle = layout, nursery, Deeds(), settle
        self.pids: dict[str, int] = {}  # by name: runner, teller, worker 1, ...
        self.youngest = "runner"
        self.faults: list[str] = []
        self._turn = 0
        self._stray: set[int] = set()  # runners that stood still while another was started
        self._stops: list[threading.Thread] = []
        self._still: set[int] = set()
        self._books: list[Books] = []

    def raise_all(self) -> None:
        """Start everybody, and wait until the history is there."""
        (self.layout.folder / TURN).write_text("0", encoding="utf-8")
        self.start("runner")
        deadline = time.monotonic() + 120
        while not self._has_rounds():
            if time.monotonic() > deadline or self.pids["runner"] in self.nursery.exits:
                raise SystemExit(f"no round was begun:\n{self.log()}")
            time.sleep(0.05)
        endpoint = [ENDPOINT] if self.layout.calls_back else []
        for name in ["teller", *endpoint, *(f"worker {n + 1}" for n in range(WORKERS))]:
            self.start(name)
        self.history, self.ledger = Books(self.layout.url), Books(self.layout.folder / "oracle.db")
        self._books = [self.history, self.ledger]

    def start(self, name: str) -> None:
        """Start the process of this name."""
        if name == "runner":
            self._turn += 1
            (self.layout.folder / TURN).write_text(str(self._turn), encoding="utf-8")
            pid = self.nursery.start("runner", self.layout, turn=self._turn)
        elif name == "teller":
            pid = self.nursery.start("teller", self.layout, seed=self.layout.seed)
        elif name == ENDPOINT:
            pid = self.command("serve-results", "--port", str(self.layout.endpoint_port))
        else:
            pid = self.command("worker", "--lease-s", str(LEASE_S))
        self.pids[name], self.youngest = pid, name

    def command(self, name: str, *arguments: str) -> int:
        """Start a command of `flowscout` with the campaign; return its process id."""
        line = [name, "campaign.yaml", "--db", self.layout.url, *arguments]
        environment = {TOKEN_ENV: self.layout.token} if self.layout.calls_back else {}
        return self.nursery.start("command", self.layout, arguments=line, environment=environment)

    def keep(self) -> None:
        """Start again who has ended without being killed, and note that it did."""
        for name, pid in list(self.pids.items()):
            if pid in self.nursery.exits:
                self.faults.append(f"{name} (process {pid}) ended with {self.nursery.exits[pid]}:\n{self.log()}")
                self.start(name)

    def kill(self, name: str) -> None:
        """Kill a process, and start another in its place."""
        pid = self.pids[name]
        self.deeds.killed[pid] = time.time()
        os.kill(pid, signal.SIGKILL)
        ended = self.nursery.wait(pid)
        if ended != -signal.SIGKILL:
            self.faults.append(f"{name} (process {pid}) ended with {ended} before it was killed:\n{self.log()}")
        self.start(name)

    def stop(self, name: str) -> None:
        """Let a process stand still until its leases are over; a runner is succeeded meanwhile."""
        pid, since = self.pids[name], time.time()
        os.kill(pid, signal.SIGSTOP)
        self._still.add(pid)
        if name == "runner":
            self._stray.add(pid)
            self.start("runner")

        def go_on() -> None:
            time.sleep(1.5 * LEASE_S)
            os.kill(pid, signal.SIGCONT)
            self.deeds.stopped.append((pid, since, time.time()))
            self._still.discard(pid)

        thread = threading.Thread(target=go_on)
        thread.start()
        self._stops.append(thread)

    def moving(self) -> list[str]:
        """Return the names of the processes that do not stand still."""
        return [name for name, pid in self.pids.items() if pid not in self._still]

    def doing(self, name: str) -> str:
        """Return what a process is doing now, by what it has left in the history and the ledger."""
        pid = self.pids[name]
        if name == ENDPOINT:
            return "a call-back"
        if name == "teller":
            lines = (self.layout.folder / TELLING).read_text(encoding="utf-8").splitlines()
            return (
                "tell" if lines and lines[-1].startswith("begin") and lines[-1].endswith(f" {pid}") else "waiting"
            )
        held = self.history.rows(
            """SELECT e.idempotency_key, a.started_at FROM attempt a JOIN evaluation e ON e.id = a.evaluation_id
            WHERE a.state = 'running' AND e.state = 'running' AND a.owner LIKE ?""",
            f"%|{pid}|%",
        )
        if not held:
            return self._stage(pid) if name == "runner" else "waiting"
        since = min(seconds(begun) or 0.0 for _, begun in held) - 0.1
        marks = ", ".join("?" for _ in held)
        made = self.ledger.rows(
            f"SELECT key, max(answered) FROM call WHERE entered > ? AND key IN ({marks}) GROUP BY key",
            since, *(key for key, _ in held),
        )  # fmt: skip
        answered = sum(when is not None for _, when in made)
        # A function returns when it has made all of its calls; of others each answer is written by itself.
        if answered >= (len(held) if self.layout.oracle == "callable" else 1):
            return "call to write"
        return "in the call" if made else "claim to call"

    def rest(self) -> None:
        """Let everybody go on, finish what is begun, and end; but for who takes call-backs."""
        for thread in self._stops:
            thread.join()
        (self.layout.folder / STOP).touch()
        for name in ("teller", "runner"):
            self._await(name, self.pids[name])
        for pid in self._stray:
            self._await("an earlier runner", pid)
        self._end([name for name in self.pids if name.startswith("worker")])
        self.work_once()

    def close(self) -> None:
        """End who takes call-backs: nobody calls back any more."""
        # A server ends by the signal that has asked it to, once it has closed.
        self._end([name for name in self.pids if name == ENDPOINT], ends=(0, -signal.SIGTERM))

    def _end(self, names: Sequence[str], *, ends: Sequence[int] = (0,)) -> None:
        for name in names:
            os.kill(self.pids[name], signal.SIGTERM)
        for name in names:
            self._await(name, self.pids[name], ends=ends)

    def end(self) -> None:
        """End what is left after a trial, however it went."""
        for thread in self._stops:
            thread.join()
        for pid in {*self.pids.values(), *self._stray} - set(self.nursery.exits):
            os.kill(pid, signal.SIGKILL)
            self.nursery.wait(pid)
        for books in self._books:
            books.close()

    def work_once(self) -> None:
        """Have done what is left to do, in one more process."""
        self._await("the last worker", self.command("worker", "--once", "--lease-s", str(LEASE_S)))
        self._settle()

    def run(self, name: str, *arguments: str) -> None:
        """Run a command to its end."""
        self._await(name, self.command(name, *arguments))

    def log(self) -> str:
        """Return the end of what the processes said."""
        return (self.layout.folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-3000:]

    def _await(self, what: str, pid: int, *, ends: Sequence[int] = (0,)) -> None:
        code = self.nursery.wait(pid)
        if code is None:
            os.kill(pid, signal.SIGKILL)
        if code not in ends:
            self.faults.append(f"{what} (process {pid}) ended with {code}, expected 0:\n{self.log()}")

    def _stage(self, pid: int) -> str:
        owner = self.history.rows("SELECT lease_owner FROM campaign")[0][0]
        state = self.history.rows("SELECT state FROM round ORDER BY number DESC LIMIT 1")[0][0]
        if owner is None or owner.split("|")[1] != str(pid):
            return "start"
        return "waiting" if state == "dispatched" else "round"

    def _has_rounds(self) -> bool:
        try:
            books = Books(self.layout.url)
        except Exception:  # noqa: BLE001 - there is no database yet
            return False
        try:
            return bool(books.rows("SELECT 1 FROM round WHERE state = 'dispatched'"))
        except Exception:  # noqa: BLE001 - there is no table yet
            return False
        finally:
            books.close()
