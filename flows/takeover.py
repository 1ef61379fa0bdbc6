"""The sweep as a flow: calls of the dead are ended, runs of nobody are marked, what they left is started again.

Who is dead is decided by the history, in `loop.sweeping`.
"""

import logging
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from flowscout.db.timings import SWEEP_TIMEOUT_S
from flowscout.errors import FlowscoutError
from flowscout.flows.backlog import drop_late_runs
from flowscout.flows.desk import open_bench, open_history
from flowscout.flows.links import run_tags
from flowscout.flows.parameters import CampaignId
from flowscout.flows.retries import stage
from flowscout.flows.runs import is_awaited, mark_crashed, start, this_run, under_way
from flowscout.loop import sweeping
from flowscout.loop.announcing import tell_server

logger = logging.getLogger(__name__)


@flow(name="takeover", flow_run_name="sweep", persist_result=False, timeout_seconds=SWEEP_TIMEOUT_S)
def takeover(campaign: CampaignId | None = None) -> dict[str, int]:
    """Look after one campaign, or all: return how many calls were ended, runs marked and rounds started again.

    The history says who lives. Nothing that a living process holds is touched.
    """
    campaigns = open_history().campaigns
    names = [one.name for one in (campaigns.all() if campaign is None else [campaigns.get(campaign)])]
    if campaign is None:
        drop_backlog()
    tell(names)
    calls = end_calls(names)
    marked = mark_runs(names)
    return {"calls": calls, "marked": len(marked), "started": restart(names, marked)}


@stage("sweep")
def drop_backlog() -> int:
    """Drop runs that were planned while no worker was there, all but the latest of each deployment."""
    with get_client(sync_client=True) as client:
        return drop_late_runs(client)


@stage("sweep")
def tell(names: list[str]) -> int:
    """Post what Prefect could not be told when it happened; return how many entries of the logs."""
    history = open_history()
    return sum(tell_server(history, history.campaigns.get(name)) for name in names)


@stage("sweep")
def end_calls(names: list[str]) -> int:
    """End the calls of oracles that belong to nobody living; return how many."""
    history = open_history()
    return sum(sweeping.end_lost_calls(history, history.campaigns.get(name)) for name in names)


@stage("sweep")
def mark_runs(names: list[str]) -> list[tuple[str | None, str | None]]:
    """Have Prefect call runs crashed that belong to nobody living.

    Returns the campaign of each, and the deployment that goes on with its round, if there is one.
    """
    history, marked = open_history(), []
    for run in under_way():
        campaign = sweeping.campaign_of(history, run)
        if run.id == this_run() or (campaign is not None and campaign.name not in names):
            continue
        why = sweeping.why_dead(history, campaign, run)
        if why is None or not mark_crashed(UUID(run.id), why):
            continue
        if campaign is not None:
            sweeping.record_abandoned(history, campaign, run, why)
        goes_on = run.deployment if run.flow in sweeping.RUN_ROUNDS else None
        marked.append((None if campaign is None else campaign.name, goes_on))
    return marked


@stage("sweep")
def restart(names: list[str], marked: list[tuple[str | None, str | None]]) -> int:
    """Start the rounds again that have work to do and nobody on them; return how many."""
    history, found = open_history(), 0
    for name, deployment in sweeping.starters(history, names, marked).items():
        try:
            coming = sweeping.is_coming(history, name, under_way()) or is_awaited(UUID(deployment))
            bench = open_bench(name, None)
            if coming or not sweeping.is_stuck(bench) or sweeping.rests(bench):
                continue
            campaign = history.campaigns.get(name)
            start(UUID(deployment), {"campaign": campaign.uuid}, tags=run_tags(name))
            found += 1
        except ObjectNotFound:
            logger.warning("campaign %s is started by deployment %s, which this server has not", name, deployment)
        except FlowscoutError as error:  # its file cannot be read here, say: the others are looked after
            logger.warning("campaign %s: nobody could say whether it is to be started again: %s", name, error)
    return found
