"""Queueing: which evaluations a batch gives rise to, and the key that each call of theirs sends."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from flowscout.db.campaigns import add_event
from flowscout.db.candidates import chunks
from flowscout.db.fastrows import insert_rows
from flowscout.db.models import Campaign, Candidate, Evaluation, Oracle
from flowscout.db.records import OracleRecord, ProposalRecord, RoundRecord
from flowscout.db.states import EvaluationState
from flowscout.errors import StateError


def idempotency_key(campaign_uuid: str, key: str, oracle: OracleRecord, *, replicate: int, generation: int) -> str:
    """Return the key that every attempt at an evaluation sends: a hash of what makes it this evaluation."""
    parts = [campaign_uuid, key, oracle.name, oracle.version, oracle.fidelity, replicate, generation]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def queue_evaluations(
    session: Session,
    record: RoundRecord,
    selected: Sequence[ProposalRecord],
    ids: dict[str, int],
    oracle: OracleRecord,
) -> None:
    """Queue an evaluation of each selected proposal; `ids` are those of the candidates by key.

    Raises:
        StateError: a candidate was given to this oracle for evaluation before.
    """
    oracle_id = ensure_oracle(session, record.campaign_id, oracle)
    again = _cancelled_before(session, [ids[proposal.key] for proposal in selected], oracle_id)
    uuid = session.scalars(select(Campaign.uuid).where(Campaign.id == record.campaign_id)).one()
    rows: list[dict[str, Any]] = []
    for proposal in selected:
        cancelled = again.get(ids[proposal.key])
        if cancelled is not None:
            _queue_again(session, record, cancelled)
            continue
        rows.append(
            {
                "campaign_id": record.campaign_id,
                "round_id": record.id,
                "candidate_id": ids[proposal.key],
                "oracle_id": oracle_id,
                "replicate": 1,
                "generation": 1,
                "idempotency_key": idempotency_key(uuid, proposal.key, oracle, replicate=1, generation=1),
                "state": EvaluationState.QUEUED,
            }
        )
    insert_rows(session, Evaluation, rows)  # in their order: evaluation ids follow the ranks


def _cancelled_before(session: Session, candidate_ids: Sequence[int], oracle_id: int) -> dict[int, Evaluation]:
    """Return the cancelled evaluations of candidates, which an earlier round had selected, by candidate.

    Raises:
        StateError: another is not cancelled.
    """
    found: dict[int, Evaluation] = {}
    for chunk in chunks(candidate_ids):
        query = select(Evaluation, Candidate.object).join(Candidate, Candidate.id == Evaluation.candidate_id)
        query = query.where(Evaluation.candidate_id.in_(chunk), Evaluation.oracle_id == oracle_id)
        rows = session.execute(query.order_by(Candidate.id)).all()
        evaluated = [text for row, text in rows if row.state is not EvaluationState.CANCELLED]
        if evaluated:
            raise StateError(
                f"{len(evaluated)} of the selected candidates, {evaluated[0]!r} the first, were given to this "
                "oracle for evaluation in an earlier round; propose others (`known_keys` lists these)."
            )
        found.update({row.candidate_id: row for row, _ in rows})
    return found


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
