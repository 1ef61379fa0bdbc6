"""The stages of a round as Prefect tasks: ids as parameters and results.

What people see of a stage is put into Prefect's page here; what a stage does belongs in `loop`. Each opens the
campaign anew under the lease that its flow holds. Importing this loads torch.
"""

from flowscout.db import RoundState
from flowscout.errors import StateError
from flowscout.flows.artifacts import show
from flowscout.flows.desk import open_bench
from flowscout.flows.outcomes import RoundOutcome, outcome
from flowscout.flows.pool import GPU
from flowscout.flows.retries import stage
from flowscout.flows.runs import is_polled, this_run
from flowscout.loop import handing_over, stages


@stage("plan")
def plan(campaign: str, config_sha256: str | None, lease: str, scheduled: bool) -> int:
    """Return the number of the round to work on, where the gates have said that there is one."""
    bench = open_bench(campaign, config_sha256, lease)
    number = stages.plan(bench, prefect_run_id=this_run(), ahead=scheduled)
    if number is None:
        raise StateError(
            f"campaign {campaign!r} was finished by another process meanwhile; nothing is to be done."
        )
    handing_over.link(bench, number, flow="discovery-round", run_id=this_run(), stage="round")
    return number


@stage("fit")
def fit(campaign: str, config_sha256: str | None, lease: str, number: int) -> int | None:
    """Fit the surrogate; return the id of the fit."""
    bench = open_bench(campaign, config_sha256, lease)
    new = bench.history.rounds.get(bench.campaign.id, number).state in (RoundState.PLANNED, RoundState.FITTING)
    fitted = stages.fit(bench, number)
    if new:
        show(bench, number, "surrogate")
    return fitted.id


@stage("train")
def hand_over(campaign: str, config_sha256: str | None, lease: str, number: int) -> bool:
    """Hand training over if a GPU would be faster and one is waiting; return whether that was done."""
    bench = open_bench(campaign, config_sha256, lease)
    if not handing_over.wants_gpu(bench, number) or not is_polled(GPU):
        return False
    handing_over.hand_over(bench, number)
    return True


@stage("train")
def train(campaign: str, config_sha256: str | None, lease: str, number: int) -> int | None:
    """Train the sampler; return the id of its run."""
    bench = open_bench(campaign, config_sha256, lease)
    new = handing_over.needs_training(bench, number)
    run = stages.train(bench, number)
    if new:
        show(bench, number, "sampler")
    return run.id


@stage("propose")
def propose(campaign: str, config_sha256: str | None, lease: str, number: int) -> int:
    """Pick the batch; return its size."""
    bench = open_bench(campaign, config_sha256, lease)
    new = bench.history.rounds.get(bench.campaign.id, number).state is RoundState.TRAINING
    batch = stages.propose(bench, number)
    if new:
        show(bench, number, "batch")
    return len(batch)


@stage("dispatch")
def dispatch(campaign: str, config_sha256: str | None, lease: str, number: int) -> int:
    """Have the batch measured; return how many measurements came back."""
    bench = open_bench(campaign, config_sha256, lease)
    added = stages.dispatch(bench, number)
    show(bench, number, "results")
    return added


@stage("collect")
def collect(campaign: str, config_sha256: str | None, lease: str, number: int) -> RoundOutcome:
    """Complete the round if nothing waits; return how far it is."""
    bench = open_bench(campaign, config_sha256, lease)
    progress = stages.collect(bench, number)
    show(bench, number, "best")
    if progress.complete:
        return outcome("complete", number)
    if progress.state is RoundState.AWAITING_APPROVAL:
        return outcome("awaiting_approval", number, waiting=progress.waiting, why="the batch waits for approval")
    return outcome("waiting", number, waiting=progress.waiting, why=f"{progress.waiting} results are awaited")
