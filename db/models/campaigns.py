"""Campaigns, their immutable configurations, what they want and who measures."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from flowscout.db.models.base import Base, UtcDateTime, state_column, utc_now
from flowscout.db.states import CampaignState


class Campaign(Base):
    """A discovery campaign. `clock` is the last `seq` given out; the lease says who may run a round."""

    __tablename__ = "campaign"

    id: Mapped[int] = mapped_column(primary_key=True)
    uuid: Mapped[str] = mapped_column(String(36), unique=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    seed: Mapped[int] = mapped_column(BigInteger)
    clock: Mapped[int] = mapped_column(BigInteger, default=0)
    state: Mapped[CampaignState] = mapped_column(
        state_column(CampaignState, name="state"), default=CampaignState.ACTIVE
    )
    lease_owner: Mapped[str | None] = mapped_column(String(300))
    lease_token: Mapped[str | None] = mapped_column(String(36))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())


class ConfigVersion(Base):
    """A campaign file as it was registered. Never changed; a new text is a new version.

    `registered_at` is when it was registered last: a file that goes back to an earlier text is that version again.
    """

    __tablename__ = "config_version"
    __table_args__ = (UniqueConstraint("campaign_id", "number"), UniqueConstraint("campaign_id", "sha256"))

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    number: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    yaml: Mapped[str] = mapped_column(Text)
    folder: Mapped[str] = mapped_column(Text)
    package_version: Mapped[str] = mapped_column(String(50))
    git_commit: Mapped[str | None] = mapped_column(String(40))
    actor: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())
    registered_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())


class Objective(Base):
    """A property that the campaign wants large or small."""

    __tablename__ = "objective"
    __table_args__ = (UniqueConstraint("campaign_id", "property"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    property: Mapped[str] = mapped_column(String(200))
    direction: Mapped[str] = mapped_column(String(10))
    unit: Mapped[str | None] = mapped_column(String(50))
    transform: Mapped[str | None] = mapped_column(String(50))


class Oracle(Base):
    """Who measures: one row for each name, version and fidelity that was ever called."""

    __tablename__ = "oracle"
    __table_args__ = (UniqueConstraint("campaign_id", "name", "version", "fidelity"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    name: Mapped[str] = mapped_column(String(200))
    version: Mapped[str] = mapped_column(String(50))
    fidelity: Mapped[str] = mapped_column(String(50))
    unit_cost_minor: Mapped[int] = mapped_column(BigInteger)
    idempotent: Mapped[bool]
    lookup: Mapped[bool]


class Balance(Base):
    """What a campaign may spend. Changed only by a conditional UPDATE, together with a ledger row."""

    __tablename__ = "balance"

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"), primary_key=True)
    currency: Mapped[str] = mapped_column(String(3), default="USD")
    limit_minor: Mapped[int | None] = mapped_column(BigInteger)
    reserved_minor: Mapped[int] = mapped_column(BigInteger, default=0)
    spent_minor: Mapped[int] = mapped_column(BigInteger, default=0)


class Event(Base):
    """Something a person may want to know later. Append-only; `candidate_id` is whom it names, if anybody."""

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_campaign_id_kind", "campaign_id", "kind"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"), index=True)
    round_id: Mapped[int | None] = mapped_column(ForeignKey("round.id"))
    candidate_id: Mapped[int | None] = mapped_column(ForeignKey("candidate.id"), index=True)
    kind: Mapped[str] = mapped_column(String(50))
    actor: Mapped[str] = mapped_column(String(200))
    detail: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())


class Delivery(Base):
    """How far a hook of the campaign file has been told of events; `hook` is the hash of what it says.

    Whoever delivers holds the lease, so that two processes do not tell the same event in turns. After a failure
    nothing is tried before `not_before`.
    """

    __tablename__ = "delivery"

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"), primary_key=True)
    hook: Mapped[str] = mapped_column(String(64), primary_key=True)
    event_id: Mapped[int]
    failures: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None] = mapped_column(UtcDateTime)
    lease_token: Mapped[str | None] = mapped_column(String(36))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Schedule(Base):
    """When a campaign's rounds start by themselves, and by which deployment of which Prefect server.

    `gate` is the text of `--when`, which `loop.gates` reads. `server_url` holds no credentials.
    """

    __tablename__ = "schedule"
    __table_args__ = (CheckConstraint("(cron IS NULL) <> (interval_s IS NULL)", name="cron_or_interval"),)

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"), primary_key=True)
    cron: Mapped[str | None] = mapped_column(String(200))
    interval_s: Mapped[float | None]
    timezone: Mapped[str] = mapped_column(String(100), default="UTC")
    gate: Mapped[str | None] = mapped_column(Text)
    approve: Mapped[bool] = mapped_column(default=False)
    server_url: Mapped[str | None] = mapped_column(Text)
    deployment_id: Mapped[str | None] = mapped_column(String(36))
    actor: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())


class Worker(Base):
    """A process that works for campaigns, and when it was last heard of."""

    __tablename__ = "worker"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(String(300), unique=True)
    queue: Mapped[str] = mapped_column(String(50))
    device: Mapped[str | None] = mapped_column(String(100))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())
    heartbeat_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())
