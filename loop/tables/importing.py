"""Results of earlier years from large tables, a batch of rows at a time; every cell is checked on its way.

What a person tells of a batch, and what its columns mean, belongs in `loop.tables.telling`; storing, in `db`.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowscout.db import Imported, MeasurementRecord, Qualifier
from flowscout.db.rowfiles import BATCH, batches, read_json_lines, read_parquet, unescape_cell
from flowscout.errors import InputError, LabelError
from flowscout.loop.scales import Scale
from flowscout.loop.spaces.alphabets import SequenceRules
from flowscout.loop.tables import plates
from flowscout.loop.tables.mistakes import Mistakes
from flowscout.loop.tables.sheets import read_pieces
from flowscout.loop.tables.telling import read_labels
from flowscout.loop.tables.told_objects import OBJECT_COLUMNS
from flowscout.loop.workbench import Workbench

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".csv", ".csv.gz", ".xlsx", ".xlsm", ".jsonl", ".jsonl.gz", ".parquet")

LONG = ("property", "value")
"""A table with these columns has one value a row, as the view `history` has; else a column for each property."""


def import_table(bench: Workbench, path: Path, *, source: str | None = None, actor: str) -> Imported:
    """Store the results of a table; those that are known change nothing.

    `source` names where they come from, by default the file's name; rows of a long table may name their own.

    Raises:
        LabelError: the table cannot be read, or a row contradicts what is stored; nothing was written.
        ObjectError: an object is not in the space.
    """
    records = read_results(bench, path, source=source)
    return bench.history.bulk.import_results(bench.campaign.id, records, actor=actor)


def read_results(bench: Workbench, path: Path, *, source: str | None = None) -> Iterator[MeasurementRecord]:
    """Yield the measurements of a table, a few thousand rows in memory at a time.

    Without a column `row_id` a row is known by its content and by how often that came before, as in telling.
    """
    seen: Counter[str] = Counter()
    start = 0
    for frame in _frames(path):
        try:
            records = list(_records(bench, frame, source=source or path.name))
        except InputError as error:
            raise type(error)(f"{path.name}, rows counted from row {start + 1}: {error}") from error
        named = any(name in frame.columns for name in ("row_id", "replicate"))
        yield from records if named else _counted_on(records, seen)
        start += len(frame)


def _frames(path: Path) -> Iterator["pd.DataFrame"]:
    """Yield a table in pieces; cells of CSV are texts, and those that were escaped are as they were."""
    import pandas as pd

    if not path.is_file():
        raise LabelError(f"no file {str(path)!r}; check the path of the table to import.")
    kind = next((ending for ending in ENDINGS if path.name.endswith(ending)), None)
    if kind is None:
        raise LabelError(f"table {path.name!r} ends in {path.suffix!r}, expected one of {', '.join(ENDINGS)}.")
    if kind.startswith(".csv"):
        yield from _csv_frames(path)
        return
    if kind in (".xlsx", ".xlsm"):
        mistakes = Mistakes(f"table {path.name!r}")
        for piece in read_pieces(path, mistakes):
            mistakes.refuse()
            yield piece.frame
        return
    rows = read_parquet(path) if kind == ".parquet" else read_json_lines(path)
    for batch in batches(rows, BATCH):
        yield pd.DataFrame(batch)


def _csv_frames(path: Path) -> Iterator["pd.DataFrame"]:
    import pandas as pd

    broken = (OSError, EOFError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError)
    try:
        with pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8", chunksize=BATCH) as reader:
            for frame in reader:
                yield frame.map(unescape_cell)
    except broken as error:
        raise LabelError(
            f"table {str(path)!r} cannot be read: {' '.join(str(error).split())}; expected a CSV file in UTF-8 "
            "with a header line, plain or gzipped."
        ) from error


def _records(bench: Workbench, frame: "pd.DataFrame", *, source: str) -> Iterator[MeasurementRecord]:
    rules = bench.tools.rules
    if all(name in frame.columns for name in LONG):
        units = {one.name: one.unit for one in bench.config.measured}
        objective = bench.config.objective.name
        found = _long_records(rules, units, frame.to_dict("records"), source=source)
        return (_on_scale(one, bench.scale) if one.property == objective else one for one in found)
    if plates.is_plate(frame):  # whose controls must all be at hand
        raise LabelError("it is the sheet of a plate, expected results; tell it: flowscout tell FILE TABLE.")
    folder = Path(bench.version.folder)
    sheet = read_labels(frame, bench.config, folder=folder, source=source, rules=rules, piece=True)
    return iter(sheet.records)


@dataclass(frozen=True)
class _Cells:
    """The cells of one row, by column."""

    row: dict[str, Any]
    number: int

    def text(self, name: str) -> str | None:
        value = self.row.get(name)
        empty = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
        return None if empty else str(value)

    def required(self, name: str) -> str:
        found = self.text(name)
        if found is None:
            raise LabelError(f"row {self.number}: {name} is empty, expected a text. Mend or remove the row.")
        return found

    def float(self, name: str) -> float | None:
        said = self.text(name)
        try:
            return None if said is None else float(said)
        except ValueError as error:
            raise LabelError(
                f"row {self.number}: {name} is {said!r}, expected a number; mend the cell."
            ) from error

    def unit(self, prop: str, wanted: str | None) -> str | None:
        """Return the unit, which is checked and never converted."""
        came = self.text("unit")
        if None not in (came, wanted) and came != wanted:
            raise LabelError(
                f"row {self.number}: {prop} is in {came!r}, expected {wanted!r} as in the campaign file; convert "
                "the values."
            )
        return wanted if came is None else came

    def conditions(self) -> dict[str, Any] | None:
        """Return the conditions of the measurement, which are an object of JSON."""
        came = self.row.get("as_run")
        try:
            found = json.loads(came) if isinstance(came, str) and came else came
        except ValueError:
            found = came
        if not self.text("as_run"):
            return None
        if not isinstance(found, dict):
            raise LabelError(f"row {self.number}: as_run is {came!r}, expected an object of JSON; mend the cell.")
        return found or None


def _long_records(
    rules: Any, units: Mapping[str, str | None], rows: list[Any], *, source: str
) -> Iterator[MeasurementRecord]:
    """Yield the rows of a long table; those that a later row of the history has superseded are left out.

    So are those that have taken one back. `units` are those of the properties that the campaign file names.
    """
    for number, row in enumerate(rows, start=1):
        cells = _Cells(row, number)
        if (cells.text("superseded") or "").lower() in ("true", "1"):
            continue
        name = next((name for name in OBJECT_COLUMNS if name in row), OBJECT_COLUMNS[0])
        written = cells.required(name)
        said = cells.text("qualifier") or "="
        if said == Qualifier.RETRACTED and "superseded" in row:  # what it took back is left out too
            continue
        if said not in list(Qualifier):
            raise LabelError(
                f"row {number}: qualifier is {said!r}, expected {', '.join(Qualifier)}; mend the cell."
            )
        count = cells.float("n")
        if count is not None and (not math.isfinite(count) or count < 1 or count != int(count)):
            raise LabelError(
                f"row {number}: n is {count:g}, expected a whole number of at least 1; mend the cell."
            )
        prop = cells.required("property")
        sequence = isinstance(rules, SequenceRules)  # it may break a rule; of a catalogue it must be one
        key, text = rules.told(written) if sequence else (rules.key(written), rules.require(written))
        record = MeasurementRecord(
            key,
            text,
            prop,
            cells.float("value"),
            source=cells.text("source") or source,
            row_id=cells.text("row_id") or "",
            qualifier=Qualifier(said),
            sem=cells.float("sem"),
            n=None if count is None else int(count),
            unit=cells.unit(prop, units.get(prop)),
            as_run=cells.conditions(),
        )
        yield record if record.row_id else replace(record, row_id=f"{_content(record)}#1")


def _on_scale(record: MeasurementRecord, scale: Scale) -> MeasurementRecord:
    """Return a record whose value has a place on the scale that is learned.

    Raises:
        LabelError: it has none.
    """
    why = None if record.value is None else scale.refusal(record.value)
    if why is not None:
        raise LabelError(
            f"{record.property} of {record.object!r} is {record.value:g}, {why}. Mend or remove the row."
        )
    return record


def _content(record: MeasurementRecord) -> str:
    said = (record.key, record.property, str(record.qualifier), record.value, record.sem, record.n)
    return hashlib.sha256(repr(said).encode()).hexdigest()[:24]


def _counted_on(records: list[MeasurementRecord], seen: Counter[str]) -> Iterator[MeasurementRecord]:
    """Count occurrences on from piece to piece: the same content in two pieces is two rows."""
    here: Counter[str] = Counter()
    for record in records:
        content, _, count = record.row_id.rpartition("#")
        if seen[content]:
            record = replace(record, row_id=f"{content}#{seen[content] + int(count)}")
        here[content] = max(here[content], int(count))
        yield record
    seen.update(here)
