"""Training as a flow of its own, for workers with a GPU; the round goes on elsewhere when it is done."""

from uuid import UUID

from prefect import flow
from prefect.exceptions import ObjectNotFound

from flowscout.db.timings import PATIENCE_S
from flowscout.errors import CampaignBusyError
from flowscout.flows.desk import open_bench
from flowscout.flows.links import run_name, run_tags
from flowscout.flows.outcomes import RoundOutcome, ended, outcome
from flowscout.flows.parameters import CampaignId, ConfigSha
from flowscout.flows.runs import rename, start, this_run
from flowscout.loop.handing_over import link, needs_training
from flowscout.loop.workbench import hold_patiently


@flow(name="train-sampler", flow_run_name="training of round {number} of {campaign}", persist_result=False)
def train_sampler(
    campaign: CampaignId, config_sha256: ConfigSha | None = None, number: int = 1, resume: UUID | None = None
) -> RoundOutcome:
    """Train the sampler of a round that is fitted, and have the round go on by the deployment `resume`.

    It changes nothing where another process has trained it meanwhile.
    """
    bench = open_bench(campaign, config_sha256)
    name = bench.campaign.name
    rename(f"{run_name(name, number)} training", run_tags(name, number))
    try:
        with hold_patiently(bench, patience_s=PATIENCE_S) as held:
            if not needs_training(held, number):
                return ended(outcome("not_due", number, why="the sampler was trained by another process"))
            from flowscout.flows.tasks import train  # loads torch

            link(held, number, flow="train-sampler", run_id=this_run(), stage="train")
            train(campaign, config_sha256, held.held.token, number)
    except CampaignBusyError as error:
        return ended(outcome("busy", number, why=str(error)))
    if resume is not None:
        try:
            start(resume, {"campaign": campaign}, tags=run_tags(name, number))
        except ObjectNotFound:  # unscheduled meanwhile: what was trained is kept
            return ended(outcome("trained", number, why=f"deployment {resume} is gone, so the round waits"))
    return ended(outcome("trained", number))
