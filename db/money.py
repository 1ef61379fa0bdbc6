"""Money: a balance that is changed together with a row of its ledger, in integer minor units.

When money is reserved and spent belongs to whoever hands out experiments and takes their results.
"""

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from flowscout.db.models import Balance, Evaluation, Ledger
from flowscout.db.states import LedgerKind


def reserve(session: Session, campaign_id: int, cost_minor: int) -> bool:
    """Reserve the price of one call, if the balance allows it; the caller books it on the attempt."""
    committed = Balance.reserved_minor + Balance.spent_minor + cost_minor
    changed = session.execute(
        update(Balance)
        .where(Balance.campaign_id == campaign_id)
        .where(Balance.limit_minor.is_(None) | (committed <= Balance.limit_minor))
        .values(reserved_minor=Balance.reserved_minor + cost_minor)
    )
    return bool(changed.rowcount == 1)  # type: ignore[attr-defined]


def spend(session: Session, evaluation: Evaluation, attempt_id: int, *, cost: int) -> None:
    """Turn what was reserved for an attempt, at the price of that day, into what was really paid."""
    booked = select(func.sum(Ledger.amount_minor)).where(
        Ledger.attempt_id == attempt_id, Ledger.kind == LedgerKind.RESERVE
    )
    reserved = int(session.scalar(booked) or 0)
    session.execute(
        update(Balance)
        .where(Balance.campaign_id == evaluation.campaign_id)
        .values(reserved_minor=Balance.reserved_minor - reserved, spent_minor=Balance.spent_minor + cost)
    )
    book(session, evaluation, attempt_id, LedgerKind.RELEASE, reserved)
    book(session, evaluation, attempt_id, LedgerKind.SPEND, cost)


def book(session: Session, evaluation: Evaluation, attempt_id: int | None, kind: LedgerKind, amount: int) -> None:
    """Append to the ledger, unless nothing changes hands."""
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
