"""Training sets: what was known of a property at a cut-off, read from the measurements.

How measurements are recorded belongs in `measurements.py`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from math import fsum

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import aliased

from flowscout.db.models import Candidate, Measurement
from flowscout.db.records import BoundedRow, Reading, TrainingRow, TrainingSet
from flowscout.db.states import Qualifier

WITH_VALUE = (Qualifier.EQUAL, Qualifier.BELOW, Qualifier.ABOVE)
"""What a number may be: the value, or a bound of it."""

_Value = tuple[str, str, float | None, Qualifier, float | None, int | None]
"""Key, object, value, qualifier, sem and n of a measurement."""


def is_superseded(upto_seq: int | None = None) -> ColumnElement[bool]:
    """Return the condition that a measurement was superseded, by anything or by what came up to a cut-off."""
    later = aliased(Measurement)
    query = select(later.id).where(later.supersedes_id == Measurement.id)
    return (query if upto_seq is None else query.where(later.seq <= upto_seq)).exists()


def valid_values(campaign_id: int, prop: str, upto_seq: int) -> Select[_Value]:
    """Return the query of all values and bounds up to a cut-off that nothing before the cut-off supersedes."""
    columns = (Measurement.value, Measurement.qualifier, Measurement.sem, Measurement.n)
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


def make_training_set(values: Sequence[_Value], upto_seq: int) -> TrainingSet:
    """Return the training set of these values, whatever their order."""
    readings: dict[tuple[str, str], list[Reading]] = defaultdict(list)
    bounds: dict[tuple[str, str], list[tuple[Qualifier, float]]] = defaultdict(list)
    for key, text, value, qualifier, sem, n in values:
        assert value is not None  # a qualifier with a value
        if qualifier is Qualifier.EQUAL:
            readings[key, text].append(Reading(value, sem, n))
        else:
            bounds[key, text].append((qualifier, value))
    rows = tuple(_training_row(*name, found) for name, found in sorted(readings.items()))
    unmeasured = sorted(item for item in bounds.items() if item[0] not in readings)
    bounded = tuple(one for name, found in unmeasured if (one := _bounded_row(*name, found)) is not None)
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.key}\t{row.value.hex()}\t{row.count}\n".encode())
        for told in row.readings:
            if told.sem is not None or told.n is not None:
                digest.update(f"\t{told.value.hex()}\t{told.sem!r}\t{told.n!r}\n".encode())
    for limits in bounded:
        digest.update(f"{limits.key}\t{limits.lower!r}\t{limits.upper!r}\n".encode())
    return TrainingSet(rows, upto_seq, digest.hexdigest(), bounded)


def _training_row(key: str, text: str, found: list[Reading]) -> TrainingRow:
    first = found[0]
    mean = first.value if len(found) == 1 else fsum(one.value for one in found) / len(found)
    says_more = len(found) > 1 or first.sem is not None or first.n is not None
    # Sorted: what was told in another order is the same training set.
    return TrainingRow(key, text, mean, len(found), tuple(sorted(found, key=_place)) if says_more else ())


def _place(one: Reading) -> tuple[float, float, int]:
    return one.value, -1.0 if one.sem is None else one.sem, -1 if one.n is None else one.n


def _bounded_row(key: str, text: str, found: list[tuple[Qualifier, float]]) -> BoundedRow | None:
    """Return the tightest bounds; None where they contradict each other."""
    lower = max((value for qualifier, value in found if qualifier is Qualifier.ABOVE), default=None)
    upper = min((value for qualifier, value in found if qualifier is Qualifier.BELOW), default=None)
    if lower is not None and upper is not None and lower >= upper:
        return None
    return BoundedRow(key, text, lower, upper)
