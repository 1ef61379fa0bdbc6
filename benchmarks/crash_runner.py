"""Kill a campaign again and again, and show that nothing was paid twice, lost or changed.

    python benchmarks/crash_runner.py --kills 20
    python benchmarks/crash_runner.py --kills 20 --scheduler none --json rows.json
    python benchmarks/crash_runner.py --kills 12 --oracle not-idempotent

The same campaign is run twice with one seed: once undisturbed, once killed with SIGKILL at random moments and
started again each time. The oracle is a user's own module that keeps a bill of its own; a key that it knows
neither acts nor is billed again (with `not-idempotent` it acts and bills at every call, and a call that was
cut off must end as unknown, never called again). At the end every candidate must be on the bill exactly once,
every round complete, the balance equal to the bill, no server left behind, and the history equal to that of
the undisturbed run: all rounds, fits, samplers, proposals and measurements, to the last bit.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil
from crash_audit import audit, differences, where_killed
from rich.console import Console
from rich.table import Table

from flowscout.errors import ConfigError, InputError

BATCH = 8
PRICE_USD = 1
GRACE_S = 20.0
"""How long a server may live on after its parent was killed."""

# What a kill is aimed at, and how long after it has begun the kill may come: short windows are hit at once.
AIMS = {
    "starting": 0.0,  # anywhere between the start of the process and the campaign's lease
    "fit": 0.05,
    "train": 0.25,
    "propose": 0.03,
    "claim to call": 0.0,
    "in the call": 0.3,
    "call to write": 0.0,
    "after the write": 0.0,
}

# What follows a window so short that it may pass unseen: the kill comes there rather than rounds later.
FOLLOWS = {
    "claim to call": ("in the call",),
    "call to write": ("after the write", "between rounds"),
    "after the write": ("between rounds",),
}

CAMPAIGN = """\
campaign: crash
seed: {seed}
space: {{type: sequence, alphabet: dna, length: 6}}
objectives: [{{name: y, direction: maximize}}]
oracle: assay:measure
proposer: {{type: gflownet, steps: 20}}
batch: {{size: {batch}}}
budget: {{rounds: {rounds}}}
device: cpu
"""

ASSAY = '''\
"""A laboratory that keeps its own books."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from flowscout import Result, oracle

IDEMPOTENT, PAUSE_S, PRICE_USD = {idempotent}, {pause_s}, {price_usd}


def value_of(text):
    return sum("ACGT".index(a) * (i + 1) for i, a in enumerate(text)) + 5.0 * ("GA" in text) - text.count("TT")


@oracle(cost_usd=PRICE_USD, idempotent=IDEMPOTENT)
def measure(requests):
    time.sleep(PAUSE_S / 2)  # claimed, and nothing has been done yet
    with closing(sqlite3.connect(Path(__file__).with_name("bill.db"), timeout=30, isolation_level=None)) as bill:
        bill.execute("PRAGMA journal_mode = WAL")
        bill.execute("CREATE TABLE IF NOT EXISTS bill (key TEXT, object TEXT, value REAL)")
        bill.execute("CREATE TABLE IF NOT EXISTS call (key TEXT)")
        bill.execute("CREATE TABLE IF NOT EXISTS visit (pid INTEGER, entered REAL, left REAL)")
        visit = bill.execute("INSERT INTO visit VALUES (?, ?, NULL)", (os.getpid(), time.time())).lastrowid
        results = []
        for request in requests:
            time.sleep(PAUSE_S / 2)
            bill.execute("INSERT INTO call VALUES (?)", (request.key,))
            known = bill.execute("SELECT value FROM bill WHERE key = ?", (request.key,)).fetchone()
            value = value_of(request.object) if known is None else known[0]
            if known is None or not IDEMPOTENT:
                bill.execute("INSERT INTO bill VALUES (?, ?, ?)", (request.key, request.object, value))
            time.sleep(PAUSE_S / 2)
            results.append(Result(values={{"y": value}}))
        bill.execute("UPDATE visit SET left = ? WHERE rowid = ?", (time.time(), visit))
        return results
'''


@dataclass(frozen=True)
class Trial:
    """What is tried: how many kills, in how many rounds, under which scheduler, against which oracle."""

    kills: int
    seed: int = 0
    scheduler: str = "prefect"
    idempotent: bool = True
    pause_s: float = 0.05
    rounds: int = 8
    aims: Sequence[str] = tuple(AIMS)

    @property
    def oracle(self) -> str:
        """The oracle in a word."""
        return "idempotent" if self.idempotent else "not-idempotent"


class Process(Protocol):
    """A process that runs a campaign, as `subprocess.Popen` is one."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Return how it ended, None while it has not."""
        ...

    def wait(self) -> int:
        """Wait for its end and return how it came."""
        ...

    def kill(self) -> None:
        """Kill it."""
        ...


Starter = Callable[["Trial", Path], Process]
"""What starts a process that runs the campaign of a folder to its end."""


@dataclass
class Report:
    """What came of a trial. `faults` is empty where all is well."""

    trial: Trial
    landed: list[tuple[str, str]] = field(default_factory=list)  # what was aimed at, what was hit
    faults: list[str] = field(default_factory=list)
    row: dict[str, str | int | float | None] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if anything was lost, paid twice or changed, 2 if the options are wrong."""
    options = _parser().parse_args(arguments)
    if options.work is not None:
        _work(options.work)
        return 0
    console = Console(highlight=False)
    try:
        if options.json is not None and not options.json.parent.is_dir():
            raise ConfigError(
                f"--json is {options.json}, expected a file in an existing folder. "
                f"Make {options.json.parent} first."
            )
        trial = Trial(
            kills=options.kills,
            seed=options.seed,
            scheduler=options.scheduler,
            idempotent=options.oracle == "idempotent",
            rounds=max(8, 4 + options.kills // 2),
        )
        with tempfile.TemporaryDirectory(prefix="flowscout-crash-") as folder:
            report = run_trial(trial, Path(folder), say=lambda line: console.print(line, markup=False))
    except InputError as error:
        console.print(f"error: {error}", markup=False)
        return 2
    for table in _tables(report):
        console.print(table)
    for fault in report.faults:
        console.print(f"FAILED: {fault}", markup=False, style="bold red")
    if options.json is not None:
        options.json.write_text(json.dumps([report.row], indent=1) + "\n", encoding="utf-8")
    return 1 if report.faults else 0


def run_trial(
    trial: Trial, folder: Path, *, say: Callable[[str], None] | None = None, begin: Starter | None = None
) -> Report:
    """Run a campaign undisturbed and disturbed in `folder`, and compare what the two have left.

    `begin` starts a process; by default with the libraries still to be loaded, as a user does.
    """
    begin = begin or start
    speak = say or (lambda _line: None)
    report = Report(trial)
    undisturbed, disturbed = (lay_out(trial, folder / name) for name in ("undisturbed", "disturbed"))
    speak(f"undisturbed: {trial.rounds} rounds of {BATCH}, scheduler {trial.scheduler} ...")
    begun = time.monotonic()
    until_lease = _run_undisturbed(trial, undisturbed, begin)
    speak(f"undisturbed: {time.monotonic() - begun:.0f} s, the lease taken after {until_lease:.1f} s")
    begun = time.monotonic()
    rng = random.Random(trial.seed)
    for aim in _aims(trial, rng):
        delay = rng.uniform(0, until_lease) if aim == "starting" else rng.uniform(0, AIMS[aim])
        landed = _kill_one(trial, disturbed, aim, delay, begin)
        if landed is None:
            report.faults.append(f"the campaign ended after {len(report.landed)} of {trial.kills} kills")
            break
        report.landed.append((aim, landed))
        speak(f"kill {len(report.landed):>2} aimed at {aim!r} landed in {landed!r}")
    _await(begin(trial, disturbed), disturbed)
    seconds = time.monotonic() - begun
    _judge(report, undisturbed, disturbed, seconds)
    return report


def _judge(report: Report, undisturbed: Path, disturbed: Path, seconds: float) -> None:
    """Fill in the row of a report and its faults."""
    trial = report.trial
    found = audit(disturbed, rounds=trial.rounds, price_minor=100 * PRICE_USD)
    # An oracle that cannot be asked twice leaves holes, so that later rounds know less: they differ rightly.
    differ = differences(undisturbed, disturbed) if trial.idempotent else []
    report.faults += [*found.faults, *differ]
    if trial.idempotent and found.unknown:
        report.faults.append(f"{found.unknown} evaluations of an idempotent oracle are unknown")
    orphans = left_behind(disturbed)
    if orphans:
        report.faults.append(f"processes left behind: {orphans}")
    report.row = {
        "db": "sqlite",
        "oracle": trial.oracle,
        "kills": len(report.landed),
        "calls": found.calls,
        "lost": found.lost,
        "paid_twice": found.paid_twice,
        "unknown": found.unknown,
        "rounds_missing": found.rounds_missing,
        "differs": len(differ) if trial.idempotent else None,
        "seconds": round(seconds, 1),
    }


def left_behind(folder: Path, *, grace_s: float = GRACE_S) -> list[int]:
    """Return the processes that still work in `folder` after `grace_s`."""
    deadline = time.monotonic() + grace_s
    while True:
        found = [p.pid for p in psutil.process_iter() if _works_in(p, folder)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()).is_relative_to(folder)
    except psutil.Error:
        return False


def _aims(trial: Trial, rng: random.Random) -> list[str]:
    """Return what the kills are aimed at: every aim in turn, each turn but the first in an order of its own.

    The first turn begins with a start: the database and the server's are still to be made.
    """
    found = list(trial.aims)
    while len(found) < trial.kills:
        turn = list(trial.aims)
        rng.shuffle(turn)
        found += turn
    return found[: trial.kills]


def lay_out(trial: Trial, folder: Path) -> Path:
    """Write a campaign and its oracle to a folder and return it."""
    folder.mkdir(exist_ok=True)
    text = CAMPAIGN.format(seed=trial.seed, batch=BATCH, rounds=trial.rounds)
    (folder / "campaign.yaml").write_text(text, encoding="utf-8")
    text = ASSAY.format(idempotent=trial.idempotent, pause_s=trial.pause_s, price_usd=PRICE_USD)
    (folder / "assay.py").write_text(text, encoding="utf-8")
    return folder


def start(trial: Trial, folder: Path) -> "subprocess.Popen[bytes]":
    """Start a process that runs the campaign of `folder` to its end."""
    command = [sys.executable, "-m", "flowscout", "run", "campaign.yaml"]
    if trial.scheduler == "none":
        command = [sys.executable, str(Path(__file__).resolve()), "--work", "campaign.yaml"]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _work(path: Path) -> None:
    """Run a campaign's rounds without a scheduler: what the process of `--scheduler none` does."""
    from flowscout import Campaign

    with Campaign.from_yaml(path) as campaign:
        while campaign.run_round() is not None:
            pass


def _run_undisturbed(trial: Trial, folder: Path, begin: Starter) -> float:
    """Run a campaign to its end; return after how many seconds it took the lease."""
    begun = time.monotonic()
    process = begin(trial, folder)
    while process.poll() is None and where_killed(folder, process.pid) == "starting":
        time.sleep(0.01)
    taken = time.monotonic() - begun
    _await(process, folder)
    return taken


def _kill_one(trial: Trial, folder: Path, aim: str, delay: float, begin: Starter) -> str | None:
    """Start the campaign, kill it `delay` seconds into what is aimed at, and return where that was.

    None if the campaign came to its end before.
    """
    process = begin(trial, folder)
    due = (aim, *FOLLOWS.get(aim, ()))
    while process.poll() is None and where_killed(folder, process.pid) not in due:
        time.sleep(0.0005)
    deadline = time.monotonic() + delay
    # A start differs in length from time to time: at its end the kill is due in any case.
    while time.monotonic() < deadline and (aim != "starting" or where_killed(folder, process.pid) == aim):
        time.sleep(0.0005)
    if process.poll() is not None:
        _await(process, folder)
        return None
    process.kill()
    process.wait()
    return where_killed(folder, process.pid)


def _await(process: Process, folder: Path) -> None:
    if process.wait() != 0:
        tail = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-2000:]
        raise SystemExit(f"the campaign in {folder} ended with code {process.returncode}:\n{tail}")


def _tables(report: Report) -> list[Table]:
    """Return what is printed: where the kills landed, and what was found."""
    aimed, hit = (Counter(pair[i] for pair in report.landed) for i in (0, 1))
    kills = Table(title=f"where {len(report.landed)} kills landed", title_justify="left")
    kills.add_column("what the campaign was doing")
    kills.add_column("aimed", justify="right")
    kills.add_column("landed", justify="right")
    for name in dict.fromkeys([*AIMS, *hit]):
        kills.add_row(name, str(aimed[name]), str(hit[name]))
    found = Table(title="what they did", title_justify="left", show_header=False)
    found.add_column("")
    found.add_column("", justify="right")
    for name, value in report.row.items():
        found.add_row(name.replace("_", " "), "-" if value is None else str(value))
    return [kills, found]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many times the campaign is killed")
    parser.add_argument("--seed", type=int, default=0, help="decides the campaign and the moments of the kills")
    parser.add_argument(
        "--scheduler", choices=["prefect", "none"], default="prefect", help="none: rounds in a plain process"
    )
    parser.add_argument("--oracle", choices=["idempotent", "not-idempotent"], default="idempotent")
    parser.add_argument("--json", type=Path, help="write the row to this file too")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
