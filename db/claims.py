"""Claims: attempts that begin, and the leases by which they are held.

An attempt's row is committed before its oracle is called. What comes of it belongs in `db.experiments`.

On PostgreSQL rows are locked in one order: campaign, evaluations, attempts, balance, each by id. A claim
leaves out the campaign and passes over evaluations that others hold, so that workers do not wait for it.
"""

import uuid as uuids
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from flowscout.db.candidates import chunks
from flowscout.db.events import add_event
from flowscout.db.expiry import lock_rows
from flowscout.db.fastrows import insert_rows
from flowscout.db.models import Attempt, Candidate, Evaluation, Ledger, Oracle, Round, utc_now
from flowscout.db.money import reserve
from flowscout.db.records import Claim
from flowscout.db.states import AttemptState, EvaluationState, LedgerKind

_COLUMNS = (
    Evaluation.id.label("evaluation_id"),
    Evaluation.campaign_id,
    Evaluation.round_id,
    Evaluation.idempotency_key,
    Evaluation.replicate,
    Candidate.id.label("candidate_id"),
    Candidate.object,
    Oracle.unit_cost_minor,
    Oracle.fidelity,
    Round.config_version_id,
)


def queued() -> Select[Any]:
    """Return the query of queued evaluations with candidate, oracle and the version of the file of their round."""
    return (
        select(Evaluation, Candidate, Oracle, Round.config_version_id)
        .join(Candidate, Candidate.id == Evaluation.candidate_id)
        .join(Oracle, Oracle.id == Evaluation.oracle_id)
        .outerjoin(Round, Round.id == Evaluation.round_id)
        .where(Evaluation.state == EvaluationState.QUEUED)
        .order_by(Evaluation.id)
    )


def begin_attempts(session: Session, query: Select[Any], *, owner: str, lease_s: float) -> list[Claim]:
    """Begin an attempt at each evaluation of a query that nobody else holds, as far as the budget goes."""
    query = query.with_only_columns(*_COLUMNS)  # columns, not objects: of these a large batch has too many
    rows = session.execute(query.with_for_update(of=Evaluation, key_share=True, skip_locked=True)).all()
    if not rows:
        return []
    rows = rows[: _reserve_for(session, rows, owner=owner)]
    numbers = _numbers(session, [row.evaluation_id for row in rows])
    until = session.scalars(select(utc_now())).one() + timedelta(seconds=lease_s)
    attempts = [
        {
            "evaluation_id": row.evaluation_id,
            "number": numbers.get(row.evaluation_id, 0) + 1,
            "state": AttemptState.RUNNING,
            "owner": owner,
            "token": str(uuids.uuid4()),
            "lease_until": until,
        }
        for row in rows
    ]
    insert_rows(session, Attempt, attempts)
    ids = _start(session, [row.evaluation_id for row in rows])
    claims = [_claim(ids[row.evaluation_id], one, row) for one, row in zip(attempts, rows, strict=True)]
    reserved = [
        {
            "campaign_id": row.campaign_id,
            "evaluation_id": row.evaluation_id,
            "attempt_id": ids[row.evaluation_id],
            "kind": LedgerKind.RESERVE,
            "amount_minor": row.unit_cost_minor,
        }
        for row in rows
        if row.unit_cost_minor
    ]
    insert_rows(session, Ledger, reserved)
    return claims


def _start(session: Session, evaluation_ids: Sequence[int]) -> dict[int, int]:
    """Let evaluations run that were queued, under our lock; return the id of the attempt at each."""
    found: dict[int, int] = {}
    for chunk in chunks(evaluation_ids):
        session.execute(
            update(Evaluation)
            .where(Evaluation.id.in_(chunk))
            .values(state=EvaluationState.RUNNING)
            .execution_options(synchronize_session=False)
        )
        query = select(Attempt.evaluation_id, Attempt.id).where(Attempt.evaluation_id.in_(chunk))
        found.update((*row,) for row in session.execute(query.where(Attempt.state == AttemptState.RUNNING)))
    return found


def renew_leases(session: Session, claims: Sequence[Claim], *, lease_s: float) -> set[int]:
    """Put off the end of attempts' leases; return the ids of the attempts that are still held."""
    tokens = {claim.attempt_id: claim.token for claim in claims}
    held: set[int] = set()
    until = session.scalars(select(utc_now())).one() + timedelta(seconds=lease_s)
    for chunk in chunks(sorted(tokens)):
        lock_rows(session, Attempt, chunk)
        renewed = session.execute(
            update(Attempt)
            .where(Attempt.id.in_(chunk), Attempt.token.in_([tokens[number] for number in chunk]))
            .where(Attempt.state == AttemptState.RUNNING)
            .values(lease_until=until)
            .returning(Attempt.id)
            .execution_options(synchronize_session=False)
        )
        held |= set(renewed.scalars())
    return held


def _reserve_for(session: Session, rows: Sequence[Any], *, owner: str) -> int:
    """Reserve the prices of queued evaluations, in order, as far as the budget goes; return of how many.

    Where it ends among them, the log says so; not at every later try.
    """
    campaign_id, costs = rows[0].campaign_id, [row.unit_cost_minor for row in rows]
    count = reserve(session, campaign_id, costs, actor=owner)
    if 0 < count < len(rows):
        first = rows[count]
        detail = {"evaluation_id": first.evaluation_id, "cost_minor": costs[count]}
        add_event(session, campaign_id, "budget_exhausted", actor=owner, round_id=first.round_id, detail=detail)
    return count


def _numbers(session: Session, evaluation_ids: Sequence[int]) -> dict[int, int]:
    """Return the number of the last attempt at each evaluation that was attempted before."""
    found: dict[int, int] = {}
    for chunk in chunks(evaluation_ids):
        query = select(Attempt.evaluation_id, func.max(Attempt.number)).where(Attempt.evaluation_id.in_(chunk))
        found.update({number: last for number, last in session.execute(query.group_by(Attempt.evaluation_id))})
    return found


def _claim(attempt_id: int, attempt: Mapping[str, Any], row: Any) -> Claim:
    return Claim(
        attempt_id=attempt_id,
        evaluation_id=row.evaluation_id,
        candidate_id=row.candidate_id,
        number=attempt["number"],
        token=attempt["token"],
        object=row.object,
        idempotency_key=row.idempotency_key,
        replicate=row.replicate,
        fidelity=row.fidelity,
        version_id=row.config_version_id,
    )
