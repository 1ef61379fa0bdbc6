"""Lanes: the calls of one oracle that are under way, within its concurrency, its rate and its batch.

What is claimed and settled belongs in `loop.dispatching`, what one call is answered in `loop.measuring`.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from queue import Empty, SimpleQueue

from flowscout.db import Claim, Outcome
from flowscout.loop.leases import HeldClaims
from flowscout.loop.measuring import Late, measure
from flowscout.loop.oracles import Calling, Closing, Hurrying
from flowscout.loop.workbench import Workbench

logger = logging.getLogger(__name__)

AHEAD_S = 1.0
"""So much work is claimed ahead of an oracle that may be called again: a disk is synced once for all of it."""
GATHER_S = 0.5
"""So long are answers gathered before they are stored, while there is more to be called ahead."""
MOST_AHEAD = 5_000


@dataclass(frozen=True)
class Ended:
    """A call that has ended: its outcomes, or what broke off the whole of the work."""

    lane: "Lane"
    claims: Sequence[Claim]
    outcomes: Sequence[Outcome]
    error: BaseException | None = None


class Lane:
    """The calls of the oracle of one version of the campaign file. Only its own threads call it, or `begin`.

    With a concurrency of 1 calls are made in the thread that begins them, so that whatever interrupts that
    thread interrupts them.
    """

    def __init__(self, bench: Workbench, *, held: HeldClaims, ended: "SimpleQueue[Ended]", late: Late) -> None:
        self.bench = bench
        self._held, self._ended, self._late = held, ended, late
        self._backlog: deque[Sequence[Claim]] = deque()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[Sequence[Claim] | None] = SimpleQueue()
        self._in_hand = 0  # evaluations that are claimed and not settled
        self._next_at = 0.0
        self._pace_s: float | None = None  # seconds a call takes for each of its evaluations
        self._closed = threading.Event()

    @property
    def calling(self) -> Calling:
        """How the oracle is called."""
        return self.bench.oracle.info.calling

    @property
    def in_hand(self) -> int:
        """How many evaluations are claimed and not settled."""
        return self._in_hand

    @property
    def ahead(self) -> bool:
        """Whether claims wait to be called."""
        return bool(self._backlog) or not self._tasks.empty()

    @property
    def waits(self) -> bool:
        """Whether the rate keeps claims from being called."""
        return bool(self._backlog) and self.calling.rate_per_s is not None and self._tasks.empty()

    def room(self) -> int | None:
        """Return how many evaluations may be claimed now; None: all there are."""
        if self.calling.batch is None:
            return 0 if self._in_hand else None
        wanted = self._wanted(self.calling.batch)
        left = wanted - self._in_hand
        # What is claimed ahead is claimed in large parts: each costs a disk sync.
        at_once = self.calling.batch * self.calling.concurrency
        return left if left > 0 and (wanted == at_once or left >= wanted // 2) else 0

    def _wanted(self, batch: int) -> int:
        at_once = batch * self.calling.concurrency
        if not self.bench.oracle.info.idempotent or self._pace_s is None:
            return at_once
        soon = AHEAD_S * self.calling.concurrency / max(self._pace_s, 1e-6)
        if self.calling.rate_per_s is not None:
            soon = min(soon, AHEAD_S * self.calling.rate_per_s * batch)
        return max(at_once, min(int(soon), MOST_AHEAD))

    def take(self, claims: Sequence[Claim]) -> None:
        """Take claims to be called, in parts of a batch."""
        self._in_hand += len(claims)
        size = self.calling.batch or max(1, ceil(len(claims) / self.calling.concurrency))
        self._backlog.extend(claims[first : first + size] for first in range(0, len(claims), size))

    def begin(self) -> None:
        """Begin what may begin now."""
        if self.calling.concurrency == 1:
            self._call_here()
            return
        while self._backlog and self.wait_s() <= 0:
            if self.calling.rate_per_s is not None and not self._tasks.empty():
                return  # all threads are busy: what waits for them would be begun at once
            self._pass_on(self._backlog.popleft())

    def wait_s(self) -> float:
        """Return how long the rate lets the next call wait."""
        return self._next_at - time.monotonic()

    def _call_here(self) -> None:
        until = time.monotonic() + GATHER_S
        while self._backlog and self.wait_s() <= 0:
            self._count()
            self._ended.put(self._called(self._backlog.popleft()))
            if time.monotonic() >= until or not self.bench.oracle.info.idempotent:
                return

    def _pass_on(self, claims: Sequence[Claim]) -> None:
        self._count()
        if len(self._threads) < self.calling.concurrency:
            thread = threading.Thread(target=self._work, name="flowscout-calls", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._tasks.put(claims)

    def _count(self) -> None:
        if self.calling.rate_per_s is not None:
            self._next_at = max(self._next_at, time.monotonic() - 0.1) + 1 / self.calling.rate_per_s

    def _work(self) -> None:
        while (claims := self._tasks.get()) is not None and not self._closed.is_set():
            ended = self._called(claims)
            with self._lock:
                if not self._closed.is_set():
                    self._ended.put(ended)
                    continue
            self._late.keep(self.bench, ended.outcomes)

    def _called(self, claims: Sequence[Claim]) -> Ended:
        mine = [claim for claim in claims if claim.attempt_id not in self._held.lost]
        begun = time.perf_counter()
        try:
            outcomes = measure(self.bench, mine, late=self._late) if mine else []
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for the call
            return Ended(self, claims, (), error)
        pace_s = (time.perf_counter() - begun) / len(claims)
        self._pace_s = pace_s if self._pace_s is None else 0.9 * self._pace_s + 0.1 * pace_s
        return Ended(self, claims, outcomes)

    def drop(self) -> list[Claim]:
        """Let go of what nobody has begun to call; nothing where that would leave its end unknown."""
        if not self.bench.oracle.info.idempotent:
            return []
        dropped = [claim for claims in self._backlog for claim in claims]
        self._backlog.clear()
        with suppress(Empty):
            while True:
                dropped += self._tasks.get_nowait() or ()
        self._in_hand -= len(dropped)
        return dropped

    def hurry(self) -> None:
        """Let calls end that pause before they try again."""
        if isinstance(self.bench.oracle, Hurrying):
            self.bench.oracle.hurry()

    def settled(self, count: int) -> None:
        """Let go of so many evaluations."""
        self._in_hand -= count

    def close(self) -> None:
        """End the oracle's programs and let the threads go. What still comes is late."""
        with self._lock:
            self._closed.set()
        for _ in self._threads:
            self._tasks.put(None)
        if isinstance(self.bench.oracle, Closing):
            try:
                self.bench.oracle.close()
            except Exception:  # what has ended is settled all the same
                logger.warning("oracle %s could not be closed", self.bench.oracle.info.name, exc_info=True)
