"""Claims: attempts that begin, and the leases by which they are held.

An attempt's row is committed before its oracle is called. What comes of it belongs in `db.experiments`.

On PostgreSQL rows are locked in one order: campaign, evaluations, attempts, balance, each by id. A claim
leaves out the campaign and passes over evaluations that others hold, so that workers do not wait for it.
"""

import uuid as uuids
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from flowscout.db.campaigns import add_event
from flowscout.db.candidates import chunks
from flowscout.db.expiry import lock_rows
from flowscout.db.models import Attempt, Candidate, Evaluation, Oracle, Round, utc_now
from flowscout.db.money import book, reserve
from flowscout.db.records import Claim
from flowscout.db.states import AttemptState, EvaluationState, LedgerKind


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
    rows = session.execute(query.with_for_update(of=Evaluation, key_share=True, skip_locked=True)).all()
    if not rows:
        return []
    rows = rows[: _reserve_for(session, rows, owner=owner)]
    numbers = _numbers(session, [evaluation.id for evaluation, *_ in rows])
    until = session.scalars(select(utc_now())).one() + timedelta(seconds=lease_s)
    attempts = [
        Attempt(
            evaluation_id=evaluation.id,
            number=numbers.get(evaluation.id, 0) + 1,
            owner=owner,
            token=str(uuids.uuid4()),
            lease_until=until,
        )
        for evaluation, *_ in rows
    ]
    session.add_all(attempts)
    session.flush()
    for attempt, (evaluation, _, oracle, _) in zip(attempts, rows, strict=True):
        evaluation.state = EvaluationState.RUNNING  # it was queued, under our lock
        book(session, evaluation, attempt.id, LedgerKind.RESERVE, oracle.unit_cost_minor)
    return [_claim(attempt, *row) for attempt, row in zip(attempts, rows, strict=True)]


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
    """Reserve the prices of rows of `queued`, in order, as far as the budget goes; return of how many.

    Where it ends among them, the log says so; not at every later try.
    """
    campaign_id, costs = rows[0][0].campaign_id, [oracle.unit_cost_minor for _, _, oracle, _ in rows]
    count = reserve(session, campaign_id, costs)
    if 0 < count < len(rows):
        first = rows[count][0]
        detail = {"evaluation_id": first.id, "cost_minor": costs[count]}
        add_event(session, campaign_id, "budget_exhausted", actor=owner, round_id=first.round_id, detail=detail)
    return count


def _numbers(session: Session, evaluation_ids: Sequence[int]) -> dict[int, int]:
    """Return the number of the last attempt at each evaluation that was attempted before."""
    found: dict[int, int] = {}
    for chunk in chunks(evaluation_ids):
        query = select(Attempt.evaluation_id, func.max(Attempt.number)).where(Attempt.evaluation_id.in_(chunk))
        found.update({number: last for number, last in session.execute(query.group_by(Attempt.evaluation_id))})
    return found


def _claim(
    attempt: Attempt, evaluation: Evaluation, candidate: Candidate, oracle: Oracle, version_id: int | None
) -> Claim:
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
        version_id=version_id,
    )
