"""Money: a campaign's one balance, changed together with its ledger rows, in integer minor units.

Who may be called belongs in `db.experiments`, what a person sees and sets in `db.budgets`. The balance is locked
last, after the evaluations that a transaction changes: two transactions that hold evaluations then never wait for
each other's balance.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, case, func, select, update
from sqlalchemy.orm import Session

from flowscout.db.candidates import chunks
from flowscout.db.events import EventKind, add_event, read_events
from flowscout.db.models import Attempt, Balance, Evaluation, Ledger
from flowscout.db.states import AttemptState, EvaluationState, LedgerKind

NOBODY = "budget"
"""The actor of what follows from the limit alone."""


def reserve(session: Session, campaign_id: int, costs: Sequence[int], *, actor: str = NOBODY) -> int:
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
        watch(session, campaign_id, limit=limit, before=committed, after=committed + total, actor=actor)
    return count


def outstanding(session: Session, attempt_ids: Sequence[int]) -> dict[int, int]:
    """Return what is reserved for attempts, at the price of the day each began, and not yet released."""
    found: dict[int, int] = {}
    for chunk in chunks(attempt_ids):
        query = select(Ledger.attempt_id, func.sum(signed())).where(Ledger.attempt_id.in_(chunk))
        for number, amount in session.execute(query.group_by(Ledger.attempt_id)):
            assert number is not None  # asked for by number
            found[number] = int(amount)
    return found


def pay(
    session: Session, evaluation: Evaluation, attempt_id: int | None, *, cost: int | None, actor: str = NOBODY
) -> int:
    """Turn what is reserved for an attempt into what was paid (None: as much as was reserved); return that.

    Without an attempt, what was reserved when the evaluation was handed out. A bill above what was reserved is
    booked as it is, and logged.
    """
    handed_out = attempt_id is None
    reserved = handed_out_for(session, [evaluation.id]).get(evaluation.id, 0) if handed_out else 0
    reserved = outstanding(session, [attempt_id]).get(attempt_id, 0) if attempt_id is not None else reserved
    cost = reserved if cost is None else cost
    if reserved or cost:
        change(session, evaluation.campaign_id, reserved=-reserved, spent=cost, actor=actor)
    book(session, evaluation, attempt_id, LedgerKind.RELEASE, reserved)
    book(session, evaluation, attempt_id, LedgerKind.SPEND, cost)
    if cost > reserved:
        detail = {
            "evaluation_id": evaluation.id,
            "attempt_id": attempt_id,
            "reserved_minor": reserved,
            "billed_minor": cost,
        }
        kind = EventKind.BILL_ABOVE_ESTIMATE
        add_event(session, evaluation.campaign_id, kind, actor=actor, round_id=evaluation.round_id, detail=detail)
    return cost


def book(session: Session, evaluation: Evaluation, attempt_id: int | None, kind: LedgerKind, amount: int) -> None:
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
    """Pay for those evaluations whose value is told now: what was measured was paid for.

    What was reserved when a batch was handed out becomes spent; so does what an unknown call had reserved.
    """
    rows: list[Evaluation] = []
    for chunk in chunks(sorted(evaluation_ids)):  # all are locked before the balance, whatever their state
        query = select(Evaluation).where(Evaluation.id.in_(chunk)).order_by(Evaluation.id)
        rows.extend(session.scalars(query.with_for_update(key_share=True)))
    handed_out = handed_out_for(session, evaluation_ids)
    for evaluation in rows:
        if evaluation.id in handed_out:
            pay(session, evaluation, None, cost=None, actor=actor)
        if evaluation.state is EvaluationState.UNKNOWN:
            attempt = last_attempt(session, evaluation.id)
            cost = pay(session, evaluation, attempt.id, cost=None, actor=actor)
            attempt.state, attempt.cost_minor = AttemptState.SUCCEEDED, cost
            detail = {"evaluation_id": evaluation.id, "verdict": "told", "cost_minor": cost}
            kind = EventKind.EVALUATION_RECONCILED
            add_event(session, evaluation.campaign_id, kind, actor=actor, detail=detail)


def hand_out(
    session: Session, evaluations: Sequence[tuple[Evaluation, int]], *, actor: str
) -> list[tuple[Evaluation, int]]:
    """Reserve the prices of evaluations that people will make, in order, as far as the budget goes.

    Returns those that it does not reach. What is reserved already stays so, whatever the limit has become.
    """
    known = handed_out_for(session, [evaluation.id for evaluation, _ in evaluations])
    new = [(evaluation, cost) for evaluation, cost in evaluations if evaluation.id not in known]
    if not new:
        return []
    count = reserve(session, new[0][0].campaign_id, [cost for _, cost in new], actor=actor)
    for evaluation, cost in new[:count]:
        book(session, evaluation, None, LedgerKind.RESERVE, cost)
    return new[count:]


def hand_on(session: Session, gone: Evaluation, heir: Evaluation | None) -> None:
    """Release what was reserved when an evaluation was handed out, or let another one have it."""
    reserved = handed_out_for(session, [gone.id]).get(gone.id, 0)
    if not reserved:
        return
    book(session, gone, None, LedgerKind.RELEASE, reserved)
    if heir is None:
        change(session, gone.campaign_id, reserved=-reserved, spent=0, actor=NOBODY)
    else:
        book(session, heir, None, LedgerKind.RESERVE, reserved)


def handed_out_for(session: Session, evaluation_ids: Sequence[int]) -> dict[int, int]:
    """Return what is reserved for evaluations that people were asked to make, where anything is."""
    found: dict[int, int] = {}
    for chunk in chunks(evaluation_ids):
        query = select(Ledger.evaluation_id, func.sum(signed())).where(
            Ledger.evaluation_id.in_(chunk), Ledger.attempt_id.is_(None)
        )
        for number, amount in session.execute(query.group_by(Ledger.evaluation_id)):
            if number is not None and amount:
                found[number] = int(amount)
    return found


def last_attempt(session: Session, evaluation_id: int) -> Attempt:
    """Return the latest attempt at an evaluation that was attempted."""
    query = select(Attempt).where(Attempt.evaluation_id == evaluation_id).order_by(Attempt.number.desc())
    return session.scalars(query.limit(1)).one()


def watch(session: Session, campaign_id: int, *, limit: int | None, before: int, after: int, actor: str) -> None:
    """Log that commitments have passed 80% of the limit, once for each limit, or the limit itself."""
    if limit is None or after <= before:
        return
    detail = {"limit_minor": limit, "committed_minor": after}
    if before <= limit < after:
        add_event(session, campaign_id, EventKind.OVERSPENT, actor=actor, detail=detail)
    if 5 * before < 4 * limit <= 5 * after:
        known = read_events(session, campaign_id, kinds=[EventKind.BUDGET_80])
        if limit not in [event.detail["limit_minor"] for event in known]:
            add_event(session, campaign_id, EventKind.BUDGET_80, actor=actor, detail=detail)


def change(session: Session, campaign_id: int, *, reserved: int, spent: int, actor: str) -> None:
    """Change the balance by amounts that were booked or will be in this transaction; log what that passes."""
    limit, after = session.execute(
        update(Balance)
        .where(Balance.campaign_id == campaign_id)
        .values(reserved_minor=Balance.reserved_minor + reserved, spent_minor=Balance.spent_minor + spent)
        .returning(Balance.limit_minor, Balance.reserved_minor + Balance.spent_minor)
        .execution_options(synchronize_session=False)
    ).one()
    watch(session, campaign_id, limit=limit, before=after - reserved - spent, after=after, actor=actor)


def audit(session: Session, campaign_id: int) -> list[str]:
    """Return every way in which the balance, the ledger and the calls do not agree; none is as it should be."""
    balance = session.scalars(select(Balance).where(Balance.campaign_id == campaign_id)).one()
    sums = _sums(session, Ledger.campaign_id == campaign_id)
    wrong = []
    for name, stored, booked in (
        ("reserved", balance.reserved_minor, sums["reserved"]),
        ("spent", balance.spent_minor, sums["spent"]),
    ):
        if stored != booked:
            wrong.append(f"the balance has {stored} {name}, the ledger adds up to {booked}")
    open_amount = func.sum(signed())
    held = (
        select(Ledger.evaluation_id, Ledger.attempt_id, Attempt.state, Evaluation.state, open_amount)
        .outerjoin(Attempt, Attempt.id == Ledger.attempt_id)
        .outerjoin(Evaluation, Evaluation.id == Ledger.evaluation_id)
        .where(Ledger.campaign_id == campaign_id)
        .group_by(Ledger.evaluation_id, Ledger.attempt_id, Attempt.state, Evaluation.state)
        .having(open_amount != 0)
    )
    ended = (AttemptState.SUCCEEDED, AttemptState.FAILED)
    over = (EvaluationState.DONE, EvaluationState.CANCELLED)
    for evaluation_id, attempt_id, attempt, evaluation, amount in session.execute(held):
        what = f"evaluation {evaluation_id}" if attempt_id is None else f"attempt {attempt_id}"
        if amount < 0:
            wrong.append(f"{what} was released {-amount} more than was reserved for it")
        elif attempt in ended or (attempt is None and evaluation in over):
            wrong.append(f"{what} is over, and {amount} is still reserved for it")
    return wrong


def _sums(session: Session, where: ColumnElement[bool]) -> dict[str, int]:
    spent = case((Ledger.kind == LedgerKind.SPEND, Ledger.amount_minor), else_=0)
    row: Any = session.execute(select(func.sum(signed()), func.sum(spent)).where(where)).one()
    return {"reserved": int(row[0] or 0), "spent": int(row[1] or 0)}


def signed() -> ColumnElement[int]:
    """Return what a ledger row adds to what is reserved."""
    return case(
        (Ledger.kind == LedgerKind.RESERVE, Ledger.amount_minor),
        (Ledger.kind == LedgerKind.RELEASE, -Ledger.amount_minor),
        else_=0,
    )
