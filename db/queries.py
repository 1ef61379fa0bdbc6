"""Questions that people ask of a campaign. They read one snapshot and never lock a writer."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, func, select
from sqlalchemy.orm import Session, aliased

from flowscout.db.asking import CHUNK, EVERYTHING, AsOf, HistoryFilter, cut_off, iterate_rows, values_at
from flowscout.db.candidates import chunks
from flowscout.db.database import Database
from flowscout.db.lineage import Lineage, find_candidate, read_lineage, unknown_candidate
from flowscout.db.models import (
    Attempt,
    Balance,
    Campaign,
    Candidate,
    CurrentValue,
    Evaluation,
    Ledger,
    Measurement,
    ModelFit,
    Oracle,
    Round,
    SamplerRun,
)
from flowscout.db.money import signed
from flowscout.db.readonly import ROW_LIMIT, TIMEOUT_S, Answer, ask_sql
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
class WaitingRow:
    """A wanted measurement that is not over.

    `since` is when it came into its state: queued, begun (by `owner`, whose lease ends at `lease_until`), or
    left unknown. Of a round that awaits approval nobody may measure it yet. `reserved_minor` is the money held.
    """

    evaluation_id: int
    candidate_id: int
    object: str
    round: int | None
    round_state: RoundState | None
    state: EvaluationState
    since: datetime
    oracle: str
    replicate: int
    attempts: int
    owner: str | None
    lease_until: datetime | None
    reserved_minor: int


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


_WAITING = (EvaluationState.QUEUED, EvaluationState.RUNNING, EvaluationState.UNKNOWN)


class Queries:
    """What may be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def history(
        self, campaign_name: str, wanted: HistoryFilter = EVERYTHING, *, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return rows of the history, one for each measurement, in the order of their `seq`.

        With a `limit` they are the latest so many. `iterate_history` is for more than fit in memory.
        """
        with self._database.read() as session:
            campaign_id = session.scalar(select(Campaign.id).where(Campaign.name == campaign_name))
            if campaign_id is None:
                return []
            return [row for rows in iterate_rows(session, campaign_id, wanted, limit=limit) for row in rows]

    def iterate_history(
        self, campaign_id: int, wanted: HistoryFilter = EVERYTHING, *, limit: int | None = None, chunk: int = CHUNK
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield the same rows in lists of at most `chunk`, so that memory is bounded.

        They are of one snapshot, which stands until the last list is taken or the iterator is closed. It
        delays no writer.
        """
        with self._database.read() as session:
            yield from iterate_rows(session, campaign_id, wanted, limit=limit, chunk=chunk)

    def cut_off(self, campaign_id: int, as_of: AsOf) -> int:
        """Return the last `seq` that was known at a moment: a `seq`, an aware time, `"round 7"`, `"seq 120"`.

        Of a round it is what its surrogate saw; of a time, the last measurement recorded at or before it.

        Raises:
            NotFoundError: the campaign has no such round or no such `seq` yet, or the round was not fitted.
            QueryError: the text says no moment, or a time has no zone.
        """
        with self._database.read() as session:
            return cut_off(session, campaign_id, as_of)

    def best(
        self, campaign_id: int, prop: str, *, direction: str, k: int, upto_seq: int | None = None
    ) -> list[BestRow]:
        """Return the `k` best candidates by the mean of their valid values, ties by key.

        With `upto_seq` by what was known then, made anew from the measurements: corrections that came later
        do not count.
        """
        with self._database.read() as session:
            if upto_seq is None:
                return _best_now(session, campaign_id, prop, direction=direction, k=k)
            return _best_then(session, campaign_id, prop, direction=direction, k=k, upto_seq=upto_seq)

    def candidate(self, campaign_id: int, name: int | str) -> int:
        """Return the id of the candidate with this id, key or object.

        Raises:
            NotFoundError: there is none; the message names those near it.
        """
        with self._database.read() as session:
            found = find_candidate(session, campaign_id, name)
            if found is None:
                raise unknown_candidate(session, campaign_id, name)
            return found

    def lineage(self, candidate_id: int) -> Lineage:
        """Return everything that the history knows of a candidate; `candidate` finds its id."""
        with self._database.read() as session:
            return read_lineage(session, candidate_id)

    def sql(self, statement: str, *, limit: int | None = ROW_LIMIT, timeout_s: float = TIMEOUT_S) -> Answer:
        """Return the rows of one SELECT, at most `limit`; the database itself sees to it that it only reads.

        Raises:
            QueryError: it is wrong, is not one question, would change or reach something else, or takes too
                long; or, on PostgreSQL, the role that may only read could not be made.
        """
        return ask_sql(self._database, statement, limit=limit, timeout_s=timeout_s)

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
        """Return the objects that await measurements, each once, in the order they were queued."""
        query = (
            select(Candidate.object)
            .join(Evaluation, Evaluation.candidate_id == Candidate.id)
            .where(Evaluation.campaign_id == campaign_id, Evaluation.state.in_(_WAITING))
            .order_by(Evaluation.id)
        )
        with self._database.read() as session:
            return list(dict.fromkeys(session.scalars(query)))

    def waiting(self, campaign_id: int) -> list[WaitingRow]:
        """Return each wanted measurement that is not over, in the order they were queued."""
        with self._database.read() as session:
            return _waiting(session, campaign_id)


def _count(session: Session, query: Select[tuple[int]], where: Any) -> int:
    return session.scalar(select(func.count()).select_from(query.where(where).subquery())) or 0


def _best_now(session: Session, campaign_id: int, prop: str, *, direction: str, k: int) -> list[BestRow]:
    order = CurrentValue.value.desc() if direction == "maximize" else CurrentValue.value.asc()
    query = (
        select(CurrentValue.candidate_id, CurrentValue.value, CurrentValue.count)
        .join(Candidate, Candidate.id == CurrentValue.candidate_id)
        .where(CurrentValue.campaign_id == campaign_id, CurrentValue.property == prop)
        .order_by(order, Candidate.key)
        .limit(k)
    )
    return _ranked(session, [(row[0], row[1], row[2]) for row in session.execute(query)])


def _best_then(
    session: Session, campaign_id: int, prop: str, *, direction: str, k: int, upto_seq: int
) -> list[BestRow]:
    sign = -1.0 if direction == "maximize" else 1.0
    found = heapq.nsmallest(k, values_at(session, campaign_id, prop, upto_seq), key=lambda one: sign * one[1])
    return _ranked(session, found)


def _ranked(session: Session, found: Sequence[tuple[int, float, int]]) -> list[BestRow]:
    """Return candidates, given by id, value and count in their order, with all that is said of them."""
    said: dict[int, tuple[str, str, int | None]] = {}
    for chunk in chunks(candidate_id for candidate_id, _, _ in found):
        query = (
            select(Candidate.id, Candidate.object, Candidate.key, func.min(Round.number))
            .outerjoin(Evaluation, Evaluation.candidate_id == Candidate.id)
            .outerjoin(Round, Round.id == Evaluation.round_id)
            .where(Candidate.id.in_(chunk))
            .group_by(Candidate.id, Candidate.object, Candidate.key)
        )
        said.update({row[0]: (row[1], row[2], row[3]) for row in session.execute(query)})
    rows = []
    for rank, (candidate_id, value, count) in enumerate(found, start=1):
        text, key, number = said[candidate_id]
        rows.append(BestRow(rank, candidate_id, text, key, value, count, number))
    return rows


def _waiting(session: Session, campaign_id: int) -> list[WaitingRow]:
    later = aliased(Attempt)
    last = (
        select(func.max(later.number)).where(later.evaluation_id == Evaluation.id).correlate(Evaluation)
    ).scalar_subquery()
    reserved = select(func.coalesce(func.sum(signed()), 0)).where(Ledger.evaluation_id == Evaluation.id)
    query = (
        select(
            Evaluation,
            Candidate.object,
            Round.number,
            Round.state,
            Oracle.name,
            Attempt,
            reserved.scalar_subquery(),
        )
        .join(Candidate, Candidate.id == Evaluation.candidate_id)
        .join(Oracle, Oracle.id == Evaluation.oracle_id)
        .outerjoin(Round, Round.id == Evaluation.round_id)
        .outerjoin(Attempt, (Attempt.evaluation_id == Evaluation.id) & (Attempt.number == last))
        .where(Evaluation.campaign_id == campaign_id, Evaluation.state.in_(_WAITING))
        .order_by(Evaluation.id)
    )
    return [_waiting_row(*row) for row in session.execute(query)]


def _waiting_row(
    evaluation: Evaluation,
    text: str,
    number: int | None,
    round_state: RoundState | None,
    oracle: str,
    attempt: Attempt | None,
    reserved: Any,
) -> WaitingRow:
    running = evaluation.state is EvaluationState.RUNNING and attempt is not None
    since = evaluation.created_at
    if attempt is not None:  # a queued one that was tried before waits since that attempt ended
        since = attempt.started_at if running or attempt.ended_at is None else attempt.ended_at
    return WaitingRow(
        evaluation_id=evaluation.id,
        candidate_id=evaluation.candidate_id,
        object=text,
        round=number,
        round_state=round_state,
        state=evaluation.state,
        since=since,
        oracle=oracle,
        replicate=evaluation.replicate,
        attempts=0 if attempt is None else attempt.number,
        owner=attempt.owner if running and attempt is not None else None,
        lease_until=attempt.lease_until if running and attempt is not None else None,
        reserved_minor=int(reserved),
    )


class _Batch(NamedTuple):
    measured: int
    best: float | None
    mean: float | None


def _round_rows(session: Session, campaign_id: int, prop: str, *, direction: str) -> list[RoundRow]:
    pick, select_best = (max, func.max) if direction == "maximize" else (min, func.min)
    value = Measurement.value
    query = (
        select(Round.number, func.count(), select_best(value), func.avg(value))
        .select_from(Measurement)
        .outerjoin(Evaluation, Evaluation.id == Measurement.evaluation_id)
        .outerjoin(Round, Round.id == Evaluation.round_id)
        .where(Measurement.campaign_id == campaign_id, Measurement.property == prop)
        .where(value.is_not(None), Measurement.qualifier == "=", ~is_superseded())
        .group_by(Round.number)
    )
    batches: dict[int | None, _Batch] = {number: _Batch(*found) for number, *found in session.execute(query)}
    best = batches[None].best if None in batches else None
    rows = []
    diagnostics = _diagnostics(session, campaign_id)
    for row in session.scalars(select(Round).where(Round.campaign_id == campaign_id).order_by(Round.number)):
        batch = batches.get(row.number, _Batch(0, None, None))
        if batch.best is not None:
            best = batch.best if best is None else pick(best, batch.best)
        rows.append(
            RoundRow(
                number=row.number,
                state=row.state,
                measured=batch.measured,
                batch_best=batch.best,
                batch_mean=batch.mean,
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
