"""Working: a process that calls oracles beside the round's runner, for as long as it is wanted.

It claims attempts, heartbeats, renews its leases, ends the calls of the dead, tells the hooks, and completes a
round when it settles the last of it. How calls are made belongs in `loop.dispatching`.
"""

import logging
import time
from dataclasses import dataclass

from flowscout.db import ATTEMPT_LEASE_S, HEARTBEAT_S, this_owner
from flowscout.errors import CampaignBusyError, OracleError
from flowscout.loop.dispatching import POLL_S, Dispatcher, riding_out
from flowscout.loop.due import announce_due
from flowscout.loop.gates import completable
from flowscout.loop.leases import repeating
from flowscout.loop.notices import delivering
from flowscout.loop.workbench import Workbench, hold_campaign

logger = logging.getLogger(__name__)


@dataclass
class Stop:
    """Whether somebody has asked a worker to end. The calls in hand are finished before it does."""

    asked: bool = False


@dataclass(frozen=True)
class Worked:
    """What a worker has done: how many evaluations it called, and how many values were new."""

    calls: int
    added: int


def work(
    bench: Workbench,
    *,
    limit: int | None = None,
    once: bool = False,
    idle_s: float | None = None,
    stop: Stop | None = None,
    lease_s: float = ATTEMPT_LEASE_S,
) -> Worked:
    """Call oracles for a campaign until told to stop; the calls under way are then waited for.

    `limit` is how many evaluations are in hand at most. Without one it is one at a time where a call takes as many
    as there are, else as many as the oracle is called for at once. `once` ends when nothing is left to claim,
    `idle_s` after so long without anything to do.
    """
    stop = Stop() if stop is None else stop
    owner, workers, queue = this_owner(), bench.history.workers, bench.campaign.uuid
    calls, added, announced, since = 0, 0, 0, time.monotonic()
    dispatcher = Dispatcher(bench, owner=owner, lease_s=lease_s, shares=limit is None)

    def hurry() -> None:
        if stop.asked:
            dispatcher.hurry()

    workers.beat(owner, queue=queue)
    try:
        with (
            repeating(lambda: workers.beat(owner, queue=queue), every_s=HEARTBEAT_S, name="flowscout-worker"),
            delivering(bench.history, bench.campaign, bench.config, folder=bench.tools.folder),
            dispatcher,
            repeating(hurry, every_s=POLL_S, name="flowscout-hurry"),
        ):
            dispatcher.recover()
            while not stop.asked:
                with riding_out(bench, "the work", until=lambda: stop.asked):
                    turn = dispatcher.turn(limit=limit)
                    calls, added = calls + turn.called, added + turn.added
                    if turn.idle and calls > announced:
                        announced = calls
                        announce_due(bench)
                    if not turn.idle:
                        since = time.monotonic()
                    elif once or (idle_s is not None and time.monotonic() - since >= idle_s):
                        break
                    else:
                        time.sleep(POLL_S)
                    if turn.called:
                        complete_if_possible(bench)
                    dispatcher.recover(ask=False)
            turn = dispatcher.drain()
            calls, added = calls + turn.called, added + turn.added
            if turn.called:
                complete_if_possible(bench)
    finally:
        workers.leave(owner)
    return Worked(calls, added)


def complete_if_possible(bench: Workbench) -> bool:
    """Complete the rounds under way in which nothing waits any more; return whether that could be seen to.

    It cannot while a runner holds the campaign. Most complete it themselves, but one that is about to leave has
    looked already.
    """
    if not completable(bench):
        return True
    from flowscout.loop import stages  # loads torch

    try:
        with hold_campaign(bench) as held:
            stages.complete(held)
    except CampaignBusyError:
        return False
    except OracleError as error:  # every measurement failed: whoever runs the next round is told again
        logger.warning("%s", error)
    return True
