"""Working: a process that calls oracles beside the round's runner, for as long as it is wanted.

It claims attempts, heartbeats, renews its leases, ends the calls of the dead, tells the hooks, and completes a
round when it settles the last of it. How calls are made belongs in `loop.dispatching`.
"""

import logging
import time
from dataclasses import dataclass

from flowscout.db import ATTEMPT_LEASE_S, HEARTBEAT_S, EvaluationState, RoundState, this_owner
from flowscout.errors import CampaignBusyError, OracleError
from flowscout.loop.dispatching import POLL_S, RETRY_PAUSE_S, Dispatcher
from flowscout.loop.leases import repeating
from flowscout.loop.notices import delivering
from flowscout.loop.workbench import Workbench, at_version, hold_campaign

logger = logging.getLogger(__name__)


@dataclass
class Stop:
    """Whether somebody has asked a worker to end. The call in hand is finished before it does."""

    asked: bool = False


@dataclass(frozen=True)
class Worked:
    """What a worker has done: how many evaluations it called, and how many values were new."""

    calls: int
    added: int


def work(
    bench: Workbench,
    *,
    limit: int | None = 1,
    once: bool = False,
    idle_s: float | None = None,
    stop: Stop | None = None,
    lease_s: float = ATTEMPT_LEASE_S,
) -> Worked:
    """Call oracles for a campaign, `limit` evaluations at a time, until told to stop.

    `once` ends when nothing is left to claim, `idle_s` after so long without anything to do.
    """
    stop = Stop() if stop is None else stop
    owner, workers, queue = this_owner(), bench.history.workers, bench.campaign.uuid
    dispatcher = Dispatcher(bench, owner=owner, lease_s=lease_s)
    calls, added, tries, since = 0, 0, 0, time.monotonic()
    workers.beat(owner, queue=queue)
    try:
        with (
            repeating(lambda: workers.beat(owner, queue=queue), every_s=HEARTBEAT_S, name="flowscout-worker"),
            delivering(bench.history, bench.campaign, bench.config, folder=bench.tools.folder),
        ):
            dispatcher.recover()
            while not stop.asked:
                turn = None if _waits_for_people(bench) else dispatcher.turn(limit=limit)
                if turn is not None and turn.claimed:
                    calls, added = calls + turn.claimed, added + turn.added
                    complete_if_possible(bench)
                    since = time.monotonic()
                elif once or (idle_s is not None and time.monotonic() - since >= idle_s):
                    break
                else:
                    time.sleep(POLL_S)
                tries = tries + 1 if turn is not None and turn.transient else 0
                if tries:
                    time.sleep(RETRY_PAUSE_S * 2 ** min(tries, 8))
                dispatcher.recover(ask=False)
    finally:
        workers.leave(owner)
    return Worked(calls, added)


def complete_if_possible(bench: Workbench) -> None:
    """Complete the round under way if nothing in it waits any more; a live runner does so itself."""
    history = bench.history
    unfinished = history.rounds.unfinished(bench.campaign.id)
    if unfinished is None or unfinished.state is not RoundState.DISPATCHED:
        return
    counts = history.experiments.counts(bench.campaign.id, round_id=unfinished.id)
    if counts.get(EvaluationState.QUEUED, 0) or counts.get(EvaluationState.RUNNING, 0):
        return
    from flowscout.loop import stages  # loads torch

    try:
        with hold_campaign(bench) as held:
            stages.collect(held, unfinished.number)
    except CampaignBusyError:
        return
    except OracleError as error:  # every measurement failed: whoever runs the next round is told again
        logger.warning("%s", error)


def _waits_for_people(bench: Workbench) -> bool:
    """Return whether the round under way is measured by people, who tell its results."""
    unfinished = bench.history.rounds.unfinished(bench.campaign.id)
    if unfinished is None or unfinished.config_version_id == bench.version.id:
        return bench.oracle.info.waits_for_people
    return at_version(bench, unfinished.config_version_id).oracle.info.waits_for_people
