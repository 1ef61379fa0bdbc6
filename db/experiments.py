"""Experiments: claiming an evaluation before its oracle is called, and settling what came of it.

The attempt's row is committed before the call. Its token fences its state and the money; a value that a
stale owner brings is recorded all the same.
"""

import uuid as uuids
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from flowscout.db import money, owners
from flowscout.db.campaigns import add_event, lock_campaign
from flowscout.db.database import Database
from flowscout.db.models import Attempt, Balance, Candidate, Evaluation, Oracle, Round, utc_now
from flowscout.db.recording import insert_measurements
from flowscout.db.records import Claim, Outcome
from flowscout.db.states import AttemptState, EvaluationState, FailureClass, LedgerKind, sources_of

ATTEMPT_LEASE_S = 600.0
MAX_TRANSIENT_FAILURES = 3

_OPEN = (EvaluationState.QUEUED, EvaluationState.RUNNING)


class Experiments:
    """What is stored of evaluations and their attempts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, round_id: int, *, owner: str, lease_s: float = ATTEMPT_LEASE_S) -> list[Claim]:
        """Begin an attempt at each queued evaluation of the round, in order, as far as the budget goes.

        When this returns, the attempts are committed and the money is reserved: only then may an oracle be
        called.
        """
        query = (
            select(Evaluation, Candidate, Oracle)
            .join(Candidate, Candidate.id == Evaluation.candidate_id)
            .join(Oracle, Oracle.id == Evaluation.oracle_id)
            .where(Evaluation.round_id == round_id, Evaluation.state == EvaluationState.QUEUED)
            .order_by(Evaluation.id)
        )
        claims: list[Claim] = []
        with self._database.write() as session:
            _lock_round(session, round_id)
            until = session.scalars(select(utc_now())).one() + timedelta(seconds=lease_s)
            for evaluation, candidate, oracle in session.execute(query).all():
                if not money.reserve(session, evaluation.campaign_id, [oracle.unit_cost_minor], actor=owner):
                    detail = {"evaluation_id": evaluation.id, "cost_minor": oracle.unit_cost_minor}
                    add_event(
                        session, evaluation.campaign_id, "budget_exhausted",
                        actor=owner, round_id=round_id, detail=detail,
                    )  # fmt: skip
                    break
                attempt = Attempt(
                    evaluation_id=evaluation.id,
                    number=_next_number(session, evaluation.id),
                    owner=owner,
                    token=str(uuids.uuid4()),
                    lease_until=until,
                )
                evaluation.state = EvaluationState.RUNNING
                session.add(attempt)
                session.flush()
                money.book(session, evaluation, attempt.id, LedgerKind.RESERVE, oracle.unit_cost_minor)
                claims.append(_claim(attempt, evaluation, candidate, oracle))
        return claims

    def settle(self, outcomes: Sequence[Outcome], *, actor: str) -> int:
        """Record what came of attempts, in one transaction; return how many measurements were added.

        An attempt that is no longer this owner's changes no state and no money; its values are recorded.
        """
        added = 0
        evaluations = [outcome.claim.evaluation_id for outcome in outcomes]
        query = select(Evaluation.campaign_id).where(Evaluation.id.in_(evaluations)).distinct()
        with self._database.write() as session:
            for campaign_id in session.scalars(query.order_by(Evaluation.campaign_id)).all():
                lock_campaign(session, campaign_id)
            for outcome in outcomes:
                added += self._settle_one(session, outcome, actor=actor)
        return added

    def _settle_one(self, session: Session, outcome: Outcome, *, actor: str) -> int:
        claim = outcome.claim
        evaluation = session.get_one(Evaluation, claim.evaluation_id)
        succeeded = outcome.failure is None and not outcome.unknown
        target = _ended(outcome)
        oracle = session.get_one(Oracle, evaluation.oracle_id)
        cost = oracle.unit_cost_minor if outcome.cost_minor is None else outcome.cost_minor
        if not succeeded and outcome.cost_minor is None:
            cost = 0  # of an unknown one it is not known either: its reservation stays
        changed = session.execute(
            update(Attempt)
            .where(
                Attempt.id == claim.attempt_id,
                Attempt.token == claim.token,
                Attempt.state == AttemptState.RUNNING,
            )
            .values(
                state=target,
                failure=outcome.failure,
                message=outcome.message,
                cost_minor=cost,
                ended_at=utc_now(),
            )
        )
        fenced_out = changed.rowcount == 0  # type: ignore[attr-defined]
        if fenced_out:
            detail = {"attempt_id": claim.attempt_id, "state": str(target)}
            add_event(session, evaluation.campaign_id, "stale_attempt", actor=actor, detail=detail)
        elif outcome.unknown:
            _set_state(session, evaluation.id, EvaluationState.UNKNOWN)
            detail = {"attempt_id": claim.attempt_id, "evaluation_id": evaluation.id}
            add_event(session, evaluation.campaign_id, "unknown_attempt", actor=actor, detail=detail)
        else:
            money.pay(session, evaluation, claim.attempt_id, cost=cost, actor=actor)
            after = _after_failure(session, evaluation.id, outcome.failure)
            _set_state(session, evaluation.id, EvaluationState.DONE if succeeded else after)
        return insert_measurements(
            session,
            evaluation.campaign_id,
            outcome.measurements,
            actor=actor,
            evaluation_id=evaluation.id,
            attempt_id=claim.attempt_id,
            refuse_conflicts=False,
        )

    def recover(self, campaign_id: int, *, actor: str) -> dict[str, int]:
        """End the attempts whose owner is dead or whose lease has run out; return what became of them.

        An idempotent oracle may be called again with the same key, so the evaluation is queued; for any
        other, nobody can say whether it acted, so it becomes unknown and its money stays reserved.
        """
        query = (
            select(Attempt, Evaluation, Oracle)
            .join(Evaluation, Evaluation.id == Attempt.evaluation_id)
            .join(Oracle, Oracle.id == Evaluation.oracle_id)
            .where(Evaluation.campaign_id == campaign_id, Attempt.state == AttemptState.RUNNING)
        )
        counts = {"queued": 0, "unknown": 0}
        with self._database.write() as session:
            lock_campaign(session, campaign_id)
            now = session.scalars(select(utc_now())).one()
            for attempt, evaluation, oracle in session.execute(query).all():
                if attempt.lease_until > now and not owners.is_dead(attempt.owner):
                    continue
                attempt.state, attempt.ended_at = AttemptState.EXPIRED, now
                target = EvaluationState.QUEUED if oracle.idempotent else EvaluationState.UNKNOWN
                if oracle.idempotent:
                    money.pay(session, evaluation, attempt.id, cost=0)
                if _set_state(session, evaluation.id, target):
                    counts[str(target)] += 1
                else:  # its value was told meanwhile
                    target = evaluation.state
                detail = {"attempt_id": attempt.id, "evaluation": str(target), "owner": attempt.owner}
                add_event(session, campaign_id, "attempt_expired", actor=actor, detail=detail)
                if target is EvaluationState.UNKNOWN:
                    detail = {"attempt_id": attempt.id, "evaluation_id": evaluation.id}
                    add_event(session, campaign_id, "unknown_attempt", actor=actor, detail=detail)
        return counts

    def requeue_failed(self, round_id: int) -> int:
        """Queue the failed evaluations of a round again; return how many."""
        with self._database.write() as session:
            _lock_round(session, round_id)
            changed = session.execute(
                update(Evaluation)
                .where(Evaluation.round_id == round_id, Evaluation.state == EvaluationState.FAILED)
                .values(state=EvaluationState.QUEUED)
            )
            return int(changed.rowcount)  # type: ignore[attr-defined]

    def cancel_queued(self, round_id: int, *, actor: str) -> int:
        """Cancel what is still queued in a round, because the budget does not reach it; return how many."""
        with self._database.write() as session:
            _lock_round(session, round_id)
            query = select(Evaluation).where(
                Evaluation.round_id == round_id, Evaluation.state == EvaluationState.QUEUED
            )
            rows = session.scalars(query).all()
            for row in rows:
                row.state = EvaluationState.CANCELLED
                detail = {"evaluation_id": row.id, "reason": "budget"}
                add_event(session, row.campaign_id, "evaluation_cancelled", actor=actor, detail=detail)
            return len(rows)

    def affordable(self, campaign_id: int, cost_minor: int) -> bool:
        """Return whether the balance reaches for one more call at this price."""
        with self._database.read() as session:
            balance = session.scalars(select(Balance).where(Balance.campaign_id == campaign_id)).one()
        committed = balance.reserved_minor + balance.spent_minor + cost_minor
        return balance.limit_minor is None or committed <= balance.limit_minor

    def counts(self, campaign_id: int, *, round_id: int | None = None) -> dict[EvaluationState, int]:
        """Return how many evaluations stand in each state."""
        query = select(Evaluation.state, func.count()).where(Evaluation.campaign_id == campaign_id)
        if round_id is not None:
            query = query.where(Evaluation.round_id == round_id)
        with self._database.read() as session:
            return {state: count for state, count in session.execute(query.group_by(Evaluation.state))}

    def failures(self, round_id: int) -> list[str]:
        """Return the distinct messages of the round's failed attempts, the latest first."""
        query = (
            select(Attempt.message)
            .join(Evaluation, Evaluation.id == Attempt.evaluation_id)
            .where(Evaluation.round_id == round_id, Attempt.state == AttemptState.FAILED)
            .order_by(Attempt.id.desc())
        )
        with self._database.read() as session:
            return list(dict.fromkeys(message or "no message" for message in session.scalars(query)))


def _lock_round(session: Session, round_id: int) -> None:
    lock_campaign(session, session.scalars(select(Round.campaign_id).where(Round.id == round_id)).one())


def _ended(outcome: Outcome) -> AttemptState:
    if outcome.unknown:
        return AttemptState.EXPIRED
    return AttemptState.SUCCEEDED if outcome.failure is None else AttemptState.FAILED


def _next_number(session: Session, evaluation_id: int) -> int:
    last = session.scalar(select(func.max(Attempt.number)).where(Attempt.evaluation_id == evaluation_id))
    return (last or 0) + 1


def _after_failure(session: Session, evaluation_id: int, failure: FailureClass | None) -> EvaluationState:
    if failure is not FailureClass.TRANSIENT:
        return EvaluationState.FAILED
    failed = session.scalar(
        select(func.count()).where(
            Attempt.evaluation_id == evaluation_id, Attempt.failure == FailureClass.TRANSIENT
        )
    )
    again = (failed or 0) % MAX_TRANSIENT_FAILURES != 0
    return EvaluationState.QUEUED if again else EvaluationState.FAILED


def _set_state(session: Session, evaluation_id: int, target: EvaluationState) -> bool:
    """Move an evaluation, if its state allows it; return whether it moved."""
    changed = session.execute(
        update(Evaluation)
        .where(Evaluation.id == evaluation_id, Evaluation.state.in_(sources_of(target)))
        .values(state=target)
    )
    return bool(changed.rowcount == 1)  # type: ignore[attr-defined]


def _claim(attempt: Attempt, evaluation: Evaluation, candidate: Candidate, oracle: Oracle) -> Claim:
    return Claim(
        attempt_id=attempt.id,
        evaluation_id=evaluation.id,
        candidate_id=candidate.id,
        number=attempt.number,
        token=attempt.token,
        object=candidate.object,
        idempotency_key=evaluation.idempotency_key,
        replicate=evaluation.replicate,
        fidelity=oracle.fidelity,
    )
