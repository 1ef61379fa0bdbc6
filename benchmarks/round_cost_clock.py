"""A clock that tells what each part of a round takes, by timing functions of Flowscout from outside.

Each second of the main thread belongs to one part: to the innermost that runs. Whose seconds these are and what is
made of them belongs in `round_cost`.
"""

import builtins
import importlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

REST = "prefect"
"""What belongs to no other part of a round: the flow's and its tasks' own work, and waiting for their server."""

IMPORTS = "imports"
LABELS = "labels"
"""Reading what was measured, and making features of it, for whichever stage."""

PAGES = "pages"
"""What is drawn and written for Prefect's page."""

STAGES = ("plan", "fit", "train", "propose", "dispatch", "collect")

FUNCTIONS = {
    **{f"flowscout.loop.stages:{name}": name for name in STAGES},
    "flowscout.loop.ingesting:ingest": "ingest",
    "flowscout.loop.gates:look": "gate",
    "flowscout.flows.tasks:show": PAGES,
    "flowscout.loop.stages:fit_surrogate": "fitting",
    "flowscout.loop.stages:train_sampler": "training",
    "flowscout.loop.lanes:measure": "oracle",
    "flowscout.loop.turns:draw_pool": "drawing",
    "flowscout.loop.turns:select_batch": "selecting",
    "flowscout.loop.fitting:training_set": LABELS,
    "flowscout.loop.fitting:labels_of": LABELS,
    "flowscout.loop.beliefs:training_set": LABELS,
    "flowscout.loop.beliefs:labels_of": LABELS,
    "flowscout.loop.drift:training_set": LABELS,
}
"""What each function's seconds are called."""

STICKY = (IMPORTS, LABELS, PAGES)
"""What stays one part, whatever is done in it but for imports."""

APART = ("fitting", "training", "oracle", IMPORTS)
"""What a round is for, and what is loaded once a process: the rest is what the round costs beyond."""


class Clock:
    """Seconds by part, while `running`; of the wall, and of those what the thread computed."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.cpu: Counter[str] = Counter()
        self._stack: list[str] = []
        self._since, self._since_cpu = 0.0, 0.0
        self._thread = threading.get_ident()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what runs in this block."""
        self.seconds.clear()
        self.cpu.clear()
        self._since, self._since_cpu = time.perf_counter(), time.thread_time()
        self._stack.append(REST)
        try:
            yield
        finally:
            self._charge()
            self._stack.clear()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block as a part; imports are imports whoever asks, and labels and pages keep all the rest."""
        own = self._stack and threading.get_ident() == self._thread
        within = self._stack[-1] if own else IMPORTS
        if within == IMPORTS or (within in STICKY and name != IMPORTS):
            yield
            return
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def _charge(self) -> None:
        now, cpu = time.perf_counter(), time.thread_time()
        self.seconds[self._stack[-1]] += now - self._since
        self.cpu[self._stack[-1]] += cpu - self._since_cpu
        self._since, self._since_cpu = now, cpu

    def watch(self, functions: dict[str, str] = FUNCTIONS) -> None:
        """Time these functions, every transaction, and every import, from now on in this process."""
        for place, name in functions.items():
            module, _, attribute = place.partition(":")
            found = importlib.import_module(module)
            setattr(found, attribute, self._timed(getattr(found, attribute), name))
        self._watch_database()
        plain = builtins.__import__

        def load(*arguments: Any, **options: Any) -> Any:
            if not self._stack:
                return plain(*arguments, **options)
            with self.part(IMPORTS):
                return plain(*arguments, **options)

        builtins.__import__ = load

    def _watch_database(self) -> None:
        from flowscout.db.database import Database

        for name in ("read", "write"):
            plain = getattr(Database, name)

            @contextmanager
            def session(database: Database, *, plain: Callable[..., Any] = plain) -> Iterator[Any]:
                with self.part("database"), plain(database) as found:
                    yield found

            setattr(Database, name, session)

    def _timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        return run


def beyond(seconds: Counter[str]) -> float:
    """Return what a round took beyond what it is for."""
    return sum(value for name, value in seconds.items() if name not in APART)


def parts(names: Sequence[str]) -> list[str]:
    """Return parts in the order in which they are shown."""
    order = [
        "imports",
        "fitting",
        "training",
        "oracle",
        "ingest",
        "gate",
        *STAGES,
        "drawing",
        "selecting",
        LABELS,
        PAGES,
        "database",
        REST,
    ]
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))
