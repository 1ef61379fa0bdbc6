"""Something done again and again in the background, such as renewing leases, while something long goes on."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from weakref import WeakSet

from flowscout.db import ATTEMPT_LEASE_S, RENEWALS, Claim, History

logger = logging.getLogger(__name__)

_all: "WeakSet[HeldClaims]" = WeakSet()
"""Those of this process: its threads have one owner's name."""


@contextmanager
def repeating(action: Callable[[], object], *, every_s: float, name: str) -> Iterator[None]:
    """Call `action` in a thread every so many seconds until the end of the block; it must not raise."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every_s):
            action()

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class HeldClaims:
    """Claims whose leases are renewed in the background while their oracles are called.

    A lost one was given up for dead, after this process stood still for longer than its lease. Its call cannot
    be taken back: settle it all the same, its value is recorded and changes nothing else. Where the block breaks
    off, the claims that are left are given up, so that others need not wait for their leases to end.
    """

    def __init__(self, history: History, *, lease_s: float = ATTEMPT_LEASE_S) -> None:
        self._history, self._lease_s = history, lease_s
        self._held: dict[int, Claim] = {}
        self._lock = threading.Lock()
        self._renewing = repeating(self._renew, every_s=lease_s / RENEWALS, name="flowscout-claims")
        self.lost: set[int] = set()
        """The ids of attempts that are lost."""
        _all.add(self)

    @staticmethod
    def all_held() -> set[int]:
        """Return the ids of all attempts that this process holds."""
        return {number for one in list(_all) for number in list(one._held)}

    def hold(self, claims: Sequence[Claim]) -> None:
        """Renew the leases of these too."""
        with self._lock:
            self._held |= {claim.attempt_id: claim for claim in claims}

    def let_go(self, claims: Sequence[Claim]) -> None:
        """Renew these no more: they are to be settled, and an attempt that ends then has not been lost."""
        with self._lock:
            for claim in claims:
                self._held.pop(claim.attempt_id, None)

    def _renew(self) -> None:
        with self._lock:
            held = [claim for number, claim in self._held.items() if number not in self.lost]
        gone = self._history.experiments.renew(held, lease_s=self._lease_s) if held else []
        with self._lock:
            gone = [claim for claim in gone if claim.attempt_id in self._held]
        for claim in gone:
            self.lost.add(claim.attempt_id)
            logger.warning(
                "the lease of attempt %d at %r is lost: this process stood still, and another went on. "
                "What the call returns is recorded, and changes nothing else.",
                claim.attempt_id,
                claim.object,
            )

    def __enter__(self) -> "HeldClaims":
        self._renewing.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._renewing.__exit__(kind, error, trace)
        if error is not None and self._held:
            self._history.experiments.renew(list(self._held.values()), lease_s=0)
