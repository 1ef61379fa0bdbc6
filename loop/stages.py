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
    Decision,
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
from flowscout.loop.gates import awaiting_approval, completable, next_work, waits_for_people
from flowscout.loop.gflownet import one_thread
from flowscout.loop.prequential import calibration_warning
from flowscout.loop.seeds import derive_seed
from flowscout.loop.stopping import why_finished
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
    state: RoundState


def plan(bench: Workbench, *, prefect_run_id: str | None = None, ahead: bool = False) -> int | None:
    """Return the number of the round to work on: one under way, else the next; None when all is done.

    Of several under way it is the one that has something to do, else the one that waits for approval, else the
    first. With `ahead` the next one starts although others are under way, if all these wait for is results.

    Raises:
        StateError: the campaign is paused.
    """
    history, campaign = bench.history, bench.history.campaigns.get(bench.campaign.id)
    if campaign.state is CampaignState.PAUSED:
        raise StateError(f"campaign {campaign.name!r} is paused, so that no round goes on; `flowscout resume` it.")
    under_way = history.rounds.under_way(campaign.id)
    record = next_work(bench, under_way) or awaiting_approval(under_way)
    if record is None and under_way and not ahead:
        record = under_way[0]
    if record is not None:
        return record.number
    ended = why_finished(bench)
    if ended is not None and under_way:
        return under_way[0].number
    if ended is not None:
        finished, detail = CampaignState.FINISHED, ended.detail
        if history.campaigns.set_state(campaign.id, finished, actor=bench.held.owner, detail=detail):
            logger.info("campaign %s is finished: %s", campaign.name, ended.why)
        return None
    before = CampaignState.FINISHED
    history.campaigns.set_state(campaign.id, CampaignState.ACTIVE, actor=bench.held.owner, before=before)
    number = 1 + max((one.number for one in history.rounds.all(campaign.id)), default=0)
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

    A user's own objects, `include`, which `check_included` has passed, have the first places. Where a veto in an
    earlier round gives its place to one of the batch meanwhile, another batch is picked.
    """
    bench, record = _turn(bench, number)
    if record.state is not RoundState.TRAINING:
        return bench.history.rounds.proposals(record.id, selected=True)
    run = bench.history.rounds.sampler(record.id)
    if run is None:
        raise StateError(f"round {number} has no trained sampler; run its stage `train` first.")
    while True:
        proposals = propose_batch(bench, record, _fit_of(bench, record), run, include=include)
        try:
            bench.history.rounds.record_proposals(
                bench.held,
                record,
                proposals,
                sampler_run_id=run.id,
                oracle=bench.oracle_record(),
                replicates=bench.config.batch.replicates,
            )
        except StateError:
            selected = {one.key for one in proposals if one.decision is Decision.SELECTED}
            if not selected & bench.history.measurements.known_keys(bench.campaign.id):
                raise
        else:
            break
    return bench.history.rounds.proposals(record.id, selected=True)


def dispatch(bench: Workbench, number: int) -> int:
    """Have the batch measured, beside any workers; return how many measurements came back here.

    Each attempt is committed before the oracle is called. Transient failures are tried again.
    """
    hand_over(bench, number)
    bench, record = _turn(bench, number)
    if record.state is not RoundState.DISPATCHED or bench.oracle.info.waits_for_people:
        bench.history.experiments.recover(bench.campaign.id, actor=bench.held.owner)
        return 0
    return finish(bench, record)


def hand_over(bench: Workbench, number: int) -> None:
    """Move a proposed round to dispatched without calling anybody: its results are called for, or told.

    Where a person is to approve its batch first, it waits for that: nothing of it is handed out or paid.
    """
    then, record = _turn(bench, number)
    if record.state is RoundState.PROPOSED:
        why = why_approval(bench, then, record)
        if why is not None:
            then.history.rounds.advance(then.held, record, RoundState.AWAITING_APPROVAL, message=why)
            return
    if record.state in (RoundState.PROPOSED, RoundState.FAILED):
        then.history.rounds.hand_out(then.held, record, people=waits_for_people(then))


def why_approval(bench: Workbench, then: Workbench, record: RoundRecord) -> str | None:
    """Return why a person is to approve the batch of a round, by the file of now or `then`, or by the schedule.

    None where nobody has to.
    """
    if "hold" in (bench.config.health, then.config.health):
        run = bench.history.rounds.sampler(record.id)
        failed = run is not None and run.diagnostics.get("fallback", False)
        sampler = "the sampler failed its health check, so that local search proposed" if failed else None
        complaints = [one for one in (calibration_warning(_fit_of(bench, record).diagnostics), sampler) if one]
        if complaints:
            return "; ".join(complaints)
    if bench.config.approve or then.config.approve:
        return "the campaign file has every batch approved"
    schedule = bench.history.schedules.get(bench.campaign.id)
    return "the schedule has every batch approved" if schedule is not None and schedule.approve else None


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
        return Progress(number, complete=record.state in _SETTLED, waiting=waiting, state=record.state)
    if waiting:
        return Progress(number, complete=False, waiting=waiting, state=record.state)
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
    return Progress(number, complete=True, waiting=0, state=RoundState.COMPLETE)


def complete(bench: Workbench) -> list[Progress]:
    """Complete every round that was handed out and in which nothing waits any more; return how far each came.

    Raises:
        OracleError: every single measurement of a round failed; the others are complete all the same.
    """
    found, failed = [], None
    for record in completable(bench):
        try:
            found.append(collect(bench, record.number))
        except OracleError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return found


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


def _turn(bench: Workbench, number: int) -> tuple[Workbench, RoundRecord]:
    """Return a round, and the bench as the version of the campaign file lays it out that the round began with."""
    record = bench.history.rounds.get(bench.campaign.id, number)
    return at_version(bench, record.config_version_id), record


def _fit_of(bench: Workbench, record: RoundRecord) -> FitRecord:
    fitted = bench.history.rounds.fit(record.id)
    if fitted is None:
        raise StateError(f"round {record.number} has no fitted surrogate; run its stage `fit` first.")
    return fitted
