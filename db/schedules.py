"""Schedules: when a campaign's rounds start by themselves, one row a campaign.

What a gate says belongs in `loop.gates`, who starts the rounds in `flows`.
"""

from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from flowscout.db.candidates import insert_for
from flowscout.db.database import Database
from flowscout.db.events import EventKind, add_event
from flowscout.db.models import Schedule, utc_now
from flowscout.errors import ConfigError


@dataclass(frozen=True)
class ScheduleRecord:
    """When rounds start: by `cron` or every `interval_s` seconds, where `gate` (the text of `--when`) is open.

    `server_url` and `deployment_id` say who starts them; both are None in a copy that was imported.
    """

    campaign_id: int
    cron: str | None = None
    interval_s: float | None = None
    timezone: str = "UTC"
    gate: str | None = None
    approve: bool = False
    server_url: str | None = None
    deployment_id: str | None = None
    actor: str | None = None
    created_at: datetime | None = None


class Schedules:
    """What is stored of schedules."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(self, record: ScheduleRecord, *, actor: str) -> ScheduleRecord:
        """Store the schedule of a campaign in the place of any other; return it as stored.

        Name and password in `server_url` are not stored.

        Raises:
            ConfigError: it has both a cron and an interval or neither, or an interval that is none.
        """
        interval_s = record.interval_s
        if (record.cron is None) == (interval_s is None):
            raise ConfigError(
                f"the schedule has cron {record.cron!r} and interval {interval_s!r}, expected one of both; "
                "give --cron or --every."
            )
        if interval_s is not None and not (isfinite(interval_s) and interval_s > 0):
            raise ConfigError(f"the interval is {interval_s!r} s, expected a positive number; correct it.")
        values = _values(record) | {"actor": actor, "created_at": utc_now()}
        with self._database.write() as session:
            insert = insert_for(session)(Schedule).values(campaign_id=record.campaign_id, **values)
            session.execute(insert.on_conflict_do_update(index_elements=["campaign_id"], set_=values))
            add_event(session, record.campaign_id, EventKind.SCHEDULE_SET, actor=actor, detail=_values(record))
            row = session.scalars(select(Schedule).where(Schedule.campaign_id == record.campaign_id)).one()
            return _schedule(row)

    def get(self, campaign_id: int) -> ScheduleRecord | None:
        """Return the schedule of a campaign; None where its rounds do not start by themselves."""
        with self._database.read() as session:
            row = session.get(Schedule, campaign_id)
            return None if row is None else _schedule(row)

    def remove(self, campaign_id: int, *, actor: str) -> bool:
        """Let a campaign's rounds no longer start by themselves; return whether they did."""
        with self._database.write() as session:
            row = _locked(session, campaign_id)
            if row is None:
                return False
            session.execute(delete(Schedule).where(Schedule.campaign_id == campaign_id))
            detail = {"deployment_id": row.deployment_id}
            add_event(session, campaign_id, EventKind.SCHEDULE_REMOVED, actor=actor, detail=detail)
            return True

    def all(self) -> list[ScheduleRecord]:
        """Return the schedules of all campaigns, the oldest campaign first."""
        with self._database.read() as session:
            return [_schedule(row) for row in session.scalars(select(Schedule).order_by(Schedule.campaign_id))]


def _locked(session: Session, campaign_id: int) -> ScheduleRecord | None:
    row = session.scalar(select(Schedule).where(Schedule.campaign_id == campaign_id).with_for_update())
    return None if row is None else _schedule(row)


def _values(record: ScheduleRecord) -> dict[str, Any]:
    return {
        "cron": record.cron,
        "interval_s": record.interval_s,
        "timezone": record.timezone,
        "gate": record.gate,
        "approve": record.approve,
        "server_url": None if record.server_url is None else _without_credentials(record.server_url),
        "deployment_id": record.deployment_id,
    }


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _schedule(row: Schedule) -> ScheduleRecord:
    return ScheduleRecord(
        campaign_id=row.campaign_id,
        cron=row.cron,
        interval_s=row.interval_s,
        timezone=row.timezone,
        gate=row.gate,
        approve=row.approve,
        server_url=row.server_url,
        deployment_id=row.deployment_id,
        actor=row.actor,
        created_at=row.created_at,
    )
