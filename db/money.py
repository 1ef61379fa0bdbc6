"""Money: a campaign's one balance, changed together with its ledger rows.

Who may be called belongs in `db.experiments`. The balance is locked last, after the evaluations that a
transaction changes: two transactions that hold evaluations then never wait for each other's balance.
"""

from collections.abc import Sequence

from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session

from flowscout.db.campaigns import add_event
from flowscout.db.models import Attempt, Balance, Evaluation, Ledger
from flowscout.db.states import AttemptState, EvaluationState, LedgerKind


def reserve(session: Session, campaign_id: int, costs: Sequence[int]) -> int:
    """Reserve the prices of as many calls, in order, as the balance reaches for; return of how many.

    The caller books each on its attempt.
    """
    query = select(Balance.limit_minor, Balance.reserved_minor + Balance.spent_minor)
    query = query.where(Balance.campaign_id == campaign_id)
    if any(costs):  # calls without a price wait for nobody
        query = query.with_for_update()
    limit, committed = session.execute(query).one()
    count, total = 0, 0
    for cost in costs:
        if limit is not None and committed + total + cost > limit:
            break
        count, total = count + 1, total + cost
    if total:
        free = Balance.limit_minor.is_(None) | (
            Balance.reserved_minor + Balance.spent_minor + total <= Balance.limit_minor
        )
        changed = session.execute(
            update(Balance)
            .where(Balance.campaign_id == campaign_id, free)
            .values(reserved_minor=Balance.reserved_minor + total)
        )
        assert changed.rowcount == 1  # type: ignore[attr-defined]  # the row was read under its lock
    return count


def outstanding(session: Session, attempt_id: int) -> int:
    """Return what is reserved for an attempt, at the price of the day it began, and not yet released."""
    signed = case(
        (Ledger.kind == LedgerKind.RESERVE, Ledger.amount_minor),
        (Ledger.kind == LedgerKind.RELEASE, -Ledger.amount_minor),
        else_=0,
    )
    return int(session.scalar(select(func.sum(signed)).where(Ledger.attempt_id == attempt_id)) or 0)


def pay(session: Session, evaluation: Evaluation, attempt_id: int, *, cost: int | None) -> int:
    """Turn what is reserved for an attempt into what was paid (None: as much as was reserved); return that."""
    reserved = outstanding(session, attempt_id)
    cost = reserved if cost is None else cost
    if reserved or cost:
        session.execute(
            update(Balance)
            .where(Balance.campaign_id == evaluation.campaign_id)
            .values(reserved_minor=Balance.reserved_minor - reserved, spent_minor=Balance.spent_minor + cost)
        )
    book(session, evaluation, attempt_id, LedgerKind.RELEASE, reserved)
    book(session, evaluation, attempt_id, LedgerKind.SPEND, cost)
    return cost


def book(session: Session, evaluation: Evaluation, attempt_id: int, kind: LedgerKind, amount: int) -> None:
    """Write a ledger row; nothing where nothing changes."""
    if amount == 0:
        return
    session.add(
        Ledger(
            campaign_id=evaluation.campaign_id,
            evaluation_id=evaluation.id,
            attempt_id=attempt_id,
            kind=kind,
            amount_minor=amount,
        )
    )


def pay_for_told(session: Session, evaluation_ids: Sequence[int], *, actor: str) -> None:
    """Settle the attempts and the money of those evaluations that are unknown and whose value is told now.

    What was measured was paid for: what is reserved becomes spent.
    """
    query = (
        select(Evaluation)
        .where(Evaluation.id.in_(evaluation_ids), Evaluation.state == EvaluationState.UNKNOWN)
        .order_by(Evaluation.id)
        .with_for_update(key_share=True)
    )
    for evaluation in session.scalars(query).all():
        attempt = last_attempt(session, evaluation.id)
        cost = pay(session, evaluation, attempt.id, cost=None)
        attempt.state, attempt.cost_minor = AttemptState.SUCCEEDED, cost
        detail = {"evaluation_id": evaluation.id, "verdict": "told", "cost_minor": cost}
        add_event(session, evaluation.campaign_id, "evaluation_reconciled", actor=actor, detail=detail)


def last_attempt(session: Session, evaluation_id: int) -> Attempt:
    """Return the latest attempt at an evaluation that was attempted."""
    query = select(Attempt).where(Attempt.evaluation_id == evaluation_id).order_by(Attempt.number.desc())
    return session.scalars(query.limit(1)).one()
