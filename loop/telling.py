"""From a table that a person tells to measurements: every cell is checked before anything is written.

Recording them belongs in `db`.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowscout.db import MeasurementRecord
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
        why = f"{where} has no column {missing[0]!r}" if missing else "the name is empty"
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


def _records(
    data: "pd.DataFrame", objects: Sequence[_Told], *, prop: str, source: str, where: str
) -> list[MeasurementRecord]:
    """Return the rows of a table as measurements."""
    values = numbers(data, prop, where=where)
    keys = [one.key for one in objects]
    row_ids = [str(x) for x in data["row_id"]] if "row_id" in data.columns else _content_ids(keys, values)
    repeated = [row_id for row_id, count in Counter(row_ids).items() if count > 1]
    if repeated:
        raise LabelError(f"{where} has the row_id {repeated[0]!r} more than once; give each row its own.")
    return [
        MeasurementRecord(
            one.key,
            one.text,
            prop,
            value,
            source=source,
            row_id=row_id,
            as_run=None if one.features is None else {FEATURES: one.features},
        )
        for one, value, row_id in zip(objects, values, row_ids, strict=True)
    ]


def _content_ids(keys: list[str], values: list[float]) -> list[str]:
    """Identify rows by what they say and by how often it has been said before in the same table."""
    seen: Counter[str] = Counter()
    found = []
    for key, value in zip(keys, values, strict=True):
        digest = hashlib.sha256(f"{key}\t{value.hex()}".encode()).hexdigest()[:24]
        seen[digest] += 1
        found.append(f"{digest}#{seen[digest]}")
    return found
