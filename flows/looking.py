"""The first tasks of a run: take in what arrived, and look whether anything is due.

Most runs find nothing to do, so that nothing here loads torch before something is.
"""

from flowscout.db import CampaignState
from flowscout.flows.artifacts import show
from flowscout.flows.desk import open_bench
from flowscout.flows.outcomes import RoundOutcome, closed, outcome
from flowscout.flows.retries import stage
from flowscout.loop import gates, ingesting


@stage("ingest")
def ingest(campaign: str, config_sha256: str | None, lease: str) -> list[int]:
    """Take in what came while nobody looked; return the rounds that are complete now."""
    bench = open_bench(campaign, config_sha256, lease)
    done = ingesting.ingest(bench)
    for number in done:
        show(bench, number, "results")
    return done


@stage("gate")
def gate(campaign: str, config_sha256: str | None, lease: str, now: bool, scheduled: bool) -> RoundOutcome | None:
    """Return why nothing may be done now, None where something may."""
    bench = open_bench(campaign, config_sha256, lease)
    found = gates.look(bench, now=now, scheduled=scheduled)
    if found.open:
        return None
    if found.kind in ("finished", "budget") and bench.campaign.state is not CampaignState.FINISHED:
        from flowscout.loop import stages  # loads torch

        stages.plan(bench)  # starts nothing, and marks the campaign
    under_way = bench.history.rounds.under_way(bench.campaign.id)
    waiting = len(bench.history.queries.waiting(bench.campaign.id)) if under_way else 0
    number = under_way[0].number if under_way else None
    return outcome(closed(found.kind, scheduled=scheduled), number, waiting=waiting, why=found.why)
