"""Settling the plain answers of a large batch together: a few statements for all, where each takes nine alone.

An answer is plain if its attempt still runs under its token, its evaluation runs, and its values are new. All
others are settled one by one in `db.experiments`, with the same result.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from flowscout.db.candidates import chunks, ensure_candidates
from flowscout.db.fastrows import insert_rows
from flowscout.db.models import Attempt, Evaluation, Ledger, Measurement, Oracle, utc_now
from flowscout.db.money import change, outstanding
from flowscout.db.recording import content_of, project, refuse_what_does_not_fit, take_seq
from flowscout.db.records import MeasurementRecord, Outcome
from flowscout.db.states import AttemptState, EvaluationState, LedgerKind, Qualifier
from flowscout.db.versions import Identity, identity_of


@dataclass(frozen=True)
class _Plain:
    """A plain answer, with what was reserved for it and the price that it is paid at."""

    outcome: Outcome
    campaign_id: int
    reserved: int
    cost: int


def settle_plain(session: Session, outcomes: Sequence[Outcome], *, actor: str) -> tuple[int, list[Outcome]]:
    """Settle the plain ones; return how many measurements were added, and the outcomes that are left.

    The caller holds the locks of campaigns, evaluations and attempts.
    """
    plain = _plain(session, outcomes)
    by_campaign: dict[int, list[_Plain]] = defaultdict(list)
    for one in plain:
        by_campaign[one.campaign_id].append(one)
    added = 0
    settled: set[int] = set()
    for campaign_id, answers in sorted(by_campaign.items()):
        known = _known(session, campaign_id, [r for one in answers for r in one.outcome.measurements])
        counts = Counter(identity_of(r) for one in answers for r in one.outcome.measurements)
        new = [
            one
            for one in answers
            if not any(identity_of(r) in known or counts[identity_of(r)] > 1 for r in one.outcome.measurements)
        ]
        if not new:
            continue
        _end(session, new)
        _pay(session, campaign_id, new, actor=actor)
        added += _record(session, campaign_id, new, actor=actor)
        settled |= {one.outcome.claim.attempt_id for one in new}
    return added, [one for one in outcomes if one.claim.attempt_id not in settled]


def _plain(session: Session, outcomes: Sequence[Outcome]) -> list[_Plain]:
    """Return the answers whose attempt and evaluation run as their owner left them."""
    times = Counter(one.claim.evaluation_id for one in outcomes)
    wanted = {
        one.claim.attempt_id: one
        for one in outcomes
        if one.failure is None
        and not one.unknown
        and one.pending_s is None
        and one.measurements
        and times[one.claim.evaluation_id] == 1
        and not any(record.qualifier is Qualifier.RETRACTED for record in one.measurements)
    }
    found = []
    for chunk in chunks(sorted(wanted)):
        query = (
            select(Attempt.id, Attempt.token, Evaluation.id, Evaluation.campaign_id, Oracle.unit_cost_minor)
            .join(Evaluation, Evaluation.id == Attempt.evaluation_id)
            .join(Oracle, Oracle.id == Evaluation.oracle_id)
            .where(Attempt.id.in_(chunk), Attempt.state == AttemptState.RUNNING)
            .where(Evaluation.state == EvaluationState.RUNNING)
        )
        reserved = outstanding(session, chunk)
        for number, token, evaluation_id, campaign_id, price in session.execute(query):
            one = wanted[number]
            cost = price if one.cost_minor is None else one.cost_minor
            held = reserved.get(number, 0)
            # A bill above what was reserved is logged by itself.
            if (token, evaluation_id) == (one.claim.token, one.claim.evaluation_id) and cost <= held:
                found.append(_Plain(one, campaign_id, held, cost))
    order = {one.claim.attempt_id: place for place, one in enumerate(outcomes)}
    return sorted(found, key=lambda one: order[one.outcome.claim.attempt_id])


def _known(session: Session, campaign_id: int, records: Sequence[MeasurementRecord]) -> set[Identity]:
    """Return which rows the history has already."""
    by_source: dict[str, set[str]] = defaultdict(set)
    for record in records:
        by_source[record.source].add(record.row_id)
    found: set[Identity] = set()
    for source, row_ids in by_source.items():
        for chunk in chunks(sorted(row_ids)):
            query = select(Measurement.source, Measurement.row_id, Measurement.property).where(
                Measurement.campaign_id == campaign_id,
                Measurement.source == source,
                Measurement.row_id.in_(chunk),
            )
            found |= {(*row,) for row in session.execute(query)}
    return found


def _end(session: Session, answers: Sequence[_Plain]) -> None:
    """Let attempts have succeeded and evaluations be done, each group of one price and message at once."""
    groups: dict[tuple[int, str | None], list[_Plain]] = defaultdict(list)
    for one in answers:
        groups[one.cost, one.outcome.message].append(one)
    for (cost, message), group in groups.items():
        for chunk in chunks(group):
            session.execute(
                update(Attempt)
                .where(Attempt.id.in_([one.outcome.claim.attempt_id for one in chunk]))
                .values(
                    state=AttemptState.SUCCEEDED,
                    cost_minor=cost,
                    message=message,
                    failure=None,
                    ended_at=utc_now(),
                )
                .execution_options(synchronize_session=False)
            )
    for chunk in chunks(answers):
        session.execute(
            update(Evaluation)
            .where(Evaluation.id.in_([one.outcome.claim.evaluation_id for one in chunk]))
            .values(state=EvaluationState.DONE)
            .execution_options(synchronize_session=False)
        )


def _pay(session: Session, campaign_id: int, answers: Sequence[_Plain], *, actor: str) -> None:
    """Turn what is reserved for the attempts into what was paid: one change of the balance, two rows for each."""
    rows = []
    for one in answers:
        amounts = ((LedgerKind.RELEASE, one.reserved), (LedgerKind.SPEND, one.cost))
        rows += [
            {
                "campaign_id": campaign_id,
                "evaluation_id": one.outcome.claim.evaluation_id,
                "attempt_id": one.outcome.claim.attempt_id,
                "kind": kind,
                "amount_minor": amount,
            }
            for kind, amount in amounts
            if amount
        ]
    released, spent = sum(one.reserved for one in answers), sum(one.cost for one in answers)
    if released or spent:
        change(session, campaign_id, reserved=-released, spent=spent, actor=actor)
    insert_rows(session, Ledger, rows)


def _record(session: Session, campaign_id: int, answers: Sequence[_Plain], *, actor: str) -> int:
    """Store the values, each with its `seq`, in the order of the outcomes."""
    records = [record for one in answers for record in one.outcome.measurements]
    refuse_what_does_not_fit(records)
    ids = ensure_candidates(session, campaign_id, [(r.key, r.object) for r in records])
    seq = take_seq(session, campaign_id, len(records))
    rows: list[dict[str, Any]] = []
    for one in answers:
        for record in one.outcome.measurements:
            rows.append(
                {
                    "campaign_id": campaign_id,
                    "seq": seq + len(rows),
                    "candidate_id": ids[record.key],
                    "evaluation_id": one.outcome.claim.evaluation_id,
                    "attempt_id": one.outcome.claim.attempt_id,
                    "actor": actor,
                    **content_of(record),
                }
            )
    insert_rows(session, Measurement, rows)
    project(session, campaign_id, sorted({ids[record.key] for record in records}))
    return len(rows)
