"""The sweep: which runs of flows belong to nobody living, and what has to be started again.

The history decides. A process of this machine that runs is never called dead; of one elsewhere it is known whether
it renews the lease of its campaign. What a scheduler shows is a hint.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from flowscout.db import (
    CampaignRecord,
    EvaluationState,
    EventKind,
    History,
    RoundRecord,
    is_dead,
    is_living,
    this_owner,
)
from flowscout.db.timings import RESTS_MOST_S, RESTS_S, SILENT_S, STARTING_S
from flowscout.errors import NotFoundError
from flowscout.loop import gates
from flowscout.loop.workbench import Workbench, at_version

logger = logging.getLogger(__name__)

AT_ONCE = 2
"""So many runs of a round may follow each other without a pause."""

RUN_ROUNDS = ("discovery-round", "campaign-until-done")
"""The flows that go on with a round where another one left it."""


@dataclass(frozen=True)
class Run:
    """A run of a flow that a scheduler takes for alive; `age_s` is how long it has been in its state.

    `campaign` is the name or uuid it was started for, `deployment` what can start it again.
    """

    id: str
    flow: str
    campaign: str | None
    deployment: str | None
    age_s: float


def campaign_of(history: History, run: Run) -> CampaignRecord | None:
    """Return the campaign that a run was started for; None where this history has it not."""
    try:
        return None if run.campaign is None else history.campaigns.get(run.campaign)
    except NotFoundError:
        return None


def why_dead(history: History, campaign: CampaignRecord | None, run: Run) -> str | None:
    """Return why a run cannot belong to a living process; None where it may.

    One that has worked for a round left its owner in the log, and one that works holds the campaign's lease.
    """
    if campaign is None:  # of all campaigns: a sweep, which ends by itself long before
        return None if run.campaign is not None or run.age_s <= SILENT_S else f"it is {run.age_s:.0f} s old"
    runner = history.campaigns.runner(campaign.id)
    links = history.events.read(campaign.id, kinds=[EventKind.FLOW_RUN])
    link = next((one for one in reversed(links) if one.detail.get("run_id") == run.id), None)
    if link is None:
        if runner is not None and runner.living:  # it may be this one, which has not come to a round yet
            return None
        return f"it took up no round in {run.age_s:.0f} s" if run.age_s > SILENT_S else None
    if is_dead(link.actor):
        return "its process is gone"
    if is_living(link.actor):
        return None
    if runner is not None and runner.owner == link.actor:
        silent = not runner.living and runner.silent_s > SILENT_S
        return f"it has not renewed its lease for {runner.silent_s:.0f} s" if silent else None
    taken = history.events.read(campaign.id, kinds=[EventKind.LEASE_TAKEN_OVER], after=link.id)
    if run.age_s > SILENT_S and any(one.detail.get("from") == link.actor for one in taken):
        return "another process has taken its campaign over"
    return None


def starters(
    history: History, names: Sequence[str], marked: Sequence[tuple[str | None, str | None]]
) -> dict[str, str]:
    """Return by what deployment each of these campaigns is started: its schedule's, else the one of a dead run.

    `marked` has the campaign and the deployment of each dead run, as far as it had them.
    """
    found = {name: deployment for name, deployment in marked if name in names and deployment is not None and name}
    for schedule in history.schedules.all():
        name = history.campaigns.get(schedule.campaign_id).name
        if name in names and schedule.deployment_id is not None:
            found[name] = schedule.deployment_id
    return found


def is_coming(history: History, name: str, runs: Sequence[Run]) -> bool:
    """Return whether a run for the campaign has begun so recently that it may be about to take it up."""
    return any(
        run.flow in RUN_ROUNDS and run.age_s < STARTING_S
        for run in runs
        if (found := campaign_of(history, run)) is not None and found.name == name
    )


def is_stuck(bench: Workbench) -> bool:
    """Return whether a round has work to do and nobody living is on it.

    One that failed altogether is left, and one that waits for answers of a service where the budget does not reach
    for what is queued.
    """
    history, number = bench.history, bench.campaign.id
    runner = history.campaigns.runner(number)
    if runner is not None and runner.living:
        return False
    gate = gates.look(bench)
    if not gate.open or gate.kind != "running" or gate.again:
        return False
    record = gates.next_work(bench, history.rounds.under_way(number))
    return record is None or not _awaits_money(bench, record)


def rests(bench: Workbench) -> bool:
    """Return whether what was left is to lie for a while: the round has failed whenever it was started of late.

    `AT_ONCE` runs follow each other, the next `RESTS_S` later, then after twice as long each time. Only the sweep
    waits so: the times of the schedule and what people tell start a run as ever.
    """
    record = gates.next_work(bench, bench.history.rounds.under_way(bench.campaign.id))
    if record is None:
        return False
    count, ago_s = bench.history.gauges.runs(bench.campaign.id, record.id)
    return count > AT_ONCE and ago_s < min(RESTS_S * 2 ** min(count - AT_ONCE - 1, 10), RESTS_MOST_S)


def _awaits_money(bench: Workbench, record: RoundRecord) -> bool:
    counts = bench.history.experiments.counts(bench.campaign.id, round_id=record.id)
    accepted = bench.history.experiments.accepted(record.id)
    if not accepted or counts.get(EvaluationState.RUNNING, 0) > accepted:
        return False
    free = bench.history.budgets.free(bench.campaign.id)
    price = at_version(bench, record.config_version_id).oracle_record().unit_cost_minor
    return counts.get(EvaluationState.QUEUED, 0) > 0 and free is not None and free < price


def end_lost_calls(history: History, campaign: CampaignRecord) -> int:
    """End the calls of oracles whose owners are dead or silent; return how many."""
    found = history.experiments.recover(campaign.id, actor=this_owner())
    return sum(found.values())


def record_abandoned(history: History, campaign: CampaignRecord, run: Run, why: str) -> None:
    """Write to the log that a run belonged to nobody."""
    detail = {"flow": run.flow, "run_id": run.id, "why": why}
    history.events.add(campaign.id, EventKind.RUN_ABANDONED, actor=this_owner(), detail=detail)
    logger.warning("run %s of %s for campaign %s is dead: %s", run.id, run.flow, campaign.name, why)
