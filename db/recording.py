"""Recording measurements: each fact once, in the order of the campaign's clock; what is wrong is superseded.

What is read back belongs in `measurements.py`; who decides between two values, in `conflicts.py`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import fsum, isfinite
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from flowscout.db.candidates import chunks, ensure_candidates
from flowscout.db.events import EventKind, add_event
from flowscout.db.fastrows import insert_rows
from flowscout.db.locks import lock_campaign
from flowscout.db.models import Campaign, CurrentValue, Evaluation, Event, Measurement, Objective
from flowscout.db.money import pay_for_told
from flowscout.db.records import MeasurementRecord
from flowscout.db.states import EvaluationState, Qualifier, sources_of
from flowscout.db.training import WITH_VALUE, is_superseded
from flowscout.db.versions import Chains, Identity, Said, find_rows, free_row_id, identity_of, said_by
from flowscout.errors import LabelError

_LENGTHS = {"property": 200, "source": 200, "row_id": 200, "unit": 50}  # as the columns of `Measurement`


@dataclass(frozen=True)
class Written:
    """What was written: how many rows in all, and how many of them supersede another."""

    added: int
    corrected: int


@dataclass(frozen=True)
class New:
    """A row to be written, and the one that it supersedes."""

    record: MeasurementRecord
    candidate_id: int
    supersedes: Measurement | None = None
    evaluation_id: int | None = None
    attempt_id: int | None = None


def insert_measurements(
    session: Session,
    campaign_id: int,
    records: Sequence[MeasurementRecord],
    *,
    actor: str,
    evaluation_id: int | None = None,
    attempt_id: int | None = None,
    refuse_conflicts: bool = True,
    settles: bool = True,
) -> int:
    """Insert those of `records` that are new, give each a `seq`, and bring `current_value` up to date.

    Returns how many were new. Part of the caller's transaction. A row that is known already (same source
    and row id) with another value is refused or, without `refuse_conflicts`, left to a person by an event.
    Evaluations that the values answer are done then, and paid for; not by a stale owner's (`settles` false).

    Raises:
        LabelError: a conflict that is to be refused, or a value that is no finite number.
    """
    refuse_what_does_not_fit(records)
    lock_campaign(session, campaign_id)
    ids = ensure_candidates(session, campaign_id, [(r.key, r.object) for r in records])
    chains = find_rows(session, campaign_id, [(r.source, r.row_id) for r in records])
    sorted_out = _sort_out(records, chains, ids, conditions=refuse_conflicts)
    if refuse_conflicts and sorted_out.conflicts:
        raise refusal(*sorted_out.conflicts[0])
    known = evaluation_id is not None
    awaited = {} if known else _awaited(session, campaign_id, sorted_out.new, ids)
    news = []
    for record in sorted_out.new:
        belongs_to = evaluation_id if known else _next(awaited, ids[record.key], record)
        news.append(New(record, ids[record.key], evaluation_id=belongs_to, attempt_id=attempt_id))
    rows = write_rows(session, campaign_id, news, actor=actor, settles=settles, told=not known)
    stored = {(row.source, row.row_id, row.property): row for row in rows}
    for record, _ in sorted_out.conflicts:
        tip = stored.get(identity_of(record)) or chains[identity_of(record)][-1]
        _note_conflict(session, campaign_id, record, tip, actor=actor)
    return len(rows)


def correct_measurements(
    session: Session, campaign_id: int, records: Sequence[MeasurementRecord], *, actor: str, reason: str
) -> Written:
    """Insert `records`; those that are known with other content supersede what counted until now.

    Part of the caller's transaction.

    Raises:
        LabelError: a retraction of a row that is not stored, or one row twice with different content.
    """
    refuse_what_does_not_fit(records)
    lock_campaign(session, campaign_id)
    ids = ensure_candidates(session, campaign_id, [(r.key, r.object) for r in records])
    chains = find_rows(session, campaign_id, [(r.source, r.row_id) for r in records])
    tips = {identity: versions[-1:] for identity, versions in chains.items()}
    sorted_out = _sort_out(records, tips, ids, conditions=True)
    changed = _each_once(sorted_out, chains)
    awaited = _awaited(session, campaign_id, sorted_out.new, ids)
    news = [
        New(record, ids[record.key], evaluation_id=_next(awaited, ids[record.key], record))
        for record in sorted_out.new
    ]
    changes = [
        correction(session, campaign_id, record, ids[record.key], chains[identity_of(record)])
        for record in changed
    ]
    rows = write_rows(session, campaign_id, [*news, *changes], actor=actor, reason=reason)
    return Written(added=len(rows), corrected=len(changes))


def correction(
    session: Session,
    campaign_id: int,
    record: MeasurementRecord,
    candidate_id: int,
    versions: Sequence[Measurement],
) -> New:
    """Return the row that supersedes the last of `versions`; it belongs to the same call if of the same object."""
    first, last = versions[0], versions[-1]
    row_id = free_row_id(session, campaign_id, first, word="correction", number=len(versions))
    same = candidate_id == last.candidate_id
    return New(
        replace(record, source=first.source, row_id=row_id),
        candidate_id,
        supersedes=last,
        evaluation_id=last.evaluation_id if same else None,
        attempt_id=last.attempt_id if same else None,
    )


def write_rows(
    session: Session,
    campaign_id: int,
    news: Sequence[New],
    *,
    actor: str,
    reason: str | None = None,
    settles: bool = True,
    told: bool = True,
) -> list[Measurement]:
    """Write rows in their order, settle what awaited them, and bring `current_value` up to date.

    What was `told` is paid for here; whoever was called is paid by whoever called.
    """
    if not news:
        return []
    seq = take_seq(session, campaign_id, len(news))
    rows = [_row(campaign_id, new, seq=seq + place, actor=actor) for place, new in enumerate(news)]
    session.add_all(rows)
    session.flush()
    answers = (new.evaluation_id for new in news if settles and new.record.qualifier is not Qualifier.RETRACTED)
    settled = sorted({number for number in answers if number is not None})
    if told and settled:
        pay_for_told(session, settled, actor=actor)
    for chunk in chunks(settled):
        session.execute(
            update(Evaluation)
            .where(Evaluation.id.in_(chunk), Evaluation.state.in_(sources_of(EvaluationState.DONE)))
            .values(state=EvaluationState.DONE)
        )
    superseded = [new.supersedes for new in news if new.supersedes is not None]
    touched = {new.candidate_id for new in news} | {row.candidate_id for row in superseded}
    project(session, campaign_id, sorted(touched))
    for new, row in zip(news, rows, strict=True):
        if new.supersedes is not None:
            _log_correction(session, row, new, actor=actor, reason=reason)
    return rows


def refuse_what_does_not_fit(records: Sequence[MeasurementRecord]) -> None:
    """Refuse what cannot be stored alike everywhere.

    SQLite keeps no NaN, it makes it NULL; it keeps text of any length where PostgreSQL refuses it.
    """
    for record in records:
        for name, limit in _LENGTHS.items():
            came = getattr(record, name)
            if came is not None and len(came) > limit:
                raise LabelError(
                    f"{name} {came[:40]!r}... has {len(came)} characters, expected at most {limit}; "
                    "nothing was written. Give it a shorter one."
                )
        wanted = record.qualifier in WITH_VALUE
        if (wanted and record.value is None) or (record.value is not None and not isfinite(record.value)):
            raise LabelError(
                f"row {record.row_id!r} of {record.source!r} says {record.property} {record.qualifier} "
                f"{record.value!r} for {record.object!r}, expected a finite number; nothing was written. "
                "Correct the value, or leave the row out."
            )


def project(session: Session, campaign_id: int, candidate_ids: Sequence[int]) -> None:
    """Recompute `current_value` of these candidates from their measurements."""
    for chunk in chunks(candidate_ids):
        session.execute(delete(CurrentValue).where(CurrentValue.candidate_id.in_(chunk)))
        insert_rows(session, CurrentValue, expected_values(session, campaign_id, chunk))


def expected_values(session: Session, campaign_id: int, candidate_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows that `current_value` must hold of these candidates, of which one statement takes so many.

    A value is the mean of the valid ones: plain values that nothing supersedes.
    """
    query = (
        select(Measurement.candidate_id, Measurement.property, Measurement.value, Measurement.seq)
        .where(
            Measurement.candidate_id.in_(candidate_ids),
            Measurement.qualifier == Qualifier.EQUAL,
            ~is_superseded(),
        )
        .order_by(Measurement.seq)
    )
    values: dict[tuple[int, str], list[tuple[float, int]]] = defaultdict(list)
    for candidate_id, prop, value, seq in session.execute(query):
        values[candidate_id, prop].append((value, seq))
    return [
        {
            "campaign_id": campaign_id,
            "candidate_id": candidate_id,
            "property": prop,
            "value": fsum(value for value, _ in found) / len(found),
            "count": len(found),
            "seq": found[-1][1],
        }
        for (candidate_id, prop), found in values.items()
    ]


@dataclass(frozen=True)
class _SortedOut:
    new: list[MeasurementRecord]
    conflicts: list[tuple[MeasurementRecord, Said | None]]


def _sort_out(
    records: Sequence[MeasurementRecord], chains: Chains, ids: Mapping[str, int], *, conditions: bool
) -> _SortedOut:
    """Return the records that are not stored yet, and those that contradict what is stored, with it.

    A record that says what any version of its row said is known. `conditions` are compared where some came.
    """
    found = _SortedOut([], [])
    first: dict[Identity, MeasurementRecord] = {}
    for record in records:
        identity = identity_of(record)
        if identity in chains:
            stored = chains[identity]
            if not any(says_so(record, row, ids, conditions=conditions) for row in stored):
                found.conflicts.append((record, said_by(stored[-1])))
        elif identity not in first:
            if record.qualifier is Qualifier.RETRACTED:
                raise nothing_to_take_back(record)
            first[identity] = record
            found.new.append(record)
        elif not alike(record, first[identity]):
            found.conflicts.append((record, said_by(first[identity])))
    return found


def _each_once(sorted_out: _SortedOut, chains: Chains) -> list[MeasurementRecord]:
    """Return the records that change a stored row, each row once.

    Raises:
        LabelError: a row comes twice with different content.
    """
    found: dict[Identity, MeasurementRecord] = {}
    for record, _ in sorted_out.conflicts:
        first = found.setdefault(identity_of(record), record)
        if identity_of(record) not in chains or not alike(record, first):
            raise refusal(record, None)
    return list(found.values())


def says_so(record: MeasurementRecord, row: Measurement, ids: Mapping[str, int], *, conditions: bool) -> bool:
    """Return whether a stored row says what a record says; `conditions` are compared where some came."""
    differs = conditions and record.as_run and dict(record.as_run) != (row.as_run or {})
    content = (ids[record.key], record.qualifier, record.value, record.sem, record.n)
    return not differs and content == (row.candidate_id, row.qualifier, row.value, row.sem, row.n)


def alike(record: MeasurementRecord, other: MeasurementRecord) -> bool:
    """Return whether two records of one row say the same."""
    return (record.key, replace(said_by(record), unit=None)) == (other.key, replace(said_by(other), unit=None))


def nothing_to_take_back(record: MeasurementRecord) -> LabelError:
    """Return the error of a retraction of a row that is not stored."""
    return LabelError(
        f"row {record.row_id!r} of {record.source!r} takes back a value of {record.property}, but no such row is "
        "stored; nothing was written. Check the source and the row id."
    )


def refusal(record: MeasurementRecord, stored: Said | None) -> LabelError:
    """Return the error of a record that contradicts its row: what is `stored`, else another that came with it."""
    if stored is None:
        return LabelError(
            f"row {record.row_id!r} of {record.source!r} comes twice with different content for "
            f"{record.property}; nothing was written. Leave one of them out."
        )
    equals = "= " if record.qualifier is Qualifier.EQUAL else ""
    said = f"{record.property} {equals}{said_by(record)}"
    return LabelError(
        f"row {record.row_id!r} of {record.source!r} says {said} for {record.object!r}, but that row is stored "
        f"with value {stored}; nothing was written. Give the row another id or source if it is another "
        "measurement, or correct what is stored with --correct and a reason."
    )


def _row(campaign_id: int, new: New, *, seq: int, actor: str) -> Measurement:
    return Measurement(
        campaign_id=campaign_id,
        seq=seq,
        candidate_id=new.candidate_id,
        evaluation_id=new.evaluation_id,
        attempt_id=new.attempt_id,
        supersedes_id=None if new.supersedes is None else new.supersedes.id,
        actor=actor,
        **content_of(new.record),
    )


def content_of(record: MeasurementRecord) -> dict[str, Any]:
    """Return what a measurement says, by the columns that hold it."""
    return {
        "property": record.property,
        "value": record.value,
        "qualifier": record.qualifier,
        "sem": record.sem,
        "n": record.n,
        "unit": record.unit,
        "as_run": None if record.as_run is None else dict(record.as_run),
        "source": record.source,
        "row_id": record.row_id,
    }


def _log_correction(session: Session, row: Measurement, new: New, *, actor: str, reason: str | None) -> None:
    before = new.supersedes
    assert before is not None
    retracted = row.qualifier is Qualifier.RETRACTED
    detail = {
        "candidate_id": row.candidate_id,
        "measurement_id": row.id,
        "supersedes_id": before.id,
        "object": new.record.object,
        "property": row.property,
        "source": row.source,
        "row_id": before.row_id,
        "before": asdict(said_by(before)),
        "after": asdict(said_by(row)),
        "reason": reason,
    }
    kind = EventKind.MEASUREMENT_RETRACTED if retracted else EventKind.MEASUREMENT_CORRECTED
    add_event(session, row.campaign_id, kind, actor=actor, detail=detail)


def _note_conflict(
    session: Session, campaign_id: int, record: MeasurementRecord, stored: Measurement, *, actor: str
) -> None:
    """Log that a value contradicts the stored one, unless the same value has been logged already."""
    detail: dict[str, Any] = {
        "candidate_id": stored.candidate_id,
        "measurement_id": stored.id,
        "key": record.key,
        "object": record.object,
        "property": record.property,
        "source": record.source,
        "row_id": record.row_id,
        "stored": asdict(said_by(stored)),
        "came": asdict(said_by(record)),
    }
    # Of this candidate alone, which an index finds: a service that repeats itself brings thousands of conflicts.
    same = select(Event.detail).where(Event.candidate_id == stored.candidate_id, Event.kind == EventKind.CONFLICT)
    if any(detail.items() <= known.items() for known in session.scalars(same)):
        return
    detail["as_run"] = None if record.as_run is None else dict(record.as_run)
    add_event(session, campaign_id, EventKind.CONFLICT, actor=actor, detail=detail)


def take_seq(session: Session, campaign_id: int, count: int) -> int:
    """Return the first of `count` new numbers.

    The campaign's row stays locked until the transaction ends: the order of commits is that of numbers.
    """
    last = session.execute(
        update(Campaign)
        .where(Campaign.id == campaign_id)
        .values(clock=Campaign.clock + count)
        .returning(Campaign.clock)
        .execution_options(synchronize_session=False)
    ).scalar_one()
    return last - count + 1


def _awaited(
    session: Session, campaign_id: int, records: Sequence[MeasurementRecord], ids: Mapping[str, int]
) -> dict[tuple[int, str], dict[int, int]]:
    """Return the evaluations that told values of a candidate's property settle, by replicate, in their order.

    Those that were given up come last. Only a property that the campaign wants is an answer, no mass or purity.
    """
    wanted = set(session.scalars(select(Objective.property).where(Objective.campaign_id == campaign_id)))
    candidate_ids = {ids[record.key] for record in records if record.property in wanted}
    found: dict[tuple[int, str], dict[int, int]] = {}
    given_up = Evaluation.state.in_((EvaluationState.CANCELLED, EvaluationState.FAILED))
    open_states = sources_of(EvaluationState.DONE)
    for chunk in chunks(sorted(candidate_ids)):
        query = select(Evaluation.candidate_id, Evaluation.replicate, Evaluation.id)
        query = query.where(Evaluation.candidate_id.in_(chunk), Evaluation.state.in_(open_states))
        for candidate_id, replicate, number in session.execute(query.order_by(given_up, Evaluation.replicate)):
            for prop in wanted:
                found.setdefault((candidate_id, prop), {})[replicate] = number
    return found


def _next(
    awaited: dict[tuple[int, str], dict[int, int]], candidate_id: int, record: MeasurementRecord
) -> int | None:
    """Return the evaluation that a told value is of: that of its replicate, else the first that is left.

    Of more values than are awaited it is the last one.
    """
    left = awaited.get((candidate_id, record.property))
    if not left:
        return None
    replicate = record.replicate if record.replicate in left else next(iter(left))
    return left.pop(replicate) if len(left) > 1 else left[replicate]
