"""The stages of a round: plan, fit, train, propose, dispatch, collect.

Each is an idempotent function of a round over the history: run again, after a crash or by another process,
it returns what is stored or makes it anew from the same seeds and the same data. When they run is decided
elsewhere. Fitting, training and drawing use one CPU thread: their kernels are so small that threads waiting
for each other cost more than they give, and sums come out the same on any number of cores.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from flowscout.db import (
    CampaignState,
    EvaluationState,
    FitRecord,
    ProposalRecord,
    RoundRecord,
    RoundState,
    SamplerRecord,
)
from flowscout.errors import OracleError, StateError
from flowscout.loop.dispatching import finish
from flowscout.loop.fitting import fit_surrogate
from flowscout.loop.gflownet import one_thread
from flowscout.loop.outside import inside
from flowscout.loop.prequential import calibration_warning
from flowscout.loop.seeds import derive_seed
from flowscout.loop.turns import propose_batch, train_sampler
from flowscout.loop.workbench import Workbench, at_version

logger = logging.getLogger(__name__)

_SETTLED = (RoundState.COMPLETE, RoundState.CANCELLED)


@dataclass(frozen=True)
class Progress:
    """How far a round has come: whether it is complete, and how many of its evaluations still wait."""

    number: int
    complete: bool
    waiting: int


def plan(bench: Workbench, *, prefect_run_id: str | None = None) -> int | None:
    """Return the number of the round to work on: the unfinished one, else the next; None when all is done."""
    history, campaign = bench.history, bench.campaign
    unfinished = history.rounds.unfinished(campaign.id)
    if unfinished is not None:
        return unfinished.number
    rounds = history.rounds.all(campaign.id)
    number = 1 + max((r.number for r in rounds), default=0)
    why = _why_finished(bench, done=len(rounds))
    if why is not None:
        if history.campaigns.set_state(campaign.id, CampaignState.FINISHED, actor=bench.held.owner):
            logger.info("campaign %s is finished: %s", campaign.name, why)
        return None
    history.campaigns.set_state(campaign.id, CampaignState.ACTIVE, actor=bench.held.owner)
    seed = derive_seed(campaign.seed, "round", number)
    version_id = bench.version.id
    assert version_id is not None
    history.rounds.start(
        bench.held, number, seed=seed, config_version_id=version_id, prefect_run_id=prefect_run_id
    )
    return number


@one_thread()
def fit(bench: Workbench, number: int) -> FitRecord:
    """Fit the surrogate to everything measured so far, and store it with its data cut-off."""
    bench, record = _turn(bench, number)
    stored = bench.history.rounds.fit(record.id)
    if stored is not None:
        return stored
    if record.state is RoundState.PLANNED:
        bench.history.rounds.advance(bench.held, record, RoundState.FITTING)
    return bench.history.rounds.record_fit(bench.held, record, fit_surrogate(bench, record))


@one_thread()
def train(bench: Workbench, number: int) -> SamplerRecord:
    """Freeze the acquisition as a reward and train the proposer on it.

    A sampler that fails its health check is stored as what it is and not used: the round falls back to local
    search on the same reward.
    """
    bench, record = _turn(bench, number)
    stored = bench.history.rounds.sampler(record.id)
    if stored is not None:
        return stored
    return bench.history.rounds.record_sampler(
        bench.held, record, train_sampler(bench, record, _fit_of(bench, record))
    )


@one_thread()
def propose(bench: Workbench, number: int, *, include: Sequence[str] = ()) -> list[ProposalRecord]:
    """Draw a pool of unique unseen objects, pick the batch, and queue its evaluations.

    A user's own objects, `include`, which `check_included` has passed, have the first places.
    """
    bench, record = _turn(bench, number)
    if record.state is not RoundState.TRAINING:
        return bench.history.rounds.proposals(record.id, selected=True)
    run = bench.history.rounds.sampler(record.id)
    if run is None:
        raise StateError(f"round {number} has no trained sampler; run its stage `train` first.")
    proposals = propose_batch(bench, record, _fit_of(bench, record), run, include=include)
    bench.history.rounds.record_proposals(
        bench.held,
        record,
        proposals,
        sampler_run_id=run.id,
        oracle=bench.oracle_record(),
        replicates=bench.config.batch.replicates,
    )
    return bench.history.rounds.proposals(record.id, selected=True)


def dispatch(bench: Workbench, number: int) -> int:
    """Have the batch measured, beside any workers; return how many measurements came back here.

    Each attempt is committed before the oracle is called. Transient failures are tried again.
    """
    bench, record = _turn(bench, number)
    hand_over(bench, number)
    if bench.oracle.info.waits_for_people or record.state in _SETTLED:
        bench.history.experiments.recover(bench.campaign.id, actor=bench.held.owner)
        return 0
    return finish(bench, record)


def hand_over(bench: Workbench, number: int) -> None:
    """Move a proposed round to dispatched without calling anybody: its results are called for, or told."""
    bench, record = _turn(bench, number)
    if record.state is RoundState.FAILED:
        bench.history.experiments.requeue_failed(record.id)
    if record.state in (RoundState.PROPOSED, RoundState.FAILED):
        if bench.oracle.info.waits_for_people:
            bench.history.budgets.hand_out(bench.held, record.id)
        bench.history.rounds.advance(bench.held, record, RoundState.DISPATCHED)


def collect(bench: Workbench, number: int) -> Progress:
    """Complete the round once nothing in it waits any more.

    Raises:
        OracleError: every single measurement failed; the round can be dispatched again.
    """
    bench, record = _turn(bench, number)
    history = bench.history
    counts = history.experiments.counts(bench.campaign.id, round_id=record.id)
    waiting = counts.get(EvaluationState.QUEUED, 0) + counts.get(EvaluationState.RUNNING, 0)
    if record.state is not RoundState.DISPATCHED:
        return Progress(number, complete=record.state in _SETTLED, waiting=waiting)
    if waiting:
        return Progress(number, complete=False, waiting=waiting)
    failed = counts.get(EvaluationState.FAILED, 0)
    if failed and failed == sum(counts.values()):
        reason = (history.experiments.failures(record.id) or ["no reason was given"])[0]
        history.rounds.advance(bench.held, record, RoundState.FAILED, message=reason)
        raise OracleError(
            f"round {number}: all {failed} measurements failed, the last with: {reason} "
            "Mend the oracle and run again: the same batch is dispatched again."
        )
    unsettled = [f"{n} {state}" for state, n in sorted(counts.items()) if state is not EvaluationState.DONE]
    notes = [f"without a value: {', '.join(unsettled)}"] if unsettled else []
    warning = calibration_warning(_fit_of(bench, record).diagnostics)
    message = "; ".join([*notes, *([] if warning is None else [warning])])
    history.rounds.advance(bench.held, record, RoundState.COMPLETE, message=message or None)
    return Progress(number, complete=True, waiting=0)


def run_round(bench: Workbench) -> Progress | None:
    """Run all stages of the round that is due; return how far it came, or None when the campaign is done."""
    number = plan(bench)
    if number is None:
        return None
    fit(bench, number)
    train(bench, number)
    propose(bench, number)
    dispatch(bench, number)
    return collect(bench, number)


def _why_finished(bench: Workbench, *, done: int) -> str | None:
    """Return why no further round may start, or None if one may."""
    if done >= bench.config.budget.rounds:
        return f"all {bench.config.budget.rounds} rounds are done"
    if not bench.history.experiments.affordable(bench.campaign.id, bench.oracle_record().unit_cost_minor):
        return "the budget does not reach for another measurement"
    known = len(inside(bench, bench.history.measurements.known_keys(bench.campaign.id)))
    if bench.space.size is not None and known >= bench.space.size:
        return "no object of the space is left to propose"
    return None


def _turn(bench: Workbench, number: int) -> tuple[Workbench, RoundRecord]:
    """Return a round, and the bench as the version of the campaign file lays it out that the round began with."""
    record = bench.history.rounds.get(bench.campaign.id, number)
    return at_version(bench, record.config_version_id), record


def _fit_of(bench: Workbench, record: RoundRecord) -> FitRecord:
    fitted = bench.history.rounds.fit(record.id)
    if fitted is None:
        raise StateError(f"round {record.number} has no fitted surrogate; run its stage `fit` first.")
    return fitted
