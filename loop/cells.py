"""What the cells of a told table say: values with their errors, bounds and units, and conditions as run.

Which object they are of, and how a row is known again, belongs in `loop.telling`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowscout.db import Qualifier
from flowscout.errors import LabelError

if TYPE_CHECKING:
    import pandas as pd

AS_RUN = "as_run_"
"""Columns of this name hold conditions that a measurement was made under."""

BESIDE = ("sem", "n", "qualifier", "unit")
"""What may stand beside a property, in columns NAME_sem and so on."""

WITH_NUMBER = (Qualifier.EQUAL, Qualifier.BELOW, Qualifier.ABOVE)


@dataclass(frozen=True)
class Property:
    """A property that a campaign knows, and the unit that its values are in."""

    name: str
    unit: str | None = None


@dataclass(frozen=True)
class Value:
    """What a row says of a property."""

    value: float | None
    sem: float | None = None
    n: int | None = None
    qualifier: Qualifier = Qualifier.EQUAL

    @property
    def content(self) -> str:
        """What it says, as a text; a plain value is its own."""
        number = "" if self.value is None else self.value.hex()
        plain = self.sem is None and self.n is None and self.qualifier is Qualifier.EQUAL
        return number if plain else f"{self.qualifier}{number}\t{self.sem!r}\t{self.n!r}"


def header_of(data: "pd.DataFrame", prop: Property, *, where: str) -> str | None:
    """Return the column of a property, NAME or NAME [UNIT]; None where there is none.

    Raises:
        LabelError: there are two, or its unit is another one than the campaign's.
    """
    pattern = re.compile(rf"{re.escape(prop.name)}\s*(?:\[(?P<unit>[^\]]*)\])?")
    found = {str(name): match for name in data.columns if (match := pattern.fullmatch(str(name).strip()))}
    if not found:
        return None
    if len(found) > 1:
        raise LabelError(
            f"{where} has columns {' and '.join(found)}, expected one for {prop.name}; leave one out."
        )
    [(column, match)] = found.items()
    if match["unit"] is not None:
        _check_unit(match["unit"].strip(), prop, where=f"{where}, column {column!r}")
    return column


def read_values(data: "pd.DataFrame", prop: Property, column: str, *, where: str) -> list[Value | None]:
    """Return what each row says of a property; None where it says nothing.

    Raises:
        LabelError: a cell is not what it must be; the message names its row.
    """
    cells = {name: _cells(data, f"{prop.name}_{name}") for name in BESIDE}
    values = _cells(data, column)
    return [
        _value(prop, text, **{name: found[row] for name, found in cells.items()}, where=f"{where}, row {row + 1}")
        for row, text in enumerate(values)
    ]


def read_conditions(data: "pd.DataFrame", *, where: str) -> list[dict[str, Any]]:
    """Return the conditions of each row, by name: numbers where they are written as Python writes them, else text.

    Raises:
        LabelError: a condition has no name.
    """
    found: list[dict[str, Any]] = [{} for _ in range(len(data))]
    for column in data.columns:
        if not str(column).startswith(AS_RUN):
            continue
        name = str(column).removeprefix(AS_RUN)
        if not name or name == "features":
            raise LabelError(
                f"{where} has a column {column!r}, expected {AS_RUN}NAME; name the condition otherwise."
            )
        for conditions, cell in zip(found, data[column].tolist(), strict=True):
            if not is_empty(cell):
                conditions[name] = _plain(cell)
    return found


def is_empty(cell: object) -> bool:
    """Return whether a cell says nothing."""
    return (
        cell is None or (isinstance(cell, float) and math.isnan(cell)) or str(cell).strip() in ("", "<NA>", "NaT")
    )


def texts(cells: Sequence[object]) -> list[str]:
    """Return cells as text, an empty one as none."""
    return ["" if is_empty(cell) else str(cell).strip() for cell in cells]


def _cells(data: "pd.DataFrame", column: str) -> list[str]:
    return texts(data[column].tolist()) if column in data.columns else [""] * len(data)


def _value(prop: Property, text: str, *, sem: str, n: str, qualifier: str, unit: str, where: str) -> Value | None:
    if unit:
        _check_unit(unit, prop, where=where)
    if not text and not qualifier:
        if sem or n:
            raise LabelError(
                f"{where}: {prop.name} is empty, but {prop.name}_{'sem' if sem else 'n'} is not; nothing was "
                "written. Add the value, or empty both."
            )
        return None
    bound = text[:1] if text[:1] in ("<", ">") and not qualifier else ""
    kind = _qualifier(qualifier or bound or "=", prop, where=where)
    number = _number(text.removeprefix(bound).strip())
    if kind not in WITH_NUMBER:
        if text:
            raise LabelError(
                f"{where}: {prop.name} is {text!r} and {prop.name}_qualifier {qualifier!r}, expected no value "
                "beside it; nothing was written. Empty one of the two."
            )
        return Value(None, qualifier=kind)
    if number is None:
        raise LabelError(
            f"{where}: {prop.name} is {text!r}, expected a finite number; mend or remove the row, or say "
            f"`missing` or `infeasible` in {prop.name}_qualifier."
        )
    return Value(number, *_error(prop, sem, n, where=where), qualifier=kind)


def _qualifier(text: str, prop: Property, *, where: str) -> Qualifier:
    if text not in tuple(Qualifier):
        raise LabelError(
            f"{where}: {prop.name}_qualifier is {text!r}, expected <, > or =, or missing, infeasible or "
            "retracted; nothing was written. Mend the cell, or leave it empty."
        )
    return Qualifier(text)


def _error(prop: Property, sem: str, n: str, *, where: str) -> tuple[float | None, int | None]:
    """Return the standard error, and of how many readings the value is the mean."""

    def refuse(name: str, cell: str, expected: str) -> LabelError:
        return LabelError(
            f"{where}: {prop.name}_{name} is {cell!r}, expected {expected}; nothing was written. "
            "Mend the cell, or leave it empty."
        )

    error, count = _number(sem), _number(n)
    if sem and (error is None or error < 0):
        raise refuse("sem", sem, "a standard error: a finite number of at least 0")
    if n and (count is None or count < 1 or count != int(count)):
        raise refuse("n", n, "how many readings the value is a mean of: a whole number of at least 1")
    return error, None if count is None else int(count)


def _check_unit(unit: str, prop: Property, *, where: str) -> None:
    """Refuse another unit than the campaign's: no value is converted."""
    if unit == prop.unit:
        return
    if prop.unit is None:
        raise LabelError(
            f"{where}: the unit of {prop.name} is {unit!r}, but the campaign file names none; nothing was "
            f"written. Add `unit: {unit}` to {prop.name} there, or leave the unit out."
        )
    raise LabelError(
        f"{where}: the unit of {prop.name} is {unit!r}, expected {prop.unit!r}, the campaign's; nothing was "
        "written. Convert the values: that is not done here."
    )


def _plain(cell: object) -> Any:
    """Return a condition as JSON holds it. `25` and `25.0` are one number; `007` and `1e3` are texts."""
    if not isinstance(cell, str):
        cell = cell.item() if hasattr(cell, "item") else cell
        if not isinstance(cell, float) or not cell.is_integer():
            return cell if isinstance(cell, bool | int | float) else str(cell)
        return int(cell)
    text = cell.strip()
    number = _number(text)
    if number is None or text not in (repr(number), repr(int(number))):
        return text
    return int(number) if number.is_integer() else number


def _number(cell: str) -> float | None:
    """Return a cell as a finite number, None where it is none."""
    try:
        found = float(cell)
    except ValueError:
        return None
    return found if math.isfinite(found) else None
