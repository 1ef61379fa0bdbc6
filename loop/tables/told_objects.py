"""The objects that a table names: in the space, or outside it and learned from all the same.

Which values they have belongs in `loop.tables.telling`.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from flowscout.errors import LabelError, ObjectError
from flowscout.loop.spaces.alphabets import MAX_LENGTH, SequenceRules
from flowscout.loop.spaces.listing import Listing
from flowscout.loop.tables.cells import is_empty
from flowscout.loop.tables.mistakes import Mistakes

if TYPE_CHECKING:
    import pandas as pd

OBJECT_COLUMNS = ("object", "sequence")

_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
REWRITTEN = re.compile(
    rf"[0-9]{{1,2}}-{_MONTH}(?:-[0-9]{{2,4}})?|{_MONTH}-[0-9]{{2,4}}|[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}(?: .*)?"
    r"|[0-9](?:\.[0-9]+)?E[+-][0-9]{2,3}"
)
"""What a spreadsheet makes of names such as SEPT2, MARCH1 and 1E5: a date, or a number with an exponent."""


@dataclass(frozen=True)
class ToldObject:
    """An object as it is stored, with its features if it is in no catalogue."""

    key: str
    text: str
    features: dict[str, float] | None = None


def read_objects(
    data: "pd.DataFrame", rules: SequenceRules | Listing, mistakes: Mistakes, *, counts: bool
) -> list[ToldObject | None]:
    """Return the object of each row, None where it is a mistake, which is noted.

    One that is in no catalogue needs features; `counts` may not be negative.

    Raises:
        LabelError: there is no column of objects.
    """
    column = next((name for name in OBJECT_COLUMNS if name in data.columns), None)
    if column is None:
        raise LabelError(
            f"{mistakes.where} has no column 'object' (or 'sequence'); it has "
            f"{', '.join(map(str, data.columns))[:500]}. Name the column that holds the objects so."
        )
    cells = ["" if is_empty(cell) and not isinstance(cell, str) else cell for cell in data[column].tolist()]
    outside: dict[str, dict[str, float]] = {}
    found: list[ToldObject | None] = []

    @cache
    def column_of(name: str) -> list[Any]:
        return list(data[name].tolist())

    def features_of(row: int) -> dict[str, float]:
        return {
            name: _feature(name, column_of(name)[row])
            for name in (rules.columns if isinstance(rules, Listing) else ())
        }

    for row, cell in enumerate(cells):
        try:
            if isinstance(cell, str) and len(cell) > MAX_LENGTH:
                raise ObjectError(
                    f"the object has {len(cell):,} characters, expected at most {MAX_LENGTH:,}; mend it"
                )
            if isinstance(rules, Listing) and cell not in rules:
                found.append(_outside(data, rules, cell, partial(features_of, row), outside, counts=counts))
            elif isinstance(rules, Listing):
                found.append(ToldObject(rules.key(cell), rules.require(cell)))
            else:
                found.append(ToldObject(*rules.told(cell)))  # what breaks a rule is learned from as well
        except (ObjectError, LabelError) as error:
            mistakes.add(row, str(error))
            found.append(None)
    return found


def _outside(
    data: "pd.DataFrame",
    rules: Listing,
    text: object,
    features_of: Callable[[], dict[str, float]],
    known: dict[str, dict[str, float]],
    *,
    counts: bool,
) -> ToldObject:
    """Return an object that is in no catalogue, with its features; `known` are those of earlier rows."""
    missing = [column for column in rules.columns if column not in data.columns]
    if missing or not isinstance(text, str) or not text.strip():
        nameless = "the name is empty" if isinstance(text, str) else "the name is no text, write it as one"
        why = f"the table has no column {missing[0]!r}" if missing else nameless
        raise ObjectError(
            f"{rules.validate(text)} Or tell it with all features ({', '.join(rules.columns)[:500]}): it is "
            f"then learned from and never proposed; but {why}."
        )
    name = text.strip()
    if REWRITTEN.fullmatch(name):
        raise LabelError(
            f"{name!r} is not in the catalogue, and is what a spreadsheet makes of a name such as SEPT2 or 1E5; "
            "expected the name that the catalogue has. Mend the cell, or give an object that is new another name"
        )
    features = features_of()
    negative = [column for column, value in features.items() if counts and value < 0]
    if negative:
        raise LabelError(
            f"{negative[0]} is {features[negative[0]]:g}, expected a number of at least 0 with the metric "
            "tanimoto. Mend or remove the row."
        )
    if known.setdefault(name, features) != features:
        raise LabelError(
            f"{name!r} has other features than in an earlier row, expected one object to have one set of them. "
            "Mend the row, or give the object a name of its own."
        )
    return ToldObject(name, name, features)


def _feature(column: str, cell: Any) -> float:
    """Return a cell as a finite number.

    Raises:
        LabelError: it is none.
    """
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or (isinstance(cell, str) and "_" in cell):
        raise LabelError(f"{column} is {cell!r}, expected a finite number; mend or remove the row")
    return value
