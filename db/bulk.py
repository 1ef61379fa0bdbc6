"""Bulk import: a million results of earlier years in minutes, by set-based statements on a staging table.

What a person tells of a batch belongs in `recording.py`; both store the same rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.orm import Session

from flowscout.db.candidates import candidate_ids, chunks, insert_for
from flowscout.db.database import Database, to_json
from flowscout.db.events import EventKind, add_event
from flowscout.db.fastrows import load_rows
from flowscout.db.locks import lock_campaign
from flowscout.db.models import Campaign, Candidate, CurrentValue, Evaluation, Measurement, Objective
from flowscout.db.money import pay_for_told
from flowscout.db.recording import (
    alike,
    nothing_to_take_back,
    project,
    refusal,
    refuse_what_does_not_fit,
    says_so,
    take_seq,
)
from flowscout.db.records import MeasurementRecord
from flowscout.db.states import EvaluationState, Qualifier, sources_of
from flowscout.db.versions import find_rows, identity_of, said_by

CHUNK = 10_000
"""How many rows are stored in one transaction: so long do other writers wait."""

_STAGED = Table(
    "flowscout_staged",
    MetaData(),
    Column("place", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("first", Boolean, nullable=False),  # the first row of its candidate within the chunk
    Column("key", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("property", String(200), nullable=False),
    Column("value", Float(53)),
    Column("qualifier", String(24), nullable=False),
    Column("sem", Float(53)),
    Column("n", Integer),
    Column("unit", String(50)),
    Column("as_run", JSON(none_as_null=True)),
    Column("source", String(200), nullable=False),
    Column("row_id", String(200), nullable=False),
    prefixes=["TEMPORARY"],
)
_S = _STAGED.c
_SAME_ROW = and_(
    Measurement.source == _S.source, Measurement.row_id == _S.row_id, Measurement.property == _S.property
)
_IDENTITY = (_S.source, _S.row_id, _S.property)


@dataclass(frozen=True)
class Imported:
    """What came of an import: how many values were new, and how many were known already."""

    added: int
    unchanged: int


class Bulk:
    """Import of results in bulk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def import_results(
        self, campaign_id: int, records: Iterable[MeasurementRecord], *, actor: str, chunk: int = CHUNK
    ) -> Imported:
        """Record results as `measurements.add` does, chunk by chunk; known ones change nothing.

        All rows are checked before the first is stored. A process that is killed while storing leaves whole
        chunks, and the same import again adds the rest. Memory holds one chunk.

        Raises:
            LabelError: a row is known already, in the history or in `records`, with another content.
        """
        with self._database.connected() as connection:
            try:
                return _Import(connection, campaign_id, actor, chunk).run(iter(records))
            finally:
                if connection.in_transaction():
                    connection.rollback()
                with connection.begin():
                    _STAGED.drop(connection, checkfirst=False)
                    if connection.dialect.name == "postgresql":
                        connection.execute(text("RESET jit"))


class _Import:
    """One import on one connection, which holds the staging table."""

    def __init__(self, connection: Connection, campaign_id: int, actor: str, chunk: int) -> None:
        self.connection, self.campaign_id, self.actor, self.chunk = connection, campaign_id, actor, chunk
        self.clock = 0  # of the campaign, when it was last seen: while it stands nobody else has measured
        self.alone = True
        with connection.begin():
            if connection.dialect.name == "postgresql":  # compiling a statement takes longer than 10,000 rows do
                connection.execute(text("SET jit = off"))
            _STAGED.create(connection, checkfirst=False)

    def run(self, records: Iterator[MeasurementRecord]) -> Imported:
        with self.connection.begin():
            self.clock = self._clock()
        staged = 0
        while batch := list(islice(records, self.chunk)):
            refuse_what_does_not_fit(batch)
            with self._transaction() as session:
                _load(session, staged, batch)
                self._drop_known(session, staged, staged + len(batch))
            staged += len(batch)
        with self._transaction() as session:
            _drop_repeated(session)
            if session.get_bind().dialect.name == "postgresql":  # nobody else does it for a temporary table
                session.execute(text(f"ANALYZE {_STAGED.name}"))
        added = 0
        for low in range(0, staged, self.chunk):
            with self._transaction() as session:
                added += self._store(session, low, low + self.chunk)
        if added >= self.chunk and self.connection.dialect.name == "postgresql":  # else it plans as for few rows
            names = ", ".join(one.__tablename__ for one in (Candidate, Measurement, CurrentValue))
            with self.connection.begin():
                self.connection.execute(text(f"ANALYZE {names}"))
        return Imported(added, staged - added)

    def _transaction(self) -> Any:
        return _begun(self.connection)

    def _clock(self) -> int:
        return self.connection.execute(select(Campaign.clock).where(Campaign.id == self.campaign_id)).scalar_one()

    def _drop_known(self, session: Session, low: int, high: int) -> None:
        """Drop what is stored already from the staged rows; refuse what contradicts it or takes back nothing."""
        inside = and_(_S.place >= low, _S.place < high)
        stored = and_(Measurement.campaign_id == self.campaign_id, _SAME_ROW)
        differs = (
            (Candidate.key != _S.key)
            | (Measurement.qualifier != _S.qualifier.cast(Measurement.qualifier.type))
            | Measurement.value.is_distinct_from(_S.value)
            | Measurement.sem.is_distinct_from(_S.sem)
            | Measurement.n.is_distinct_from(_S.n)
            | _S.as_run.is_not(None)  # databases do not compare JSON alike
        )
        query = (
            select(_STAGED)
            .join(Measurement, stored)
            .join(Candidate, Candidate.id == Measurement.candidate_id)
            .where(inside, differs)
            .order_by(_S.place)
        )
        for rows in chunks(session.execute(query)):
            self._refuse_contradictions(session, [_record(row) for row in rows])
        session.execute(delete(_STAGED).where(inside, select(Measurement.id).where(stored).exists()))
        taken_back = select(_STAGED).where(inside, _S.qualifier == Qualifier.RETRACTED).order_by(_S.place).limit(1)
        row = session.execute(taken_back).first()
        if row is not None:
            raise nothing_to_take_back(_record(row))

    def _refuse_contradictions(self, session: Session, records: Sequence[MeasurementRecord]) -> None:
        """Refuse records of which no version of the stored row says the same."""
        chains = find_rows(session, self.campaign_id, [(record.source, record.row_id) for record in records])
        ids = candidate_ids(session, self.campaign_id, [record.key for record in records])
        for record in records:
            versions = chains[identity_of(record)]
            same_object = record.key in ids
            if not same_object or not any(says_so(record, row, ids, conditions=True) for row in versions):
                raise refusal(record, said_by(versions[-1]))

    def _store(self, session: Session, low: int, high: int) -> int:
        """Store one chunk; return how many rows were new."""
        lock_campaign(session, self.campaign_id)
        self.alone = self.alone and self._clock() == self.clock
        if not self.alone:  # what others have stored since the rows were checked may be among them
            self._drop_known(session, low, high)
        inside = and_(_S.place >= low, _S.place < high)
        count = session.scalar(select(func.count()).select_from(_STAGED).where(inside)) or 0
        if count == 0:
            return 0
        last = take_seq(session, self.campaign_id, count) + count - 1
        self._store_candidates(session, inside)
        self._store_measurements(session, inside, before=last - count)
        self._settle(session, last - count, last)
        self._project(session, last - count, last)
        detail = {"first_seq": last - count + 1, "last_seq": last}
        add_event(session, self.campaign_id, EventKind.RESULTS_IMPORTED, actor=self.actor, detail=detail)
        session.flush()
        self.clock = last
        return count

    def _store_candidates(self, session: Session, inside: Any) -> None:
        rows = (
            select(literal(self.campaign_id), _S.key, _S.object)
            .where(inside, _S.first)
            .order_by(_S.key)  # in the order of the index
        )
        columns = ["campaign_id", "key", "object"]
        session.execute(insert_for(session)(Candidate).from_select(columns, rows).on_conflict_do_nothing())

    def _store_measurements(self, session: Session, inside: Any, *, before: int) -> None:
        """Insert the staged rows in their order. A value that is awaited names the evaluation it settles."""
        wanted = list(session.scalars(select(Objective.property).where(Objective.campaign_id == self.campaign_id)))
        awaited = (
            select(Evaluation.id)
            .where(Evaluation.candidate_id == Candidate.id, Evaluation.state.in_(_OPEN))
            .order_by(Evaluation.replicate)
            .limit(1)
            .correlate(Candidate)
            .scalar_subquery()
        )
        columns = {
            "campaign_id": literal(self.campaign_id),
            "seq": before + func.row_number().over(order_by=_S.place),
            "candidate_id": Candidate.id,
            "evaluation_id": case((_S.property.in_(wanted), awaited)),
            "property": _S.property,
            "value": _S.value,
            "qualifier": _S.qualifier,
            "sem": _S.sem,
            "n": _S.n,
            "unit": _S.unit,
            "as_run": _S.as_run,
            "source": _S.source,
            "row_id": _S.row_id,
            "actor": literal(self.actor),
        }
        rows = (
            select(*columns.values())
            .select_from(_STAGED)
            .join(Candidate, and_(Candidate.campaign_id == self.campaign_id, Candidate.key == _S.key))
            .where(inside)
            .order_by(_S.place)
        )
        session.execute(insert(Measurement).from_select(list(columns), rows))

    def _settle(self, session: Session, after: int, last: int) -> None:
        """Mark the evaluations whose values came as done, and pay for them."""
        settled = select(Measurement.evaluation_id).where(
            *self._seqs(after, last), Measurement.evaluation_id.is_not(None)
        )
        waiting = select(Evaluation.id).where(Evaluation.id.in_(settled), Evaluation.state.in_(_OPEN))
        for numbers in chunks(session.scalars(waiting.order_by(Evaluation.id)).all()):
            pay_for_told(session, numbers, actor=self.actor)
        session.flush()
        session.execute(
            update(Evaluation)
            .where(Evaluation.id.in_(settled), Evaluation.state.in_(_OPEN))
            .values(state=EvaluationState.DONE)
            .execution_options(synchronize_session=False)
        )

    def _project(self, session: Session, after: int, last: int) -> None:
        """Bring `current_value` up to date: first values in one statement, what has several one by one."""
        plain = [*self._seqs(after, last), Measurement.qualifier == Qualifier.EQUAL]
        pair = (Measurement.candidate_id, Measurement.property)
        single = (
            select(
                *pair,
                literal(self.campaign_id),
                func.min(Measurement.value),
                literal(1),
                func.min(Measurement.seq),
            )
            .where(*plain)
            .group_by(*pair)
            .having(func.count() == 1)
        )
        known = (
            select(Measurement.candidate_id)
            .join(
                CurrentValue,
                and_(
                    CurrentValue.candidate_id == Measurement.candidate_id,
                    CurrentValue.property == Measurement.property,
                ),
            )
            .where(*plain, CurrentValue.seq <= after)
        )
        several = select(Measurement.candidate_id).where(*plain).group_by(*pair).having(func.count() > 1)
        again = sorted({*session.scalars(known), *session.scalars(several)})
        columns = ["candidate_id", "property", "campaign_id", "value", "count", "seq"]
        session.execute(insert_for(session)(CurrentValue).from_select(columns, single).on_conflict_do_nothing())
        project(session, self.campaign_id, again)

    def _seqs(self, after: int, last: int) -> list[Any]:
        return [Measurement.campaign_id == self.campaign_id, Measurement.seq > after, Measurement.seq <= last]


_OPEN = sources_of(EvaluationState.DONE)


class _begun:  # noqa: N801 - reads as the statement it is
    """A transaction on a connection, as a session."""

    def __init__(self, connection: Connection) -> None:
        self._session = Session(connection, expire_on_commit=False)

    def __enter__(self) -> Session:
        self._session.begin()
        return self._session

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self._session.commit()
        self._session.close()


def _load(session: Session, start: int, batch: Sequence[MeasurementRecord]) -> None:
    """Put rows into the staging table by the fastest way of the driver."""
    seen: set[str] = set()
    rows = []
    for place, record in enumerate(batch, start):
        first = record.key not in seen
        seen.add(record.key)
        rows.append(
            (
                place,
                first,
                record.key,
                record.object,
                record.property,
                record.value,
                record.qualifier.value,
                record.sem,
                record.n,
                record.unit,
                None if record.as_run is None else to_json(record.as_run),
                record.source,
                record.row_id,
            )
        )
    load_rows(session, _STAGED.name, [column.name for column in _STAGED.columns], rows)


def _record(row: Any) -> MeasurementRecord:
    """Return a staged row as it came."""
    return MeasurementRecord(
        row.key,
        row.object,
        row.property,
        row.value,
        source=row.source,
        row_id=row.row_id,
        qualifier=Qualifier(row.qualifier),
        sem=row.sem,
        n=row.n,
        unit=row.unit,
        as_run=row.as_run,
    )


def _drop_repeated(session: Session) -> None:
    """Drop rows that came twice with the same content; refuse those that came with another."""
    repeated = select(*_IDENTITY).group_by(*_IDENTITY).having(func.count() > 1)
    query = (
        select(_STAGED)
        .where(tuple_(*_IDENTITY).in_(repeated))
        .order_by(_S.source, _S.row_id, _S.property, _S.place)
    )
    if session.execute(repeated.limit(1)).first() is None:
        return
    before: MeasurementRecord | None = None
    again = []
    for row in session.execute(query):
        record = _record(row)
        if before is None or identity_of(before) != identity_of(record):
            before = record
            continue
        if not alike(record, before):
            raise refusal(record, None)
        again.append(row.place)
    for numbers in chunks(again):
        session.execute(delete(_STAGED).where(_S.place.in_(numbers)))
