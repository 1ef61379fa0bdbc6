"""Questions that people ask of a campaign. They read one snapshot and never lock a writer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, Select, and_, func, select, text
from sqlalchemy.orm import Session

from flowscout.db.database import Database
from flowscout.db.models import (
    Balance,
    Campaign,
    Candidate,
    CurrentValue,
    Evaluation,
    Measurement,
    ModelFit,
    Round,
    SamplerRun,
)
from flowscout.db.models.base import UtcDateTime
from flowscout.db.states import CampaignState, EvaluationState, RoundState
from flowscout.db.training import is_superseded


@dataclass(frozen=True)
class BestRow:
    """A candidate with the mean of its valid values, and the round that proposed it (None: it was told)."""

    rank: int
    candidate_id: int
    object: str
    key: str
    value: float
    count: int
    round: int | None


@dataclass(frozen=True)
class RoundRow:
    """One round in figures. `surrogate` holds the fit's diagnostics, which surrogate it is and why.

    `best` is the best value of the campaign up to and including this round.
    """

    number: int
    state: RoundState
    measured: int
    batch_best: float | None
    batch_mean: float | None
    best: float | None
    surrogate: dict[str, Any]
    sampler: dict[str, Any]
    seconds: float | None
    message: str | None


@dataclass(frozen=True)
class StatusRecord:
    """Where a campaign stands."""

    campaign: str
    uuid: str
    state: CampaignState
    seed: int
    measurements: int
    candidates_measured: int
    evaluations: dict[str, int]
    rounds: tuple[RoundRow, ...]
    spent_minor: int
    reserved_minor: int
    limit_minor: int | None


class Queries:
    """What may be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def history(
        self, campaign_name: str, *, round_number: int | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return rows of the view `history`, one for each measurement, in the order of their `seq`."""
        sql = "SELECT * FROM history WHERE campaign = :campaign"
        values: dict[str, Any] = {"campaign": campaign_name}
        if round_number is not None:
            sql += " AND round = :round"
            values["round"] = round_number
        sql += " ORDER BY seq"
        if limit is not None:
            sql = f"SELECT * FROM ({sql} DESC LIMIT :limit) AS latest ORDER BY seq"  # noqa: S608
            values["limit"] = limit
        with self._database.read() as session:
            typed = text(sql).columns(measured_at=UtcDateTime(), superseded=Boolean())
            return [dict(row) for row in session.execute(typed, values).mappings()]

    def best(self, campaign_id: int, prop: str, *, direction: str, k: int) -> list[BestRow]:
        """Return the `k` best candidates by the mean of their valid values, ties by key."""
        order = CurrentValue.value.desc() if direction == "maximize" else CurrentValue.value.asc()
        found_in = (
            select(func.min(Round.number))
            .join(Evaluation, Evaluation.round_id == Round.id)
            .where(Evaluation.candidate_id == Candidate.id)
            .scalar_subquery()
        )
        query = (
            select(Candidate, CurrentValue, found_in)
            .join(CurrentValue, CurrentValue.candidate_id == Candidate.id)
            .where(CurrentValue.campaign_id == campaign_id, CurrentValue.property == prop)
            .order_by(order, Candidate.key)
            .limit(k)
        )
        with self._database.read() as session:
            return [
                BestRow(rank, row.id, row.object, row.key, current.value, current.count, number)
                for rank, (row, current, number) in enumerate(session.execute(query), start=1)
            ]

    def status(self, campaign_id: int, prop: str, *, direction: str) -> StatusRecord:
        """Return where the campaign stands."""
        with self._database.read() as session:
            campaign = session.scalars(select(Campaign).where(Campaign.id == campaign_id)).one()
            balance = session.scalars(select(Balance).where(Balance.campaign_id == campaign_id)).one()
            measurements = _count(session, select(Measurement.id), Measurement.campaign_id == campaign_id)
            measured = _count(
                session,
                select(CurrentValue.candidate_id),
                and_(CurrentValue.campaign_id == campaign_id, CurrentValue.property == prop),
            )
            states = select(Evaluation.state, func.count()).where(Evaluation.campaign_id == campaign_id)
            evaluations = {str(s): n for s, n in session.execute(states.group_by(Evaluation.state))}
            return StatusRecord(
                campaign=campaign.name,
                uuid=campaign.uuid,
                state=campaign.state,
                seed=campaign.seed,
                measurements=measurements,
                candidates_measured=measured,
                evaluations=evaluations,
                rounds=tuple(_round_rows(session, campaign_id, prop, direction=direction)),
                spent_minor=balance.spent_minor,
                reserved_minor=balance.reserved_minor,
                limit_minor=balance.limit_minor,
            )

    def pending(self, campaign_id: int) -> list[str]:
        """Return the objects that await a measurement, in the order they were queued."""
        waiting = (EvaluationState.QUEUED, EvaluationState.RUNNING, EvaluationState.UNKNOWN)
        query = (
            select(Candidate.object)
            .join(Evaluation, Evaluation.candidate_id == Candidate.id)
            .where(Evaluation.campaign_id == campaign_id, Evaluation.state.in_(waiting))
            .order_by(Evaluation.id)
        )
        with self._database.read() as session:
            return list(session.scalars(query))


def _count(session: Session, query: Select[tuple[int]], where: Any) -> int:
    return session.scalar(select(func.count()).select_from(query.where(where).subquery())) or 0


def _round_rows(session: Session, campaign_id: int, prop: str, *, direction: str) -> list[RoundRow]:
    values: dict[int | None, list[float]] = {}
    query = (
        select(Round.number, Measurement.value)
        .select_from(Measurement)
        .outerjoin(Evaluation, Evaluation.id == Measurement.evaluation_id)
        .outerjoin(Round, Round.id == Evaluation.round_id)
        .where(Measurement.campaign_id == campaign_id, Measurement.property == prop)
        .where(Measurement.value.is_not(None), Measurement.qualifier == "=", ~is_superseded())
    )
    for number, value in session.execute(query):
        if value is not None:
            values.setdefault(number, []).append(value)
    pick = max if direction == "maximize" else min
    best = pick(values[None]) if None in values else None
    rows = []
    diagnostics = _diagnostics(session, campaign_id)
    for row in session.scalars(select(Round).where(Round.campaign_id == campaign_id).order_by(Round.number)):
        batch: Sequence[float] = values.get(row.number, [])
        if batch:
            best = pick([*batch] if best is None else [best, *batch])
        rows.append(
            RoundRow(
                number=row.number,
                state=row.state,
                measured=len(batch),
                batch_best=pick(batch) if batch else None,
                batch_mean=sum(batch) / len(batch) if batch else None,
                best=best,
                surrogate=diagnostics.get(row.number, ({}, {}))[0],
                sampler=diagnostics.get(row.number, ({}, {}))[1],
                seconds=None if row.finished_at is None else (row.finished_at - row.created_at).total_seconds(),
                message=row.message,
            )
        )
    return rows


def _diagnostics(session: Session, campaign_id: int) -> dict[int, tuple[dict[str, Any], dict[str, Any]]]:
    query = (
        select(Round.number, ModelFit.params, ModelFit.diagnostics, SamplerRun.diagnostics)
        .join(ModelFit, ModelFit.round_id == Round.id)
        .outerjoin(SamplerRun, SamplerRun.round_id == Round.id)
        .where(Round.campaign_id == campaign_id)
    )
    found = {}
    for number, params, fit, run in session.execute(query):
        chosen = {name: params[name] for name in ("surrogate", "why") if name in params}
        found[number] = (chosen | dict(fit), dict(run or {}))
    return found
