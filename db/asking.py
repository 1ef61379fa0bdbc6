"""The history as a table: one row for each measurement with its whole provenance, cut and filtered.

What became of one candidate belongs in `lineage.py`; questions in a user's own SQL, in `readonly.py`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from math import fsum
from typing import Any

from sqlalchemy import ColumnElement, Select, String, bindparam, func, select, type_coerce
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from flowscout.db.models import (
    Attempt,
    Campaign,
    Candidate,
    ConfigVersion,
    Evaluation,
    Measurement,
    ModelFit,
    Oracle,
    Proposal,
    Round,
    SamplerRun,
)
from flowscout.db.states import Qualifier
from flowscout.db.training import valid_values
from flowscout.errors import NotFoundError, QueryError

AsOf = int | str | datetime
"""A moment of a campaign: a `seq`, an aware time, or text: `round 7`, `seq 120`, `2026-01-31T12:00Z`."""

_COLUMNS: dict[str, ColumnElement[Any] | InstrumentedAttribute[Any]] = {
    "campaign": Campaign.name,
    "seq": Measurement.seq,
    "measured_at": Measurement.created_at,
    "round": Round.number,
    "candidate_id": Candidate.id,
    "object": Candidate.object,
    "candidate_key": Candidate.key,
    "property": Measurement.property,
    "value": Measurement.value,
    "qualifier": type_coerce(Measurement.qualifier, String),
    "sem": Measurement.sem,
    "n": Measurement.n,
    "unit": Measurement.unit,
    "as_run": Measurement.as_run,
    "source": Measurement.source,
    "row_id": Measurement.row_id,
    "actor": Measurement.actor,
    "measurement_id": Measurement.id,
    "supersedes_id": Measurement.supersedes_id,
    "oracle": Oracle.name,
    "oracle_version": Oracle.version,
    "fidelity": Oracle.fidelity,
    "replicate": Evaluation.replicate,
    "idempotency_key": Evaluation.idempotency_key,
    "attempt": Attempt.number,
    "cost_minor": Attempt.cost_minor,
    "rank": Proposal.rank,
    "origin": Proposal.origin,
    "acquisition": Proposal.acquisition,
    "log_reward": Proposal.log_reward,
    "log_prob": Proposal.log_prob,
    "predicted_mean": Proposal.mean,
    "predicted_sd": Proposal.sd,
    "sampler": SamplerRun.kind,
    "sampler_run_id": SamplerRun.id,
    "surrogate": ModelFit.kind,
    "model_fit_id": ModelFit.id,
    "data_upto_seq": ModelFit.data_upto_seq,
    "config_sha256": ConfigVersion.sha256,
    "package_version": ConfigVersion.package_version,
    "git_commit": ConfigVersion.git_commit,
    "prefect_run_id": Round.prefect_run_id,
}

HISTORY_COLUMNS = (*_COLUMNS, "superseded")
"""What every row of the history says, in this order; the view `history` has the same columns."""

CHUNK = 1000
"""Rows that are read at once: some 4 MB of Python objects."""


@dataclass(frozen=True, kw_only=True)
class HistoryFilter:
    """Which measurements are asked for: those that all conditions hold for; None asks for any.

    `since` and `until` are aware times, both included. `upto_seq` is a cut-off: what came later is not seen,
    nor that it corrected something. `origin` is who proposed the object (`gflownet`, `user`, ...).
    """

    round: int | None = None
    property: str | None = None
    origin: str | None = None
    source: str | None = None
    candidate_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    upto_seq: int | None = None


EVERYTHING = HistoryFilter()


def iterate_rows(
    session: Session, campaign_id: int, wanted: HistoryFilter, *, limit: int | None = None, chunk: int = CHUNK
) -> Iterator[list[dict[str, Any]]]:
    """Yield rows of the history in the order of `seq`, in lists of at most `chunk`.

    With a `limit` they are the latest so many. Which measurements they are is read first, by a server-side
    cursor: a planner that were to find these and join twelve tables in one question would, without fresh
    statistics, read some of the tables whole.
    """
    ids = select(Measurement.id).where(*_conditions(session, campaign_id, wanted))
    if limit is not None:
        latest = ids.add_columns(Measurement.seq).order_by(Measurement.seq.desc()).limit(limit).subquery()
        ids = select(latest.c.id).order_by(latest.c.seq)
    else:
        ids = ids.order_by(Measurement.seq)
    rows = _rows(wanted.upto_seq)
    found = session.execute(ids.execution_options(stream_results=True, yield_per=chunk))
    for some in found.scalars().partitions():
        yield [row._asdict() for row in session.execute(rows, {"ids": some})]


def cut_off(session: Session, campaign_id: int, as_of: AsOf) -> int:
    """Return the last `seq` that was known at a moment.

    Of a round it is what its surrogate saw; of a time, the last measurement recorded at or before it.

    Raises:
        NotFoundError: the campaign has no such round or no such `seq` yet, or the round was not fitted.
        QueryError: the text says no moment, or a time has no zone.
    """
    match parse_as_of(as_of):
        case ("round", int(number)):
            return _round_cut(session, campaign_id, number)
        case ("seq", int(seq)):
            clock = session.scalars(select(Campaign.clock).where(Campaign.id == campaign_id)).one()
            if seq > clock:
                raise NotFoundError(
                    f"as of seq {seq} was asked for, but the campaign's last is {clock}; leave it out to ask now."
                )
            return seq
        case ("time", datetime() as moment):
            last = (
                select(Measurement.seq)
                .where(Measurement.campaign_id == campaign_id, Measurement.created_at <= moment)
                .order_by(Measurement.created_at.desc(), Measurement.seq.desc())
            )
            return session.scalar(last.limit(1)) or 0
    raise AssertionError(as_of)


def values_at(session: Session, campaign_id: int, prop: str, upto_seq: int) -> Iterator[tuple[int, float, int]]:
    """Yield what was known of each candidate at a cut-off, by key: its id, the mean of its values, how many.

    It is what `current_value` said when `upto_seq` was the last measurement.
    """
    known = valid_values(campaign_id, prop, upto_seq).where(Measurement.qualifier == Qualifier.EQUAL)
    query = known.with_only_columns(Candidate.id, Measurement.value)
    streamed = session.execute(query.execution_options(stream_results=True, yield_per=CHUNK))
    for candidate_id, rows in groupby(streamed, key=lambda row: row[0]):
        values = [row[1] for row in rows]
        yield candidate_id, fsum(values) / len(values), len(values)


def parse_as_of(as_of: AsOf) -> tuple[str, int | datetime]:
    """Return a moment as its kind (`round`, `seq`, `time`) and what it says.

    Raises:
        QueryError: it says none.
    """
    if isinstance(as_of, int) and not isinstance(as_of, bool) and as_of >= 0:
        return "seq", as_of
    if isinstance(as_of, datetime):
        return "time", aware(as_of, name="as_of")
    if isinstance(as_of, str):
        found = re.fullmatch(r"\s*(round|seq)\s+(\d{1,18})\s*", as_of)
        if found is not None:
            return found[1], int(found[2])
        if re.match(r"\s*\d{4}-", as_of):
            return "time", parse_time(as_of, name="as_of")
    raise QueryError(
        f"as_of is {as_of!r}, expected 'round 7', 'seq 120' (or 120), or a time with its zone such as "
        "2026-01-31T12:00Z."
    )


def parse_time(text: str, *, name: str) -> datetime:
    """Return an aware time from ISO 8601 text; `name` is what the message calls it.

    Raises:
        QueryError: it is none, or has no zone.
    """
    try:
        return aware(datetime.fromisoformat(text.strip()), name=name)
    except ValueError as error:
        raise QueryError(
            f"{name} is {text!r}, expected a time with its zone such as 2026-01-31T12:00Z."
        ) from error


def aware(moment: datetime, *, name: str) -> datetime:
    """Return the time if it has a zone.

    Raises:
        QueryError: it has none: nobody could say which zone it was meant in.
    """
    if moment.tzinfo is None:
        raise QueryError(
            f"{name} is {moment.isoformat()!r}, which has no zone; write 2026-01-31T12:00Z, or pass "
            "datetime(..., tzinfo=UTC)."
        )
    return moment


def _round_cut(session: Session, campaign_id: int, number: int) -> int:
    query = select(func.max(ModelFit.data_upto_seq)).join(Round, Round.id == ModelFit.round_id)
    upto = session.scalar(query.where(Round.campaign_id == campaign_id, Round.number == number))
    if upto is None:
        raise NotFoundError(
            f"round {number} of the campaign has no fit, so that nothing says what was known then; "
            "`flowscout status` lists the rounds."
        )
    return upto


def _rows(upto_seq: int | None) -> Select[Any]:
    """Return the query of the rows of the measurements `ids`, as they were known at a cut-off."""
    later = aliased(Measurement)
    corrections = select(later.id).where(later.supersedes_id == Measurement.id)
    if upto_seq is not None:
        corrections = corrections.where(later.seq <= upto_seq)
    columns = [column.label(name) for name, column in _COLUMNS.items()]
    return (
        select(*columns, corrections.exists().label("superseded"))
        .select_from(Measurement)
        .join(Campaign, Campaign.id == Measurement.campaign_id)
        .join(Candidate, Candidate.id == Measurement.candidate_id)
        .outerjoin(Attempt, Attempt.id == Measurement.attempt_id)
        .outerjoin(Evaluation, Evaluation.id == Measurement.evaluation_id)
        .outerjoin(Oracle, Oracle.id == Evaluation.oracle_id)
        .outerjoin(Round, Round.id == Evaluation.round_id)
        .outerjoin(Proposal, (Proposal.round_id == Round.id) & (Proposal.candidate_id == Candidate.id))
        .outerjoin(SamplerRun, SamplerRun.id == Proposal.sampler_run_id)
        .outerjoin(ModelFit, ModelFit.id == SamplerRun.model_fit_id)
        .outerjoin(ConfigVersion, ConfigVersion.id == Round.config_version_id)
        .where(Measurement.id.in_(bindparam("ids", expanding=True)))
        .order_by(Measurement.seq)
    )


def _conditions(session: Session, campaign_id: int, wanted: HistoryFilter) -> list[ColumnElement[bool]]:
    equal = {
        Measurement.candidate_id: wanted.candidate_id,
        Measurement.property: wanted.property,
        Measurement.source: wanted.source,
    }
    found: list[ColumnElement[bool]] = [column == value for column, value in equal.items() if value is not None]
    # A round and a candidate belong to one campaign. To name it too would offer the planner the index of all
    # its measurements, which is in the order asked for, and which SQLite then takes.
    if wanted.round is None and wanted.candidate_id is None:
        found.append(Measurement.campaign_id == campaign_id)
    if wanted.round is not None:
        of_round = select(Evaluation.id).where(
            Evaluation.round_id == _round_id(session, campaign_id, wanted.round)
        )
        found.append(Measurement.evaluation_id.in_(of_round))
    if wanted.origin is not None:
        found.append(_proposed_by(wanted.origin))
    if wanted.since is not None:
        found.append(Measurement.created_at >= aware(wanted.since, name="since"))
    if wanted.until is not None:
        found.append(Measurement.created_at <= aware(wanted.until, name="until"))
    if wanted.upto_seq is not None:
        found.append(Measurement.seq <= wanted.upto_seq)
    return found


def _proposed_by(origin: str) -> ColumnElement[bool]:
    same = (Proposal.round_id == Evaluation.round_id) & (Proposal.candidate_id == Evaluation.candidate_id)
    query = select(Proposal.id).join(Evaluation, same)
    return query.where(Evaluation.id == Measurement.evaluation_id, Proposal.origin == origin).exists()


def _round_id(session: Session, campaign_id: int, number: int) -> int:
    query = select(Round.id).where(Round.campaign_id == campaign_id, Round.number == number)
    found = session.scalar(query)
    if found is None:
        raise NotFoundError(f"the campaign has no round {number}; `flowscout status` lists its rounds.")
    return found
