"""The lineage of a candidate: why it was proposed, by which model, from which data, and what came of it.

Tables of many candidates belong in `asking.py`.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from difflib import get_close_matches
from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from flowscout.db.models import (
    Artefact,
    Attempt,
    Campaign,
    Candidate,
    ConfigVersion,
    Evaluation,
    Event,
    Measurement,
    ModelFit,
    Oracle,
    Proposal,
    Round,
    SamplerRun,
)
from flowscout.db.records import ConfigRecord
from flowscout.db.states import AttemptState, Decision, EvaluationState, FailureClass, Qualifier
from flowscout.errors import NotFoundError

T = TypeVar("T")

_NEAR = 200  # candidates around the place where an unknown one would stand, looked through for near ones


@dataclass(frozen=True)
class FitLineage:
    """A surrogate as fitted: on exactly the `data_count` candidates known by `seq <= data_upto_seq`.

    `parent_id` is the fit that it started from, `parent_round` that one's round.
    """

    id: int
    kind: str
    seed: int
    data_upto_seq: int
    data_count: int
    data_sha256: str
    params: Mapping[str, Any]
    parent_id: int | None
    parent_round: int | None
    artefact_sha256: str | None
    created_at: datetime


@dataclass(frozen=True)
class SamplerLineage:
    """A sampler as trained on a fit, with the frozen reward; `parent_id` is the run it was warm-started from."""

    id: int
    kind: str
    seed: int
    model_fit_id: int
    params: Mapping[str, Any]
    reward: Mapping[str, Any]
    parent_id: int | None
    parent_round: int | None
    artefact_sha256: str | None
    created_at: datetime


@dataclass(frozen=True)
class ProposalLineage:
    """One round that considered the candidate: what was believed of it, what was decided, and by what."""

    round: int
    round_state: str
    round_seed: int
    prefect_run_id: str | None
    decision: Decision
    reason: str | None
    rank: int | None
    origin: str
    acquisition: float | None
    log_reward: float | None
    log_prob: float | None
    predicted_mean: float | None
    predicted_sd: float | None
    fit: FitLineage | None
    sampler: SamplerLineage | None
    config: ConfigRecord


@dataclass(frozen=True)
class AttemptLineage:
    """One call of an oracle: who made it and what came of it. `cost_minor` is what was billed for it."""

    number: int
    owner: str
    state: AttemptState
    failure: FailureClass | None
    message: str | None
    cost_minor: int | None
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class EvaluationLineage:
    """One wanted measurement, and every attempt at it."""

    id: int
    round: int | None
    state: EvaluationState
    oracle: str
    oracle_version: str
    fidelity: str
    replicate: int
    generation: int
    idempotency_key: str
    created_at: datetime
    attempts: tuple[AttemptLineage, ...]


@dataclass(frozen=True)
class MeasurementLineage:
    """One value. `supersedes` and `superseded_by` are the `seq` of what it corrects and of what corrects it."""

    seq: int
    property: str
    value: float | None
    qualifier: Qualifier
    sem: float | None
    n: int | None
    unit: str | None
    as_run: Mapping[str, Any] | None
    source: str
    row_id: str
    actor: str
    evaluation_id: int | None
    supersedes: int | None
    superseded_by: int | None
    created_at: datetime


@dataclass(frozen=True)
class EventLineage:
    """Something that happened to the candidate and that a person may want to know: a veto, a conflict, ..."""

    kind: str
    actor: str
    detail: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class Lineage:
    """Everything that the history knows of one candidate, the earliest first."""

    campaign: str
    campaign_uuid: str
    candidate_id: int
    object: str
    key: str
    created_at: datetime
    proposals: tuple[ProposalLineage, ...]
    evaluations: tuple[EvaluationLineage, ...]
    measurements: tuple[MeasurementLineage, ...]
    events: tuple[EventLineage, ...]


def find_candidate(session: Session, campaign_id: int, name: int | str) -> int | None:
    """Return the id of a candidate that is named by its key, its object, or its id; None if there is none."""
    of_campaign = select(Candidate.id).where(Candidate.campaign_id == campaign_id)
    if isinstance(name, int):
        return session.scalar(of_campaign.where(Candidate.id == name))
    found = session.scalar(of_campaign.where(Candidate.key == name))
    if found is None:  # only now: no index holds the objects
        found = session.scalar(of_campaign.where(Candidate.object == name).limit(1))
    if found is None and re.fullmatch(r"\d{1,9}", name):
        found = session.scalar(of_campaign.where(Candidate.id == int(name)))
    return found


def unknown_candidate(session: Session, campaign_id: int, name: int | str) -> NotFoundError:
    """Return the error that says that there is no such candidate, and names those near it."""
    of_campaign = Candidate.campaign_id == campaign_id
    count = session.scalar(select(func.count()).select_from(Candidate).where(of_campaign)) or 0
    near: list[str] = []
    if isinstance(name, str):
        query = select(Candidate.object).where(of_campaign).limit(_NEAR)
        around = [
            *session.scalars(query.where(Candidate.key < name).order_by(Candidate.key.desc())),
            *session.scalars(query.where(Candidate.key >= name).order_by(Candidate.key)),
            *session.scalars(query.order_by(Candidate.id.desc())),
        ]
        near = get_close_matches(name, dict.fromkeys(around), n=3)
    hint = f"near it: {', '.join(near)}" if near else f"it knows {count}, none of them like it"
    return NotFoundError(
        f"candidate {name!r} is not in this campaign ({hint}); name an object that was proposed or measured, "
        "or its candidate_id."
    )


def read_lineage(session: Session, candidate_id: int) -> Lineage:
    """Return everything about a candidate that is there."""
    candidate = session.get_one(Candidate, candidate_id)
    campaign = session.get_one(Campaign, candidate.campaign_id)
    evaluations = _evaluations(session, candidate_id)
    return Lineage(
        campaign=campaign.name,
        campaign_uuid=campaign.uuid,
        candidate_id=candidate.id,
        object=candidate.object,
        key=candidate.key,
        created_at=candidate.created_at,
        proposals=_proposals(session, candidate_id),
        evaluations=evaluations,
        measurements=_measurements(session, candidate_id),
        events=_events(session, candidate_id),
    )


def _evaluations(session: Session, candidate_id: int) -> tuple[EvaluationLineage, ...]:
    query = (
        select(Evaluation, Oracle, Round.number)
        .join(Oracle, Oracle.id == Evaluation.oracle_id)
        .outerjoin(Round, Round.id == Evaluation.round_id)
        .where(Evaluation.candidate_id == candidate_id)
        .order_by(Evaluation.id)
    )
    rows = session.execute(query).all()
    attempts: dict[int, list[AttemptLineage]] = defaultdict(list)
    of_these = Attempt.evaluation_id.in_([row.id for row, _, _ in rows])
    for attempt in session.scalars(select(Attempt).where(of_these).order_by(Attempt.number)):
        attempts[attempt.evaluation_id].append(_copied(AttemptLineage, attempt))
    return tuple(
        EvaluationLineage(
            id=row.id,
            round=number,
            state=row.state,
            oracle=oracle.name,
            oracle_version=oracle.version,
            fidelity=oracle.fidelity,
            replicate=row.replicate,
            generation=row.generation,
            idempotency_key=row.idempotency_key,
            created_at=row.created_at,
            attempts=tuple(attempts[row.id]),
        )
        for row, oracle, number in rows
    )


def _measurements(session: Session, candidate_id: int) -> tuple[MeasurementLineage, ...]:
    corrected, correction = aliased(Measurement), aliased(Measurement)
    query = (
        select(Measurement, corrected.seq.label("supersedes"), correction.seq.label("superseded_by"))
        .outerjoin(corrected, corrected.id == Measurement.supersedes_id)
        .outerjoin(correction, correction.supersedes_id == Measurement.id)
        .where(Measurement.candidate_id == candidate_id)
        .order_by(Measurement.seq)
    )
    return tuple(
        _copied(MeasurementLineage, row, supersedes=supersedes, superseded_by=superseded_by)
        for row, supersedes, superseded_by in session.execute(query)
    )


def _proposals(session: Session, candidate_id: int) -> tuple[ProposalLineage, ...]:
    query = (
        select(Proposal, Round, ConfigVersion)
        .join(Round, Round.id == Proposal.round_id)
        .join(ConfigVersion, ConfigVersion.id == Round.config_version_id)
        .where(Proposal.candidate_id == candidate_id)
        .order_by(Round.number)
    )
    rows = session.execute(query).all()
    rounds = [turn.id for _, turn, _ in rows]
    fits = {row.round_id: _fit(session, row) for row in _of_rounds(session, ModelFit, rounds)}
    samplers = {row.id: _sampler(session, row) for row in _of_rounds(session, SamplerRun, rounds)}
    return tuple(
        ProposalLineage(
            round=turn.number,
            round_state=turn.state,
            round_seed=turn.seed,
            prefect_run_id=turn.prefect_run_id,
            decision=row.decision,
            reason=row.reason,
            rank=row.rank,
            origin=row.origin,
            acquisition=row.acquisition,
            log_reward=row.log_reward,
            log_prob=row.log_prob,
            predicted_mean=row.mean,
            predicted_sd=row.sd,
            fit=fits.get(turn.id),
            sampler=None if row.sampler_run_id is None else samplers.get(row.sampler_run_id),
            config=_copied(ConfigRecord, version),
        )
        for row, turn, version in rows
    )


def _of_rounds(session: Session, table: type[T], rounds: Sequence[int]) -> Sequence[T]:
    assert table in (ModelFit, SamplerRun)
    of_these = table.round_id.in_(rounds)  # type: ignore[attr-defined]
    return session.scalars(select(table).where(of_these).order_by(table.id)).all()  # type: ignore[attr-defined]


def _fit(session: Session, row: ModelFit) -> FitLineage:
    return _copied(
        FitLineage,
        row,
        parent_round=_round_of(session, ModelFit, row.parent_id),
        artefact_sha256=_artefact_sha256(session, row.artefact_id),
    )


def _sampler(session: Session, row: SamplerRun) -> SamplerLineage:
    return _copied(
        SamplerLineage,
        row,
        parent_round=_round_of(session, SamplerRun, row.parent_id),
        artefact_sha256=_artefact_sha256(session, row.artefact_id),
    )


def _round_of(session: Session, table: type[ModelFit] | type[SamplerRun], row_id: int | None) -> int | None:
    if row_id is None:
        return None
    return session.scalar(select(Round.number).join(table, table.round_id == Round.id).where(table.id == row_id))


def _artefact_sha256(session: Session, artefact_id: int | None) -> str | None:
    return None if artefact_id is None else session.get_one(Artefact, artefact_id).sha256


def _events(session: Session, candidate_id: int) -> tuple[EventLineage, ...]:
    query = select(Event).where(Event.candidate_id == candidate_id).order_by(Event.id)
    return tuple(_copied(EventLineage, row) for row in session.scalars(query))


def _copied(record: type[T], row: Any, **more: Any) -> T:
    """Return a frozen record of the columns of a row that have the same names, and of what is given beside."""
    names = [field.name for field in fields(record)]  # type: ignore[arg-type]
    return record(**{name: getattr(row, name) for name in names if name not in more}, **more)
