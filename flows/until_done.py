"""A whole campaign as a flow, for oracles that answer at once: round after round until it is finished."""

from prefect import flow

from flowscout.flows.desk import open_bench
from flowscout.flows.links import run_tags
from flowscout.flows.outcomes import RoundOutcome
from flowscout.flows.parameters import CampaignId, ConfigSha
from flowscout.flows.round import discovery_round
from flowscout.flows.runs import rename, this_run
from flowscout.loop.handing_over import link


@flow(name="campaign-until-done", flow_run_name="all rounds of {campaign}", persist_result=False)
def campaign_until_done(campaign: CampaignId, config_sha256: ConfigSha | None = None) -> list[RoundOutcome]:
    """Run rounds, each a run of its own, until one does not complete; return what came of each."""
    bench = open_bench(campaign, config_sha256)
    name = bench.campaign.name
    rename(f"{name} until done", run_tags(name))
    link(bench, None, flow="campaign-until-done", run_id=this_run(), stage="rounds")
    found = [discovery_round(campaign, config_sha256, now=True)]
    while found[-1]["state"] == "complete":
        found.append(discovery_round(campaign, config_sha256, now=True))
    return found
