"""The history as it stood when a round was proposed: what was known then, and nothing that came later."""

from collections.abc import Sequence
from copy import copy
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from flowscout.db.database import Database
from flowscout.db.history import History
from flowscout.db.measurements import Measurements
from flowscout.db.models import Approval, Candidate, Evaluation, Event, Measurement, Proposal, Round, utc_now
from flowscout.db.queries import Queries
from flowscout.db.records import RoundRecord, TrainingSet
from flowscout.db.states import ApprovalDecision, Qualifier
from flowscout.db.vetoes import Vetoes


def past_history(
    history: History, record: RoundRecord, *, upto_seq: int, pending: Sequence[str], infeasible: Sequence[str]
) -> History:
    """Return a history that answers as it did when `record` was fitted and proposed, to be read only.

    `pending` and `infeasible` are what the sampler's reward was frozen with.
    """
    then = copy(history)
    database = history.database
    then.measurements = _PastMeasurements(database, record, upto_seq, infeasible)
    then.queries = _PastQueries(database, pending)
    then.vetoes = _PastVetoes(database, record)
    return then


def replaced_by_veto(history: History, round_id: int) -> set[int]:
    """Return the candidates that came into a round's batch in the place of a vetoed one."""
    with history.database.read() as session:
        query = select(Event.detail).where(Event.round_id == round_id, Event.kind == "candidate_vetoed")
        return {detail["replaced_by"] for detail in session.scalars(query) if detail.get("replaced_by")}


class _PastMeasurements(Measurements):
    def __init__(self, database: Database, record: RoundRecord, upto_seq: int, infeasible: Sequence[str]) -> None:
        super().__init__(database)
        self._record, self._upto_seq, self._infeasible = record, upto_seq, list(infeasible)

    def training_set(
        self, campaign_id: int, prop: str, *, upto_seq: int | None = None, near: TrainingSet | None = None
    ) -> TrainingSet:
        then = self._upto_seq if upto_seq is None else upto_seq
        return super().training_set(campaign_id, prop, upto_seq=then, near=near)

    def infeasible(self, campaign_id: int) -> list[str]:  # noqa: ARG002 - of one campaign
        return self._infeasible

    def known_keys(self, campaign_id: int) -> set[str]:
        own = Candidate.campaign_id == campaign_id
        with self._database.read() as session:
            then = _proposed_at(session, self._record)
            measured, taken_back, answered = _measured(session, campaign_id, then)
            batch = select(Proposal.candidate_id).where(
                Proposal.round_id == self._record.id, Proposal.rank.is_not(None)
            )  # an evaluation that was cancelled may have moved on to a later round
            awaited = select(Evaluation.id, Candidate.id, Candidate.key)
            awaited = awaited.join(Candidate, Candidate.id == Evaluation.candidate_id)
            awaited = awaited.where(own, Evaluation.created_at <= then, Evaluation.candidate_id.not_in(batch))
            free = _cancelled(session, campaign_id, then)
            for number, candidate_id, key in session.execute(awaited):
                if number not in free and not (number in answered and candidate_id in taken_back):
                    measured.add(key)
            return measured


class _PastQueries(Queries):
    def __init__(self, database: Database, pending: Sequence[str]) -> None:
        super().__init__(database)
        self._pending = list(pending)

    def pending(self, campaign_id: int) -> Any:  # noqa: ARG002 - of one campaign
        return self._pending


class _PastVetoes(Vetoes):
    def __init__(self, database: Database, record: RoundRecord) -> None:
        super().__init__(database)
        self._record = record

    def keys(self, campaign_id: int) -> set[str]:
        with self._database.read() as session:
            query = (
                select(Candidate.key)
                .join(Approval, Approval.candidate_id == Candidate.id)
                .join(Round, Round.id == Approval.round_id)
                .where(Round.campaign_id == campaign_id, Approval.decision == ApprovalDecision.VETOED)
                .where(Approval.created_at <= _proposed_at(session, self._record))
            )
            return set(session.scalars(query))


def _measured(session: Session, campaign_id: int, then: datetime) -> tuple[set[str], set[int], set[int]]:
    """Return who had a value then, by key; of whom all was retracted, by id; which evaluations were answered."""
    later = aliased(Measurement)
    superseded = select(later.id).where(later.supersedes_id == Measurement.id, later.created_at <= then).exists()
    query = (
        select(Candidate.id, Candidate.key, Measurement.evaluation_id, Measurement.qualifier, superseded)
        .join(Candidate, Candidate.id == Measurement.candidate_id)
        .where(Measurement.campaign_id == campaign_id, Measurement.created_at <= then)
    )
    keys: dict[int, str] = {}
    counts: set[int] = set()
    answered: set[int] = set()
    for candidate_id, key, evaluation_id, qualifier, gone in session.execute(query):
        keys[candidate_id] = key
        if qualifier is not Qualifier.RETRACTED:
            answered.add(evaluation_id)
            if not gone:
                counts.add(candidate_id)
    return {keys[number] for number in counts}, keys.keys() - counts, answered


def _cancelled(session: Session, campaign_id: int, then: datetime) -> set[int]:
    """Return the evaluations that stood cancelled at a time, vetoes apart: their objects could be proposed."""
    query = (
        select(Event.kind, Event.detail)
        .where(Event.campaign_id == campaign_id, Event.created_at <= then)
        .where(Event.kind.in_(("evaluation_cancelled", "evaluation_requeued")))
        .order_by(Event.id)
    )
    found: set[int] = set()
    for kind, detail in session.execute(query):
        if kind == "evaluation_cancelled":
            found.add(detail["evaluation_id"])
        else:
            found.discard(detail["evaluation_id"])
    return found


def _proposed_at(session: Session, record: RoundRecord) -> datetime:
    """Return when the round's proposals were stored; now, if they were not yet."""
    query = select(func.min(Event.created_at)).where(Event.round_id == record.id, Event.kind == "round_proposed")
    found = session.scalar(query)
    return session.scalars(select(utc_now())).one() if found is None else found
