"""One discovery round as a Prefect flow: a task a stage, ids as parameters and results.

The history decides what is done and by whom; Prefect's own state of a run is a hint.
"""

from prefect import flow, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flowscout.flows.desk import open_bench
from flowscout.flows.retries import DELAYS_S, LIMIT, may_retry
from flowscout.loop import stages
from flowscout.loop.workbench import hold_campaign

stage = task(
    retries=LIMIT,
    retry_delay_seconds=DELAYS_S,
    retry_condition_fn=may_retry,
    cache_policy=NO_CACHE,
    persist_result=False,
)


@flow(name="discovery-round", flow_run_name="round of {campaign}", persist_result=False)
def discovery_round(campaign: str, config_sha256: str | None = None) -> dict[str, int | bool] | None:
    """Run the round that is due and return its number, whether it is complete, and how many still wait.

    `campaign` is the uuid or name of a registered campaign, `config_sha256` the version of its file to work
    by (default: the latest). Returns None when the campaign is finished.
    """
    bench = open_bench(campaign, config_sha256)
    with hold_campaign(bench) as held, tags(bench.campaign.name):
        token = held.held.token
        number = plan(campaign, config_sha256, token)
        if number is None:
            return None
        fit(campaign, config_sha256, token, number)
        train(campaign, config_sha256, token, number)
        propose(campaign, config_sha256, token, number)
        dispatch(campaign, config_sha256, token, number)
        complete, waiting = collect(campaign, config_sha256, token, number)
        return {"round": number, "complete": complete, "waiting": waiting}


@stage
def plan(campaign: str, config_sha256: str | None, lease: str) -> int | None:
    """Return the number of the round that is due, or None."""
    return stages.plan(open_bench(campaign, config_sha256, lease), prefect_run_id=flow_run.id)


@stage
def fit(campaign: str, config_sha256: str | None, lease: str, number: int) -> int | None:
    """Fit the surrogate; return the id of the fit."""
    return stages.fit(open_bench(campaign, config_sha256, lease), number).id


@stage
def train(campaign: str, config_sha256: str | None, lease: str, number: int) -> int | None:
    """Train the sampler; return the id of its run."""
    return stages.train(open_bench(campaign, config_sha256, lease), number).id


@stage
def propose(campaign: str, config_sha256: str | None, lease: str, number: int) -> int:
    """Pick the batch; return its size."""
    return len(stages.propose(open_bench(campaign, config_sha256, lease), number))


@stage
def dispatch(campaign: str, config_sha256: str | None, lease: str, number: int) -> int:
    """Have the batch measured; return how many measurements came back."""
    return stages.dispatch(open_bench(campaign, config_sha256, lease), number)


@stage
def collect(campaign: str, config_sha256: str | None, lease: str, number: int) -> tuple[bool, int]:
    """Complete the round if nothing waits; return whether it is complete, and how many wait."""
    progress = stages.collect(open_bench(campaign, config_sha256, lease), number)
    return progress.complete, progress.waiting
