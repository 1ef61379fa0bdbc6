"""Answering: what an oracle says by itself of an evaluation that its idempotency key names, in any state.

It is the oracle that speaks, so its word settles the call, whoever made it. What a caller makes of an answer
belongs in `db.experiments`, what people tell in `db.measurements`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from flowscout.db.candidates import chunks, ensure_candidates
from flowscout.db.database import Database
from flowscout.db.events import EventKind, add_event
from flowscout.db.experiments import settle_one
from flowscout.db.expiry import apply_rulings, lock_rows, set_state
from flowscout.db.locks import lock_campaign
from flowscout.db.models import Attempt, Campaign, Candidate, Evaluation, Oracle, Round
from flowscout.db.money import handed_out_for, pay
from flowscout.db.queueing import idempotency_key
from flowscout.db.recording import insert_measurements, refuse_what_does_not_fit, says_so
from flowscout.db.records import AwaitedRecord, Claim, MeasurementRecord, OracleRecord, Outcome, Reply, Ruling
from flowscout.db.states import AttemptState, EvaluationState, RoundState, Verdict
from flowscout.db.versions import find_rows, identity_of
from flowscout.errors import NotFoundError


class Received(StrEnum):
    """What an answer changed: something, nothing, or that a person has to say which of two values counts."""

    RECORDED = "recorded"
    KNOWN = "known"
    CONFLICT = "conflict"


@dataclass(frozen=True)
class _Named:
    """An evaluation and whether a key is the one that its calls send now, or one that was given up."""

    row: AwaitedRecord
    current: bool


class Answers:
    """What is stored of answers that come by themselves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, campaign_id: int, keys: Collection[str], *, oracle: str) -> dict[str, AwaitedRecord]:
        """Return the evaluations of an oracle that keys name, by key; keys that name none are left out.

        A key that was given up when somebody said that its call never happened still names its evaluation.
        """
        with self._database.read() as session:
            return {key: found.row for key, found in _find(session, campaign_id, keys, oracle=oracle).items()}

    def waiting(self, campaign_id: int, *, oracle: str) -> list[AwaitedRecord]:
        """Return what an oracle is to measure: queued in a dispatched round, or called and not answered."""
        waits = (EvaluationState.QUEUED, EvaluationState.RUNNING)
        dispatched = Round.state.in_((RoundState.DISPATCHED, RoundState.COMPLETE))
        query = _rows(campaign_id, oracle).where(Evaluation.state.in_(waits), dispatched).order_by(Evaluation.id)
        with self._database.read() as session:
            return [_record(row) for row in session.execute(query)]

    def receive(self, campaign_id: int, replies: Sequence[Reply], *, oracle: str, actor: str) -> list[Received]:
        """Record what an oracle says, all of it or nothing; return what each reply changed, in their order.

        A value settles an evaluation that awaits it, its attempt and its money: the bill, else the oracle's price,
        is spent. Of what is settled, the same value changes nothing, another one is a conflict that a person
        settles. A failure ends a call that is under way or unknown; of any other it changes nothing.

        Raises:
            NotFoundError: a key names no evaluation of the oracle.
            LabelError: a value cannot be stored.
        """
        for reply in replies:
            refuse_what_does_not_fit(reply.measurements)
        keys = {reply.idempotency_key for reply in replies}
        with self._database.write() as session:
            lock_campaign(session, campaign_id)
            named = _find(session, campaign_id, keys, oracle=oracle)
            if len(named) < len(keys):
                raise NotFoundError(
                    f"key {min(keys - set(named))!r} names no evaluation of oracle {oracle!r}; nothing was "
                    "written. Send the key that came with the request."
                )
            ids = sorted({found.row.evaluation_id for found in named.values()})
            lock_rows(session, Evaluation, ids)
            lock_rows(session, Attempt, _running(session, ids))
            done = [_receive(session, named[reply.idempotency_key], reply, actor=actor) for reply in replies]
            added = sum(count for _, count in done)
            if added:
                detail = {"sources": [f"oracle:{oracle}"], "added": added, "corrected": 0}
                add_event(session, campaign_id, EventKind.VALUES_TOLD, actor=actor, detail=detail)
        return [word for word, _ in done]


def _receive(session: Session, named: _Named, reply: Reply, *, actor: str) -> tuple[Received, int]:
    """Record one reply; return what it changed and how many measurements were added."""
    evaluation = session.get_one(Evaluation, named.row.evaluation_id, populate_existing=True)
    attempt = _last_attempt(session, evaluation.id) if named.current else None
    contradicts = _contradicts(session, evaluation.campaign_id, reply.measurements)
    added, changed = 0, True
    if attempt is not None and attempt.state is AttemptState.RUNNING:
        added = settle_one(session, _outcome(named.row, attempt, reply), actor=actor)
    elif evaluation.state is EvaluationState.UNKNOWN and named.current:
        apply_rulings(session, evaluation.campaign_id, [_ruling(evaluation.id, reply)], actor=actor, strict=False)
        added = 0 if contradicts else len(reply.measurements)
    elif reply.failure is not None:
        changed = False  # nobody waits for it: what is queued is called again, what is done has its value
    else:
        added, changed = _late(session, evaluation, attempt, reply, actor=actor)
    if contradicts:
        return Received.CONFLICT, added
    return (Received.RECORDED if changed or added else Received.KNOWN), added


def _late(
    session: Session, evaluation: Evaluation, attempt: Attempt | None, reply: Reply, *, actor: str
) -> tuple[int, bool]:
    """Record a value that no call waits for; return how many were added, and whether it settled the evaluation.

    What it settles is paid for: what was reserved when it was handed out, or the price of the last call, which
    was given up. A call that has failed stays what it is.
    """
    given_up = attempt is not None and attempt.state is AttemptState.EXPIRED
    added = insert_measurements(
        session,
        evaluation.campaign_id,
        reply.measurements,
        actor=actor,
        evaluation_id=evaluation.id,
        attempt_id=attempt.id if attempt is not None and given_up else None,
        refuse_conflicts=False,
        settles=False,
    )
    if not set_state(session, evaluation.id, EvaluationState.DONE):
        return added, False
    price = session.get_one(Oracle, evaluation.oracle_id).unit_cost_minor
    cost = price if reply.cost_minor is None else reply.cost_minor
    if attempt is not None and given_up and not handed_out_for(session, [evaluation.id]):
        pay(session, evaluation, attempt.id, cost=cost, actor=actor)
        session.execute(
            update(Attempt)
            .where(Attempt.id == attempt.id)
            .values(state=AttemptState.SUCCEEDED, cost_minor=cost, message=reply.message)
        )
    else:
        pay(session, evaluation, None, cost=cost, actor=actor)
    return added, True


def _outcome(row: AwaitedRecord, attempt: Attempt, reply: Reply) -> Outcome:
    """Return a reply as the outcome of the attempt that is under way."""
    claim = Claim(
        attempt_id=attempt.id,
        evaluation_id=row.evaluation_id,
        candidate_id=row.candidate_id,
        number=attempt.number,
        token=attempt.token,
        object=row.object,
        idempotency_key=row.idempotency_key,
        replicate=row.replicate,
        fidelity=row.fidelity,
        version_id=row.version_id,
    )
    return Outcome(claim, reply.measurements, reply.failure, reply.message, reply.cost_minor)


def _ruling(evaluation_id: int, reply: Reply) -> Ruling:
    return Ruling(
        evaluation_id,
        Verdict.DONE,
        reply.measurements,
        failure=reply.failure,
        message=reply.message or "the oracle answered",
        cost_minor=reply.cost_minor,
    )


def _contradicts(session: Session, campaign_id: int, records: Sequence[MeasurementRecord]) -> bool:
    """Return whether a record says something else than what is stored of its row."""
    ids = ensure_candidates(session, campaign_id, [(record.key, record.object) for record in records])
    chains = find_rows(session, campaign_id, [(record.source, record.row_id) for record in records])
    return any(
        identity_of(record) in chains
        and not any(says_so(record, row, ids, conditions=False) for row in chains[identity_of(record)])
        for record in records
    )


def _running(session: Session, evaluation_ids: Sequence[int]) -> list[int]:
    """Return the attempts at evaluations that are under way."""
    found: list[int] = []
    for chunk in chunks(evaluation_ids):
        query = select(Attempt.id).where(Attempt.evaluation_id.in_(chunk), Attempt.state == AttemptState.RUNNING)
        found.extend(session.scalars(query))
    return found


def _last_attempt(session: Session, evaluation_id: int) -> Attempt | None:
    query = select(Attempt).where(Attempt.evaluation_id == evaluation_id).order_by(Attempt.number.desc()).limit(1)
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def _find(session: Session, campaign_id: int, keys: Collection[str], *, oracle: str) -> dict[str, _Named]:
    found: dict[str, _Named] = {}
    for chunk in chunks(sorted(keys)):
        query = _rows(campaign_id, oracle).where(Evaluation.idempotency_key.in_(chunk))
        for row in session.execute(query):
            found[row.idempotency_key] = _Named(_record(row), current=True)
    missing = set(keys) - set(found)
    return found | _given_up(session, campaign_id, missing, oracle=oracle) if missing else found


def _given_up(session: Session, campaign_id: int, keys: set[str], *, oracle: str) -> dict[str, _Named]:
    """Return the evaluations whose earlier calls had these keys, of which somebody said that they never happened.

    Such keys are not stored, but follow from what is; there are few.
    """
    uuid = session.scalars(select(Campaign.uuid).where(Campaign.id == campaign_id)).one()
    found: dict[str, _Named] = {}
    for row in session.execute(_rows(campaign_id, oracle).where(Evaluation.generation > 1)):
        called = OracleRecord(oracle, version=row.version, fidelity=row.fidelity)
        for generation in range(1, row.generation):
            key = idempotency_key(uuid, row.key, called, replicate=row.replicate, generation=generation)
            if key in keys:
                found[key] = _Named(_record(row), current=False)
    return found


def _rows(campaign_id: int, oracle: str) -> Select[Any]:
    return (
        select(
            Evaluation.idempotency_key,
            Evaluation.id.label("evaluation_id"),
            Evaluation.campaign_id,
            Evaluation.replicate,
            Evaluation.generation,
            Evaluation.state,
            Candidate.id.label("candidate_id"),
            Candidate.object,
            Candidate.key,
            Oracle.version,
            Oracle.fidelity,
            Round.config_version_id,
        )
        .join(Candidate, Candidate.id == Evaluation.candidate_id)
        .join(Oracle, Oracle.id == Evaluation.oracle_id)
        .outerjoin(Round, Round.id == Evaluation.round_id)
        .where(Evaluation.campaign_id == campaign_id, Oracle.name == oracle)
    )


def _record(row: Any) -> AwaitedRecord:
    return AwaitedRecord(
        idempotency_key=row.idempotency_key,
        evaluation_id=row.evaluation_id,
        campaign_id=row.campaign_id,
        candidate_id=row.candidate_id,
        object=row.object,
        replicate=row.replicate,
        fidelity=row.fidelity,
        state=row.state,
        version_id=row.config_version_id,
    )
