"""One discovery round as a Prefect flow: a task a stage, ids as parameters and results.

The history decides what is done and by whom; Prefect's own state of a run is a hint.
"""

from prefect import flow

from flowscout.errors import CampaignBusyError
from flowscout.flows.desk import open_bench
from flowscout.flows.links import run_name, run_tags
from flowscout.flows.looking import gate, ingest
from flowscout.flows.outcomes import RoundOutcome, ended, outcome
from flowscout.flows.parameters import CampaignId, ConfigSha
from flowscout.flows.runs import TRAINING, deployment_name, rename, start, this_deployment
from flowscout.loop.announcing import is_started_by
from flowscout.loop.due import looking_again
from flowscout.loop.workbench import hold_campaign


@flow(name="discovery-round", flow_run_name="round of {campaign}", persist_result=False)
def discovery_round(
    campaign: CampaignId, config_sha256: ConfigSha | None = None, now: bool = False
) -> RoundOutcome:
    """Take in what arrived; then, where the campaign's gates allow it, run the round that is due.

    `campaign` is the uuid or name of a registered campaign, `config_sha256` the version of its file to work
    by (default: the latest). With `now` the results and hours that its schedule asks for are not waited for. A run
    that finds nothing to do, or the campaign in other hands, is complete and says so.
    """
    bench, deployment = open_bench(campaign, config_sha256), this_deployment()
    name, scheduled = bench.campaign.name, deployment is not None
    theirs = deployment is None or is_started_by(bench.history, bench.campaign, str(deployment))
    if not theirs and deployment_name() == name:  # not one that campaigns share: it is left of another schedule
        rename(f"{name} not due", run_tags(name))
        why = f"deployment {deployment} is not that of the campaign's schedule; schedule it again, or delete this"
        return ended(outcome("not_due", why=why))
    try:
        with looking_again(bench), hold_campaign(bench) as held:
            at = campaign, config_sha256, held.held.token
            ingest(*at)
            found = gate(*at, now, scheduled)
            if found is not None:
                rename(f"{name} {found['state'].replace('_', ' ')}", run_tags(name))
                return ended(found)
            from flowscout.flows import tasks  # loads torch, which a run that finds nothing to do needs not

            number = tasks.plan(*at, scheduled)
            rename(run_name(name, number), run_tags(name, number))
            tasks.fit(*at, number)
            if not (scheduled and tasks.hand_over(*at, number)):
                tasks.train(*at, number)
                tasks.propose(*at, number)
                tasks.dispatch(*at, number)
                return ended(tasks.collect(*at, number))
    except CampaignBusyError as error:
        rename(f"{name} busy", run_tags(name))
        return ended(outcome("busy", why=str(error)))
    # The lease is given back: who trains takes it.
    given = {"campaign": campaign, "config_sha256": config_sha256, "number": number, "resume": deployment}
    run = start(TRAINING, given, tags=run_tags(name, number))
    return ended(outcome("training", number, why=f"its sampler is trained by run {run}"))
