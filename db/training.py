"""Training sets: what was known of a property at a cut-off, read from the measurements.

A hundred thousand values are read in half a second: as plain columns, and of a cut-off near one that is known
already only the candidates of which something was told between the two. How measurements are recorded belongs in
`measurements.py`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from math import fsum
from operator import attrgetter

from sqlalchemy import ColumnElement, CompoundSelect, Select, String, select, type_coerce
from sqlalchemy.orm import Session, aliased

from flowscout.db.models import Candidate, Measurement
from flowscout.db.records import BoundedRow, Reading, TrainingRow, TrainingSet
from flowscout.db.states import Qualifier

WITH_VALUE = (Qualifier.EQUAL, Qualifier.BELOW, Qualifier.ABOVE)
"""What a number may be: the value, or a bound of it."""

_Value = tuple[str, str, float | None, str, float | None, int | None]
"""Key, object, value, qualifier, sem and n of a measurement."""

_by_key = attrgetter("key")


def is_superseded(upto_seq: int | None = None) -> ColumnElement[bool]:
    """Return the condition that a measurement was superseded, by anything or by what came up to a cut-off."""
    later = aliased(Measurement)
    query = select(later.id).where(later.supersedes_id == Measurement.id)
    return (query if upto_seq is None else query.where(later.seq <= upto_seq)).exists()


def valid_values(campaign_id: int, prop: str, upto_seq: int) -> Select[_Value]:
    """Return the query of all values and bounds up to a cut-off that nothing before the cut-off supersedes."""
    qualifier = type_coerce(Measurement.qualifier, String)  # as it stands: a word made of each takes longer
    columns = (Measurement.value, qualifier, Measurement.sem, Measurement.n)
    return (
        select(Candidate.key, Candidate.object, *columns)
        .join(Candidate, Candidate.id == Measurement.candidate_id)
        .where(
            Measurement.campaign_id == campaign_id,
            Measurement.property == prop,
            Measurement.seq <= upto_seq,
            Measurement.qualifier.in_(WITH_VALUE),
            ~is_superseded(upto_seq),
        )
        .order_by(Candidate.key, Measurement.seq)
    )


def read_training_set(
    session: Session, campaign_id: int, prop: str, upto_seq: int, *, near: TrainingSet | None = None
) -> TrainingSet:
    """Return what is known up to a cut-off; of `near`, what is at another one, only what differs is read."""
    if near is not None and near.upto_seq == upto_seq:
        return near  # what is known up to a cut-off never changes
    query = valid_values(campaign_id, prop, upto_seq).order_by(None)
    if near is None:
        return _joined(upto_seq, *_known(_fetch(session, query)))
    changed = _told_between(campaign_id, *sorted((near.upto_seq, upto_seq)))
    keys = set(session.scalars(select(Candidate.key).where(Candidate.id.in_(changed))))
    rows, bounded = _known(_fetch(session, query.where(Candidate.id.in_(changed))))
    rows += [row for row in near.rows if row.key not in keys]
    bounded += [row for row in near.bounded if row.key not in keys]
    return _joined(upto_seq, rows, bounded)


def _fetch(session: Session, query: Select[_Value]) -> Sequence[_Value]:
    return session.connection().execute(query).tuples().all()  # not by the ORM, which takes twice as long


def _told_between(campaign_id: int, after: int, upto: int) -> CompoundSelect[tuple[int]]:
    """Return the query of the candidates of which anything was told, or corrected, after a `seq`, up to one."""
    told = (Measurement.campaign_id == campaign_id, Measurement.seq > after, Measurement.seq <= upto)
    corrected = aliased(Measurement)
    theirs = select(corrected.candidate_id).where(
        corrected.id.in_(select(Measurement.supersedes_id).where(*told, Measurement.supersedes_id.is_not(None)))
    )
    return select(Measurement.candidate_id).where(*told).union(theirs)


def _known(values: Iterable[_Value]) -> tuple[list[TrainingRow], list[BoundedRow]]:
    """Return what these values say of each candidate, in no order: its mean, or where there is none its bounds."""
    first: dict[str, _Value] = {}
    several: dict[str, list[_Value]] = {}
    for one in values:
        if first.setdefault(one[0], one) is not one:
            several.setdefault(one[0], [first[one[0]]]).append(one)
    rows, bounded = [], []
    for key, one in first.items():
        _, text, value, qualifier, sem, n = one
        if key not in several and qualifier == Qualifier.EQUAL and sem is None and n is None:
            assert value is not None  # a qualifier with a value
            rows.append(TrainingRow(key, text, value, 1))
            continue
        told = several.get(key, [one])
        readings = [Reading(v, s, m) for *_, v, q, s, m in told if q == Qualifier.EQUAL and v is not None]
        limits = None if readings else _bounded_row(key, text, told)
        if readings:
            rows.append(_training_row(key, text, readings))
        elif limits is not None:
            bounded.append(limits)
    return rows, bounded


def _joined(upto_seq: int, rows: list[TrainingRow], bounded: list[BoundedRow]) -> TrainingSet:
    """Return the training set of what is known, whatever its order."""
    rows.sort(key=_by_key)
    bounded.sort(key=_by_key)
    lines = []
    for row in rows:
        lines.append(f"{row.key}\t{row.value.hex()}\t{row.count}\n")
        for told in row.readings:
            if told.sem is not None or told.n is not None:
                lines.append(f"\t{told.value.hex()}\t{told.sem!r}\t{told.n!r}\n")
    lines += [f"{limits.key}\t{limits.lower!r}\t{limits.upper!r}\n" for limits in bounded]
    return TrainingSet(tuple(rows), upto_seq, hashlib.sha256("".join(lines).encode()).hexdigest(), tuple(bounded))


def _training_row(key: str, text: str, found: list[Reading]) -> TrainingRow:
    first = found[0]
    mean = first.value if len(found) == 1 else fsum(one.value for one in found) / len(found)
    says_more = len(found) > 1 or first.sem is not None or first.n is not None
    # Sorted: what was told in another order is the same training set.
    return TrainingRow(key, text, mean, len(found), tuple(sorted(found, key=_place)) if says_more else ())


def _place(one: Reading) -> tuple[float, float, int]:
    return one.value, -1.0 if one.sem is None else one.sem, -1 if one.n is None else one.n


def _bounded_row(key: str, text: str, told: Sequence[_Value]) -> BoundedRow | None:
    """Return the tightest bounds; None where they contradict each other."""
    above = [value for _, _, value, qualifier, *_ in told if qualifier == Qualifier.ABOVE and value is not None]
    below = [value for _, _, value, qualifier, *_ in told if qualifier == Qualifier.BELOW and value is not None]
    lower, upper = max(above, default=None), min(below, default=None)
    if lower is not None and upper is not None and lower >= upper:
        return None
    return BoundedRow(key, text, lower, upper)
