"""Experiments: claiming an evaluation before its oracle is called, and settling what came of it.

The attempt's row is committed before the call. Its token fences its state and the money; a value that a
stale owner brings is recorded all the same. How an attempt begins stands in `db.claims`, what becomes of calls
that were cut off in `db.expiry`.
"""

import logging
import uuid as uuids
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from flowscout.db import expiry
from flowscout.db.campaigns import add_event, lock_campaign
from flowscout.db.candidates import chunks
from flowscout.db.claims import begin_attempts, queued, renew_leases
from flowscout.db.database import Database
from flowscout.db.models import Attempt, Balance, Candidate, Evaluation, Oracle, Round, utc_now
from flowscout.db.money import hand_on, pay
from flowscout.db.recording import insert_measurements
from flowscout.db.records import Claim, Outcome, Ruling, UnknownRecord
from flowscout.db.settling import settle_plain
from flowscout.db.states import AttemptState, EvaluationState, RoundState
from flowscout.db.timings import ATTEMPT_LEASE_S
from flowscout.errors import StateError

logger = logging.getLogger(__name__)

ACCEPTED = "call-back"
"""The owner, with the oracle's name, of an attempt whose answer comes by itself."""

MOST_PENDING_S = 366 * 86400.0
"""How long an answer that comes by itself is waited for at most."""

_CALLED_FOR = (RoundState.DISPATCHED, RoundState.COMPLETE)
"""The rounds whose queued evaluations may be called; of a complete one, those that were reconciled since."""


class Experiments:
    """What is stored of evaluations and their attempts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self, round_id: int, *, owner: str, limit: int | None = None, lease_s: float = ATTEMPT_LEASE_S
    ) -> list[Claim]:
        """Begin an attempt at each queued evaluation of the round, in order, as far as limit and budget go.

        When this returns, the attempts are committed and the money is reserved: only then may an oracle be
        called. Several may claim at once; none gets what another has. Of a batch that waits for approval, or was
        not handed out yet, nobody gets anything.
        """
        query = queued().where(Evaluation.round_id == round_id, Round.state.in_(_CALLED_FOR))
        return self._claim(query, owner=owner, limit=limit, lease_s=lease_s)

    def claim_any(
        self,
        campaign_id: int,
        *,
        owner: str,
        limit: int | None = None,
        lease_s: float = ATTEMPT_LEASE_S,
        version_id: int | None = None,
    ) -> list[Claim]:
        """Begin attempts as `claim` does, at evaluations of any round that was dispatched, the oldest first.

        With `version_id`, of those rounds alone that began with this version of the campaign file.
        """
        query = queued().where(Evaluation.campaign_id == campaign_id, Round.state.in_(_CALLED_FOR))
        if version_id is not None:
            query = query.where(Round.config_version_id == version_id)
        return self._claim(query, owner=owner, limit=limit, lease_s=lease_s)

    def versions_queued(self, campaign_id: int) -> list[int]:
        """Return the versions of the campaign file whose rounds have something to be called, the oldest first."""
        query = (
            select(Round.config_version_id)
            .join(Evaluation, Evaluation.round_id == Round.id)
            .where(Evaluation.campaign_id == campaign_id, Evaluation.state == EvaluationState.QUEUED)
            .where(Round.state.in_(_CALLED_FOR))
            .group_by(Round.config_version_id)
            .order_by(func.min(Evaluation.id))
        )
        with self._database.read() as session:
            return list(session.scalars(query))

    def _claim(self, query: Select[Any], *, owner: str, limit: int | None, lease_s: float) -> list[Claim]:
        query = query.limit(limit)
        with self._database.read() as session:
            if session.execute(query.with_only_columns(Evaluation.id).limit(1)).first() is None:
                return []  # whoever asks again and again locks nobody out
        with self._database.write() as session:
            return begin_attempts(session, query, owner=owner, lease_s=lease_s)

    def renew(self, claims: Sequence[Claim], *, lease_s: float = ATTEMPT_LEASE_S) -> list[Claim]:
        """Put off the end of attempts' leases, by the database's clock; return the claims that are lost.

        A lost one has ended, or has become another owner's. Where the database does not answer, none is known
        to be lost. A lease of 0 s gives the attempts up.
        """
        try:
            with self._database.write() as session:
                held = renew_leases(session, claims, lease_s=lease_s)
        except SQLAlchemyError as error:
            logger.warning("the leases of %d attempts could not be renewed: %s", len(claims), error)
            return []
        return [claim for claim in claims if claim.attempt_id not in held]

    def give_up(self, campaign_id: int, *, owner: str, but: Collection[int]) -> int:
        """Let an owner's attempts end that it does not know of: claims whose commit it never heard of.

        `but` are the ids of those it holds. Returns how many; `recover` then ends them.
        """
        query = (
            select(Attempt.id)
            .join(Evaluation, Evaluation.id == Attempt.evaluation_id)
            .where(Evaluation.campaign_id == campaign_id)
            .where(Attempt.owner == owner, Attempt.state == AttemptState.RUNNING)
        )
        with self._database.write() as session:
            lock_campaign(session, campaign_id)
            unknown = [number for number in session.scalars(query) if number not in but]
            expiry.lock_rows(session, Attempt, unknown)
            for chunk in chunks(unknown):
                session.execute(update(Attempt).where(Attempt.id.in_(chunk)).values(lease_until=utc_now()))
        return len(unknown)

    def settle(self, outcomes: Sequence[Outcome], *, actor: str) -> int:
        """Record what came of attempts, in one transaction; return how many measurements were added.

        An attempt that is no longer this owner's changes no state and no money; its values are recorded.
        """
        evaluations = sorted({outcome.claim.evaluation_id for outcome in outcomes})
        with self._database.write() as session:
            for campaign_id in _campaigns_of(session, evaluations):
                lock_campaign(session, campaign_id)
            expiry.lock_rows(session, Evaluation, evaluations)
            expiry.lock_rows(session, Attempt, [outcome.claim.attempt_id for outcome in outcomes])
            added, left = settle_plain(session, outcomes, actor=actor)
            for outcome in left:
                added += settle_one(session, outcome, actor=actor)
        return added

    def recover(self, campaign_id: int, *, actor: str) -> dict[str, int]:
        """End the attempts whose owner is dead or whose lease has run out; return what became of them.

        An idempotent oracle may be called again with the same key, so the evaluation is queued; for any
        other, nobody can say whether it acted, so it becomes unknown and its money stays reserved.
        """
        with self._database.read() as session:
            if not expiry.any_over(session, campaign_id):
                return {"queued": 0, "unknown": 0}
        with self._database.write() as session:
            return expiry.end_attempts(session, campaign_id, actor=actor)

    def unknown(self, campaign_id: int) -> list[UnknownRecord]:
        """Return the calls of which nobody can say whether they happened, in the order they were queued."""
        with self._database.read() as session:
            return expiry.unknown_calls(session, campaign_id)

    def reconcile(
        self, campaign_id: int, rulings: Sequence[Ruling], *, actor: str, strict: bool = True
    ) -> list[int]:
        """Settle unknown evaluations by what has become known of them; return the ids of those settled.

        All of them or none; those that are not unknown any more are passed over where not `strict`.

        Raises:
            StateError: an evaluation is not unknown, or has been called again since.
            LabelError: a value contradicts one of the same call that is stored.
        """
        with self._database.write() as session:
            return expiry.apply_rulings(session, campaign_id, rulings, actor=actor, strict=strict)

    def requeue_failed(self, round_id: int) -> int:
        """Queue the failed evaluations of a round again; return how many."""
        with self._database.write() as session:
            _lock_round(session, round_id)
            return requeue(session, round_id)

    def cancel_queued(self, round_id: int, *, actor: str) -> int:
        """Cancel what is queued in a round and the budget does not reach; return how many.

        Their candidates may be proposed again by a later round.
        """
        with self._database.write() as session:
            _lock_round(session, round_id)
            query = queued().where(Evaluation.round_id == round_id)
            rows = session.execute(query.with_for_update(of=Evaluation, key_share=True)).all()
            cancelled = [row for row, _, oracle, _ in rows if not _affordable(session, row, oracle)]
            for row in cancelled:
                row.state = EvaluationState.CANCELLED
                detail = {"evaluation_id": row.id, "reason": "budget"}
                add_event(session, row.campaign_id, "evaluation_cancelled", actor=actor, detail=detail)
            return len(cancelled)

    def cancel(self, campaign_id: int, objects: Mapping[str, str], *, reason: str, actor: str) -> int:
        """Cancel the queued evaluations of `objects`, texts by key, all or none; return how many are new.

        Replicates that were begun or are over stay what they are. Their candidates may be proposed again by a
        later round: a veto is for those that may not.

        Raises:
            StateError: an object awaits no measurement, or all of its measurements have begun or are over.
        """
        with self._database.write() as session:
            lock_campaign(session, campaign_id)
            query = (
                select(Candidate.key, Evaluation)
                .join(Candidate, Candidate.id == Evaluation.candidate_id)
                .where(Candidate.campaign_id == campaign_id)
                .order_by(Evaluation.id)
                .with_for_update(of=Evaluation, key_share=True)
            )
            found: dict[str, list[Evaluation]] = {key: [] for key in objects}
            for chunk in chunks(objects):  # all of them are locked before the balance
                for key, row in session.execute(query.where(Candidate.key.in_(chunk))):
                    found[key].append(row)
            for key, text in objects.items():
                _refuse_to_cancel(found[key], text)
            waiting = [row for rows in found.values() for row in rows if row.state is EvaluationState.QUEUED]
            for row in waiting:
                row.state = EvaluationState.CANCELLED
                hand_on(session, row, None)
                detail = {"evaluation_id": row.id, "reason": reason}
                add_event(session, campaign_id, "evaluation_cancelled", actor=actor, detail=detail)
            return len(waiting)

    def affordable(self, campaign_id: int, cost_minor: int) -> bool:
        """Return whether the balance reaches for one more call at this price."""
        with self._database.read() as session:
            return _reaches(session, campaign_id, cost_minor)

    def counts(self, campaign_id: int, *, round_id: int | None = None) -> dict[EvaluationState, int]:
        """Return how many evaluations stand in each state."""
        query = select(Evaluation.state, func.count()).where(Evaluation.campaign_id == campaign_id)
        if round_id is not None:
            query = query.where(Evaluation.round_id == round_id)
        with self._database.read() as session:
            return {state: count for state, count in session.execute(query.group_by(Evaluation.state))}

    def accepted(self, round_id: int) -> int:
        """Return how many calls of a round were accepted: their answers come by themselves, nobody waits."""
        query = (
            select(func.count())
            .select_from(Attempt)
            .join(Evaluation, Evaluation.id == Attempt.evaluation_id)
            .where(Evaluation.round_id == round_id, Attempt.state == AttemptState.RUNNING)
            .where(Attempt.owner.like(f"{ACCEPTED}:%"))
        )
        with self._database.read() as session:
            return session.scalar(query) or 0

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


def _campaigns_of(session: Session, evaluation_ids: Sequence[int]) -> list[int]:
    """Return the campaigns of evaluations, in order."""
    found: set[int] = set()
    for chunk in chunks(evaluation_ids):
        found |= set(session.scalars(select(Evaluation.campaign_id).where(Evaluation.id.in_(chunk)).distinct()))
    return sorted(found)


def _lock_round(session: Session, round_id: int) -> None:
    lock_campaign(session, session.scalars(select(Round.campaign_id).where(Round.id == round_id)).one())


def requeue(session: Session, round_id: int) -> int:
    """Queue the failed evaluations of a round again, under the lock of its campaign; return how many."""
    changed = session.execute(
        update(Evaluation)
        .where(Evaluation.round_id == round_id, Evaluation.state == EvaluationState.FAILED)
        .values(state=EvaluationState.QUEUED)
    )
    return int(changed.rowcount)  # type: ignore[attr-defined]


def settle_one(session: Session, outcome: Outcome, *, actor: str) -> int:
    """Record what came of one attempt; return how many measurements were added.

    The caller holds the locks of campaign, evaluation and attempt.
    """
    claim = outcome.claim
    evaluation = session.get_one(Evaluation, claim.evaluation_id)
    if outcome.pending_s is not None:
        _let_wait(session, outcome, evaluation.oracle_id)
        return 0
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
        expiry.leave_unknown(session, evaluation, claim.attempt_id, actor=actor)
    else:
        pay(session, evaluation, claim.attempt_id, cost=cost, actor=actor)
        after = EvaluationState.DONE if succeeded else expiry.after_failure(session, evaluation, outcome.failure)
        expiry.set_state(session, evaluation.id, after)
    return insert_measurements(
        session,
        evaluation.campaign_id,
        outcome.measurements,
        actor=actor,
        evaluation_id=evaluation.id,
        attempt_id=claim.attempt_id,
        refuse_conflicts=False,
        settles=not fenced_out,
    )


def _let_wait(session: Session, outcome: Outcome, oracle_id: int) -> None:
    """Hand an attempt to nobody's process until its answer is due: the end of its caller does not end it.

    A token of its own keeps the caller, who may be renewing its leases just now, from shortening the wait. An
    answer that was faster than the caller has ended the attempt: nothing changes then.
    """
    assert outcome.pending_s is not None
    until = session.scalars(select(utc_now())).one() + timedelta(seconds=min(outcome.pending_s, MOST_PENDING_S))
    oracle = session.get_one(Oracle, oracle_id)
    session.execute(
        update(Attempt)
        .where(
            Attempt.id == outcome.claim.attempt_id,
            Attempt.token == outcome.claim.token,
            Attempt.state == AttemptState.RUNNING,
        )
        .values(
            owner=f"{ACCEPTED}:{oracle.name}"[:300],
            token=str(uuids.uuid4()),
            lease_until=until,
            message=outcome.message,
        )
    )


def _ended(outcome: Outcome) -> AttemptState:
    if outcome.unknown:
        return AttemptState.EXPIRED
    return AttemptState.SUCCEEDED if outcome.failure is None else AttemptState.FAILED


def _affordable(session: Session, evaluation: Evaluation, oracle: Oracle) -> bool:
    return _reaches(session, evaluation.campaign_id, oracle.unit_cost_minor)


def _reaches(session: Session, campaign_id: int, cost_minor: int) -> bool:
    query = select(Balance.limit_minor, Balance.reserved_minor + Balance.spent_minor)
    limit, committed = session.execute(query.where(Balance.campaign_id == campaign_id)).one()
    return limit is None or bool(committed + cost_minor <= limit)


def _refuse_to_cancel(found: Sequence[Evaluation], text: str) -> None:
    if not found:
        raise StateError(
            f"{text!r} awaits no measurement, expected an object that is queued; nothing was written. "
            "`flowscout ask` and `flowscout status` tell what waits."
        )
    begun = [row for row in found if row.state not in (EvaluationState.QUEUED, EvaluationState.CANCELLED)]
    if begun and not any(row.state is EvaluationState.QUEUED for row in found):
        state = begun[0].state
        advice = {
            EvaluationState.RUNNING: "Its oracle is being called and may act: wait for the result.",
            EvaluationState.UNKNOWN: "Settle it with `flowscout reconcile`.",
        }.get(state, "Leave it out.")
        raise StateError(
            f"the measurement of {text!r} is {state}, expected queued: only what nobody has begun to measure can "
            f"be cancelled; nothing was written. {advice}"
        )
