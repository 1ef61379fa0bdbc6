"""Vetoes: a person takes candidates out of a batch before they are measured, and others take their places.

The decision, the refilled places and the queue change in one transaction, or not at all. Who claims an
evaluation first, an oracle or a veto, has it: both lock it. In a batch that a person has approved nobody takes the
place: what was approved is all that is measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from flowscout.db.approvals import is_approved
from flowscout.db.candidates import candidate_ids
from flowscout.db.database import Database
from flowscout.db.events import add_event
from flowscout.db.locks import lock_campaign
from flowscout.db.models import Approval, Candidate, Evaluation, Measurement, Proposal, Round
from flowscout.db.money import hand_on
from flowscout.db.queueing import key_of
from flowscout.db.records import VetoRecord
from flowscout.db.states import ApprovalDecision, Decision, EvaluationState
from flowscout.errors import StateError


@dataclass(frozen=True)
class _Place:
    """A place of a batch, whose evaluations all wait to be claimed."""

    evaluations: list[Evaluation]
    proposal: Proposal


class Vetoes:
    """What is stored of vetoes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, campaign_id: int, objects: Mapping[str, str], *, reason: str, actor: str) -> list[VetoRecord]:
        """Veto all of `objects`, texts by key, or none; return what became of each place, in their order.

        The place is given to the next best of what its round considered and did not take: by acquisition, where
        there is one, else in the order of the draw. It stays empty where nothing is left, and in a batch that was
        approved already. What was vetoed before changes nothing.

        Raises:
            StateError: an object is in no batch, or its measurement has begun or is over.
        """
        with self._database.write() as session:
            lock_campaign(session, campaign_id)
            ids = candidate_ids(session, campaign_id, list(objects))
            done = set(session.scalars(_vetoed(campaign_id)))
            new = {key for key in objects if ids.get(key) not in done}
            places = {key: _place(session, ids.get(key), objects[key]) for key in objects if key in new}
            for place in places.values():  # all of them first: none takes another's place
                _take_out(session, place, reason=reason, actor=actor)
            session.flush()
            for key, place in sorted(places.items(), key=lambda item: item[1].evaluations[0].id):
                _refill(session, place, objects[key], reason=reason, actor=actor)
            session.flush()
            return [
                VetoRecord(text, replacement=_occupant(session, ids[key]), new=key in new)
                for key, text in objects.items()
            ]

    def keys(self, campaign_id: int) -> set[str]:
        """Return the keys of all candidates that were vetoed."""
        with self._database.read() as session:
            query = select(Candidate.key).where(Candidate.id.in_(_vetoed(campaign_id)))
            return set(session.scalars(query))


def _vetoed(campaign_id: int) -> Select[tuple[int | None]]:
    """Return the query of the ids of vetoed candidates."""
    return (
        select(Approval.candidate_id)
        .join(Round, Round.id == Approval.round_id)
        .where(Round.campaign_id == campaign_id, Approval.decision == ApprovalDecision.VETOED)
        .where(Approval.candidate_id.is_not(None))
    )


def _place(session: Session, candidate_id: int | None, text: str) -> _Place:
    """Return the place of a candidate in a batch.

    Raises:
        StateError: it has none, or its measurement has begun or is over.
    """
    query = (
        select(Evaluation, Proposal)
        .join(
            Proposal,
            (Proposal.round_id == Evaluation.round_id) & (Proposal.candidate_id == Evaluation.candidate_id),
        )
        .where(Evaluation.candidate_id == candidate_id, Proposal.decision == Decision.SELECTED)
        .order_by(Evaluation.id.desc())
        .with_for_update(of=Evaluation, key_share=True)  # against a claim, which does not lock the campaign
    )
    rows = session.execute(query).all()
    if not rows:
        raise StateError(
            f"{text!r} is in no batch, expected an object that is proposed and waits; nothing was written. "
            "`flowscout ask` lists these."
        )
    proposal = rows[0][1]  # of the latest round
    evaluations = [row for row, of in reversed(rows) if of is proposal]
    queued = [row for row in evaluations if row.state is EvaluationState.QUEUED]
    begun = [row for row in evaluations if row.state not in (EvaluationState.QUEUED, EvaluationState.CANCELLED)]
    if begun or not queued:
        state = (begun or evaluations)[0].state
        raise StateError(
            f"the measurement of {text!r} is {state}, expected queued: only what nobody has begun to measure can "
            "be vetoed; nothing was written. Leave it out."
        )
    return _Place(queued, proposal)


def _take_out(session: Session, place: _Place, *, reason: str, actor: str) -> None:
    proposal = place.proposal
    for evaluation in place.evaluations:
        evaluation.state = EvaluationState.CANCELLED
    proposal.decision, proposal.reason = Decision.VETOED, reason
    session.add(
        Approval(
            round_id=proposal.round_id,
            candidate_id=proposal.candidate_id,
            decision=ApprovalDecision.VETOED,
            actor=actor,
            note=reason,
        )
    )


def _refill(session: Session, place: _Place, text: str, *, reason: str, actor: str) -> None:
    """Give the place to the next best, if there is one, and log what was done."""
    gone = place.proposal
    row = None if is_approved(session, gone.round_id) else session.execute(_next_best(gone.round_id)).first()
    if row is not None:
        heir = row[0]
        heir.decision, heir.rank = Decision.SELECTED, gone.rank
        heir.reason = f"in place of {text!r}, which was vetoed: {reason}"
    for evaluation in place.evaluations:
        queued = None if row is None else _queued(session, evaluation, row[1])
        if queued is not None:
            session.add(queued)
            session.flush()
        hand_on(session, evaluation, queued)
    detail = {
        "candidate_id": gone.candidate_id,
        "replaced_by": None if row is None else row[1].id,
        "reason": reason,
    }
    campaign_id = place.evaluations[0].campaign_id
    add_event(session, campaign_id, "candidate_vetoed", actor=actor, round_id=gone.round_id, detail=detail)
    session.flush()  # the next place must not find the same heir


def _next_best(round_id: int) -> Select[Any]:
    """Return the query of what the round did not take and nobody has measured or awaits since, the best first."""
    measured = select(Measurement.id).where(Measurement.candidate_id == Proposal.candidate_id)
    wanted = select(Evaluation.id).where(Evaluation.candidate_id == Proposal.candidate_id)
    return (
        select(Proposal, Candidate)
        .join(Candidate, Candidate.id == Proposal.candidate_id)
        .where(Proposal.round_id == round_id, Proposal.decision == Decision.OUTRANKED)
        .where(~measured.exists(), ~wanted.exists())
        .order_by(Proposal.acquisition.desc().nulls_last(), Proposal.id)
        .limit(1)
    )


def _queued(session: Session, like: Evaluation, candidate: Candidate) -> Evaluation:
    """Return the evaluation of a candidate by the same oracle."""
    made = Evaluation(
        campaign_id=like.campaign_id,
        round_id=like.round_id,
        candidate_id=candidate.id,
        oracle_id=like.oracle_id,
        replicate=like.replicate,
        generation=1,
    )
    made.idempotency_key = key_of(session, made)
    return made


def _occupant(session: Session, candidate_id: int) -> str | None:
    """Return who has the place now that a vetoed candidate had, or None."""
    mine = select(Proposal.round_id, Proposal.rank).where(
        Proposal.candidate_id == candidate_id, Proposal.decision == Decision.VETOED, Proposal.rank.is_not(None)
    )
    row = session.execute(mine.order_by(Proposal.id.desc())).first()
    if row is None:
        return None
    query = select(Candidate.object).join(Proposal, Proposal.candidate_id == Candidate.id)
    return session.scalar(
        query.where(
            Proposal.round_id == row.round_id, Proposal.rank == row.rank, Proposal.decision == Decision.SELECTED
        )
    )
