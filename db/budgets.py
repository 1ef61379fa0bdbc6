"""Budgets: what a person sees and sets of a campaign's money.

What changes the balance belongs in `db.money`.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from flowscout.db.campaigns import hold_lease
from flowscout.db.database import Database
from flowscout.db.events import EventKind, add_event
from flowscout.db.locks import lock_campaign
from flowscout.db.models import Balance, Evaluation, Ledger, Oracle, Round
from flowscout.db.money import audit, hand_out, watch
from flowscout.db.records import Lease
from flowscout.db.states import EvaluationState, LedgerKind
from flowscout.errors import ConfigError


@dataclass(frozen=True)
class BudgetRow:
    """What one oracle has cost in one round (None: in none), and what is reserved for it."""

    round: int | None
    oracle: str | None
    paid: int
    spent_minor: int
    reserved_minor: int


@dataclass(frozen=True)
class BudgetRecord:
    """A campaign's money in minor units; `limit_minor` is None where there is no limit."""

    currency: str
    limit_minor: int | None
    reserved_minor: int
    spent_minor: int
    rows: tuple[BudgetRow, ...]

    @property
    def overspent(self) -> bool:
        """Whether more is committed than the limit allows, so that nothing is dispatched."""
        return self.limit_minor is not None and self.reserved_minor + self.spent_minor > self.limit_minor


class Budgets:
    """What is stored of money."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, campaign_id: int) -> BudgetRecord:
        """Return the balance, and from the ledger what each oracle has cost in each round."""
        with self._database.read() as session:
            balance = session.scalars(select(Balance).where(Balance.campaign_id == campaign_id)).one()
            return BudgetRecord(
                currency=balance.currency,
                limit_minor=balance.limit_minor,
                reserved_minor=balance.reserved_minor,
                spent_minor=balance.spent_minor,
                rows=tuple(_rows(session, campaign_id)),
            )

    def set_limit(self, campaign_id: int, limit_minor: int | None, *, reason: str, actor: str) -> None:
        """Raise or lower the limit (None: there is none); it holds until the campaign file says another one.

        Raises:
            ConfigError: more than that is committed already.
        """
        with self._database.write() as session:
            lock_campaign(session, campaign_id)
            balance = session.scalars(
                select(Balance).where(Balance.campaign_id == campaign_id).with_for_update()
            ).one()
            committed = balance.reserved_minor + balance.spent_minor
            if limit_minor is not None and limit_minor < committed:
                raise ConfigError(
                    f"a limit of {limit_minor / 100:.2f} came, expected at least {committed / 100:.2f}, which is "
                    f"spent or reserved already; set {committed / 100:.2f} to have nothing more dispatched."
                )
            detail = {
                "limit_minor": limit_minor,
                "was_minor": balance.limit_minor,
                "by": "person",
                "reason": reason,
            }
            balance.limit_minor = limit_minor
            add_event(session, campaign_id, EventKind.BUDGET_SET, actor=actor, detail=detail)
            watch(session, campaign_id, limit=limit_minor, before=-1, after=committed, actor=actor)

    def hand_out(self, lease: Lease, round_id: int) -> int:
        """Reserve the prices of a round's queued evaluations, which people will make; return of how many.

        Those that the budget does not reach are cancelled. Again, it changes nothing.

        Raises:
            LeaseLostError: another process has taken the campaign over.
        """
        with self._database.write() as session:
            hold_lease(session, lease)
            return hand_out_round(session, round_id, actor=lease.owner)

    def free(self, campaign_id: int) -> int | None:
        """Return what may still be reserved or spent, below 0 where more is committed; None without a limit."""
        query = select(Balance.limit_minor - Balance.reserved_minor - Balance.spent_minor)
        with self._database.read() as session:
            return session.scalars(query.where(Balance.campaign_id == campaign_id)).one()

    def audit(self, campaign_id: int) -> list[str]:
        """Return every way in which balance, ledger and calls do not agree; none is as it should be."""
        with self._database.read() as session:
            return audit(session, campaign_id)


def hand_out_round(session: Session, round_id: int, *, actor: str) -> int:
    """Reserve the prices of a round's queued evaluations as far as the limit reaches; return of how many.

    Part of a transaction that holds the campaign's lease.
    """
    query = (
        select(Evaluation, Oracle.unit_cost_minor)
        .join(Oracle, Oracle.id == Evaluation.oracle_id)
        .where(Evaluation.round_id == round_id, Evaluation.state == EvaluationState.QUEUED)
        .order_by(Evaluation.id)
        .with_for_update(of=Evaluation, key_share=True)
    )
    rows = [(evaluation, cost) for evaluation, cost in session.execute(query).all()]
    beyond = hand_out(session, rows, actor=actor)
    for place, (evaluation, cost) in enumerate(beyond):
        evaluation.state = EvaluationState.CANCELLED
        detail = {"evaluation_id": evaluation.id, "reason": "budget"}
        if place == 0:
            first: dict[str, object] = {"evaluation_id": evaluation.id, "cost_minor": cost}
            _log(session, evaluation, EventKind.BUDGET_EXHAUSTED, actor=actor, detail=first)
        _log(session, evaluation, EventKind.EVALUATION_CANCELLED, actor=actor, detail=detail)
    return len(rows) - len(beyond)


def _log(
    session: Session, evaluation: Evaluation, kind: EventKind, *, actor: str, detail: dict[str, object]
) -> None:
    add_event(session, evaluation.campaign_id, kind, actor=actor, round_id=evaluation.round_id, detail=detail)


def _rows(session: Session, campaign_id: int) -> list[BudgetRow]:
    def total(kind: LedgerKind) -> Any:
        return func.sum(case((Ledger.kind == kind, Ledger.amount_minor), else_=0))

    spends = func.sum(case((Ledger.kind == LedgerKind.SPEND, 1), else_=0))
    query = (
        select(
            Round.number,
            Oracle.name,
            spends,
            total(LedgerKind.SPEND),
            total(LedgerKind.RESERVE),
            total(LedgerKind.RELEASE),
        )
        .select_from(Ledger)
        .outerjoin(Evaluation, Evaluation.id == Ledger.evaluation_id)
        .outerjoin(Round, Round.id == Evaluation.round_id)
        .outerjoin(Oracle, Oracle.id == Evaluation.oracle_id)
        .where(Ledger.campaign_id == campaign_id)
        .group_by(Round.number, Oracle.name)
        .order_by(Round.number, Oracle.name)
    )
    return [
        BudgetRow(number, name, int(paid), int(spent), int(reserved) - int(released))
        for number, name, paid, spent, reserved, released in session.execute(query)
    ]
