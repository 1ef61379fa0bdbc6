"""Rounds: what was fitted, what was trained, what was proposed and why it was or was not taken."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from flowscout.db.models.base import Base, UtcDateTime, state_column, utc_now
from flowscout.db.states import ApprovalDecision, Decision, RoundState


class Round(Base):
    """One turn of fit, train, propose, dispatch, collect."""

    __tablename__ = "round"
    __table_args__ = (UniqueConstraint("campaign_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    number: Mapped[int]
    state: Mapped[RoundState] = mapped_column(state_column(RoundState, name="state"), default=RoundState.PLANNED)
    config_version_id: Mapped[int] = mapped_column(ForeignKey("config_version.id"))
    seed: Mapped[int] = mapped_column(BigInteger)
    prefect_run_id: Mapped[str | None] = mapped_column(String(36))
    message: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Artefact(Base):
    """A file kept beside the database, named by its content."""

    __tablename__ = "artefact"
    __table_args__ = (UniqueConstraint("campaign_id", "sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    sha256: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(50))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())


class ModelFit(Base):
    """A surrogate as fitted, and exactly which measurements it saw: those with `seq <= data_upto_seq`."""

    __tablename__ = "model_fit"
    __table_args__ = (UniqueConstraint("round_id", "role"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("round.id"))
    role: Mapped[str] = mapped_column(String(50), default="surrogate")
    kind: Mapped[str] = mapped_column(String(50))
    params: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    seed: Mapped[int] = mapped_column(BigInteger)
    data_upto_seq: Mapped[int] = mapped_column(BigInteger)
    data_count: Mapped[int]
    data_sha256: Mapped[str] = mapped_column(String(64))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("model_fit.id"))
    diagnostics: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    artefact_id: Mapped[int | None] = mapped_column(ForeignKey("artefact.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())


class SamplerRun(Base):
    """A sampler as trained: on which fit, with which frozen reward, warm-started from which run."""

    __tablename__ = "sampler_run"
    __table_args__ = (UniqueConstraint("round_id", "role"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("round.id"))
    role: Mapped[str] = mapped_column(String(50), default="sampler")
    kind: Mapped[str] = mapped_column(String(50))
    model_fit_id: Mapped[int] = mapped_column(ForeignKey("model_fit.id"))
    params: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    reward: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    seed: Mapped[int] = mapped_column(BigInteger)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("sampler_run.id"))
    diagnostics: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    artefact_id: Mapped[int | None] = mapped_column(ForeignKey("artefact.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())


class Candidate(Base):
    """An object of the campaign, once, whatever it was written like: `key` is its canonical identity."""

    __tablename__ = "candidate"
    __table_args__ = (UniqueConstraint("campaign_id", "key"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    key: Mapped[str] = mapped_column(Text)
    object: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())


class Proposal(Base):
    """A candidate that a round considered, with what was believed of it and what became of it."""

    __tablename__ = "proposal"
    __table_args__ = (UniqueConstraint("round_id", "candidate_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("round.id"))
    candidate_id: Mapped[int] = mapped_column(ForeignKey("candidate.id"), index=True)
    sampler_run_id: Mapped[int | None] = mapped_column(ForeignKey("sampler_run.id"))
    rank: Mapped[int | None]
    origin: Mapped[str] = mapped_column(String(50))
    acquisition: Mapped[float | None]
    log_reward: Mapped[float | None]
    log_prob: Mapped[float | None]
    mean: Mapped[float | None]
    sd: Mapped[float | None]
    decision: Mapped[Decision] = mapped_column(state_column(Decision, name="decision"))
    reason: Mapped[str | None] = mapped_column(Text)


class Approval(Base):
    """What a person said of a batch (`candidate_id` null) or of one candidate in it."""

    __tablename__ = "approval"

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("round.id"))
    candidate_id: Mapped[int | None] = mapped_column(ForeignKey("candidate.id"))
    decision: Mapped[ApprovalDecision] = mapped_column(state_column(ApprovalDecision, name="decision"))
    actor: Mapped[str] = mapped_column(String(200))
    note: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utc_now())
