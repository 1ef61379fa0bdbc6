"""Deliveries: how far each hook has been told of the log, so that a killed process tells the rest later.

What a hook is and how it is told belongs in `loop.notices`.
"""

import uuid as uuids
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Update, func, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from flowscout.db.candidates import insert_for
from flowscout.db.database import Database
from flowscout.db.events import EventKind, EventRecord, add_event, read_events
from flowscout.db.models import Delivery, Event, utc_now

RETRY_S, RETRY_MOST_S = 30.0, 3600.0
"""After a failure nothing is tried for half a minute, then twice as long each time, up to an hour."""


@dataclass(frozen=True)
class Notice:
    """An event that a hook is to be told of by whoever holds the token."""

    campaign_id: int
    hook: str
    event: EventRecord
    token: str


class Deliveries:
    """What is stored of deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def subscribe(self, campaign_id: int, hooks: Sequence[str]) -> None:
        """Let new hooks be told of everything that is logged from now on; those that are known go on."""
        known = select(Delivery.hook).where(Delivery.campaign_id == campaign_id)
        with self._database.read() as session:
            missing = sorted(set(hooks) - set(session.scalars(known)))
        if not missing:
            return
        with self._database.write() as session:
            last = session.scalar(select(func.max(Event.id)).where(Event.campaign_id == campaign_id)) or 0
            rows = [
                {"campaign_id": campaign_id, "hook": hook, "event_id": last, "failures": 0} for hook in missing
            ]
            session.execute(insert_for(session)(Delivery).values(rows).on_conflict_do_nothing())

    def take(self, campaign_id: int, hook: str, kinds: Collection[str], *, lease_s: float) -> Notice | None:
        """Return the next event of these kinds that a hook is to be told of; None if there is none now.

        None too while another process tells the hook, and for a while after a failure. The lease of a process
        that died ends after `lease_s`, by the database's clock; the event is then told again.
        """
        with self._database.read() as session:
            if not _next(session, campaign_id, hook, kinds):
                return None  # the common case locks nobody out
        try:
            with self._database.write() as session:
                return _take(session, campaign_id, hook, kinds, lease_s=lease_s)
        except OperationalError:  # writers are busy for longer than we wait: it is told the next time
            return None

    def done(self, notice: Notice) -> None:
        """Remember that a hook was told of an event."""
        values = {"event_id": notice.event.id, "failures": 0, "not_before": None}
        with self._database.write() as session:
            session.execute(_held(notice).values(**values, lease_token=None, lease_until=None))

    def failed(self, notice: Notice, *, name: str, error: str) -> None:
        """Remember that a hook could not be told, and log it. The event is tried again after a while."""
        with self._database.write() as session:
            query = select(Delivery).where(
                Delivery.campaign_id == notice.campaign_id, Delivery.hook == notice.hook
            )
            row = session.scalars(query.where(Delivery.lease_token == notice.token).with_for_update()).first()
            if row is None:
                return  # another process has taken it over
            pause_s = min(RETRY_S * 2**row.failures, RETRY_MOST_S)
            row.failures += 1
            row.not_before = session.scalars(select(utc_now())).one() + timedelta(seconds=pause_s)
            row.lease_token, row.lease_until = None, None
            session.flush()
            detail = {"hook": name, "event": notice.event.id, "failures": row.failures, "error": error}
            add_event(session, notice.campaign_id, EventKind.NOTICE_FAILED, actor="notify", detail=detail)


def _take(
    session: Session, campaign_id: int, hook: str, kinds: Collection[str], *, lease_s: float
) -> Notice | None:
    query = select(Delivery).where(Delivery.campaign_id == campaign_id, Delivery.hook == hook)
    row = session.scalars(query.with_for_update(skip_locked=True)).first()
    now = session.scalars(select(utc_now())).one()
    waits = row is None or any(until is not None and until > now for until in (row.not_before, row.lease_until))
    if row is None or waits:
        return None
    _wait_for_writers(session)
    events = _next(session, campaign_id, hook, kinds)
    if not events:
        return None
    row.lease_token, row.lease_until = str(uuids.uuid4()), now + timedelta(seconds=lease_s)
    return Notice(campaign_id, hook, events[0], row.lease_token)


def _next(session: Session, campaign_id: int, hook: str, kinds: Collection[str]) -> list[EventRecord]:
    """Return the next event for a hook in a list, or none."""
    query = select(Delivery.event_id).where(Delivery.campaign_id == campaign_id, Delivery.hook == hook)
    last = session.scalar(query)
    return [] if last is None else read_events(session, campaign_id, kinds=kinds, after=last, limit=1)


def _wait_for_writers(session: Session) -> None:
    """Wait until every event whose id was given out is committed, so that none with a lower id comes later.

    On SQLite there is one writer, which we are.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SET LOCAL lock_timeout = '2s'"))
        session.execute(text("LOCK TABLE event IN SHARE MODE"))


def _held(notice: Notice) -> Update:
    return update(Delivery).where(
        Delivery.campaign_id == notice.campaign_id,
        Delivery.hook == notice.hook,
        Delivery.lease_token == notice.token,
    )
