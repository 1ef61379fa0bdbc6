"""What the rows of a told table are known again by, so that telling them again changes nothing.

Which rows are stored already is found in `db`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowscout.loop.tables import plates
from flowscout.loop.tables.cells import Property, Value, names, texts
from flowscout.loop.tables.mistakes import Mistakes
from flowscout.loop.tables.told_objects import ToldObject

if TYPE_CHECKING:
    import pandas as pd

MAX_ROW_ID = 200
"""As the column of the database holds it."""


@dataclass(frozen=True)
class RowId:
    """The id of a row within its source, the replicate that it says it is, and whether a plate map gave it."""

    text: str
    replicate: int | None = None
    of_plate: bool = False


def read_row_ids(
    data: "pd.DataFrame", objects: Sequence[ToldObject | None], campaign: str, mistakes: Mistakes
) -> list[RowId] | None:
    """Return what the rows are known again by: their own ids, else their wells, else object and replicate.

    None where none of these columns came. What is wrong is noted.
    """
    replicates = _replicates(data, mistakes)
    if "row_id" in data.columns:
        name, found = "row_id", names(data["row_id"].tolist())
    elif plates.WELL in data.columns:
        name, found = plates.WELL, plates.wells(data)
    elif "replicate" in data.columns:
        name = "replicate"
        found = [
            "" if one is None or number is None else f"{_short(one.key)} replicate {number}"
            for one, number in zip(objects, replicates, strict=True)
        ]
    else:
        return None
    seen: dict[str, int] = {}
    rows = []
    for row, (text, replicate, one) in enumerate(zip(found, replicates, objects, strict=True)):
        known = RowId(text, replicate, of_plate=name == "row_id" and plates.is_row_id(text))
        if known.of_plate and one is not None:
            known = RowId(text, plates.replicate_of(text, campaign, one.key), of_plate=True)
            if known.replicate is None:
                mistakes.add(row, plates.foreign(text, one.text, campaign))
        if name != plates.WELL:  # of which those that stand twice are noted elsewhere
            _check(text, name, row, seen, mistakes)
        rows.append(known)
    return rows


def _check(text: str, name: str, row: int, seen: dict[str, int], mistakes: Mistakes) -> None:
    """Note an id that is empty, too long or `seen` before, by the number of its row."""
    if text in seen:
        mistakes.add(row, f"the {name} {text!r} stands in row {seen[text]} too; give each row its own")
    elif not text and name == "row_id":
        mistakes.add(row, f"{name} is empty; give each row its own")
    elif len(text) > MAX_ROW_ID:
        mistakes.add(row, f"{name} has {len(text):,} characters, expected at most {MAX_ROW_ID}; shorten it")
    if text:
        seen[text] = mistakes.number(row)


def _replicates(data: "pd.DataFrame", mistakes: Mistakes) -> list[int | None]:
    """Return the replicate that each row is, None where it says none, as it may beside other ids."""
    if "replicate" not in data.columns:
        return [None] * len(data)
    found: list[int | None] = []
    for row, cell in enumerate(texts(data["replicate"].tolist())):
        text = cell.removesuffix(".0")
        right = text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= 1
        if not right and (text or not {"row_id", "well"} & set(data.columns)):
            mistakes.add(
                row,
                f"replicate is {text[:40]!r}, expected a whole number of at least 1; nothing was written. Number "
                "the readings of each object.",
            )
        found.append(int(text) if right else None)
    return found


def content_ids(
    objects: Sequence[ToldObject | None],
    values: Sequence[Value | None],
    conditions: Sequence[Mapping[str, Any]],
    prop: Property,
    *,
    first: bool,
) -> list[str]:
    """Identify rows by what they say and by how often it has been said before in the same table.

    The id of a plain value of the objective (`first`) is what it was before there were other properties and
    conditions.
    """
    seen: Counter[str] = Counter()
    found = []
    for one, value, run in zip(objects, values, conditions, strict=True):
        assert one is not None  # else it is a mistake
        said = f"{one.key}\t{'' if value is None else value.content}"
        said += "" if first else f"\t{prop.name}"
        said += f"\t{json.dumps(run, sort_keys=True)}" if run else ""
        digest = hashlib.sha256(said.encode()).hexdigest()[:24]
        seen[digest] += 1
        found.append(f"{digest}#{seen[digest]}")
    return found


def _short(key: str) -> str:
    """Return a key as a row id can hold it."""
    return key if len(key) <= 150 else hashlib.sha256(key.encode()).hexdigest()[:24]
