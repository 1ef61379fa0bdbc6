"""Let many work on one campaign at once, and show that no error came and no update was lost.

    python benchmarks/contention.py --db sqlite --processes 16 --seconds 60
    python benchmarks/contention.py --db postgresql --connections 64 --seconds 60 --json rows.json

Each worker claims a few evaluations, settles them, and tells a result of its own, again and again. On SQLite the
workers are processes; on PostgreSQL they are threads in four processes, and each has two of the connections, one
that writes and one that reads. At the end the
database must hold exactly what the workers counted, every cent must be on the ledger, and `seq` must be dense.
Exit code 1 if anything differs or any worker met an error.
"""

import argparse
import json
import multiprocessing
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from history import ORACLE, PROPERTY, database_url, spelled
from sqlalchemy import text

from flowscout.db import (
    Decision,
    FitRecord,
    History,
    MeasurementRecord,
    Outcome,
    ProposalRecord,
    RoundState,
    SamplerRecord,
)
from flowscout.db.checks import check_history
from flowscout.testing.histories import Scene, begin

QUEUED = 60_000
"""How many evaluations wait at the start: more than can be measured in a minute."""

CLAIM = 4
SHARED = 4
"""Processes that the connections to PostgreSQL are spread over."""

Counts = Counter[str]


def fill(history: History, queued: int) -> Scene:
    """Make a campaign with one dispatched round of many queued evaluations."""
    scene = begin(history)
    record = scene.start()
    history.rounds.advance(scene.lease, record, RoundState.FITTING)
    fit = history.rounds.record_fit(scene.lease, record, FitRecord("gp", 7, 0, 0, "0" * 64))
    run = SamplerRecord(kind="gflownet", seed=8, model_fit_id=fit.id or 0)
    run = history.rounds.record_sampler(scene.lease, record, run)
    batch = [
        ProposalRecord(one, one, "gflownet", Decision.SELECTED, rank)
        for rank, one in enumerate(map(spelled, range(queued)), start=1)
    ]
    history.rounds.record_proposals(scene.lease, record, batch, sampler_run_id=run.id, oracle=ORACLE)
    history.rounds.advance(scene.lease, record, RoundState.DISPATCHED)
    return scene


def work(history: History, campaign_id: int, round_id: int, name: str, until: float) -> Counts:
    """Claim, settle and tell until the time is up; return what was done, and the first error if one came."""
    done: Counts = Counter()
    try:
        while time.time() < until:
            claims = history.experiments.claim(round_id, owner=name, limit=CLAIM)
            done["claimed"] += len(claims)
            outcomes = [
                Outcome(
                    one, [MeasurementRecord(one.object, one.object, PROPERTY, 1.0, "oracle", one.idempotency_key)]
                )
                for one in claims
            ]
            done["settled"] += history.experiments.settle(outcomes, actor=name) if outcomes else 0
            own = f"told by {name}, {done['told']}"
            row = MeasurementRecord(own, own, PROPERTY, 2.0, source=name, row_id=own)
            done["told"] += history.measurements.add(campaign_id, [row], actor=name).added
    except Exception as error:  # noqa: BLE001 - what came is what is to be shown
        done[f"error: {type(error).__name__}: {error}"[:200]] += 1
    return done


def work_in_threads(url: str, campaign_id: int, round_id: int, names: Sequence[str], until: float) -> Counts:
    """Let each name work on a connection of its own; return what all did."""
    total: Counts = Counter()
    lock = threading.Lock()

    def one(name: str) -> None:
        with History(url) as history:
            done = work(history, campaign_id, round_id, name, until)
        with lock:
            total.update(done)

    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return total


def faults(history: History, scene: Scene, done: Counts) -> list[str]:
    """Return what is not as the workers counted it."""
    found = [name for name in done if name.startswith("error")]
    clock = history.campaigns.get(scene.campaign.id).clock
    with history.database.read() as session:
        counts: dict[str, Any] = {
            name: session.execute(text(sql)).scalar()
            for name, sql in {
                "measurements": "SELECT count(*) FROM measurement",
                "attempts": "SELECT count(*) FROM attempt",
                "done": "SELECT count(*) FROM evaluation WHERE state = 'done'",
                "spent": "SELECT spent_minor FROM balance",
                "reserved": "SELECT reserved_minor FROM balance",
            }.items()
        }
    expected = {
        "measurements": done["settled"] + done["told"],
        "attempts": done["claimed"],
        "done": done["settled"],
        "spent": done["settled"] * ORACLE.unit_cost_minor,
        "reserved": (done["claimed"] - done["settled"]) * ORACLE.unit_cost_minor,
    }
    found += [
        f"{name}: {counts[name]}, expected {value}" for name, value in expected.items() if counts[name] != value
    ]
    if clock != counts["measurements"]:
        found.append(f"clock: {clock}, expected {counts['measurements']}")
    if done["claimed"] != done["settled"]:
        found.append(f"claimed {done['claimed']} and settled {done['settled']}, expected the same")
    # No artefact was made, and the fit is of no rows.
    looked = check_history(history.database, scene.campaign.id, artefacts=Path())
    return found + [f"{one.check}: {one.found}" for one in looked if one.check != "fits"]


def main() -> int:
    """Let them work, look at what they left, and print it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=16, help="on SQLite")
    parser.add_argument("--connections", type=int, default=64, help="on PostgreSQL")
    parser.add_argument("--queued", type=int, default=QUEUED, help="evaluations that wait at the start")
    parser.add_argument("--postgresql", metavar="URL", help="an empty database to use")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where the row goes")
    wanted = parser.parse_args()
    workers = wanted.processes if wanted.db == "sqlite" else wanted.connections // 2
    processes = workers if wanted.db == "sqlite" else min(SHARED, workers)
    names = [f"worker {number}" for number in range(workers)]
    with database_url(wanted.db, wanted.postgresql) as url, History(url) as history:
        scene = fill(history, wanted.queued)
        round_id = history.rounds.get(scene.campaign.id, 1).id
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            pool.map(time.sleep, [0.1] * processes, chunksize=1)  # all of them are there
            until = time.time() + wanted.seconds
            shares = [(url, scene.campaign.id, round_id, names[i::processes], until) for i in range(processes)]
            done: Counts = sum(pool.starmap(work_in_threads, shares, chunksize=1), Counter())
        wrong = faults(history, scene, done)
    row = {
        "db": wanted.db,
        "workers": workers,
        "seconds": wanted.seconds,
        "settled": done["settled"],
        "told": done["told"],
        "transactions_per_s": (2 * done["claimed"] / CLAIM + done["told"]) / wanted.seconds,
        "measurements_per_s": (done["settled"] + done["told"]) / wanted.seconds,
        "faults": wrong,
    }
    counted = f"{done['settled']:,} settled, {done['told']:,} told"
    rates = f"{row['measurements_per_s']:,.0f} measurements/s in {row['transactions_per_s']:,.0f} transactions/s"
    print(f"{wanted.db}: {workers} workers for {wanted.seconds:g} s: {counted}, {rates}")
    print("no error, no lost update: counts, money and seq are exact" if not wrong else "\n".join(wrong))
    if wanted.json is not None:
        wanted.json.write_text(json.dumps([row], indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
