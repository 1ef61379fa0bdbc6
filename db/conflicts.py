"""Conflicts: two values for one row, of which a person says what they are.

That one has come is written where the value came in, in `recording.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy.orm import Session

from flowscout.db.database import Database
from flowscout.db.events import EventKind, EventRecord, add_event, read_events
from flowscout.db.locks import lock_campaign
from flowscout.db.models import Measurement
from flowscout.db.recording import New, correction, write_rows
from flowscout.db.records import MeasurementRecord
from flowscout.db.states import Qualifier
from flowscout.db.versions import Said, chains_of, free_row_id, said_by
from flowscout.errors import NotFoundError, StateError


class Keep(StrEnum):
    """Which value of a conflict counts."""

    STORED = "stored"
    CAME = "came"
    BOTH = "both"


@dataclass(frozen=True)
class ConflictRecord:
    """A row with two values: the one that is stored, as it stands now, and the one that came later."""

    id: int
    at: datetime
    object: str
    property: str
    source: str
    row_id: str
    stored: Said
    came: Said
    actor: str


class Conflicts:
    """What is stored of conflicts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, campaign_id: int) -> list[ConflictRecord]:
        """Return the conflicts that nobody has settled, in the order they came."""
        with self._database.read() as session:
            return [_record(event, _versions(session, event)[-1]) for event in _open(session, campaign_id)]

    def settle(self, campaign_id: int, conflict_id: int, keep: Keep, *, reason: str, actor: str) -> ConflictRecord:
        """Let one value count, or both as readings of the same object; return the conflict as it was.

        Nothing is overwritten: the value that came supersedes the stored one, or stands beside it.

        Raises:
            NotFoundError: there is no such conflict.
            StateError: it was settled before.
        """
        with self._database.write() as session:
            lock_campaign(session, campaign_id)
            event = _find(session, campaign_id, conflict_id)
            versions = _versions(session, event)
            before = _record(event, versions[-1])
            news = _rows(session, campaign_id, event, versions, keep)
            write_rows(session, campaign_id, news, actor=actor, reason=reason)
            detail = {"conflict": conflict_id, "keep": str(keep), "reason": reason}
            add_event(session, campaign_id, EventKind.CONFLICT_SETTLED, actor=actor, detail=detail)
            return before


def _rows(
    session: Session, campaign_id: int, event: EventRecord, versions: list[Measurement], keep: Keep
) -> list[New]:
    """Return what is to be written: the value that came as a correction or as a reading of its own, or nothing."""
    first, last = versions[0], versions[-1]
    came = _said(event.detail["came"])
    record = MeasurementRecord(
        key=event.detail["key"],
        object=event.detail["object"],
        property=last.property,
        value=came.value,
        source=last.source,
        row_id=last.row_id,
        qualifier=came.qualifier,
        sem=came.sem,
        n=came.n,
        unit=came.unit,
        as_run=event.detail["as_run"],
    )
    if keep is Keep.CAME:
        return [correction(session, campaign_id, record, last.candidate_id, versions)]
    if keep is Keep.BOTH:
        row_id = free_row_id(session, campaign_id, first, word="reading", number=2)
        beside = replace(record, row_id=row_id)
        return [New(beside, last.candidate_id, evaluation_id=last.evaluation_id, attempt_id=last.attempt_id)]
    return []


def _find(session: Session, campaign_id: int, conflict_id: int) -> EventRecord:
    still_open = {event.id: event for event in _open(session, campaign_id)}
    if conflict_id in still_open:
        return still_open[conflict_id]
    for event in read_events(session, campaign_id, kinds=[EventKind.CONFLICT_SETTLED]):
        if event.detail["conflict"] == conflict_id:
            raise StateError(
                f"conflict {conflict_id} was settled by {event.actor}, who kept {event.detail['keep']}; nothing "
                "was written. If that was wrong, correct the value with `flowscout tell --correct`."
            )
    numbers = ", ".join(map(str, still_open)) or "none"
    raise NotFoundError(
        f"no conflict {conflict_id} is open (open are: {numbers}); `flowscout conflicts` lists them."
    )


def _open(session: Session, campaign_id: int) -> list[EventRecord]:
    kinds = [EventKind.CONFLICT, EventKind.CONFLICT_SETTLED]
    events = read_events(session, campaign_id, kinds=kinds)
    settled = {event.detail["conflict"] for event in events if event.kind == EventKind.CONFLICT_SETTLED}
    return [event for event in events if event.kind == EventKind.CONFLICT and event.id not in settled]


def _versions(session: Session, event: EventRecord) -> list[Measurement]:
    stored = session.get_one(Measurement, event.detail["measurement_id"])
    [(_, versions)] = chains_of(session, [stored])
    return versions


def _record(event: EventRecord, stored: Measurement) -> ConflictRecord:
    detail = event.detail
    return ConflictRecord(
        id=event.id,
        at=event.at,
        object=detail["object"],
        property=detail["property"],
        source=detail["source"],
        row_id=detail["row_id"],
        stored=said_by(stored),
        came=_said(detail["came"]),
        actor=event.actor,
    )


def _said(content: Mapping[str, Any]) -> Said:
    return Said(**{**content, "qualifier": Qualifier(content["qualifier"])})
