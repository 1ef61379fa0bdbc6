"""Something done again and again in the background, such as renewing leases, while something long goes on."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from flowscout.db import ATTEMPT_LEASE_S, Claim, History

logger = logging.getLogger(__name__)


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


@contextmanager
def held_claims(
    history: History, claims: Sequence[Claim], *, lease_s: float = ATTEMPT_LEASE_S
) -> Iterator[set[int]]:
    """Renew the leases of claims while their oracle is called; yield the ids of attempts that are lost.

    A lost one was given up for dead, after this process stood still for longer than its lease. Its call cannot
    be taken back: settle it all the same, its value is recorded and changes nothing else. Where the block breaks
    off, the claims are given up, so that others need not wait for the lease to end.
    """
    lost: set[int] = set()

    def renew() -> None:
        kept = [claim for claim in claims if claim.attempt_id not in lost]
        for claim in history.experiments.renew(kept, lease_s=lease_s):
            lost.add(claim.attempt_id)
            logger.warning(
                "the lease of attempt %d at %r is lost: this process stood still, and another went on. "
                "What the call returns is recorded, and changes nothing else.",
                claim.attempt_id,
                claim.object,
            )

    try:
        with repeating(renew, every_s=lease_s / 4, name="flowscout-claims"):
            yield lost
    except BaseException:
        history.experiments.renew(claims, lease_s=0)
        raise
