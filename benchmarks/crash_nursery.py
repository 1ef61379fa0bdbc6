"""The processes of `crash`: the oracle, and those that work on the campaign, which are forked from one.

Loading the libraries takes longer than a round, so that one process, the nursery, loads them once and is forked
for every process that is started: each has its own process id and its own connections. What a worker runs is
the command `flowscout worker` itself.
"""

import http.client
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

from crash_campaign import LEASE_S, LENGTH, STOP, TELLING, TURN, Layout, table_of


class Oracle:
    """The process of the oracle; nobody kills it."""

    def __init__(self, layout: Layout) -> None:
        layout.folder.mkdir(parents=True, exist_ok=True)
        self._port, self._is_service = layout.folder / "oracle.port", layout.oracle == "http"
        options: dict[str, Any] = {
            "kind": layout.kind,
            "pause-s": layout.pause_s,
            "late-s": layout.late_s,
            "seed": layout.seed,
        } | asdict(layout.manners)
        if self._is_service:
            options |= {"answers": layout.answers}
            if layout.calls_back:
                assert layout.token
                options |= {"call-back": f"http://127.0.0.1:{layout.endpoint_port}/results"}
        script = "crash_service.py" if self._is_service else "crash_oracle.py"
        command = [sys.executable, str(Path(__file__).with_name(script)), str(layout.folder)]
        command += [f"--{name}={value}" for name, value in options.items()]
        with (layout.folder / "oracle.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.PIPE)
        while not self._port.exists():
            if self._process.poll() is not None:
                raise SystemExit((layout.folder / "oracle.log").read_text(encoding="utf-8"))
            time.sleep(0.01)

    def behave(self) -> None:
        """Let it answer always, and well, from now on."""
        if self._is_service:
            self._post("/behave")
            return
        with socket.create_connection(("127.0.0.1", int(self._port.read_text()))) as plain:
            plain.sendall(b'{"do": "behave"}\n')
            plain.makefile().readline()

    def settle(self) -> None:
        """Wait until it has said all that it has to say."""
        deadline = time.monotonic() + 120
        while self._is_service and json.loads(self._post("/jobs"))["jobs"]:
            if time.monotonic() > deadline:
                raise SystemExit("the service does not come to rest")
            time.sleep(0.1)

    def _post(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", int(self._port.read_text()))
        try:
            connection.request("POST", path, "{}")
            return connection.getresponse().read()
        finally:
            connection.close()

    def end(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Nursery:
    """The process that the others are forked from; it ends with us, and they with it."""

    def __init__(self) -> None:
        # Numerical libraries are to start no threads: a fork would lose them.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "FLOWSCOUT_DEBUG": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment,
        )  # fmt: skip
        self.exits: dict[int, int] = {}
        self._started: queue.Queue[int | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._next()  # that it is ready

    def start(self, role: str, layout: Layout, **more: Any) -> int:
        """Start a process and return its id."""
        return self.fork({"role": role, "folder": str(layout.folder), "url": layout.url} | more)

    def fork(self, order: dict[str, Any]) -> int:
        """Start a process that does as it is ordered, and return its id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._next()

    def wait(self, pid: int, *, timeout_s: float = 120.0) -> int | None:
        """Return how a process ended: its exit code or minus a signal; None if it did not in time."""
        deadline = time.monotonic() + timeout_s
        while pid not in self.exits and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.exits.get(pid)

    def end(self) -> None:
        """End it, and all that is left of its children."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _next(self) -> int:
        found = self._started.get()
        if found is None:
            raise SystemExit("the nursery has ended: see what it said above")
        return found

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            what, pid, code = line.split()
            if what == "started":
                self._started.put(int(pid))
            else:
                self.exits[int(pid)] = int(code)
        self._started.put(None)


class Forked:
    """A process of the nursery that runs the campaign of a folder, as `crash_runner` starts one."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        self._nursery = nursery
        self.pid = nursery.fork({"role": "campaign", "folder": str(folder)})

    @property
    def returncode(self) -> int | None:
        """How it ended: its exit code or minus a signal; None while it has not."""
        return self._nursery.exits.get(self.pid)

    def poll(self) -> int | None:
        """Return how it ended, None while it has not."""
        return self.returncode

    def wait(self) -> int:
        """Wait for its end and return how it came.

        Raises:
            TimeoutError: it goes on for ever.
        """
        code = self._nursery.wait(self.pid)
        if code is None:
            raise TimeoutError(f"process {self.pid} has not ended")
        return code

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


def _nurse() -> None:
    """Load everything, then fork a process for each line that comes."""
    _warm_up()
    print("started 0 0", flush=True)
    children: set[int] = set()
    while True:
        if select.select([sys.stdin], [], [], 0.01)[0]:
            line = sys.stdin.readline()
            if not line:
                break
            pid = os.fork()
            if pid == 0:
                _be_child(json.loads(line))
            children.add(pid)
            print(f"started {pid} 0", flush=True)
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            children.discard(pid)
            print(f"ended {pid} {os.waitstatus_to_exitcode(status)}", flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _warm_up() -> None:
    """Do once what the processes will do, so that what it loads and prepares is there when they are forked."""
    import fastapi  # noqa: F401 - of `serve-results`
    import uvicorn  # noqa: F401
    from sqlalchemy import create_engine

    from flowscout import Campaign
    from flowscout.cli import run

    create_engine("postgresql+psycopg://nowhere")  # loads its driver, and connects to nobody
    with tempfile.TemporaryDirectory(prefix="flowscout-warm-") as name, redirect_stdout(StringIO()):
        layout = Layout(Path(name), str(Path(name) / "warm.db"), "idempotent")
        layout.write()
        (layout.folder / "assay.py").write_text(
            "def measure(objects): return [1.0] * len(objects)", encoding="utf-8"
        )
        with Campaign.from_yaml(layout.folder / "campaign.yaml", db=layout.url) as campaign:
            for number in range(2):
                campaign.run_round()
                table = layout.folder / f"{number}.csv"
                table.write_text("object,y\n" + "ACGT" * (LENGTH // 4) + ",1.0\n")
                campaign.tell(table)
        run(["worker", str(layout.folder / "campaign.yaml"), "--db", layout.url, "--once"])


def _be_child(order: dict[str, Any]) -> None:
    """Become the process that was ordered; never returns."""
    code = 1
    try:
        os.environ.update(order.get("environment", {}))
        folder = Path(order["folder"])
        os.chdir(folder)
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        match order["role"]:
            case "command":
                code = _command(order["arguments"])
            case "campaign":
                code = _run_alone()
            case "runner":
                code = _run(order["url"], turn=order["turn"])
            case "teller":
                code = _tell(order["url"], seed=order["seed"])
    except BaseException:  # noqa: BLE001 - it ends here, whatever it was
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _command(arguments: Sequence[str]) -> int:
    from flowscout.cli import run

    return run(list(arguments))


def _run_alone() -> int:
    """Run a campaign's rounds to their end, with its history beside its file."""
    from flowscout import Campaign

    with Campaign.from_yaml("campaign.yaml") as campaign:
        while campaign.run_round() is not None:
            pass
    return 0


def _run(url: str, *, turn: int) -> int:
    """Run rounds until told to stop, or until another runner has come after this one."""
    from flowscout import Campaign
    from flowscout.errors import CampaignBusyError, LeaseLostError, OracleError

    with Campaign.from_yaml("campaign.yaml", db=url, lease_s=LEASE_S) as campaign:
        while int(Path(TURN).read_text()) == turn:
            if Path(STOP).exists() and campaign.workbench.history.rounds.unfinished(1) is None:
                break
            try:
                campaign.run_round()
            except CampaignBusyError:  # the teller completes a round, or the runner before this one stands still
                time.sleep(0.05)
            except (LeaseLostError, OracleError) as error:
                print(f"runner {os.getpid()}: {error}", flush=True)
    return 0


def _tell(url: str, *, seed: int) -> int:
    """Tell table after table; which one is begun and ended is written to a file."""
    from flowscout import Campaign

    lines = Path(TELLING).read_text().splitlines()
    number = sum(line.startswith("end") for line in lines)
    begun = any(line.startswith(f"begin {number} ") for line in lines)
    with (
        Campaign.from_yaml("campaign.yaml", db=url, lease_s=LEASE_S) as campaign,
        Path(TELLING).open("a") as telling,
    ):
        while begun or not Path(STOP).exists():
            table = Path("told") / f"{number}.csv"
            rows = "".join(f"{text},{value}\n" for text, value in table_of(number, seed=seed))
            table.write_text(f"object,y\n{rows}")
            print(f"begin {number} {os.getpid()}", file=telling, flush=True)
            campaign.tell(table, source=f"table {number}")
            print(f"end {number} {os.getpid()}", file=telling, flush=True)
            number, begun = number + 1, False
            time.sleep(0.3)
    return 0


if __name__ == "__main__":
    _nurse()
