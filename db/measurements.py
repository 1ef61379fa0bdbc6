"""Measurements: recording facts, once each, and reading them back as they stood at a cut-off."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from flowscout.db.campaigns import add_event, lock_campaign
from flowscout.db.candidates import chunks, ensure_candidates
from flowscout.db.database import Database
from flowscout.db.models import (
    Approval,
    Attempt,
    Campaign,
    Candidate,
    CurrentValue,
    Evaluation,
    Measurement,
    Objective,
)
from flowscout.db.money import pay_for_told
from flowscout.db.projection import project
from flowscout.db.records import MeasurementRecord, TrainingSet
from flowscout.db.states import ApprovalDecision, EvaluationState, FailureClass, Qualifier, sources_of
from flowscout.db.training import WITH_VALUE, make_training_set, valid_values
from flowscout.errors import LabelError

_LENGTHS = {"property": 200, "source": 200, "row_id": 200, "unit": 50}  # as the columns of `Measurement`

_Content = tuple[Qualifier, float | None, float | None, int | None]
"""What a row says: qualifier, value, sem and n."""


@dataclass(frozen=True)
class Told:
    """What came of telling: how many values were new, and how many were known already."""

    added: int
    unchanged: int


class Measurements:
    """What is stored of measured values."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, campaign_id: int, records: Sequence[MeasurementRecord], *, actor: str) -> Told:
        """Record all of `records`, or none. What is known already changes nothing.

        A value of a wanted property settles the evaluation of its candidate that is waiting.

        Raises:
            LabelError: a row that is known already (same source and row id) now has another value.
        """
        with self._database.write() as session:
            added = insert_measurements(session, campaign_id, records, actor=actor)
        return Told(added=added, unchanged=len(records) - added)

    def training_set(self, campaign_id: int, prop: str, *, upto_seq: int | None = None) -> TrainingSet:
        """Return what is known of each candidate's `prop` with `seq <= upto_seq` (default: all)."""
        with self._database.read() as session:
            if upto_seq is None:
                upto_seq = session.scalars(select(Campaign.clock).where(Campaign.id == campaign_id)).one()
            rows = session.execute(valid_values(campaign_id, prop, upto_seq)).all()
        return make_training_set([(*row,) for row in rows], upto_seq)

    def infeasible(self, campaign_id: int) -> list[str]:
        """Return the objects that were tried and cannot be measured, in the order of their keys.

        An object that has a value after all is not among them.
        """
        failed = (
            select(Evaluation.candidate_id)
            .join(Attempt, Attempt.evaluation_id == Evaluation.id)
            .where(Attempt.failure == FailureClass.INFEASIBLE)
        )
        told = select(Measurement.candidate_id).where(Measurement.qualifier == Qualifier.INFEASIBLE)
        valued = select(Measurement.candidate_id).where(Measurement.qualifier.in_(WITH_VALUE))
        query = select(Candidate.object).where(
            Candidate.campaign_id == campaign_id,
            Candidate.id.in_(failed.union(told)),
            Candidate.id.not_in(valued),
        )
        with self._database.read() as session:
            return list(session.scalars(query.order_by(Candidate.key)))

    def known_keys(self, campaign_id: int) -> set[str]:
        """Return the keys of all candidates that were measured, that await a measurement, or that were vetoed.

        One whose evaluation was cancelled, for want of money or by a person, may be proposed again.
        """
        measured = select(Candidate.key).join(Measurement, Measurement.candidate_id == Candidate.id)
        vetoed = select(Approval.candidate_id).where(
            Approval.decision == ApprovalDecision.VETOED, Approval.candidate_id.is_not(None)
        )
        wanted = select(Candidate.key).join(Evaluation, Evaluation.candidate_id == Candidate.id)
        wanted = wanted.where((Evaluation.state != EvaluationState.CANCELLED) | Candidate.id.in_(vetoed))
        with self._database.read() as session:
            found = session.scalars(measured.where(Candidate.campaign_id == campaign_id).distinct())
            awaited = session.scalars(wanted.where(Candidate.campaign_id == campaign_id).distinct())
            return set(found) | set(awaited)

    def as_run(self, campaign_id: int, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the conditions that candidates were measured under, by key; of each the earliest value.

        Candidates without any are left out.
        """
        found: dict[str, dict[str, Any]] = {}
        with self._database.read() as session:
            for chunk in chunks(keys):
                query = (
                    select(Candidate.key, Measurement.as_run)
                    .join(Candidate, Candidate.id == Measurement.candidate_id)
                    .where(Candidate.campaign_id == campaign_id, Candidate.key.in_(chunk))
                    .order_by(Measurement.seq)
                )
                for key, conditions in session.execute(query):
                    if conditions:
                        found[key] = {**conditions, **found.get(key, {})}
        return found

    def rebuild_current_values(self, campaign_id: int) -> None:
        """Make `current_value` anew from the measurements."""
        with self._database.write() as session:
            lock_campaign(session, campaign_id)
            session.execute(delete(CurrentValue).where(CurrentValue.campaign_id == campaign_id))
            query = select(Measurement.candidate_id).where(Measurement.campaign_id == campaign_id)
            project(session, campaign_id, sorted(set(session.scalars(query))))


def insert_measurements(
    session: Session,
    campaign_id: int,
    records: Sequence[MeasurementRecord],
    *,
    actor: str,
    evaluation_id: int | None = None,
    attempt_id: int | None = None,
    refuse_conflicts: bool = True,
    settles: bool = True,
) -> int:
    """Insert those of `records` that are new, give each a `seq`, and bring `current_value` up to date.

    Returns how many were new. Part of the caller's transaction. A row that is known already (same source
    and row id) with another value is refused or, without `refuse_conflicts`, left to a person by an event.
    Evaluations that the values answer are done then, and paid for; not by a stale owner's (`settles` false).

    Raises:
        LabelError: a conflict that is to be refused, or a value that is no finite number.
    """
    refuse_what_does_not_fit(records)
    lock_campaign(session, campaign_id)
    ids = ensure_candidates(session, campaign_id, [(r.key, r.object) for r in records])
    new, conflicts = _new_records(session, campaign_id, records, ids)
    for record, stored in conflicts:
        if refuse_conflicts:
            raise LabelError(
                f"row {record.row_id!r} of {record.source!r} says {record.property} {record.qualifier} "
                f"{said(record.value, record.sem, record.n)} for {record.object!r}, but that row is stored with "
                f"value {said(*stored[1:], bound=stored[0])}; nothing was written. Give the row another id or "
                "source if it is another measurement."
            )
        detail = {
            "row_id": record.row_id,
            "property": record.property,
            "stored": stored[1],
            "came": record.value,
        }
        add_event(session, campaign_id, "conflict", actor=actor, detail=detail)
    if not new:
        return 0
    seq = _take_seq(session, campaign_id, len(new))
    awaited = {} if evaluation_id is not None else _awaited(session, campaign_id, new, ids)
    settled = {evaluation_id} if evaluation_id is not None and settles else set()
    for offset, record in enumerate(new):
        candidate_id = ids[record.key]
        belongs_to = evaluation_id if evaluation_id is not None else awaited.get((candidate_id, record.property))
        if belongs_to is not None and settles:
            settled.add(belongs_to)
        session.add(
            Measurement(
                campaign_id=campaign_id,
                seq=seq + offset,
                candidate_id=candidate_id,
                evaluation_id=belongs_to,
                attempt_id=attempt_id,
                property=record.property,
                value=record.value,
                qualifier=record.qualifier,
                sem=record.sem,
                n=record.n,
                unit=record.unit,
                as_run=None if record.as_run is None else dict(record.as_run),
                source=record.source,
                row_id=record.row_id,
                actor=actor,
            )
        )
    session.flush()
    for chunk in chunks(sorted(settled)):
        if evaluation_id is None:
            pay_for_told(session, chunk, actor=actor)
        session.execute(
            update(Evaluation)
            .where(Evaluation.id.in_(chunk), Evaluation.state.in_(sources_of(EvaluationState.DONE)))
            .values(state=EvaluationState.DONE)
        )
    project(session, campaign_id, sorted({ids[record.key] for record in new}))
    return len(new)


def refuse_what_does_not_fit(records: Sequence[MeasurementRecord]) -> None:
    """Refuse what cannot be stored alike everywhere.

    SQLite keeps no NaN, it makes it NULL; it keeps text of any length where PostgreSQL refuses it.
    """
    for record in records:
        for name, limit in _LENGTHS.items():
            came = getattr(record, name)
            if came is not None and len(came) > limit:
                raise LabelError(
                    f"{name} {came[:40]!r}... has {len(came)} characters, expected at most {limit}; "
                    "nothing was written. Give it a shorter one."
                )
        wanted = record.qualifier in WITH_VALUE
        if (wanted and record.value is None) or (record.value is not None and not isfinite(record.value)):
            raise LabelError(
                f"row {record.row_id!r} of {record.source!r} says {record.property} {record.qualifier} "
                f"{record.value!r} for {record.object!r}, expected a finite number; nothing was written. "
                "Correct the value, or leave the row out."
            )


def _new_records(
    session: Session, campaign_id: int, records: Sequence[MeasurementRecord], ids: dict[str, int]
) -> tuple[list[MeasurementRecord], list[tuple[MeasurementRecord, _Content]]]:
    """Return the records that are not stored yet, and those that contradict what is stored, with it."""
    known: dict[tuple[str, str, str], tuple[int, _Content]] = {}
    for source in {record.source for record in records}:
        row_ids = sorted({record.row_id for record in records if record.source == source})
        for chunk in chunks(row_ids):
            query = select(Measurement).where(
                Measurement.campaign_id == campaign_id,
                Measurement.source == source,
                Measurement.row_id.in_(chunk),
            )
            for row in session.scalars(query):
                content = (row.qualifier, row.value, row.sem, row.n)
                known[row.source, row.row_id, row.property] = (row.candidate_id, content)
    new: list[MeasurementRecord] = []
    conflicts: list[tuple[MeasurementRecord, _Content]] = []
    for record in records:
        identity = (record.source, record.row_id, record.property)
        came = (ids[record.key], (record.qualifier, record.value, record.sem, record.n))
        if identity not in known:
            known[identity] = came
            new.append(record)
        elif known[identity] != came:
            conflicts.append((record, known[identity][1]))
    return new, conflicts


def said(value: float | None, sem: float | None, n: int | None, *, bound: Qualifier = Qualifier.EQUAL) -> str:
    """Return what a row says, as a person would write it."""
    known = (("sem", sem), ("n", n))
    more = ", ".join(f"{name} {number!r}" for name, number in known if number is not None)
    plain = repr(value) if bound is Qualifier.EQUAL else f"{bound} {value!r}"
    return f"{plain} ({more})" if more else plain


def _take_seq(session: Session, campaign_id: int, count: int) -> int:
    """Return the first of `count` new numbers.

    The campaign's row stays locked until the transaction ends: the order of commits is that of numbers.
    """
    last = session.execute(
        update(Campaign)
        .where(Campaign.id == campaign_id)
        .values(clock=Campaign.clock + count)
        .returning(Campaign.clock)
        .execution_options(synchronize_session=False)
    ).scalar_one()
    return last - count + 1


def _awaited(
    session: Session, campaign_id: int, records: Sequence[MeasurementRecord], ids: dict[str, int]
) -> dict[tuple[int, str], int]:
    """Return the evaluation that a told value of a candidate's property settles.

    Only a property that the campaign wants does: a mass or a purity is no answer to what is awaited.
    """
    wanted = set(session.scalars(select(Objective.property).where(Objective.campaign_id == campaign_id)))
    candidate_ids = {ids[record.key] for record in records if record.property in wanted}
    found: dict[tuple[int, str], int] = {}
    open_states = sources_of(EvaluationState.DONE)
    for chunk in chunks(sorted(candidate_ids)):
        query = select(Evaluation.candidate_id, Evaluation.id)
        query = query.where(Evaluation.candidate_id.in_(chunk), Evaluation.state.in_(open_states))
        for candidate_id, evaluation_id in session.execute(query.order_by(Evaluation.replicate.desc())):
            found.update({(candidate_id, prop): evaluation_id for prop in wanted})
    return found
