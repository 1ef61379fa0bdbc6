"""Collecting as a flow: what oracles have answered is taken in, whether or not a round is due."""

from prefect import flow

from flowscout.errors import CampaignBusyError
from flowscout.flows.desk import open_bench
from flowscout.flows.links import run_tags
from flowscout.flows.looking import ingest
from flowscout.flows.outcomes import RoundOutcome, ended, outcome
from flowscout.flows.parameters import CampaignId
from flowscout.flows.runs import rename
from flowscout.loop.due import announce_due
from flowscout.loop.workbench import hold_campaign


@flow(name="collect-results", flow_run_name="results of {campaign}", persist_result=False)
def collect_results(campaign: CampaignId) -> RoundOutcome:
    """End lost calls, ask oracles what came of unknown ones, and complete the rounds that nothing waits for."""
    bench = open_bench(campaign, None)
    name = bench.campaign.name
    rename(f"{name} results", run_tags(name))
    try:
        with hold_campaign(bench) as held:
            done = ingest(campaign, None, held.held.token)
        announce_due(bench)
    except CampaignBusyError as error:  # who runs the campaign takes them in
        return ended(outcome("busy", why=str(error)))
    if done:
        return ended(outcome("complete", done[-1]))
    return ended(outcome("waiting", waiting=len(bench.history.queries.pending(bench.campaign.id))))
