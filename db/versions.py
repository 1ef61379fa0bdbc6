"""The versions of a row: as it was told, then each correction, one superseding the other.

Writing one belongs in `recording.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session, aliased

from flowscout.db.candidates import chunks
from flowscout.db.models import Evaluation, Measurement
from flowscout.db.records import MeasurementRecord
from flowscout.db.states import EvaluationState, Qualifier
from flowscout.db.training import is_superseded

Identity = tuple[str, str, str]
"""Source, row id and property: what a row is known again by."""

Chains = dict[Identity, list[Measurement]]
"""Of each row that is stored its versions: as it was told, then each correction. The last one counts."""


@dataclass(frozen=True)
class Said:
    """What a row says of a property."""

    value: float | None
    qualifier: Qualifier = Qualifier.EQUAL
    sem: float | None = None
    n: int | None = None
    unit: str | None = None

    def __str__(self) -> str:
        """Return it as a person would write it: `1.5 (sem 0.2)`, `< 3.0`, `missing`."""
        known = (("sem", self.sem), ("n", self.n))
        more = ", ".join(f"{name} {number!r}" for name, number in known if number is not None)
        bound = "" if self.qualifier is Qualifier.EQUAL else str(self.qualifier)
        plain = f"{bound} {'' if self.value is None else repr(self.value)}".strip()
        return f"{plain} ({more})" if more else plain


def identity_of(record: MeasurementRecord) -> Identity:
    """Return what a row is known again by."""
    return record.source, record.row_id, record.property


def said_by(row: Measurement | MeasurementRecord) -> Said:
    """Return what a row says."""
    value, sem = (None if number is None else float(number) for number in (row.value, row.sem))
    return Said(value, row.qualifier, sem, None if row.n is None else int(row.n), row.unit)


def find_rows(session: Session, campaign_id: int, wanted: Sequence[tuple[str, str]]) -> Chains:
    """Return all versions of the rows that are stored of these, which are pairs of source and row id."""
    found: list[Measurement] = []
    for source in sorted({source for source, _ in wanted}):
        for chunk in chunks(sorted({row_id for of, row_id in wanted if of == source})):
            query = select(Measurement).where(
                Measurement.campaign_id == campaign_id,
                Measurement.source == source,
                Measurement.row_id.in_(chunk),
            )
            found.extend(session.scalars(query))
    return {(row.source, row.row_id, row.property): versions for row, versions in chains_of(session, found)}


def chains_of(session: Session, rows: Sequence[Measurement]) -> list[tuple[Measurement, list[Measurement]]]:
    """Return each row with all its versions: itself, then what superseded it, one after another."""
    chains = {row.id: [row] for row in rows}
    ends = {row.id: [row.id] for row in rows}  # the chains, by id, that end in a row now
    while ends:
        longer: dict[int, list[int]] = {}
        for chunk in chunks(sorted(ends)):
            for row in session.scalars(select(Measurement).where(Measurement.supersedes_id.in_(chunk))):
                assert row.supersedes_id is not None
                longer[row.id] = ends[row.supersedes_id]
                for first in longer[row.id]:
                    chains[first].append(row)
        ends = longer
    return [(row, chains[row.id]) for row in rows]


def free_row_id(session: Session, campaign_id: int, like: Measurement, *, word: str, number: int) -> str:
    """Return a row id that nobody has: that of a stored row, what the new one is of it, and a number."""
    while True:
        found = f"{like.row_id[:170]} ({word} {number})"
        query = select(Measurement.id).where(
            Measurement.campaign_id == campaign_id,
            Measurement.source == like.source,
            Measurement.row_id == found,
            Measurement.property == like.property,
        )
        if session.scalar(query) is None:
            return found
        number += 1


def taken_back(campaign_id: int) -> Select[tuple[int]]:
    """Return the query of the ids of candidates that had values, every one of which was retracted."""
    other = aliased(Measurement)
    later = aliased(Measurement)
    counts = (
        select(other.id)
        .where(other.candidate_id == Measurement.candidate_id, other.qualifier != Qualifier.RETRACTED)
        .where(~select(later.id).where(later.supersedes_id == other.id).exists())
    )
    return select(Measurement.candidate_id).where(
        Measurement.campaign_id == campaign_id,
        Measurement.qualifier == Qualifier.RETRACTED,
        ~is_superseded(),
        ~counts.exists(),
    )


def stands_for_a_value(campaign_id: int) -> ColumnElement[bool]:
    """Return the condition that an evaluation brought a value that counts, or failed, or may still bring one."""
    return (Evaluation.state != EvaluationState.DONE) | Evaluation.candidate_id.not_in(taken_back(campaign_id))
