"""Break all that a scheduled campaign stands on, again and again, and show that it goes on and loses nothing.

    python benchmarks/faults.py
    python benchmarks/faults.py --faults 30 --seed 1 --kind idempotent --json rows.json

A campaign's rounds start by a schedule on a local `flowscout serve`, with PostgreSQL for the history and for
Prefect and two `flowscout worker`s; the oracle is a process with books of its own (`crash_oracle`), by default one
that acts at every call and can be asked afterwards. At random moments a fault comes:

- worker, flow, prefect worker, server, server and flow: killed with SIGKILL; `flowscout worker`s are started again
  by us, as a service manager would, all else by who keeps it running;
- database stopped: PostgreSQL is away for 30 s; database killed: its processes are killed, and it is started;
- disk full: the file system of the artefacts, a small tmpfs, has no byte left for 30 s, and until a round met it;
- clock: that of workers and flows jumps by an hour, ahead or back, and is right again after 20 s (libfaketime);
- marked crashed: Prefect is told that a run has crashed which goes on.

`recovered_s` is from the fault until the history has gone on in both ways, by a new measurement and by a new stage
of a round, nothing is left in the hands of who was killed, and the server answers. At the end all are let come to
rest; then each round has all of its measurements, with the values that the books say, and each object was paid for
once. Mounting the disk takes root, the clock the package `faketime`: without them these faults are left out.
"""

import argparse
import http.client
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from crash_books import Books, calls_of, evaluations_of
from crash_oracle import KINDS, PRICE_MINOR
from faults_campaign import BATCH
from faults_place import Place
from rich.console import Console
from rich.table import Table

from flowscout import Campaign

FAULTS = {
    "worker": 4,
    "flow": 4,
    "prefect worker": 3,
    "server": 4,
    "server and flow": 3,
    "database stopped": 3,
    "database killed": 2,
    "disk full": 3,
    "clock": 2,
    "marked crashed": 2,
}
"""The kinds of faults, and how many there are of each among thirty."""

AWAY_S, FULL_S, WRONG_S = 30.0, 30.0, 20.0
"""How long the database is away, the disk full, the clock wrong."""
JUMP_S = 3600
NO_SPACE = "No space left on device"
MEDIAN_S = 90.0
"""What the median of the times to recovery has to stay under."""
PATIENCE_S = 420.0
VICTIM_S = 120.0
Row = dict[str, Any]


@dataclass(frozen=True)
class Mark:
    """How far the history is: how many measurements, and how many stages of rounds."""

    measurements: int
    stages: int

    @classmethod
    def of(cls, place: Place) -> "Mark":
        """Return how far it is now."""
        [[measurements, stages]] = place.rows(
            """SELECT (SELECT count(*) FROM measurement),
            (SELECT count(*) FROM round) + (SELECT count(*) FROM model_fit) + (SELECT count(*) FROM sampler_run)
            + (SELECT count(*) FROM round WHERE state IN ('dispatched', 'complete'))
            + (SELECT count(*) FROM round WHERE state = 'complete')"""
        )
        return cls(measurements, stages)


class Breaker:
    """Does the faults to a place, one at a time; each returns whom it killed."""

    def __init__(self, place: Place, rng: random.Random) -> None:
        self.place, self._rng = place, rng
        self._jumps = 0

    def kinds(self) -> dict[str, int]:
        """Return the faults that can be done here."""
        missing = [] if self.place.clock is not None else ["clock"]
        missing += [] if self.place.small_disk else ["disk full"]
        return {kind: times for kind, times in FAULTS.items() if kind not in missing}

    def do(self, kind: str) -> list[int]:
        """Do a fault to its end; return the processes that were killed.

        Raises:
            TimeoutError: there was nobody to do it to.
        """
        deed: Callable[[], list[int]] = getattr(self, f"_{kind.replace(' ', '_')}")
        return deed()

    def _worker(self) -> list[int]:
        name = self._rng.choice(sorted(self.place.workers))
        process = self.place.workers[name]
        process.kill()
        process.wait()
        self.place.start_worker(name)
        return [process.pid]

    def _flow(self) -> list[int]:
        return [self._kill(self._victim())]

    def _prefect_worker(self) -> list[int]:
        return self._kill_service("worker start")

    def _server(self) -> list[int]:
        return self._kill_service("server start")

    def _server_and_flow(self) -> list[int]:
        flow = self._victim()
        killed = self._kill_service("server start")
        return [*killed, self._kill(flow)]

    def _database_stopped(self) -> list[int]:
        self.place.database.stop()
        time.sleep(AWAY_S)
        self.place.database.start()
        return []

    def _database_killed(self) -> list[int]:
        self.place.database.kill()
        self.place.database.start()
        return []

    def _disk_full(self) -> list[int]:
        before = self.place.count_said(NO_SPACE)
        with self.place.full_disk():
            end = time.monotonic() + FULL_S
            while time.monotonic() < end or self.place.count_said(NO_SPACE) == before:
                if time.monotonic() > end + VICTIM_S:
                    raise TimeoutError("never: something was to be written to the full disk")
                time.sleep(0.2)
        return []

    def _clock(self) -> list[int]:
        assert self.place.clock is not None
        self._jumps += 1
        self.place.clock.jump(JUMP_S if self._jumps % 2 else -JUMP_S)
        time.sleep(WRONG_S)
        self.place.clock.jump(0)
        return []

    def _marked_crashed(self) -> list[int]:
        state = {"type": "CRASHED", "name": "Crashed", "message": "it was taken for dead, and is not"}
        runs = _await(self.place.running, "a run is under way")
        for run in runs:
            self.place.ask("POST", f"flow_runs/{run}/set_state", {"state": state, "force": True})
        return []

    def _victim(self) -> int:
        """Return the process of a flow, at a random moment of its round."""
        _await(self.place.runner, "a flow holds the campaign")
        time.sleep(self._rng.uniform(0, 4))
        return _await(self.place.runner, "a flow holds the campaign")

    def _kill(self, pid: int) -> int:
        process = psutil.Process(pid)
        process.kill()
        return pid

    def _kill_service(self, what: str) -> list[int]:
        processes = _await(lambda: self.place.service(what), f"{what} runs")
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        return [process.pid for process in processes]


def _await(found: Callable[[], Any], what: str, *, patience_s: float = VICTIM_S) -> Any:
    """Return what is found, once it is."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            if one := found():
                return one
        except OSError:  # the server does not answer
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"never: {what}")
        time.sleep(0.1)


def plan(kinds: dict[str, int], faults: int, rng: random.Random) -> list[str]:
    """Return the faults in the order in which they come: turns of all of them, each in an order of its own."""
    turn = [kind for kind, times in kinds.items() for _ in range(times)]
    found: list[str] = []
    while len(found) < faults:
        rng.shuffle(turn)
        found += turn
    return found[:faults]


def run(
    place: Place, faults: int, *, seed: int, only: Sequence[str], most_s: float, say: Callable[[str], None]
) -> Iterator[Row]:
    """Do the faults, and yield what became of each; after `most_s` seconds no further one is begun."""
    rng = random.Random(seed)
    breaker = Breaker(place, rng)
    begun, before = time.monotonic(), (0, 0)
    _await(lambda: Mark.of(place).measurements >= BATCH, "the first round is measured", patience_s=PATIENCE_S)
    kinds = {kind: 1 if only else times for kind, times in breaker.kinds().items() if kind in (only or FAULTS)}
    for number, kind in enumerate(plan(kinds, faults, rng), start=1):
        if time.monotonic() - begun > most_s:
            say(f"the time is over: {number - 1} of {faults} faults are done")
            return
        time.sleep(rng.uniform(1, 8))
        place.keep()
        mark, at = Mark.of(place), time.monotonic()
        try:
            killed = breaker.do(kind)
        except TimeoutError as error:
            place.faults.append(f"fault {number}, {kind}: {error}")
            continue
        recovered = _recovered(place, mark, killed)
        recovered_s = time.monotonic() - at
        if not recovered:
            place.faults.append(f"fault {number}, {kind}: the campaign did not go on within {PATIENCE_S:.0f} s")
        now = so_far(place)
        row: Row = {"fault": kind, "at": round(at - begun, 1), "recovered_s": round(recovered_s, 1)}
        yield row | {"lost": now[0] - before[0], "paid_twice": now[1] - before[1]}
        before = now
        say(f"{number}. {kind} at {row['at']:.0f} s: recovered in {recovered_s:.1f} s")


def _recovered(place: Place, mark: Mark, killed: Sequence[int]) -> bool:
    """Wait until the campaign goes on; return whether it does."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        place.keep()
        now = Mark.of(place)
        if (
            now.measurements > mark.measurements
            and now.stages > mark.stages
            and not _in_dead_hands(place, killed)
            and _answers(place)
        ):
            return True
        time.sleep(0.2)
    return False


def _in_dead_hands(place: Place, killed: Sequence[int]) -> bool:
    owners = [owner for (owner,) in place.rows("SELECT owner FROM attempt WHERE state = 'running'")]
    return any(int(owner.split("|")[1]) in killed for owner in owners if "|" in owner)


def _answers(place: Place) -> bool:
    try:
        place.ask("GET", "health")
    except (OSError, http.client.HTTPException):  # also one that dies while it answers
        return False
    return True


def so_far(place: Place) -> tuple[int, int]:
    """Return what is lost for good already, and what was paid twice."""
    history, ledger = Books(place.url), Books(place.layout.folder / "oracle.db")
    try:
        evaluations, calls = evaluations_of(history), calls_of(ledger)
    finally:
        history.close()
        ledger.close()
    values = {call.key: call.value for call in calls if call.billed}
    lost = sum(e.state in ("failed", "cancelled") for e in evaluations)
    lost += sum(e.state == "done" and e.value != values.get(e.key) for e in evaluations)
    billed = Counter(call.object for call in calls if call.billed)
    return lost, sum(n > 1 for n in billed.values())


def at_rest(place: Place) -> tuple[int, int, list[str]]:
    """Finish the round under way; return what is lost, what was paid twice, and what else is wrong."""
    with Campaign.from_yaml(place.layout.folder / "campaign.yaml", db=place.url) as campaign:
        while campaign.workbench.history.rounds.unfinished(campaign.workbench.campaign.id) is not None:
            campaign.run_round()
        rounds, money = len(campaign.status().rounds), campaign.budget()
    history, ledger = Books(place.url), Books(place.layout.folder / "oracle.db")
    try:
        evaluations, calls = evaluations_of(history), calls_of(ledger)
        [[measured, objects]] = history.rows("SELECT count(*), count(DISTINCT candidate_id) FROM measurement")
    finally:
        history.close()
        ledger.close()
    bills = [call for call in calls if call.billed]
    values = {call.key: call.value for call in bills}
    lost = sum(e.state != "done" or e.value is None or e.value != values.get(e.key) for e in evaluations)
    lost += len(values.keys() - {e.key for e in evaluations})
    twice = sum(n > 1 for n in Counter(call.object for call in bills).values())
    wrong = []
    if not measured == objects == rounds * BATCH == len(evaluations):
        wrong.append(f"{measured} measurements of {objects} objects, expected {rounds} rounds of {BATCH}")
    if place.halves():
        wrong.append(f"half-written files: {', '.join(place.halves())}")
    if (money.spent_minor, money.reserved_minor) != (len(bills) * PRICE_MINOR, 0):
        said = f"{money.spent_minor} spent and {money.reserved_minor} reserved"
        wrong.append(f"the history says {said}, the books {len(bills) * PRICE_MINOR} and 0")
    return lost, twice, wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the faults, print what became of them, and return 1 if anything was lost or paid twice."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fs-f-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # PostgreSQL is run by another user where we are root
        place = Place(folder, kind=options.kind, seed=options.seed, pause_s=options.pause_s)
        rows: list[Row] = []
        try:
            say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
            for row in run(
                place, options.faults, seed=options.seed, only=options.only, most_s=options.most_s, say=say
            ):
                rows.append(row)
            place.rest()
            lost, twice, wrong = at_rest(place)
            events = place.rows("SELECT kind, count(*) FROM event GROUP BY kind ORDER BY kind")
            rounds = place.rows("SELECT count(*) FROM round")[0][0]
        finally:
            place.close()
    found = sum(row["lost"] for row in rows), sum(row["paid_twice"] for row in rows)
    if (lost, twice) != found:
        rows.append({"fault": "at rest", "at": None, "recovered_s": None})
        rows[-1] |= {"lost": lost - found[0], "paid_twice": twice - found[1]}
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    median = statistics.median(row["recovered_s"] for row in rows if row["recovered_s"] is not None)
    Console(width=110).print(_shown(rows))
    print(f"{rounds} rounds of {BATCH}; {lost} lost, {twice} paid twice; median to recovery {median:.1f} s")
    print("events: " + ", ".join(f"{kind} {count}" for kind, count in events))
    wrong += place.faults + ([f"the median is over {MEDIAN_S:g} s"] if median > MEDIAN_S else [])
    for one in wrong:
        print(f"WRONG: {one}")
    return 1 if lost or twice or wrong else 0


def _shown(rows: Sequence[Row]) -> Table:
    """Return what became of each kind of fault."""
    table = Table(title="seconds to recovery", title_justify="left")
    for name in ("fault", "times", "median", "most", "lost", "paid twice"):
        table.add_column(name, justify="left" if name == "fault" else "right")
    for kind in dict.fromkeys(row["fault"] for row in rows):
        some = [row for row in rows if row["fault"] == kind]
        seconds = [row["recovered_s"] for row in some if row["recovered_s"] is not None]
        shown = [f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"] if seconds else ["", ""]
        sums = [str(sum(row[name] for row in some)) for name in ("lost", "paid_twice")]
        table.add_row(kind, str(len(some)), *shown, *sums)
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="decides the faults and their moments")
    parser.add_argument("--kind", choices=KINDS[:2], default="lookup", help="what the oracle can do")
    parser.add_argument(
        "--pause-s", type=float, default=0.1, help="how long a call takes, before and after it acts"
    )
    parser.add_argument(
        "--only", choices=FAULTS, action="append", default=[], help="faults to do, each as often as the others"
    )
    parser.add_argument("--most-s", type=float, default=math.inf, help="begin no further fault after so long")
    parser.add_argument("--keep", type=Path, default=None, help="a short path to keep everything in")
    parser.add_argument("--json", type=Path, default=None)
    return parser


if __name__ == "__main__":
    sys.exit(main())
