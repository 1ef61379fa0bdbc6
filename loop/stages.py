"""The stages of a round: plan, fit, train, propose, dispatch, collect.

Each is an idempotent function of a round over the history: run again, after a crash or by another process,
it returns what is stored or makes it anew from the same seeds and the same data. When they run is decided
elsewhere.
"""

import logging
import math
import numbers
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from flowscout.db import (
    CampaignState,
    Claim,
    Decision,
    EvaluationState,
    FailureClass,
    FitRecord,
    MeasurementRecord,
    Outcome,
    ProposalRecord,
    Qualifier,
    RoundRecord,
    RoundState,
    SamplerRecord,
    TrainingSet,
)
from flowscout.errors import OracleError, StateError
from flowscout.loop.oracles import Request, Result
from flowscout.loop.proposers import (
    GFlowNetProposer,
    LocalSearchProposer,
    Problem,
    Proposer,
    RandomProposer,
    Trained,
    uniform_states,
)
from flowscout.loop.rewards import FrozenReward, freeze_reward
from flowscout.loop.seeds import derive_seed
from flowscout.loop.selection import most_dissimilar, thompson_batch
from flowscout.loop.workbench import Workbench
from flowscout.surrogates import ExactGP, ucb

logger = logging.getLogger(__name__)

MIN_LABELS = 2
"""With fewer labels nothing can be learned, and the batch is drawn at random."""

POOL_PER_SLOT = 20
REFERENCE_SIZE = 2_000
RETRY_PAUSE_S = 0.2

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


def fit(bench: Workbench, number: int) -> FitRecord:
    """Fit the surrogate to everything measured so far, and store it with its data cut-off."""
    record = _round(bench, number)
    stored = bench.history.rounds.fit(record.id)
    if stored is not None:
        return stored
    if record.state is RoundState.PLANNED:
        bench.history.rounds.advance(bench.held, record, RoundState.FITTING)
    data = _training_set(bench)
    seed = derive_seed(record.seed, "fit")
    kind, artefact, diagnostics = "none", None, {}
    if len(data.rows) >= MIN_LABELS:
        surrogate = _new_surrogate(bench)
        surrogate.fit(*_tensors(bench, data))
        kind, diagnostics = "gp", surrogate.diagnostics()
        artefact = bench.artefacts.put(surrogate.state_dict(), kind="surrogate")
    fitted = FitRecord(
        kind=kind,
        seed=seed,
        data_upto_seq=data.upto_seq,
        data_count=len(data.rows),
        data_sha256=data.sha256,
        diagnostics=diagnostics,
        artefact=artefact,
    )
    return bench.history.rounds.record_fit(bench.held, record, fitted)


def train(bench: Workbench, number: int) -> SamplerRecord:
    """Freeze the acquisition as a reward and train the proposer on it.

    A sampler that fails its health check is stored as what it is and not used: the round falls back to local
    search on the same reward.
    """
    record = _round(bench, number)
    stored = bench.history.rounds.sampler(record.id)
    if stored is not None:
        return stored
    fitted = _fit_of(bench, record)
    seed = derive_seed(record.seed, "train")
    if fitted.kind == "none":
        run = SamplerRecord(kind="random", seed=seed, model_fit_id=_id(fitted))
        return bench.history.rounds.record_sampler(bench.held, record, run)
    proposer = _proposer(bench, bench.config.proposer.type)
    parent = bench.history.rounds.previous_sampler(bench.campaign.id, number, kind=proposer.kind)
    warm_start = None if parent is None or parent.artefact is None else bench.artefacts.get(parent.artefact)
    problem = _problem(bench, record, fitted)
    trained = proposer.train(problem, seed=seed, warm_start=warm_start)
    if not trained.healthy and warm_start is not None:  # a stale start may be worse than none
        warm_start, parent = None, None
        trained = proposer.train(problem, seed=seed, warm_start=None)
    kind = proposer.kind if trained.healthy else "local_search"
    run = SamplerRecord(
        kind=kind,
        seed=seed,
        model_fit_id=_id(fitted),
        params=trained.params,
        reward=trained.reward.as_dict(),
        diagnostics=dict(trained.diagnostics) | {"fallback": not trained.healthy},
        parent_id=None if parent is None else parent.id,
        artefact=_store(bench, trained),
    )
    return bench.history.rounds.record_sampler(bench.held, record, run)


def propose(bench: Workbench, number: int) -> list[ProposalRecord]:
    """Draw a pool of unique unseen objects, pick the batch, and queue its evaluations."""
    record = _round(bench, number)
    if record.state is not RoundState.TRAINING:
        return bench.history.rounds.proposals(record.id, selected=True)
    run = bench.history.rounds.sampler(record.id)
    if run is None:
        raise StateError(f"round {number} has no trained sampler; run its stage `train` first.")
    fitted = _fit_of(bench, record)
    problem = None if fitted.kind == "none" else _problem(bench, record, fitted, stored=run)
    pool, refused = _draw_pool(bench, record, run, problem)
    surrogate = None if problem is None else _surrogate(bench, fitted)
    proposals = _select(bench, record, pool, surrogate, problem)
    bench.history.rounds.record_proposals(
        bench.held, record, [*proposals, *refused], sampler_run_id=run.id, oracle=bench.oracle_record()
    )
    return bench.history.rounds.proposals(record.id, selected=True)


def dispatch(bench: Workbench, number: int) -> int:
    """Have the batch measured; return how many measurements came back.

    Each attempt is committed before the oracle is called. Transient failures are tried again.
    """
    history, record = bench.history, _round(bench, number)
    hand_over(bench, number)
    history.experiments.recover(bench.campaign.id, actor=bench.held.owner)
    if bench.oracle.info.waits_for_people or record.state in _SETTLED:
        return 0
    added, tries = 0, 0
    while claims := history.experiments.claim(record.id, owner=bench.held.owner):
        if tries:
            time.sleep(RETRY_PAUSE_S * 2**tries)
        outcomes = _measure(bench, claims)
        added += history.experiments.settle(outcomes, actor=f"oracle:{bench.oracle.info.name}")
        tries = tries + 1 if any(o.failure is FailureClass.TRANSIENT for o in outcomes) else 0
    history.experiments.cancel_queued(record.id, actor=bench.held.owner)  # the budget did not reach them
    return added


def hand_over(bench: Workbench, number: int) -> None:
    """Move a proposed round to dispatched without calling anybody: its results are called for, or told."""
    record = _round(bench, number)
    if record.state is RoundState.FAILED:
        bench.history.experiments.requeue_failed(record.id)
    if record.state in (RoundState.PROPOSED, RoundState.FAILED):
        bench.history.rounds.advance(bench.held, record, RoundState.DISPATCHED)


def collect(bench: Workbench, number: int) -> Progress:
    """Complete the round once nothing in it waits any more.

    Raises:
        OracleError: every single measurement failed; the round can be dispatched again.
    """
    history, record = bench.history, _round(bench, number)
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
    message = f"without a value: {', '.join(unsettled)}" if unsettled else None
    history.rounds.advance(bench.held, record, RoundState.COMPLETE, message=message)
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
    known = len(bench.history.measurements.known_keys(bench.campaign.id))
    if bench.space.size is not None and known >= bench.space.size:
        return "every object of the space has been measured"
    return None


def _round(bench: Workbench, number: int) -> RoundRecord:
    return bench.history.rounds.get(bench.campaign.id, number)


def _id(record: FitRecord | SamplerRecord) -> int:
    assert record.id is not None  # it came from the history
    return record.id


def _fit_of(bench: Workbench, record: RoundRecord) -> FitRecord:
    fitted = bench.history.rounds.fit(record.id)
    if fitted is None:
        raise StateError(f"round {record.number} has no fitted surrogate; run its stage `fit` first.")
    return fitted


def _training_set(bench: Workbench, *, upto_seq: int | None = None) -> TrainingSet:
    return bench.history.measurements.training_set(
        bench.campaign.id, bench.config.objective.name, upto_seq=upto_seq
    )


def _tensors(bench: Workbench, data: TrainingSet) -> tuple[Tensor, Tensor]:
    """Return features and labels, `n x d` and `n x 1`, in the order of candidate keys; larger is better."""
    X = bench.space.features(bench.space.parse([row.object for row in data.rows]))
    Y = torch.tensor([[bench.sign * row.value] for row in data.rows], dtype=torch.float64)
    return X, Y


def _new_surrogate(bench: Workbench) -> ExactGP:
    return ExactGP(symmetry=bench.space.symmetry)


def _surrogate(bench: Workbench, fitted: FitRecord) -> ExactGP:
    """Return the surrogate as it was fitted, from its artefact and exactly its data."""
    assert fitted.artefact is not None
    data = _training_set(bench, upto_seq=fitted.data_upto_seq)
    if data.sha256 != fitted.data_sha256:
        raise StateError(
            f"the measurements up to seq {fitted.data_upto_seq} are not those that fit {fitted.id} saw "
            f"({len(data.rows)} rows now, {fitted.data_count} then); the history was changed by other means. "
            "Restore it from a backup."
        )
    surrogate = _new_surrogate(bench)
    surrogate.load_state_dict(bench.artefacts.get(fitted.artefact), *_tensors(bench, data))
    return surrogate


def _problem(
    bench: Workbench, record: RoundRecord, fitted: FitRecord, *, stored: SamplerRecord | None = None
) -> Problem:
    """Return what the proposer works on. With a `stored` run the reward is the one that it ended with."""
    space, device = bench.space, bench.device
    data = _training_set(bench, upto_seq=fitted.data_upto_seq)
    ranked = sorted(data.rows, key=lambda row: (-bench.sign * row.value, row.key))
    labelled = space.parse([row.object for row in ranked], device)
    acquisition = ucb(_surrogate(bench, fitted), bench.config.acquisition.kappa)

    def features(state: Any) -> Tensor:
        return space.features(state).cpu()  # the exact GP of a few hundred labels is fastest there

    if stored is not None:
        kept = stored.reward
        reward = FrozenReward(acquisition, features, kept["exponent"], kept["centre"], kept["scale"])
    else:
        seed = derive_seed(record.seed, "reference")
        reward = freeze_reward(
            acquisition,
            features,
            reference=uniform_states(space, REFERENCE_SIZE, seed=seed, device=device),
            known=labelled,
            log_size=math.log(space.size),
            exponent=bench.config.proposer.exponent,
        )
    return Problem(space, reward, labelled, device)


def _proposer(bench: Workbench, kind: str) -> Proposer:
    section = bench.config.proposer
    if kind == "gflownet":
        from flowscout.loop.gflownet import TrainerSettings

        settings = TrainerSettings(loss=section.loss)
        return GFlowNetProposer(steps=section.steps, adjust=section.exponent is None, settings=settings)
    return LocalSearchProposer() if kind == "local_search" else RandomProposer()


def _store(bench: Workbench, trained: Trained) -> Any:
    if not trained.tensors or not trained.healthy:
        return None
    return bench.artefacts.put(trained.tensors, kind="sampler")


@dataclass(frozen=True)
class _Drawn:
    """One distinct object of the pool."""

    key: str
    text: str
    log_prob: float | None
    origin: str


@dataclass(frozen=True)
class _Beliefs:
    """What is believed of one object of the pool."""

    acquisition: float
    log_reward: float
    mean: float
    sd: float


def _draw_pool(
    bench: Workbench, record: RoundRecord, run: SamplerRecord, problem: Problem | None
) -> tuple[list[_Drawn], list[ProposalRecord]]:
    """Return the unseen objects among the sampler's samples, topped up where they are too few, and the
    proposals that are refused because their object is known already.
    """  # noqa: D205
    space, size = bench.space, bench.config.batch.size
    known = bench.history.measurements.known_keys(bench.campaign.id)
    free = space.size - len(known)
    target = min(POOL_PER_SLOT * size, free)
    pool: dict[str, _Drawn] = {}
    refused: dict[str, ProposalRecord] = {}

    def take(states: Any, log_prob: Tensor | None, origin: str) -> None:
        log_probs = [None] * len(states) if log_prob is None else log_prob.tolist()
        for text, value in zip(space.decode(states), log_probs, strict=True):
            key = space.key(text)
            if key not in known:
                pool.setdefault(key, _Drawn(key, text, value, origin))
            elif key not in refused:
                refused[key] = ProposalRecord(
                    key,
                    text,
                    origin,
                    Decision.DUPLICATE,
                    log_prob=value,
                    reason="measured or awaited already",
                )

    if problem is not None:
        proposer = _proposer(bench, run.kind)
        tensors = {} if run.artefact is None else bench.artefacts.get(run.artefact)
        for chunk in range(4):
            seed = derive_seed(record.seed, "pool", chunk)
            drawn = proposer.draw(problem, tensors, 4 * target, seed=seed)
            take(drawn.states, drawn.log_prob, run.kind)
            if len(pool) >= target:
                break
    # Where the sampler leaves gaps, or nothing is known yet, the rest is drawn uniformly.
    for chunk in range(200):
        if len(pool) >= target:
            break
        seed = derive_seed(record.seed, "uniform", chunk)
        take(uniform_states(space, 2 * target, seed=seed, device=bench.device), None, "uniform")
    return list(pool.values()), list(refused.values())


def _select(
    bench: Workbench,
    record: RoundRecord,
    pool: Sequence[_Drawn],
    surrogate: ExactGP | None,
    problem: Problem | None,
) -> list[ProposalRecord]:
    """Return a proposal for every object of the pool, the batch ranked from 1."""
    size = min(bench.config.batch.size, len(pool))
    if surrogate is None or problem is None:
        return [_proposal(drawn, rank=i + 1 if i < size else None) for i, drawn in enumerate(pool)]
    states = bench.space.parse([drawn.text for drawn in pool], bench.device)
    X = problem.reward.features(states)
    far = most_dissimilar(
        bench.space, states, problem.labelled[torch.arange(min(32, len(problem.labelled)))],
        round(bench.config.batch.explore * size),
    )  # fmt: skip
    generator = Generator().manual_seed(derive_seed(record.seed, "select"))
    near = thompson_batch(surrogate, X, size, generator=generator)
    chosen = [*far, *(i for i in near if i not in far)][:size]
    ranks = {index: rank for rank, index in enumerate(chosen, start=1)}
    values = problem.reward.values(states)
    log_rewards = problem.reward.of_values(values).tolist()
    mean, sd = surrogate.mean_sd(X)
    beliefs = map(_Beliefs, values.tolist(), log_rewards, (bench.sign * mean).tolist(), sd.tolist())
    return [
        _proposal(drawn, rank=ranks.get(i), beliefs=belief)
        for i, (drawn, belief) in enumerate(zip(pool, beliefs, strict=True))
    ]


def _proposal(drawn: _Drawn, *, rank: int | None, beliefs: _Beliefs | None = None) -> ProposalRecord:
    record = ProposalRecord(
        key=drawn.key,
        object=drawn.text,
        origin=drawn.origin,
        decision=Decision.OUTRANKED if rank is None else Decision.SELECTED,
        rank=rank,
        log_prob=drawn.log_prob,
        reason="others ranked before it" if rank is None else None,
    )
    if beliefs is None:
        return record
    return replace(
        record,
        acquisition=beliefs.acquisition,
        log_reward=beliefs.log_reward,
        mean=beliefs.mean,
        sd=beliefs.sd,
    )


def _measure(bench: Workbench, claims: Sequence[Claim]) -> list[Outcome]:
    """Call the oracle once for all claims and return what came of each."""
    requests = [Request(c.object, c.candidate_id, c.idempotency_key, c.replicate, c.fidelity) for c in claims]
    try:
        results = bench.oracle(requests)
    except OracleError as error:  # it broke its contract: the same call would break it again
        return [_failed(claim, FailureClass.PERMANENT, str(error)) for claim in claims]
    except Exception as error:
        logger.info("oracle %s raised", bench.oracle.info.name, exc_info=True)
        message = f"oracle {bench.oracle.info.name!r} raised {type(error).__name__}: {error}."
        return [_failed(claim, FailureClass.TRANSIENT, message) for claim in claims]
    return [_outcome(bench, claim, result) for claim, result in zip(claims, results, strict=True)]


def _failed(claim: Claim, failure: FailureClass, message: str) -> Outcome:
    return Outcome(claim=claim, failure=failure, message=message)


def _outcome(bench: Workbench, claim: Claim, result: Result) -> Outcome:
    cost_minor = None if result.cost_usd is None else round(result.cost_usd * 100)
    if result.failure is not None:
        return Outcome(
            claim=claim,
            failure=FailureClass(result.failure),
            message=result.message or "no message",
            cost_minor=cost_minor,
        )
    wanted = bench.config.objective.name
    wrong = {name: value for name, value in result.values.items() if not _is_finite(value)}
    if wrong or wanted not in result.values:
        came = f"{wrong}" if wrong else f"values of {', '.join(result.values) or 'nothing'}"
        message = f"oracle {bench.oracle.info.name!r} returned {came}, expected a finite {wanted!r}."
        return Outcome(claim=claim, failure=FailureClass.PERMANENT, message=message, cost_minor=cost_minor)
    measurements = [
        MeasurementRecord(
            key=bench.space.key(claim.object),
            object=claim.object,
            property=name,
            value=float(value),
            source=f"oracle:{bench.oracle.info.name}",
            row_id=claim.idempotency_key,
            qualifier=Qualifier(result.qualifier),
            sem=result.sem,
            n=result.n,
            unit=result.unit,
            as_run=result.as_run,
        )
        for name, value in result.values.items()
    ]
    return Outcome(claim=claim, measurements=measurements, cost_minor=cost_minor)


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)
