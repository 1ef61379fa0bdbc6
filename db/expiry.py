"""Calls that were cut off: what becomes of their attempts, their evaluations and their money.

Each function is part of the caller's transaction, whose repository is `db.experiments`.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from flowscout.db import owners
from flowscout.db.campaigns import add_event, lock_campaign
from flowscout.db.candidates import chunks
from flowscout.db.models import Attempt, Candidate, Evaluation, Measurement, Oracle, Round, utc_now
from flowscout.db.money import last_attempt, outstanding, pay
from flowscout.db.queueing import key_of
from flowscout.db.recording import insert_measurements
from flowscout.db.records import Ruling, UnknownRecord
from flowscout.db.states import TRIES, AttemptState, EvaluationState, FailureClass, Verdict, sources_of
from flowscout.errors import StateError


def lock_rows(session: Session, table: type[Evaluation] | type[Attempt], ids: Sequence[int]) -> None:
    """Lock rows in the order of their ids, so that two who lock several never wait for each other in a ring."""
    for chunk in chunks(sorted(ids)):
        query = select(table.id).where(table.id.in_(chunk)).order_by(table.id)
        session.execute(query.with_for_update(key_share=True)).all()


def set_state(session: Session, evaluation_id: int, target: EvaluationState) -> bool:
    """Move an evaluation, if its state allows it; return whether it moved."""
    changed = session.execute(
        update(Evaluation)
        .where(Evaluation.id == evaluation_id, Evaluation.state.in_(sources_of(target)))
        .values(state=target)
    )
    return bool(changed.rowcount == 1)  # type: ignore[attr-defined]


def after_failure(session: Session, evaluation: Evaluation, failure: FailureClass | None) -> EvaluationState:
    """Return the state after one more failure of a class: queued until its tries are used up.

    A person who has the round dispatched again gives as many tries once more.
    """
    if failure is None:
        return EvaluationState.FAILED
    query = select(func.count()).where(Attempt.evaluation_id == evaluation.id, Attempt.failure == failure)
    again = (session.scalar(query) or 0) % TRIES[failure] != 0
    return EvaluationState.QUEUED if again else EvaluationState.FAILED


def leave_unknown(session: Session, evaluation: Evaluation, attempt_id: int, *, actor: str) -> EvaluationState:
    """Make an evaluation unknown; its money stays reserved. Return the state it is in.

    Where its value was told meanwhile it stays done. Nobody can say that the call was not paid for, so that its
    price is spent.
    """
    if set_state(session, evaluation.id, EvaluationState.UNKNOWN):
        detail = {"attempt_id": attempt_id, "evaluation_id": evaluation.id}
        add_event(
            session, evaluation.campaign_id, "unknown_attempt",
            actor=actor, round_id=evaluation.round_id, detail=detail,
        )  # fmt: skip
        return EvaluationState.UNKNOWN
    cost = pay(session, evaluation, attempt_id, cost=None)
    session.execute(update(Attempt).where(Attempt.id == attempt_id).values(cost_minor=cost))
    return EvaluationState.DONE


def any_over(session: Session, campaign_id: int) -> bool:
    """Return whether an attempt is running whose owner is dead or whose lease has run out."""
    now = session.scalars(select(utc_now())).one()
    query = _running(campaign_id).with_only_columns(Attempt.owner, Attempt.lease_until)
    return any(until <= now or owners.is_dead(owner) for owner, until in session.execute(query))


def end_attempts(session: Session, campaign_id: int, *, actor: str) -> dict[str, int]:
    """End the attempts that are over, and return how many evaluations became queued and unknown."""
    counts = {"queued": 0, "unknown": 0}
    lock_campaign(session, campaign_id)
    query = _running(campaign_id).with_for_update(of=(Attempt, Evaluation), key_share=True)
    rows = session.execute(query).all()
    now = session.scalars(select(utc_now())).one()  # after the locks: a lease may be renewed meanwhile
    for attempt, evaluation, oracle in rows:
        if attempt.lease_until > now and not owners.is_dead(attempt.owner):
            continue
        attempt.state, attempt.ended_at = AttemptState.EXPIRED, now
        if oracle.idempotent and set_state(session, evaluation.id, EvaluationState.QUEUED):
            pay(session, evaluation, attempt.id, cost=0)  # the next attempt reserves anew
            target = EvaluationState.QUEUED
        else:
            target = leave_unknown(session, evaluation, attempt.id, actor=actor)
        if target in counts:
            counts[target] += 1
        detail = {"attempt_id": attempt.id, "evaluation": str(target), "owner": attempt.owner}
        add_event(session, campaign_id, "attempt_expired", actor=actor, detail=detail)
    return counts


def unknown_calls(session: Session, campaign_id: int) -> list[UnknownRecord]:
    """Return the unknown evaluations of a campaign with what is known of their last calls."""
    query = (
        select(Evaluation, Candidate, Oracle, Round.config_version_id)
        .join(Candidate, Candidate.id == Evaluation.candidate_id)
        .join(Oracle, Oracle.id == Evaluation.oracle_id)
        .outerjoin(Round, Round.id == Evaluation.round_id)
        .where(Evaluation.campaign_id == campaign_id, Evaluation.state == EvaluationState.UNKNOWN)
        .order_by(Evaluation.id)
    )
    found = []
    for evaluation, candidate, oracle, version_id in session.execute(query).all():
        attempt = last_attempt(session, evaluation.id)
        late = select(Measurement.property, Measurement.value).where(
            Measurement.attempt_id == attempt.id, Measurement.value.is_not(None)
        )
        found.append(
            UnknownRecord(
                evaluation_id=evaluation.id,
                object=candidate.object,
                key=candidate.key,
                idempotency_key=evaluation.idempotency_key,
                oracle=oracle.name,
                version_id=version_id,
                attempt=attempt.number,
                owner=owners.describe(attempt.owner),
                started_at=attempt.started_at,
                reserved_minor=outstanding(session, [attempt.id]).get(attempt.id, 0),
                idempotent=oracle.idempotent,
                message=attempt.message,
                values={prop: value for prop, value in session.execute(late) if value is not None},
            )
        )
    return found


def apply_rulings(
    session: Session, campaign_id: int, rulings: Sequence[Ruling], *, actor: str, strict: bool
) -> list[int]:
    """Settle unknown evaluations by what has become known of them; return the ids of those settled.

    Raises:
        StateError: an evaluation is not unknown, or has been called again since, where `strict`.
        LabelError: a value contradicts one of the same call that is stored, where `strict`.
    """
    lock_campaign(session, campaign_id)
    lock_rows(session, Evaluation, [ruling.evaluation_id for ruling in rulings])
    settled = []
    for ruling in sorted(rulings, key=lambda ruling: ruling.evaluation_id):  # as all others lock attempts
        evaluation = session.get_one(Evaluation, ruling.evaluation_id, populate_existing=True)
        complaint = _not_the_call(session, evaluation, ruling, campaign_id)
        if complaint is not None:
            if strict:
                raise StateError(
                    f"{complaint}; nothing was written. `flowscout reconcile FILE` lists the unknown ones."
                )
            continue
        detail = _apply(session, evaluation, ruling, actor=actor, strict=strict)
        detail |= {"evaluation_id": evaluation.id, "verdict": str(ruling.verdict), "message": ruling.message}
        add_event(
            session, campaign_id, "evaluation_reconciled",
            actor=actor, round_id=evaluation.round_id, detail=detail,
        )  # fmt: skip
        settled.append(evaluation.id)
    return settled


def _not_the_call(session: Session, evaluation: Evaluation, ruling: Ruling, campaign_id: int) -> str | None:
    """Return why a ruling is not of the call that is unknown now; None if it is."""
    if evaluation.state is not EvaluationState.UNKNOWN or evaluation.campaign_id != campaign_id:
        return f"evaluation {evaluation.id} is {evaluation.state}, expected unknown"
    number = last_attempt(session, evaluation.id).number
    if ruling.attempt not in (None, number):
        return f"evaluation {evaluation.id} was called again, attempt {number}, expected attempt {ruling.attempt}"
    return None


def _apply(
    session: Session, evaluation: Evaluation, ruling: Ruling, *, actor: str, strict: bool
) -> dict[str, Any]:
    """Do what one ruling says; return what is to be logged of it."""
    attempt = last_attempt(session, evaluation.id)
    detail: dict[str, Any] = {"attempt_id": attempt.id}
    oracle = session.get_one(Oracle, evaluation.oracle_id)
    if ruling.verdict is Verdict.DONE:
        failed = ruling.failure is not None
        price = ruling.cost_minor if ruling.cost_minor is not None or not failed else 0
        attempt.cost_minor = pay(session, evaluation, attempt.id, cost=price)
        attempt.state = AttemptState.FAILED if failed else AttemptState.SUCCEEDED
        attempt.failure, attempt.message = ruling.failure, ruling.message or attempt.message
        session.flush()  # the failure counts among those that limit the tries
        set_state(
            session,
            evaluation.id,
            after_failure(session, evaluation, ruling.failure) if failed else EvaluationState.DONE,
        )
        detail["added"] = insert_measurements(
            session,
            evaluation.campaign_id,
            ruling.measurements,
            actor=actor,
            evaluation_id=evaluation.id,
            attempt_id=attempt.id,
            refuse_conflicts=strict,
            settles=not failed,
        )
    elif ruling.verdict is Verdict.NEVER:
        attempt.cost_minor = pay(session, evaluation, attempt.id, cost=0)
        detail["generation"] = _next_generation(session, evaluation)
        set_state(session, evaluation.id, EvaluationState.QUEUED)
    else:
        # With a key the second call costs nothing; without one nobody can say that the first was not paid for.
        attempt.cost_minor = pay(session, evaluation, attempt.id, cost=0 if oracle.idempotent else None)
        detail["may_pay_twice"] = not oracle.idempotent
        set_state(session, evaluation.id, EvaluationState.QUEUED)
    return detail | {"cost_minor": attempt.cost_minor}


def _next_generation(session: Session, evaluation: Evaluation) -> int:
    """Give an evaluation another key, as its call has never happened; return the generation."""
    evaluation.generation += 1
    evaluation.idempotency_key = key_of(session, evaluation)
    session.flush()
    return evaluation.generation


def _running(campaign_id: int) -> Select[Any]:
    return (
        select(Attempt, Evaluation, Oracle)
        .join(Evaluation, Evaluation.id == Attempt.evaluation_id)
        .join(Oracle, Oracle.id == Evaluation.oracle_id)
        .where(Evaluation.campaign_id == campaign_id, Attempt.state == AttemptState.RUNNING)
        .order_by(Attempt.id)
    )
