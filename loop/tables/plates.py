"""Sheets of plates that come back filled: wells, controls, what a value is in percent of its plate's controls.

How a plate is laid out before belongs in `loop.tables.plate_maps`.
"""

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowscout.db import Qualifier
from flowscout.errors import LabelError
from flowscout.loop.config import ObjectiveSection
from flowscout.loop.tables.cells import WITH_NUMBER, Property, Value, names, read_values
from flowscout.loop.tables.mistakes import Mistakes

if TYPE_CHECKING:
    import pandas as pd

PLATE, WELL, CONTROL = "plate", "well", "control"
"""Columns of a plate's sheet. In `control` stands what a well holds that is no candidate."""

POSITIVE, NEGATIVE = "positive", "negative"
"""The controls that values are normalised by: 100% and 0%."""

SOURCE = "plates"
"""Where rows of a plate map come from, whatever name their file comes back under."""

NO_NAMES = ("0", "1", "false", "true", "no", "yes", "n", "y")
"""What stands in a column `control` that says whether a well is one, and not which: it is not guessed."""

MOST_REPLICATES = 200
"""How many replicates of an object a row id is looked for."""

_WELL = re.compile(r"([A-Pa-p])0*([1-9]|1[0-9]|2[0-4])")
_ROW_ID = re.compile(r"fs-[0-9a-f]{16}")
_FLIPPED = {Qualifier.BELOW: Qualifier.ABOVE, Qualifier.ABOVE: Qualifier.BELOW}


@dataclass(frozen=True)
class Readings:
    """What the wells of one control read: their mean, their standard deviation (None of one), and how many."""

    mean: float
    sd: float | None
    n: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as a condition holds it."""
        return {"mean": self.mean, "sd": self.sd, "n": self.n}


@dataclass(frozen=True)
class Level:
    """The controls of one plate."""

    positive: Readings
    negative: Readings

    def percent(self, value: float) -> float:
        """Return 100 (value - negative) / (positive - negative): 0 is the negative control, 100 the positive."""
        return 100.0 * (value - self.negative.mean) / (self.positive.mean - self.negative.mean)

    @property
    def slope(self) -> float:
        """By how many percent a unit of the value counts."""
        return 100.0 / (self.positive.mean - self.negative.mean)


def row_id_of(campaign: str, key: str, replicate: int) -> str:
    """Return the id of a row of a plate map: it hangs on what is measured, not on where it stands."""
    digest = hashlib.sha256(f"{campaign}\t{key}\t{replicate}".encode()).hexdigest()
    return f"fs-{digest[:16]}"


def is_row_id(text: str) -> bool:
    """Return whether a row id is one of a plate map."""
    return _ROW_ID.fullmatch(text) is not None


def replicate_of(row_id: str, campaign: str, key: str) -> int | None:
    """Return the replicate of an object that the row id of a plate map is of; None if it is of another object."""
    numbers = range(1, MOST_REPLICATES + 1)
    return next((number for number in numbers if row_id_of(campaign, key, number) == row_id), None)


def foreign(row_id: str, text: str, campaign: str) -> str:
    """Return what is said of a row id that is not of the object beside it."""
    return (
        f"the row_id {row_id!r} is not that of {text!r} in campaign {campaign!r}: was a column sorted without the "
        "others, or is the sheet another campaign's? Nothing was written. Export the plate again, or mend the row"
    )


def parse_well(text: str) -> str | None:
    """Return the name of a well, B3 for b03; None if it is none of a plate of up to 384."""
    match = _WELL.fullmatch(text.strip())
    return None if match is None else f"{match[1].upper()}{match[2]}"


def is_plate(data: "pd.DataFrame") -> bool:
    """Return whether a table is the sheet of a plate."""
    return WELL in data.columns or CONTROL in data.columns


def is_control(data: "pd.DataFrame") -> list[bool]:
    """Return which rows are wells of controls."""
    return [bool(text) for text in _column(data, CONTROL)]


def wells(data: "pd.DataFrame") -> list[str]:
    """Return the place of each row, plate and well."""
    found = zip(_column(data, PLATE), _column(data, WELL), strict=True)
    return [f"{plate} {parse_well(well) or ''}".strip() for plate, well in found]


def check_controls(data: "pd.DataFrame", mistakes: Mistakes) -> None:
    """Note controls that have no name: a well of a candidate must not be left out for a `no`."""
    for row, text in enumerate(_column(data, CONTROL)):
        if text.lower() in NO_NAMES:
            mistakes.add(
                row,
                f"control is {text!r}, expected the name of a control, such as {POSITIVE!r}, or nothing in the "
                "well of a candidate; mend the cell",
            )


def check_wells(data: "pd.DataFrame", mistakes: Mistakes) -> None:
    """Note wells that are none, and those that stand twice."""
    if WELL not in data.columns:
        return
    seen: dict[str, int] = {}
    for row, (text, place) in enumerate(zip(_column(data, WELL), wells(data), strict=True)):
        if parse_well(text) is None:
            mistakes.add(row, f"well is {text[:40]!r}, expected A1 to P24; mend the cell")
        elif place in seen:
            mistakes.add(
                row, f"the well {place} stands in row {seen[place]} too; name the plate in a column 'plate'"
            )
        else:
            seen[place] = mistakes.number(row)


def read_levels(
    data: "pd.DataFrame",
    controls: Sequence[bool],
    objective: ObjectiveSection,
    columns: Mapping[Property, str],
    mistakes: Mistakes,
) -> dict[str, Level]:
    """Return the controls of each plate where the objective is normalised by them; mistakes are noted.

    Readings are summed exactly: their order does not matter.
    """
    section = objective.normalize
    raw = None if section is None else next((prop for prop in columns if prop.name == section.raw), None)
    if raw is None:
        return {}
    rows = [row for row, one in enumerate(controls) if one]
    own = Mistakes(mistakes.where, [mistakes.number(row) for row in rows])
    frame = data.iloc[rows]
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: {POSITIVE: [], NEGATIVE: []})
    kinds, names = _column(frame, CONTROL), _column(frame, PLATE)
    for row, value in enumerate(read_values(frame, raw, columns[raw], own)):
        kind = kinds[row].lower()
        if value is None or value.value is None or kind not in (POSITIVE, NEGATIVE):
            continue
        if value.qualifier is not Qualifier.EQUAL:
            own.add(row, f"{raw.name} of a control is a bound, expected a number; mend or empty the cell")
        else:
            found[names[row]][kind].append(value.value)
    mistakes.take(own)
    levels = {}
    for plate, readings in found.items():
        try:
            levels[plate] = _level(plate, readings, raw.name)
        except LabelError as error:
            mistakes.add_numbered(None, str(error))
            levels[plate] = Level(Readings(1.0, None, 1), Readings(0.0, None, 1))  # nothing is written any more
    return levels


def normalise(
    data: "pd.DataFrame",
    objective: ObjectiveSection,
    values: dict[Property, list[Value | None]],
    run: dict[Property, list[dict[str, Any]]],
    levels: Mapping[str, Level],
    mistakes: Mistakes,
) -> list[Value | None]:
    """Put into `values` what the objective is in percent of each plate's controls, and into `run` how it was made.

    The raw values stay what they are. Returns what was read of the objective in each row, which is what a row is
    known again by: with other controls its value is another one.
    """
    section = objective.normalize
    assert section is not None
    prop = Property(objective.name, objective.unit, objective.transform)
    told = values.get(prop, [None] * len(data))
    raw = next((prop for prop in values if prop.name == section.raw), None)
    if raw is None:
        return told
    made, conditions = list(told), [dict(one) for one in run[raw]]
    for row, (plate, value) in enumerate(zip(_column(data, PLATE), values[raw], strict=True)):
        if value is None:
            continue
        if told[row] is not None:
            mistakes.add(row, f"{prop.name} is made from {raw.name}, and both stand there; empty one of them")
        elif value.qualifier not in WITH_NUMBER:
            made[row] = value
        elif plate not in levels:
            of = f"plate {plate!r}" if plate else "the sheet"
            mistakes.add(
                row,
                f"{raw.name} is to be normalised, and {of} has no value of the controls {POSITIVE!r} and "
                f"{NEGATIVE!r}; tell them along",
            )
        else:
            level = levels[plate]
            made[row] = _percent(value, level, prop, row, mistakes)
            conditions[row]["controls"] = {
                "formula": section.formula,
                "raw": raw.name,
                POSITIVE: level.positive.as_dict(),
                NEGATIVE: level.negative.as_dict(),
            }
    read = [one if one is not None else other for one, other in zip(told, values[raw], strict=True)]
    rest = {one: found for one, found in values.items() if one != prop}
    values.clear()
    values.update({prop: made, **rest})  # the objective first
    run[prop] = conditions
    return read


def _percent(value: Value, level: Level, prop: Property, row: int, mistakes: Mistakes) -> Value | None:
    assert value.value is not None
    percent, slope = level.percent(value.value), level.slope
    if not math.isfinite(percent):
        mistakes.add(row, "it is no finite number in percent of the controls; mend the reading or the controls")
        return None
    if prop.is_positive and percent <= 0:
        mistakes.add(row, f"it is {percent:g}% of the controls, expected more than 0: its logarithm is learned")
        return None
    qualifier = _FLIPPED.get(value.qualifier, value.qualifier) if slope < 0 else value.qualifier
    sem = None if value.sem is None else value.sem * abs(slope)
    return Value(percent, sem, value.n, qualifier)


def _level(plate: str, readings: Mapping[str, list[float]], raw: str) -> Level:
    of = f"plate {plate!r}" if plate else "the sheet"
    missing = [kind for kind in (POSITIVE, NEGATIVE) if not readings[kind]]
    if missing:
        raise LabelError(f"{of} has no value of {raw} in a {missing[0]} control; tell its control wells along")
    try:
        level = Level(*(_readings(readings[kind]) for kind in (POSITIVE, NEGATIVE)))
        usable = math.isfinite(level.slope)
    except (OverflowError, ZeroDivisionError):
        usable = False
    if not usable:
        raise LabelError(
            f"the controls of {of} read the same, or what no number can tell apart; expected that they differ. "
            "Check which wells hold them"
        )
    return level


def _readings(values: Sequence[float]) -> Readings:
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Readings(mean, None, 1)
    deviation = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Readings(mean, math.sqrt(deviation), len(values))


def _column(data: "pd.DataFrame", name: str) -> list[str]:
    return names(data[name].tolist()) if name in data.columns else [""] * len(data)
