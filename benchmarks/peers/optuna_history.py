"""Optuna's RDB storage at the operations of `history.py`, one JSON row a line. Runs in Optuna's own environment.

Nothing of Flowscout is imported here.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from typing import Any

import optuna

REPEATS = 5


def main() -> None:
    """Make the trials, ask for them, and print how long it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--db", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rows", type=int, required=True)
    wanted = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = wanted.url
    if url.startswith("postgresql://"):
        url = "postgresql+psycopg" + url.removeprefix("postgresql")

    def note(operation: str, rows: int, *, seconds: float | None = None, median_ms: float | None = None) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        row: dict[str, Any] = {
            "db": wanted.db,
            "system": f"optuna {optuna.__version__}",
            "operation": operation,
            "rows": rows,
            "median_ms": median_ms,
            "rows_per_s": None if seconds is None else rows / seconds,
            "peak_mb": round(peak),
        }
        print(json.dumps(row), flush=True)

    study = optuna.create_study(storage=url, study_name="bench", direction="maximize")
    one_by_one = min(1_000, wanted.rows // 2)
    started = time.perf_counter()
    for number in range(one_by_one):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, number % 9973 / 7)
    note("create one by one", one_by_one, seconds=time.perf_counter() - started)
    finished = [
        optuna.trial.create_trial(
            params={"x": number % 997 / 997},
            distributions={"x": optuna.distributions.FloatDistribution(0, 1)},
            value=number % 9973 / 7,
        )
        for number in range(wanted.rows - one_by_one)
    ]
    started = time.perf_counter()
    study.add_trials(finished)
    note("add finished trials", len(finished), seconds=time.perf_counter() - started)
    asked: dict[str, list[float]] = {"best": [], "list of all trials": []}
    for _ in range(REPEATS):
        for operation in asked:
            fresh = optuna.load_study(storage=url, study_name="bench")
            started = time.perf_counter()
            if operation == "best":
                assert fresh.best_trial.value is not None
            else:
                assert len(fresh.get_trials(deepcopy=False)) == wanted.rows
            asked[operation].append(time.perf_counter() - started)
    for operation, times in asked.items():
        note(operation, wanted.rows, median_ms=statistics.median(times) * 1000)


if __name__ == "__main__":
    main()
