"""Approvals: a person lets a batch be handed out, exactly as he saw it.

The decision, the money and the round's state change in one transaction, or not at all. Taking single candidates
out belongs in `db.vetoes`; both hold the campaign, so that a batch is approved before or after a veto.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from flowscout.db.budgets import hand_out_round
from flowscout.db.campaigns import hold_lease
from flowscout.db.database import Database
from flowscout.db.events import EventKind, add_event
from flowscout.db.models import Approval, Candidate, Evaluation, Proposal, Round
from flowscout.db.records import Lease, RoundRecord
from flowscout.db.rounds import advance_round
from flowscout.db.states import ApprovalDecision, Decision, EvaluationState, RoundState
from flowscout.errors import StateError


@dataclass(frozen=True)
class ApprovalRecord:
    """Who let a batch be handed out, and when."""

    round: int
    actor: str
    at: datetime


@dataclass(frozen=True)
class BatchRecord:
    """What of a batch is to be measured: its candidates by rank, and a code that no other batch has."""

    code: str
    candidate_ids: tuple[int, ...]


class Approvals:
    """What is stored of approvals."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, lease: Lease, record: RoundRecord, *, actor: str, people: bool, seen: str | None = None) -> bool:
        """Approve the batch of a round that waits for it, and hand it out; return whether that is new.

        With `seen`, the code of `batch`, only if it is still that batch: a veto may have changed it. The prices of
        what `people` will measure are reserved now, as far as the budget reaches.

        Raises:
            StateError: the round does not wait for approval, or its batch is another one than was seen.
            LeaseLostError: another process has taken the campaign over.
        """
        with self._database.write() as session:
            hold_lease(session, lease)
            if is_approved(session, record.id):
                return False
            row = session.get_one(Round, record.id)
            if row.state is not RoundState.AWAITING_APPROVAL:
                raise StateError(
                    f"round {row.number} is {row.state}, expected one whose batch waits for approval; nothing was "
                    "written. `flowscout status` shows the rounds."
                )
            batch = _batch(session, record.id)
            if seen is not None and seen != batch.code:
                raise StateError(
                    f"the batch of round {row.number} is {batch.code}, expected {seen}, the one that was looked "
                    "at: it was changed since. Nothing was written; look at it again, then approve it."
                )
            session.add(Approval(round_id=record.id, decision=ApprovalDecision.APPROVED, actor=actor))
            detail = {"batch": batch.code, "candidate_ids": list(batch.candidate_ids)}
            kind = EventKind.BATCH_APPROVED
            add_event(session, lease.campaign_id, kind, actor=actor, round_id=record.id, detail=detail)
            if people:
                hand_out_round(session, record.id, actor=lease.owner)
            advance_round(session, record.id, RoundState.DISPATCHED, actor=actor)
            return True

    def batch(self, round_id: int) -> BatchRecord:
        """Return what of a round's batch is to be measured: what was vetoed or cancelled is not."""
        with self._database.read() as session:
            return _batch(session, round_id)

    def get(self, round_id: int) -> ApprovalRecord | None:
        """Return who approved the batch of a round; None if nobody did, or nobody had to."""
        query = (
            select(Round.number, Approval.actor, Approval.created_at)
            .join(Round, Round.id == Approval.round_id)
            .where(*_approved(round_id))
        )
        with self._database.read() as session:
            row = session.execute(query).first()
            return None if row is None else ApprovalRecord(*row)


def is_approved(session: Session, round_id: int) -> bool:
    """Return whether a person has approved the batch of a round."""
    return session.scalar(select(Approval.id).where(*_approved(round_id)).limit(1)) is not None


def _approved(round_id: int) -> tuple[ColumnElement[bool], ...]:
    decision = Approval.decision == ApprovalDecision.APPROVED
    return (Approval.round_id == round_id, Approval.candidate_id.is_(None), decision)


def _batch(session: Session, round_id: int) -> BatchRecord:
    wanted = (
        select(Evaluation.id)
        .where(Evaluation.round_id == round_id, Evaluation.candidate_id == Proposal.candidate_id)
        .where(Evaluation.state != EvaluationState.CANCELLED)
    )
    query = (
        select(Proposal.rank, Candidate.key, Candidate.id)
        .join(Candidate, Candidate.id == Proposal.candidate_id)
        .where(Proposal.round_id == round_id, Proposal.decision == Decision.SELECTED, wanted.exists())
        .order_by(Proposal.rank)
    )
    rows = [(*row,) for row in session.execute(query)]
    content = json.dumps([(rank, key) for rank, key, _ in rows])
    code = hashlib.sha256(content.encode()).hexdigest()[:12]
    return BatchRecord(code, tuple(number for *_, number in rows))
