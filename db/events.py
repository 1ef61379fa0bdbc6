"""The log of a campaign: what happened, when, in which round, and who did it. Append-only, by the database itself.

Who is told of what happened belongs in `loop.notices`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from flowscout.db.database import Database
from flowscout.db.models import Attempt, Evaluation, Event, Round


class EventKind(StrEnum):
    """What is written to the log. `MEANINGS` has a sentence for each."""

    CAMPAIGN_REGISTERED = "campaign_registered"
    CONFIG_REGISTERED = "config_registered"
    CAMPAIGN_ACTIVE = "campaign_active"
    CAMPAIGN_PAUSED = "campaign_paused"
    CAMPAIGN_FINISHED = "campaign_finished"
    LEASE_TAKEN_OVER = "lease_taken_over"
    ROUND_STARTED = "round_started"
    ROUND_FITTING = "round_fitting"
    ROUND_TRAINING = "round_training"
    ROUND_PROPOSED = "round_proposed"
    ROUND_AWAITING_APPROVAL = "round_awaiting_approval"
    BATCH_APPROVED = "batch_approved"
    ROUND_DISPATCHED = "round_dispatched"
    ROUND_COMPLETE = "round_complete"
    ROUND_FAILED = "round_failed"
    ROUND_CANCELLED = "round_cancelled"
    CANDIDATE_VETOED = "candidate_vetoed"
    EVALUATION_CANCELLED = "evaluation_cancelled"
    ATTEMPT_EXPIRED = "attempt_expired"
    EVALUATION_REQUEUED = "evaluation_requeued"
    EVALUATION_RECONCILED = "evaluation_reconciled"
    UNKNOWN_ATTEMPT = "unknown_attempt"
    STALE_ATTEMPT = "stale_attempt"
    VALUES_TOLD = "values_told"
    RESULTS_IMPORTED = "results_imported"
    MEASUREMENT_CORRECTED = "measurement_corrected"
    MEASUREMENT_RETRACTED = "measurement_retracted"
    CONFLICT = "conflict"
    CONFLICT_SETTLED = "conflict_settled"
    BUDGET_SET = "budget_set"
    BUDGET_80 = "budget_80"
    BUDGET_EXHAUSTED = "budget_exhausted"
    BILL_ABOVE_ESTIMATE = "bill_above_estimate"
    OVERSPENT = "overspent"
    NOTICE_FAILED = "notice_failed"
    SCHEDULE_SET = "schedule_set"
    SCHEDULE_REMOVED = "schedule_removed"
    FLOW_RUN = "flow_run"
    TRAINING_HANDED_OVER = "training_handed_over"
    RUN_ABANDONED = "run_abandoned"


_K = EventKind

MEANINGS: Mapping[EventKind, str] = {
    _K.CAMPAIGN_REGISTERED: "The campaign was made.",
    _K.CONFIG_REGISTERED: "A new version of its file was stored.",
    _K.CAMPAIGN_ACTIVE: "It may start rounds again.",
    _K.CAMPAIGN_PAUSED: "It starts no round until it is resumed.",
    _K.CAMPAIGN_FINISHED: "It starts no round any more; `why` says which limit was reached.",
    _K.LEASE_TAKEN_OVER: "A process took over from another one that had died or fallen silent.",
    _K.ROUND_STARTED: "A round was planned.",
    _K.ROUND_FITTING: "Its surrogate is being fitted.",
    _K.ROUND_TRAINING: "The surrogate is stored; its sampler is being trained.",
    _K.ROUND_PROPOSED: "Its batch is chosen.",
    _K.ROUND_AWAITING_APPROVAL: "The batch waits for a person's approval.",
    _K.BATCH_APPROVED: "A person approved a batch that waited; the detail lists what was in it.",
    _K.ROUND_DISPATCHED: "The batch was handed out to be measured.",
    _K.ROUND_COMPLETE: "Nothing in the round waits any more.",
    _K.ROUND_FAILED: "Every measurement of the round failed.",
    _K.ROUND_CANCELLED: "The round was given up.",
    _K.CANDIDATE_VETOED: "A person took an object out of a batch.",
    _K.EVALUATION_CANCELLED: "A wanted measurement will not be made.",
    _K.EVALUATION_REQUEUED: "A measurement that was cancelled is wanted again, by a later round.",
    _K.EVALUATION_RECONCILED: "What came of an unknown call was settled.",
    _K.ATTEMPT_EXPIRED: "The process that called an oracle died, or its lease ran out.",
    _K.UNKNOWN_ATTEMPT: "Nobody can say whether a call happened: a person has to settle it.",
    _K.STALE_ATTEMPT: "An answer came from a process that had lost its attempt: its value is kept.",
    _K.VALUES_TOLD: "A person or a program told measured values.",
    _K.RESULTS_IMPORTED: "Results of earlier years were imported in bulk, these `seq` of them together.",
    _K.MEASUREMENT_CORRECTED: "A stored value was superseded by a corrected one.",
    _K.MEASUREMENT_RETRACTED: "A stored value was taken back.",
    _K.CONFLICT: "A value came that contradicts the stored one: a person has to settle it.",
    _K.CONFLICT_SETTLED: "A person decided which value of a conflict counts.",
    _K.BUDGET_SET: "The limit of money was set, by the campaign file or by a person.",
    _K.BUDGET_80: "80% of the limit is reserved or spent; once for each limit.",
    _K.BUDGET_EXHAUSTED: "The limit does not reach for the next measurement.",
    _K.BILL_ABOVE_ESTIMATE: "An oracle billed more than was reserved for the call.",
    _K.OVERSPENT: "A bill took the commitments beyond the limit: nothing is dispatched until it is raised.",
    _K.NOTICE_FAILED: "A command or webhook of the section `notify` failed; it is tried again later.",
    _K.SCHEDULE_SET: "Rounds start by themselves from now on, as the detail says.",
    _K.SCHEDULE_REMOVED: "Rounds no longer start by themselves.",
    _K.FLOW_RUN: "A run of a Prefect flow works for the round: `flow`, `run_id` and `stage` name it.",
    _K.TRAINING_HANDED_OVER: "The round's sampler is to be trained by another process, on a GPU.",
    _K.RUN_ABANDONED: "A run that Prefect showed as running had died: it was found by the sweep and marked.",
}


@dataclass(frozen=True)
class EventRecord:
    """One entry of the log. `round` is the number of the round it belongs to, if it belongs to one."""

    id: int
    at: datetime
    kind: str
    actor: str
    round: int | None
    detail: Mapping[str, Any]


class Events:
    """What is stored of events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(
        self,
        campaign_id: int,
        *,
        kinds: Collection[str] = (),
        after: int = 0,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> list[EventRecord]:
        """Return events in the order of their ids: of these `kinds`, with an id above `after`, `since` a time.

        With a `limit`, the first so many.
        """
        with self._database.read() as session:
            return read_events(session, campaign_id, kinds=kinds, after=after, since=since, limit=limit)

    def last_id(self, campaign_id: int) -> int:
        """Return the id of the latest event; 0 where there is none."""
        with self._database.read() as session:
            return session.scalar(select(func.max(Event.id)).where(Event.campaign_id == campaign_id)) or 0

    def add(
        self,
        campaign_id: int,
        kind: EventKind,
        *,
        actor: str,
        round_id: int | None = None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Append to the log in a transaction of its own."""
        with self._database.write() as session:
            add_event(session, campaign_id, kind, actor=actor, round_id=round_id, detail=detail)


def add_event(
    session: Session,
    campaign_id: int,
    kind: str,
    *,
    actor: str,
    round_id: int | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Append to the campaign's log, within the caller's transaction."""
    session.add(
        Event(
            campaign_id=campaign_id,
            round_id=round_id,
            candidate_id=_named(session, detail or {}),
            kind=kind,
            actor=actor,
            detail=detail or {},
        )
    )


def _named(session: Session, detail: Mapping[str, Any]) -> int | None:
    """Return the candidate that a detail names, by itself or by its evaluation or attempt, for its lineage."""
    if "candidate_id" in detail:
        return int(detail["candidate_id"])
    if "evaluation_id" in detail:
        query = select(Evaluation.candidate_id).where(Evaluation.id == detail["evaluation_id"])
        return session.scalar(query)
    if detail.get("attempt_id") is not None:
        query = select(Evaluation.candidate_id).join(Attempt, Attempt.evaluation_id == Evaluation.id)
        return session.scalar(query.where(Attempt.id == detail["attempt_id"]))
    return None


def read_events(
    session: Session,
    campaign_id: int,
    *,
    kinds: Collection[str] = (),
    after: int = 0,
    since: datetime | None = None,
    limit: int | None = None,
) -> list[EventRecord]:
    """Return events in the order of their ids, within the caller's transaction."""
    query = select(Event, Round.number).outerjoin(Round, Round.id == Event.round_id)
    query = query.where(Event.campaign_id == campaign_id, Event.id > after)
    if kinds:
        query = query.where(Event.kind.in_(sorted(map(str, kinds))))
    if since is not None:
        query = query.where(Event.created_at >= since)
    query = query.order_by(Event.id)
    if limit is not None:
        query = query.limit(limit)
    return [
        EventRecord(row.id, row.created_at, row.kind, row.actor, number, dict(row.detail))
        for row, number in session.execute(query)
    ]
