"""From a table that a person tells to measurements: every cell is checked before anything is written.

Recording them belongs in `db`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowscout.db import MeasurementRecord
from flowscout.errors import LabelError, ObjectError
from flowscout.loop.cells import AS_RUN, BESIDE, Property, Value, header_of, read_conditions, read_values, texts
from flowscout.loop.config import CampaignConfig
from flowscout.loop.oracles import numbers, read_table
from flowscout.loop.outside import FEATURES
from flowscout.loop.space_sections import CatalogueSection
from flowscout.loop.spaces.alphabets import SequenceRules
from flowscout.loop.spaces.listing import Listing
from flowscout.loop.workbench import rules_of

if TYPE_CHECKING:
    import pandas as pd

OBJECT_COLUMNS = ("object", "sequence")

ASKED = ("candidate_id", "mean", "sd", "acquisition")
"""What `ask` writes beside the objects: a table that comes back filled in still has it."""


@dataclass(frozen=True)
class Sheet:
    """What a table says: measurements; how many of its rows hold no value yet; columns nothing was made of."""

    records: list[MeasurementRecord]
    empty: int
    unread: tuple[str, ...]


@dataclass(frozen=True)
class _Told:
    """An object as it is stored, with its features if it is in no catalogue."""

    key: str
    text: str
    features: dict[str, float] | None = None


def read_labels(
    data: "pd.DataFrame | Sequence[Mapping[str, Any]] | str | Path",
    config: CampaignConfig,
    *,
    folder: Path,
    source: str | None = None,
    rules: SequenceRules | Listing | None = None,
    correct: bool = False,
    piece: bool = False,
) -> Sheet:
    """Return what `Campaign.tell` is told as measurements, every row checked. Nothing is written.

    `folder` is that of the campaign file, from which a catalogue is read where no `rules` come. What is to
    `correct` others must say which rows it is of. A `piece` of a larger table may hold no value yet.

    Raises:
        LabelError: a value is not a finite number, a column is missing, or the table cannot be read or is none.
        ObjectError: an object is not in the space.
    """
    where = "the table" if not isinstance(data, str | Path) else f"table {Path(data).name!r}"
    if isinstance(data, str | Path):
        path = Path(data)
        if not path.is_file():
            raise LabelError(f"no file {str(path)!r}; check the path of the table to tell.")
        source = source or path.name
        data = read_table(path)
    else:
        data = _table(data)
    rules = rules_of(config, folder) if rules is None else rules
    counts = isinstance(config.space, CatalogueSection) and config.space.metric == "tanimoto"
    columns = _columns(data, config, where=where)
    objects = _objects(data, rules, counts=counts, where=where)
    read = {prop: read_values(data, prop, column, where=where) for prop, column in columns.items()}
    if not piece and not any(value is not None for values in read.values() for value in values):
        raise LabelError(f"{where} has no value for {' or '.join(p.name for p in read)} in any row; add one.")
    conditions = read_conditions(data, where=where)
    named = _row_ids(data, objects, where=where)
    if correct and named is None:
        raise LabelError(
            f"{where} has neither a column 'row_id' nor 'replicate', expected one that says which rows are to be "
            "corrected; nothing was written. Add it, or take the old values back with `flowscout retract`."
        )
    records = []
    for prop, values in read.items():
        row_ids = _content_ids(objects, values, conditions, prop, first=prop.name == config.objective.name)
        for row, value in enumerate(values):
            if value is not None:
                row_id, replicate = (row_ids[row], None) if named is None else named[row]
                record = _record(objects[row], prop, value, conditions[row], source or "told", row_id)
                records.append((row, replace(record, replicate=replicate)))
    records.sort(key=lambda item: item[0])  # stable: row by row, the objective first
    empty = len(data) - len({row for row, _ in records})
    return Sheet([record for _, record in records], empty, _unread(data, rules, columns))


def _table(data: object) -> "pd.DataFrame":
    """Return a table, or a list of rows as one.

    Raises:
        LabelError: it is neither.
    """
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        return data
    if not isinstance(data, Sequence) or isinstance(data, bytes):
        came = f"{type(data).__module__}.{type(data).__qualname__}".removeprefix("builtins.")
    elif not data:
        came = "a list without rows"
    else:
        odd = next((row for row in data if not isinstance(row, Mapping)), None)
        if odd is None:
            # object: a column of whole numbers in which one is missing would become one of fractions
            return pd.DataFrame([dict(row) for row in data], dtype=object)
        came = f"a list that holds {odd!r}"
    raise LabelError(
        f"{came} was told, expected a pandas DataFrame, the path of a CSV file, or a list of rows such as "
        "{'object': 'ACGT', 'y': 0.5}; nothing was written. Turn it into one of these."
    )


def _columns(data: "pd.DataFrame", config: CampaignConfig, *, where: str) -> dict[Property, str]:
    """Return the column of each property that the table has.

    Raises:
        LabelError: it has none.
    """
    known = [Property(one.name, one.unit) for one in config.measured]
    found = {prop: column for prop in known if (column := header_of(data, prop, where=where)) is not None}
    if not found:
        names = " or ".join(repr(prop.name) for prop in known)
        raise LabelError(
            f"{where} has no column {names}; it has {', '.join(map(str, data.columns))}. "
            "Rename one, or name it in the campaign file."
        )
    return found


def _unread(
    data: "pd.DataFrame", rules: SequenceRules | Listing, columns: Mapping[Property, str]
) -> tuple[str, ...]:
    """Return the columns of a table that nothing is made of."""
    beside = {f"{prop.name}_{name}" for prop in columns for name in BESIDE}
    features = set(rules.columns) if isinstance(rules, Listing) else set()
    known = {"row_id", "replicate", *OBJECT_COLUMNS, *ASKED, *columns.values(), *beside, *features}
    return tuple(name for name in map(str, data.columns) if name not in known and not name.startswith(AS_RUN))


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
        return [_Told(*rules.told(text)) for text in texts]  # what breaks a rule is learned from as well
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


def _record(
    one: _Told, prop: Property, value: Value, conditions: Mapping[str, Any], source: str, row_id: str
) -> MeasurementRecord:
    features = {} if one.features is None else {FEATURES: one.features}
    return MeasurementRecord(
        one.key,
        one.text,
        prop.name,
        value.value,
        source=source,
        row_id=row_id,
        qualifier=value.qualifier,
        sem=value.sem,
        n=value.n,
        unit=prop.unit,
        as_run={**conditions, **features} or None,
    )


def _row_ids(data: "pd.DataFrame", objects: Sequence[_Told], *, where: str) -> list[tuple[str, int | None]] | None:
    """Return what the rows are known again by: their own ids, else object and replicate; None where neither came.

    Beside it the replicate that a row answers, where it says so.

    Raises:
        LabelError: an id is empty or comes twice, or a replicate is no whole number.
    """
    replicates: list[int | None] = [None] * len(data)
    if "row_id" in data.columns:
        found, name = texts(data["row_id"].tolist()), "row_id"
    elif "replicate" in data.columns:
        numbers = [text.removesuffix(".0") for text in texts(data["replicate"].tolist())]
        wrong = next((row for row, text in enumerate(numbers) if not text.isdecimal() or int(text) < 1), None)
        if wrong is not None:
            raise LabelError(
                f"{where}, row {wrong + 1}: replicate is {numbers[wrong]!r}, expected a whole number of at least "
                "1; nothing was written. Number the readings of each object."
            )
        replicates = [int(number) for number in numbers]
        found = [f"{_short(one.key)} replicate {n}" for one, n in zip(objects, replicates, strict=True)]
        name = "replicate"
    else:
        return None
    if "" in found:
        raise LabelError(f"{where}, row {found.index('') + 1}: {name} is empty; give each row its own.")
    repeated = [row_id for row_id, count in Counter(found).items() if count > 1]
    if repeated:
        raise LabelError(f"{where} has the {name} {repeated[0]!r} more than once; give each row its own.")
    return list(zip(found, replicates, strict=True))


def _short(key: str) -> str:
    """Return a key as a row id can hold it."""
    return key if len(key) <= 150 else hashlib.sha256(key.encode()).hexdigest()[:24]


def _content_ids(
    objects: Sequence[_Told],
    values: Sequence[Value | None],
    conditions: Sequence[Mapping[str, Any]],
    prop: Property,
    *,
    first: bool,
) -> list[str]:
    """Identify rows by what they say and by how often it has been said before in the same table.

    The id of a plain value of the objective is what it was before there were other properties and conditions.
    """
    seen: Counter[str] = Counter()
    found = []
    for one, value, run in zip(objects, values, conditions, strict=True):
        said = f"{one.key}\t{'' if value is None else value.content}"
        said += "" if first else f"\t{prop.name}"
        said += f"\t{json.dumps(run, sort_keys=True)}" if run else ""
        digest = hashlib.sha256(said.encode()).hexdigest()[:24]
        seen[digest] += 1
        found.append(f"{digest}#{seen[digest]}")
    return found
