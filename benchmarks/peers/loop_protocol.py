"""What a window of `throughput.py` is in every environment: the function that is called, and the row it prints.

Nothing but the standard library is imported here: this runs in the environments of the peers too. How the loop of
one system goes belongs in its own worker.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

CALL_S = 0.001
"""How long a call takes."""


def call(number: float) -> float:
    """Wait as long as a call takes, and return what it is called with."""
    time.sleep(CALL_S)
    return number


@dataclass
class Watch:
    """A stop-watch that counts how long something took in all, and how much of it the process computed."""

    seconds: float = 0.0
    cpu_s: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count while the block lasts."""
        started, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started
            self.cpu_s += time.process_time() - cpu


def options(*, own: bool = False) -> argparse.Namespace:
    """Return what a worker is asked to do; our `own` knows more ways to do it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--ask", type=int, default=1, help="how many are asked for at once")
    parser.add_argument("--limit-s", type=float, default=1e9, help="end after so long, whatever is left")
    parser.add_argument("--url", help="the database; in memory without")
    if own:
        parser.add_argument("--bare", action="store_true", help="call the function and nothing else")
        parser.add_argument("--form", choices=("list", "single", "async"), default="list")
        parser.add_argument("--concurrency", type=int, default=1)
    return parser.parse_args()


def report(*, system: str, calls: int, whole: Watch, choosing: Watch) -> None:
    """Print what came of a window: `choosing` is what of the `whole` went into picking what to call with."""
    row = {"system": system, "calls": calls, "seconds": whole.seconds, "choosing_s": choosing.seconds}
    print(json.dumps(row | {"path_cpu_s": whole.cpu_s - choosing.cpu_s}), flush=True)
