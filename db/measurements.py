"""Measurements: telling facts, once each, taking them back, and reading them as they stood at a cut-off.

How they are written belongs in `recording.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from flowscout.db.candidates import chunks
from flowscout.db.database import Database
from flowscout.db.events import EventKind, add_event
from flowscout.db.locks import lock_campaign
from flowscout.db.models import Approval, Attempt, Campaign, Candidate, CurrentValue, Evaluation, Measurement
from flowscout.db.pauses import without_pauses
from flowscout.db.recording import New, correct_measurements, correction, insert_measurements, project, write_rows
from flowscout.db.records import MeasurementRecord, TrainingSet
from flowscout.db.states import ApprovalDecision, EvaluationState, FailureClass, Qualifier
from flowscout.db.training import WITH_VALUE, is_superseded, read_training_set
from flowscout.db.versions import chains_of, stands_for_a_value
from flowscout.errors import NotFoundError


@dataclass(frozen=True)
class Told:
    """What came of telling: how many values were new, how many were known already, how many corrected others.

    A correction is a new value too. `unread` are the columns of the table that nothing was made of, `empty` is
    how many of its rows hold no value yet. Of a plate's sheet `conditions` are the columns that were kept as
    conditions, and `controls` says how many wells of controls it has.
    """

    added: int
    unchanged: int
    corrected: int = 0
    unread: tuple[str, ...] = ()
    empty: int = 0
    conditions: tuple[str, ...] = ()
    controls: int = 0


class Measurements:
    """What is stored of measured values."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, campaign_id: int, records: Sequence[MeasurementRecord], *, actor: str, correct: str | None = None
    ) -> Told:
        """Record all of `records`, or none. What is known already changes nothing.

        A value of a wanted property settles the evaluation of its candidate that is waiting. `correct` is the
        reason why rows that are known with another value are to be superseded.

        Raises:
            LabelError: a row that is known already (same source and row id) now has another value, and nobody
                says that it is a correction.
        """
        corrected = 0
        with self._database.write() as session:
            if correct is None:
                added = insert_measurements(session, campaign_id, records, actor=actor)
            else:
                written = correct_measurements(session, campaign_id, records, actor=actor, reason=correct)
                added, corrected = written.added, written.corrected
            if added:
                sources = sorted({record.source for record in records})
                detail = {"sources": sources, "added": added, "corrected": corrected}
                add_event(session, campaign_id, EventKind.VALUES_TOLD, actor=actor, detail=detail)
        return Told(added=added, unchanged=len(records) - added, corrected=corrected)

    def retract(
        self,
        campaign_id: int,
        *,
        reason: str,
        actor: str,
        key: str | None = None,
        row: tuple[str, str] | None = None,
    ) -> int:
        """Take back all values of a candidate, by its key, or of a row, by its source and row id; return how many.

        Nothing is deleted: each is superseded by a row that says so. What was retracted before changes nothing.

        Raises:
            NotFoundError: no value of it is stored.
        """
        assert (key is None) != (row is None)
        query = select(Measurement, Candidate).join(Candidate, Candidate.id == Measurement.candidate_id)
        query = query.where(Measurement.campaign_id == campaign_id)
        query = query.where(
            *(
                [Candidate.key == key]
                if row is None
                else [Measurement.source == row[0], Measurement.row_id == row[1]]
            )
        )
        with self._database.write() as session:
            lock_campaign(session, campaign_id)
            stored = [found for found, _ in session.execute(query.order_by(Measurement.seq)).all()]
            if not stored:
                wanted = repr(key) if row is None else f"row {row[1]!r} of {row[0]!r}"
                raise NotFoundError(
                    f"no value of {wanted} is stored, so none can be retracted; `flowscout history` lists what is."
                )
            tips = {versions[-1].id: versions for _, versions in chains_of(session, stored)}
            news = [
                _retraction(session, campaign_id, versions)
                for _, versions in sorted(tips.items())
                if versions[-1].qualifier is not Qualifier.RETRACTED
            ]
            return len(write_rows(session, campaign_id, news, actor=actor, reason=reason))

    def training_set(
        self, campaign_id: int, prop: str, *, upto_seq: int | None = None, near: TrainingSet | None = None
    ) -> TrainingSet:
        """Return what is known of each candidate's `prop` with `seq <= upto_seq` (default: all).

        With `near`, the one of this property at another cut-off, only what differs from it is read.
        """
        with self._database.read() as session, without_pauses():
            if upto_seq is None:
                upto_seq = session.scalars(select(Campaign.clock).where(Campaign.id == campaign_id)).one()
            return read_training_set(session, campaign_id, prop, upto_seq, near=near)

    def infeasible(self, campaign_id: int) -> list[str]:
        """Return the objects that were tried and cannot be measured, in the order of their keys.

        An object that has a value after all is not among them.
        """
        failed = (
            select(Evaluation.candidate_id)
            .join(Attempt, Attempt.evaluation_id == Evaluation.id)
            .where(Attempt.failure == FailureClass.INFEASIBLE)
        )
        current = select(Measurement.candidate_id).where(~is_superseded())
        told = current.where(Measurement.qualifier == Qualifier.INFEASIBLE)
        valued = current.where(Measurement.qualifier.in_(WITH_VALUE))
        query = select(Candidate.object).where(
            Candidate.campaign_id == campaign_id,
            Candidate.id.in_(failed.union(told)),
            Candidate.id.not_in(valued),
        )
        with self._database.read() as session:
            return list(session.scalars(query.order_by(Candidate.key)))

    def known_keys(self, campaign_id: int) -> set[str]:
        """Return the keys of all candidates that were measured, that await a measurement, or that were vetoed.

        One whose evaluation was cancelled, for want of money or by a person, may be proposed again. So may one of
        which every value was retracted, if it awaits none.
        """
        values = select(Measurement.candidate_id).where(Measurement.campaign_id == campaign_id)
        values = values.where(Measurement.qualifier != Qualifier.RETRACTED, ~is_superseded())
        measured = select(Candidate.key).where(Candidate.id.in_(values))  # a join takes half as long again
        wanted = select(Candidate.key).join(Evaluation, Evaluation.candidate_id == Candidate.id)
        vetoed = select(Approval.candidate_id).where(
            Approval.decision == ApprovalDecision.VETOED, Approval.candidate_id.is_not(None)
        )
        cancelled = Evaluation.state == EvaluationState.CANCELLED
        wanted = wanted.where(stands_for_a_value(campaign_id), ~cancelled | Candidate.id.in_(vetoed))
        with self._database.read() as session, without_pauses():
            own = Candidate.campaign_id == campaign_id
            connection = session.connection()  # not by the ORM: these are all that was ever measured
            return {key for query in (measured, wanted) for key in connection.scalars(query.where(own)).all()}

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


def _retraction(session: Session, campaign_id: int, versions: Sequence[Measurement]) -> New:
    last = versions[-1]
    candidate = session.get_one(Candidate, last.candidate_id)
    record = MeasurementRecord(
        key=candidate.key,
        object=candidate.object,
        property=last.property,
        value=None,
        source=last.source,
        row_id=last.row_id,
        qualifier=Qualifier.RETRACTED,
    )
    return correction(session, campaign_id, record, candidate.id, versions)
