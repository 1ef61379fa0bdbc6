"""Queueing: which evaluations a batch gives rise to, and the key that each call of theirs sends."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from flowscout.db.candidates import chunks
from flowscout.db.events import add_event
from flowscout.db.fastrows import insert_rows
from flowscout.db.models import Campaign, Candidate, Evaluation, Oracle
from flowscout.db.records import OracleRecord, ProposalRecord, RoundRecord
from flowscout.db.states import EvaluationState
from flowscout.db.versions import stands_for_a_value
from flowscout.errors import StateError


def idempotency_key(campaign_uuid: str, key: str, oracle: OracleRecord, *, replicate: int, generation: int) -> str:
    """Return the key that every attempt at an evaluation sends: a hash of what makes it this evaluation."""
    parts = [campaign_uuid, key, oracle.name, oracle.version, oracle.fidelity, replicate, generation]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def key_of(session: Session, evaluation: Evaluation) -> str:
    """Return the key that an evaluation's attempts send, by its replicate and generation."""
    uuid = session.scalars(select(Campaign.uuid).where(Campaign.id == evaluation.campaign_id)).one()
    key = session.scalars(select(Candidate.key).where(Candidate.id == evaluation.candidate_id)).one()
    oracle = session.get_one(Oracle, evaluation.oracle_id)
    called = OracleRecord(oracle.name, version=oracle.version, fidelity=oracle.fidelity)
    return idempotency_key(uuid, key, called, replicate=evaluation.replicate, generation=evaluation.generation)


def queue_evaluations(
    session: Session,
    record: RoundRecord,
    selected: Sequence[ProposalRecord],
    ids: dict[str, int],
    oracle: OracleRecord,
    *,
    replicates: int = 1,
) -> None:
    """Queue so many evaluations of each selected proposal; `ids` are those of the candidates by key.

    Those that were cancelled in an earlier round are queued again first.

    Raises:
        StateError: a candidate was given to this oracle for evaluation before.
    """
    oracle_id = ensure_oracle(session, record.campaign_id, oracle)
    candidate_ids = [ids[proposal.key] for proposal in selected]
    again, known = _evaluated_before(session, record.campaign_id, candidate_ids, oracle_id)
    uuid = session.scalars(select(Campaign.uuid).where(Campaign.id == record.campaign_id)).one()
    rows: list[dict[str, Any]] = []
    for proposal in selected:
        number = ids[proposal.key]
        cancelled = again.get(number, [])[:replicates]
        for evaluation in cancelled:
            _queue_again(session, record, evaluation)
        first = 1 + known.get(number, 0)
        for replicate in range(first, first + replicates - len(cancelled)):
            key = idempotency_key(uuid, proposal.key, oracle, replicate=replicate, generation=1)
            rows.append(
                {
                    "campaign_id": record.campaign_id,
                    "round_id": record.id,
                    "candidate_id": number,
                    "oracle_id": oracle_id,
                    "replicate": replicate,
                    "generation": 1,
                    "idempotency_key": key,
                    "state": EvaluationState.QUEUED,
                }
            )
    insert_rows(session, Evaluation, rows)  # in their order: evaluation ids follow the ranks


def _evaluated_before(
    session: Session, campaign_id: int, candidate_ids: Sequence[int], oracle_id: int
) -> tuple[dict[int, list[Evaluation]], dict[int, int]]:
    """Return the cancelled evaluations of candidates, which an earlier round had selected, by candidate.

    Beside it how often each was given to the oracle: one whose values were all retracted is given again.

    Raises:
        StateError: another is neither cancelled nor without a value that counts.
    """
    cancelled: dict[int, list[Evaluation]] = {}
    replicates: dict[int, int] = {}
    for chunk in chunks(candidate_ids):
        query = select(Evaluation, Candidate.object, stands_for_a_value(campaign_id))
        query = query.join(Candidate, Candidate.id == Evaluation.candidate_id)
        query = query.where(Evaluation.candidate_id.in_(chunk), Evaluation.oracle_id == oracle_id)
        rows = session.execute(query.order_by(Candidate.id, Evaluation.replicate)).all()
        again = EvaluationState.CANCELLED
        evaluated = [text for row, text, counts in rows if counts and row.state is not again]
        if evaluated:
            raise StateError(
                f"{len(evaluated)} of the selected candidates, {evaluated[0]!r} the first, were given to this "
                "oracle for evaluation in an earlier round; propose others (`known_keys` lists these)."
            )
        for row, *_ in rows:
            if row.state is again:
                cancelled.setdefault(row.candidate_id, []).append(row)
        replicates.update({row.candidate_id: row.replicate for row, *_ in rows})
    return cancelled, replicates


def _queue_again(session: Session, record: RoundRecord, evaluation: Evaluation) -> None:
    """Let an evaluation that was cancelled before anybody was called belong to a later round."""
    detail = {"evaluation_id": evaluation.id, "from_round_id": evaluation.round_id}
    evaluation.round_id, evaluation.state = record.id, EvaluationState.QUEUED
    add_event(
        session, record.campaign_id, "evaluation_requeued", actor="proposer", round_id=record.id, detail=detail
    )


def ensure_oracle(session: Session, campaign_id: int, oracle: OracleRecord) -> int:
    """Return the id of an oracle, making its row if it was never called."""
    row = session.scalar(
        select(Oracle).where(
            Oracle.campaign_id == campaign_id,
            Oracle.name == oracle.name,
            Oracle.version == oracle.version,
            Oracle.fidelity == oracle.fidelity,
        )
    )
    if row is None:
        row = Oracle(campaign_id=campaign_id, name=oracle.name, version=oracle.version, fidelity=oracle.fidelity)
        session.add(row)
    row.unit_cost_minor = oracle.unit_cost_minor
    row.idempotent, row.lookup = oracle.idempotent, oracle.lookup
    session.flush()
    return row.id
