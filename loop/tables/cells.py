"""What the cells of a told table say: values with their errors, bounds and units, and conditions as run.

Which object they are of, and how a row is known again, belongs in `loop.tables.telling`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowscout.db import Qualifier
from flowscout.errors import LabelError
from flowscout.loop.tables.mistakes import Mistakes

if TYPE_CHECKING:
    import pandas as pd

AS_RUN = "as_run_"
"""Columns of this name hold conditions that a measurement was made under."""

TAKEN = ("features", "controls")
"""Conditions that are written by Flowscout itself."""

BESIDE = ("sem", "n", "qualifier", "unit")
"""What may stand beside a property, in columns NAME_sem and so on."""

MAX_COUNT = 2**31 - 1
"""As the column of the database holds it."""

LARGEST = 1e300
"""The sum of as many as there can be is a number too."""

_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]*,[0-9]+(?:[eE][-+]?[0-9]+)?")

WITH_NUMBER = (Qualifier.EQUAL, Qualifier.BELOW, Qualifier.ABOVE)


@dataclass(frozen=True)
class Property:
    """A property that a campaign knows, and the unit that its values are in."""

    name: str
    unit: str | None = None
    transform: str = "none"

    @property
    def is_positive(self) -> bool:
        """Whether its values must be above 0: those whose logarithm is learned."""
        return self.transform != "none"


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
    """Return the column of a property, NAME, NAME [UNIT] or NAME (UNIT); None where there is none.

    Raises:
        LabelError: there are two, or its unit is another one than the campaign's.
    """
    pattern = re.compile(rf"{re.escape(prop.name)}\s*(?:\[(?P<unit>[^\]]*)\]|\((?P<round>[^)]*)\))?")
    found = {str(name): match for name in data.columns if (match := pattern.fullmatch(str(name).strip()))}
    if not found:
        return None
    if len(found) > 1:
        raise LabelError(
            f"{where} has columns {' and '.join(found)}, expected one for {prop.name}; leave one out."
        )
    [(column, match)] = found.items()
    unit = match["unit"] if match["round"] is None else match["round"]
    if unit is not None:
        try:
            _check_unit(unit.strip(), prop)
        except LabelError as error:
            raise LabelError(f"{where}, column {column!r}: {error}") from error
    return column


def read_values(data: "pd.DataFrame", prop: Property, column: str, mistakes: Mistakes) -> list[Value | None]:
    """Return what each row says of a property; None where it says nothing, or what is noted as a mistake."""
    cells = {name: _cells(data, f"{prop.name}_{name}") for name in BESIDE}
    found: list[Value | None] = []
    for row, text in enumerate(_cells(data, column)):
        try:
            found.append(_value(prop, text, **{name: cell[row] for name, cell in cells.items()}))
        except LabelError as error:
            mistakes.add(row, str(error))
            found.append(None)
    return found


def read_conditions(data: "pd.DataFrame", mistakes: Mistakes, *, also: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the conditions of each row, by name: numbers where they are written as Python writes them, else text.

    They stand in columns as_run_NAME, and in those of the names in `also`.

    Raises:
        LabelError: a condition has no name, one that is taken, or the same as another.
    """
    found: list[dict[str, Any]] = [{} for _ in range(len(data))]
    seen: set[str] = set()
    for column in data.columns:
        marked = str(column).startswith(AS_RUN)
        if not marked and str(column) not in also:
            continue
        name = str(column).removeprefix(AS_RUN).strip()
        if not name or name in TAKEN or name in seen:
            raise LabelError(
                f"{mistakes.where} has a column {column!r}, expected {AS_RUN}NAME; name the condition otherwise."
            )
        seen.add(name)
        for row, cell in enumerate(data[column].tolist()):
            if not is_empty(cell):
                found[row][name] = _plain(cell)
    return found


def refuse_what_no_database_holds(data: "pd.DataFrame", mistakes: Mistakes) -> None:
    """Note texts that cannot be stored everywhere: zero bytes, and halves of characters.

    Raises:
        LabelError: the name of a column is one.
    """
    odd = next((name for name in data.columns if isinstance(name, str) and not _is_storable(name)), None)
    if odd is not None:
        raise LabelError(f"{mistakes.where} has the column {odd!r}, which no database can hold; rename it.")
    for column in data.columns:
        for row, cell in enumerate(data[column].tolist()):
            if isinstance(cell, str) and not _is_storable(cell):
                mistakes.add(row, f"{column} is {cell[:40]!r}, which holds what is no character; mend the cell")


def _is_storable(text: str) -> bool:
    if text.isascii():
        return "\0" not in text
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def is_empty(cell: object) -> bool:
    """Return whether a cell says nothing."""
    return (
        cell is None or (isinstance(cell, float) and math.isnan(cell)) or str(cell).strip() in ("", "<NA>", "NaT")
    )


def texts(cells: Sequence[object]) -> list[str]:
    """Return cells as text, an empty one as none."""
    return ["" if is_empty(cell) else str(cell).strip() for cell in cells]


def names(cells: Sequence[object]) -> list[str]:
    """Return cells that name something as text: `1` for 1.0, which a column of numbers with a gap makes of it."""
    return texts([int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in cells])


def _cells(data: "pd.DataFrame", column: str) -> list[str]:
    return texts(data[column].tolist()) if column in data.columns else [""] * len(data)


def _value(prop: Property, text: str, *, sem: str, n: str, qualifier: str, unit: str) -> Value | None:
    if unit:
        _check_unit(unit, prop)
    if not text and not qualifier:
        if sem or n:
            raise LabelError(
                f"{prop.name} is empty, but {prop.name}_{'sem' if sem else 'n'} is not; nothing was "
                "written. Add the value, or empty both."
            )
        return None
    bound = text[:1] if text[:1] in ("<", ">") and not qualifier else ""
    kind = _qualifier(qualifier or bound or "=", prop)
    number = _number(text.removeprefix(bound).strip())
    if kind not in WITH_NUMBER:
        if text:
            raise LabelError(
                f"{prop.name} is {text!r} and {prop.name}_qualifier {qualifier!r}, expected no value "
                "beside it; nothing was written. Empty one of the two."
            )
        return Value(None, qualifier=kind)
    if number is None and _DECIMAL_COMMA.fullmatch(text.removeprefix(bound).strip()):
        raise LabelError(
            f"{prop.name} is {text!r}, expected a decimal point: whether a comma parts decimals or thousands is "
            "not guessed. Write the numbers with a point, or save the table as .xlsx"
        )
    if number is None:
        raise LabelError(
            f"{prop.name} is {text!r}, expected a finite number; mend or remove the row, or say "
            f"`missing` or `infeasible` in {prop.name}_qualifier."
        )
    if abs(number) > LARGEST:
        raise LabelError(f"{prop.name} is {text!r}, expected a finite number of at most {LARGEST:g}; mend the row")
    if prop.is_positive and number <= 0:
        raise LabelError(
            f"{prop.name} is {text!r}, expected a number above 0: its logarithm is learned (transform: "
            f"{prop.transform}). Write what is below detection as a bound, such as <0.1, or say `missing` in "
            f"{prop.name}_qualifier"
        )
    return Value(number, *_error(prop, sem, n), qualifier=kind)


def _qualifier(text: str, prop: Property) -> Qualifier:
    if text not in tuple(Qualifier):
        raise LabelError(
            f"{prop.name}_qualifier is {text!r}, expected <, > or =, or missing, infeasible or "
            "retracted; nothing was written. Mend the cell, or leave it empty."
        )
    return Qualifier(text)


def _error(prop: Property, sem: str, n: str) -> tuple[float | None, int | None]:
    """Return the standard error, and of how many readings the value is the mean."""

    def refuse(name: str, cell: str, expected: str) -> LabelError:
        return LabelError(
            f"{prop.name}_{name} is {cell!r}, expected {expected}; nothing was written. "
            "Mend the cell, or leave it empty."
        )

    error, count = _number(sem), _number(n)
    if sem and (error is None or error < 0):
        raise refuse("sem", sem, "a standard error: a finite number of at least 0")
    if n and (count is None or not 1 <= count <= MAX_COUNT or count != int(count)):
        raise refuse("n", n, "how many readings the value is a mean of: a whole number of at least 1")
    return error, None if count is None else int(count)


def _check_unit(unit: str, prop: Property) -> None:
    """Refuse another unit than the campaign's: no value is converted."""
    if unit == prop.unit:
        return
    if prop.unit is None:
        raise LabelError(
            f"the unit of {prop.name} is {unit!r}, but the campaign file names none; nothing was "
            f"written. Add `unit: {unit}` to {prop.name} there, or leave the unit out."
        )
    raise LabelError(
        f"the unit of {prop.name} is {unit!r}, expected {prop.unit!r}, the campaign's; nothing was "
        "written. Convert the values: that is not done here."
    )


def _plain(cell: object) -> Any:
    """Return a condition as JSON holds it. `25` and `25.0` are one number; `007` and `1e3` are texts."""
    if not isinstance(cell, str):
        cell = cell.item() if hasattr(cell, "item") else cell
        if isinstance(cell, float) and not math.isfinite(cell):
            return str(cell)  # JSON has none
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
    if "_" in cell:  # which parts thousands in Python, and in no table
        return None
    return found if math.isfinite(found) else None
