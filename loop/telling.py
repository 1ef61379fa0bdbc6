"""From a table that a person tells to measurements: every cell is checked before anything is written.

Recording them belongs in `db`.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowscout.db import MeasurementRecord, Qualifier
from flowscout.errors import LabelError, ObjectError
from flowscout.loop.config import CampaignConfig, CatalogueSection
from flowscout.loop.oracles import numbers, read_table
from flowscout.loop.outside import FEATURES
from flowscout.loop.spaces.alphabets import SequenceRules
from flowscout.loop.spaces.listing import Listing
from flowscout.loop.workbench import rules_of

if TYPE_CHECKING:
    import pandas as pd

OBJECT_COLUMNS = ("object", "sequence")

QUALIFIERS = ("=", "<", ">")
"""What a value that is told may be: itself, or a bound from above or below."""


@dataclass(frozen=True)
class _Told:
    """An object as it is stored, with its features if it is in no catalogue."""

    key: str
    text: str
    features: dict[str, float] | None = None


def read_labels(
    data: "pd.DataFrame | str | Path",
    config: CampaignConfig,
    *,
    folder: Path,
    source: str | None = None,
    rules: SequenceRules | Listing | None = None,
) -> list[MeasurementRecord]:
    """Return what `Campaign.tell` is told as measurements, every row checked. Nothing is written.

    `folder` is that of the campaign file, from which a catalogue is read where no `rules` come.

    Raises:
        LabelError: a value is not a finite number, a column is missing, or the table cannot be read.
        ObjectError: an object is not in the space.
    """
    where = "the table" if not isinstance(data, str | Path) else f"table {Path(data).name!r}"
    if isinstance(data, str | Path):
        path = Path(data)
        if not path.is_file():
            raise LabelError(f"no file {str(path)!r}; check the path of the table to tell.")
        source = source or path.name
        data = read_table(path)
    rules = rules_of(config, folder) if rules is None else rules
    counts = isinstance(config.space, CatalogueSection) and config.space.metric == "tanimoto"
    objects = _objects(data, rules, counts=counts, where=where)
    return _records(data, objects, prop=config.objective.name, source=source or "told", where=where)


def _objects(data: "pd.DataFrame", rules: SequenceRules | Listing, *, counts: bool, where: str) -> list[_Told]:
    """Return the object of each row. One that is in no catalogue needs features; `counts` may not be negative."""
    column = next((name for name in OBJECT_COLUMNS if name in data.columns), None)
    if column is None:
        raise LabelError(
            f"{where} has no column 'object' (or 'sequence'); it has {', '.join(map(str, data.columns))}. "
            "Name the column that holds the objects so."
        )
    texts = list(data[column])
    if not isinstance(rules, Listing):
        written = [rules.require(text) for text in texts]
        return [_Told(rules.key(text), text) for text in written]
    strange = [row for row, text in enumerate(texts) if text not in rules]
    features = _features(data, rules, texts, strange, counts=counts, where=where) if strange else {}
    return [
        _Told(texts[row].strip(), texts[row].strip(), features[row])
        if row in features
        else _Told(rules.key(text), rules.require(text))
        for row, text in enumerate(texts)
    ]


def _features(
    data: "pd.DataFrame", rules: Listing, texts: Sequence[str], rows: Sequence[int], *, counts: bool, where: str
) -> dict[int, dict[str, float]]:
    """Return the features of the `rows` whose objects are in no catalogue, by row."""
    missing = [column for column in rules.columns if column not in data.columns]
    odd = next((row for row in rows if not isinstance(texts[row], str) or not texts[row].strip()), None)
    if missing or odd is not None:
        text = texts[rows[0] if odd is None else odd]
        nameless = "the name is empty" if isinstance(text, str) else "the name is no text, write it as one"
        why = f"{where} has no column {missing[0]!r}" if missing else nameless
        raise ObjectError(
            f"{rules.validate(text)} Or tell it with all features ({', '.join(rules.columns)}): it is "
            f"then learned from and never proposed; but {why}."
        )
    columns = {
        column: dict(zip(rows, numbers(data, column, where=where, rows=rows), strict=True))
        for column in rules.columns
    }
    found: dict[int, dict[str, float]] = {}
    first: dict[str, dict[str, float]] = {}
    for row in rows:
        found[row] = {column: values[row] for column, values in columns.items()}
        negative = [column for column, value in found[row].items() if counts and value < 0]
        if negative:
            raise LabelError(
                f"{where}, row {row + 1}: {negative[0]} is {found[row][negative[0]]:g}, expected a number of at "
                "least 0 with the metric tanimoto. Mend or remove the row."
            )
        if first.setdefault(texts[row].strip(), found[row]) != found[row]:
            raise LabelError(
                f"{where}, row {row + 1}: {texts[row]!r} has other features than in an earlier row, expected one "
                "object to have one set of them. Mend the row, or give the object a name of its own."
            )
    return found


@dataclass(frozen=True)
class _Value:
    """A cell of the objective with what stands beside it: the standard error, of how many readings, a bound."""

    value: float
    sem: float | None = None
    n: int | None = None
    qualifier: Qualifier = Qualifier.EQUAL

    @property
    def content(self) -> str:
        """What it says, as a text; a plain value is its own."""
        plain = self.sem is None and self.n is None and self.qualifier is Qualifier.EQUAL
        return self.value.hex() if plain else f"{self.qualifier}{self.value.hex()}\t{self.sem!r}\t{self.n!r}"


def _records(
    data: "pd.DataFrame", objects: Sequence[_Told], *, prop: str, source: str, where: str
) -> list[MeasurementRecord]:
    """Return the rows of a table as measurements."""
    values = _values(data, prop, where=where)
    said = [f"{one.key}\t{value.content}" for one, value in zip(objects, values, strict=True)]
    row_ids = [str(x) for x in data["row_id"]] if "row_id" in data.columns else _content_ids(said)
    repeated = [row_id for row_id, count in Counter(row_ids).items() if count > 1]
    if repeated:
        raise LabelError(f"{where} has the row_id {repeated[0]!r} more than once; give each row its own.")
    return [
        MeasurementRecord(
            one.key,
            one.text,
            prop,
            value.value,
            source=source,
            row_id=row_id,
            qualifier=value.qualifier,
            sem=value.sem,
            n=value.n,
            as_run=None if one.features is None else {FEATURES: one.features},
        )
        for one, value, row_id in zip(objects, values, row_ids, strict=True)
    ]


def _values(data: "pd.DataFrame", prop: str, *, where: str) -> list[_Value]:
    """Return the values of a property with its optional columns; an empty cell of these says nothing."""

    def column(suffix: str) -> list[str]:
        name = f"{prop}_{suffix}"
        if name not in data.columns:
            return [""] * len(data)
        return ["" if _is_empty(cell) else str(cell).strip() for cell in data[name]]

    def refuse(row: int, suffix: str, cell: str, expected: str) -> LabelError:
        return LabelError(
            f"{where}, row {row + 1}: {prop}_{suffix} is {cell!r}, expected {expected}; nothing was written. "
            "Mend the cell, or leave it empty."
        )

    found = []
    columns = zip(numbers(data, prop, where=where), *map(column, ("sem", "n", "qualifier")), strict=True)
    for row, (value, sem, n, qualifier) in enumerate(columns):
        error, count = _number(sem), _number(n)
        if sem and (error is None or error < 0):
            raise refuse(row, "sem", sem, "a standard error: a finite number of at least 0")
        if n and (count is None or count < 1 or count != int(count)):
            raise refuse(row, "n", n, "how many readings the value is a mean of: a whole number of at least 1")
        if qualifier not in ("", *QUALIFIERS):
            raise refuse(row, "qualifier", qualifier, "<, > or =")
        kind = Qualifier(qualifier or "=")
        found.append(_Value(value, error, None if count is None else int(count), kind))
    return found


def _is_empty(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell)) or str(cell) in ("<NA>", "NaT")


def _number(cell: str) -> float | None:
    """Return a cell as a finite number, None where it is none."""
    try:
        found = float(cell)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _content_ids(said: Sequence[str]) -> list[str]:
    """Identify rows by what they say and by how often it has been said before in the same table."""
    seen: Counter[str] = Counter()
    found = []
    for text in said:
        digest = hashlib.sha256(text.encode()).hexdigest()[:24]
        seen[digest] += 1
        found.append(f"{digest}#{seen[digest]}")
    return found
