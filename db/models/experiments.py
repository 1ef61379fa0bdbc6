"""Experiments: what is to be measured, each call of an oracle, every number that came back, and its price."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from flowscout.db.models.base import Base, UtcDateTime, state_column, utc_now
from flowscout.db.states import AttemptState, EvaluationState, FailureClass, LedgerKind, Qualifier


class Evaluation(Base):
    """A wanted measurement. The idempotency key is its own: every attempt sends the same one."""

    __tablename__ = "evaluation"
    __table_args__ = (
        UniqueConstraint("candidate_id", "oracle_id", "replicate"),
        Index("ix_evaluation_campaign_id_state", "campaign_id", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    round_id: Mapped[int | None] = mapped_column(ForeignKey("round.id"), index=True)
    candidate_id: Mapped[int] = mapped_column(ForeignKey("candidate.id"))
    oracle_id: Mapped[int] = mapped_column(ForeignKey("oracle.id"))
    replicate: Mapped[int] = mapped_column(default=1)
    generation: Mapped[int] = mapped_column(default=1)
    idempotency_key: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[EvaluationState] = mapped_column(
        state_column(EvaluationState, name="state"), default=EvaluationState.QUEUED
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())


class Attempt(Base):
    """One call of an oracle. Its row is committed before the call."""

    __tablename__ = "attempt"
    __table_args__ = (UniqueConstraint("evaluation_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluation.id"))
    number: Mapped[int]
    state: Mapped[AttemptState] = mapped_column(
        state_column(AttemptState, name="state"), default=AttemptState.RUNNING
    )
    owner: Mapped[str] = mapped_column(String(300))
    token: Mapped[str] = mapped_column(String(36))
    lease_until: Mapped[datetime] = mapped_column(UtcDateTime)
    failure: Mapped[FailureClass | None] = mapped_column(state_column(FailureClass, name="failure"))
    message: Mapped[str | None] = mapped_column(Text)
    cost_minor: Mapped[int | None] = mapped_column(BigInteger)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Measurement(Base):
    """One fact. Append-only: a correction is a new row that names the one it supersedes."""

    __tablename__ = "measurement"
    __table_args__ = (
        UniqueConstraint("campaign_id", "source", "row_id", "property"),
        UniqueConstraint("campaign_id", "seq"),
        Index("ix_measurement_campaign_id_created_at", "campaign_id", "created_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    seq: Mapped[int] = mapped_column(BigInteger)
    candidate_id: Mapped[int] = mapped_column(ForeignKey("candidate.id"), index=True)
    evaluation_id: Mapped[int | None] = mapped_column(ForeignKey("evaluation.id"), index=True)
    attempt_id: Mapped[int | None] = mapped_column(ForeignKey("attempt.id"))
    property: Mapped[str] = mapped_column(String(200))
    value: Mapped[float | None]
    qualifier: Mapped[Qualifier] = mapped_column(
        state_column(Qualifier, name="qualifier"), default=Qualifier.EQUAL
    )
    sem: Mapped[float | None]
    n: Mapped[int | None]
    unit: Mapped[str | None] = mapped_column(String(50))
    as_run: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    supersedes_id: Mapped[int | None] = mapped_column(ForeignKey("measurement.id"), unique=True)
    source: Mapped[str] = mapped_column(String(200))
    row_id: Mapped[str] = mapped_column(String(200))
    actor: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())


class CurrentValue(Base):
    """What is known of a candidate now: a projection of its measurements, rebuilt from them at will."""

    __tablename__ = "current_value"

    candidate_id: Mapped[int] = mapped_column(ForeignKey("candidate.id"), primary_key=True)
    property: Mapped[str] = mapped_column(String(200), primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    value: Mapped[float]
    count: Mapped[int]
    seq: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (Index("ix_current_value_campaign_id_property_value", "campaign_id", "property", "value"),)


class Ledger(Base):
    """One change of a campaign's balance, in integer minor units of its currency."""

    __tablename__ = "ledger"

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"), index=True)
    evaluation_id: Mapped[int | None] = mapped_column(ForeignKey("evaluation.id"), index=True)
    attempt_id: Mapped[int | None] = mapped_column(ForeignKey("attempt.id"), index=True)
    kind: Mapped[LedgerKind] = mapped_column(state_column(LedgerKind, name="kind"))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())
