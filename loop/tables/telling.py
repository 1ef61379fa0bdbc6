"""From a table that a person tells to measurements: every cell is checked before anything is written.

How a file is read belongs in `loop.tables.sheets`, what its cells say in `loop.tables.cells`, recording in `db`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowscout.db import MeasurementRecord
from flowscout.errors import LabelError
from flowscout.loop.config import CampaignConfig
from flowscout.loop.outside import FEATURES
from flowscout.loop.space_sections import CatalogueSection
from flowscout.loop.spaces.alphabets import SequenceRules
from flowscout.loop.spaces.listing import Listing
from flowscout.loop.tables import plates
from flowscout.loop.tables.cells import (
    AS_RUN,
    BESIDE,
    Property,
    Value,
    header_of,
    read_conditions,
    read_values,
    refuse_what_no_database_holds,
)
from flowscout.loop.tables.mistakes import Mistakes
from flowscout.loop.tables.row_ids import RowId, content_ids, read_row_ids
from flowscout.loop.tables.sheets import read_sheet
from flowscout.loop.tables.told_objects import OBJECT_COLUMNS, ToldObject, read_objects
from flowscout.loop.workbench import rules_of

if TYPE_CHECKING:
    import pandas as pd

ASKED = ("candidate_id", "mean", "sd", "acquisition")
"""What `ask` writes beside the objects: a table that comes back filled in still has it."""


@dataclass(frozen=True)
class Sheet:
    """What a table says: measurements; how many of its rows hold no value yet; columns nothing was made of.

    `conditions` are the columns of a plate's sheet that were kept as conditions, `controls` how many of its wells
    hold controls.
    """

    records: list[MeasurementRecord]
    empty: int
    unread: tuple[str, ...]
    conditions: tuple[str, ...] = ()
    controls: int = 0


@dataclass(frozen=True)
class _Columns:
    """What the columns of a table are: of values, of conditions beside those marked so, and of nothing."""

    values: dict[Property, str]
    conditions: tuple[str, ...]
    unread: tuple[str, ...]


def read_labels(
    data: "pd.DataFrame | Sequence[Mapping[str, Any]] | str | Path",
    config: CampaignConfig,
    *,
    folder: Path,
    source: str | None = None,
    rules: SequenceRules | Listing | None = None,
    correct: bool = False,
    piece: bool = False,
    sheet: str | None = None,
) -> Sheet:
    """Return what `Campaign.tell` is told as measurements, every row checked. Nothing is written.

    `folder` is that of the campaign file, from which a catalogue is read where no `rules` come. What is to
    `correct` others must say which rows it is of. A `piece` of a larger table may hold no value yet. `sheet` is
    the one of a workbook that has several.

    Raises:
        LabelError: a column is missing, or the table cannot be read or is none.
        TableError: rows are wrong; the error has all of their mistakes.
    """
    frame, mistakes = _opened(data, sheet)
    otherwise = "told"
    if isinstance(data, str | Path):
        otherwise = Path(data).name if sheet is None else f"{Path(data).name} [{sheet}]"
    rules = rules_of(config, folder) if rules is None else rules
    refuse_what_no_database_holds(frame, mistakes)
    columns = _columns(frame, config, rules, where=mistakes.where)
    plate = plates.is_plate(frame)
    controls = plates.is_control(frame) if plate else [False] * len(frame)
    levels: dict[str, plates.Level] = {}
    if plate:
        plates.check_wells(frame, mistakes)
        plates.check_controls(frame, mistakes)
        levels = plates.read_levels(frame, controls, config.objective, columns.values, mistakes)
        frame, mistakes = _without(frame, controls, mistakes)
    counts = isinstance(config.space, CatalogueSection) and config.space.metric == "tanimoto"
    objects = read_objects(frame, rules, mistakes, counts=counts)
    values = {prop: read_values(frame, prop, column, mistakes) for prop, column in columns.values.items()}
    conditions = read_conditions(frame, mistakes, also=columns.conditions)
    named = read_row_ids(frame, objects, config.campaign, mistakes)
    run = dict.fromkeys(values, conditions)
    read, objective = {prop.name: found for prop, found in values.items()}, config.objective
    if objective.normalize is not None:
        read[objective.name] = plates.normalise(frame, objective, values, run, levels, mistakes)
    mistakes.refuse()
    if not piece and not any(value is not None for found in values.values() for value in found):
        raise LabelError(
            f"{mistakes.where} has no value for {' or '.join(p.name for p in values)} in any row; add one."
        )
    if correct and named is None:
        raise LabelError(
            f"{mistakes.where} has neither a column 'row_id' nor 'replicate', expected one that says which rows "
            "are to be corrected; nothing was written. Add it, or take the old values back by `flowscout retract`."
        )
    records = []
    for prop, found in values.items():
        first = prop.name == objective.name and objective.normalize is None
        row_ids = [] if named is not None else content_ids(objects, read[prop.name], conditions, prop, first=first)
        for row, value in enumerate(found):
            if value is None:
                continue
            one = objects[row]
            assert one is not None  # else it is a mistake
            known = RowId(row_ids[row]) if named is None else named[row]
            # What a plate map named is one row, whatever file or source it comes back by.
            origin = plates.SOURCE if known.of_plate else source or otherwise
            record = _record(one, prop, value, run[prop][row], origin, known.text)
            records.append((row, replace(record, replicate=known.replicate)))
    records.sort(key=lambda item: item[0])  # stable: row by row, the objective first
    empty = len(frame) - len({row for row, _ in records})
    told = [record for _, record in records]
    return Sheet(told, empty, columns.unread, columns.conditions, sum(controls))


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


def _opened(data: object, sheet: str | None) -> "tuple[pd.DataFrame, Mistakes]":
    """Return a table with room for its mistakes, in which those that its file has by itself stand already."""
    if isinstance(data, str | Path):
        if not Path(data).is_file():
            raise LabelError(f"no file {str(data)!r}; check the path of the table to tell.")
        piece, mistakes = read_sheet(Path(data), sheet=sheet)
        return piece.frame, mistakes
    if sheet is not None:
        raise LabelError(f"sheet {sheet!r} was named, and a table came that is no file; leave out the sheet.")
    frame = _table(data)
    columns = [str(name) for name in frame.columns]
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise LabelError(f"the table has the column {twice!r} more than once; leave one out or rename it.")
    return frame, Mistakes("the table")


def _without(
    data: "pd.DataFrame", left_out: Sequence[bool], mistakes: Mistakes
) -> "tuple[pd.DataFrame, Mistakes]":
    """Return a table without some of its rows; the others keep their numbers."""
    rows = [row for row, out in enumerate(left_out) if not out]
    others = Mistakes(mistakes.where, [mistakes.number(row) for row in rows])
    others.take(mistakes)
    return data.iloc[rows].reset_index(drop=True), others


def _columns(
    data: "pd.DataFrame", config: CampaignConfig, rules: SequenceRules | Listing, *, where: str
) -> _Columns:
    """Return what the columns of a table are.

    Raises:
        LabelError: it has none of values.
    """
    known = [Property(one.name, one.unit) for one in config.properties]
    objective = config.objective
    known.insert(0, Property(objective.name, objective.unit, objective.transform))
    found = {prop: column for prop in known if (column := header_of(data, prop, where=where)) is not None}
    if not found:
        names = " or ".join(repr(prop.name) for prop in known)
        raise LabelError(
            f"{where} has no column {names}; it has {', '.join(map(str, data.columns))[:500]}. "
            "Rename one, or name it in the campaign file."
        )
    beside = {f"{prop.name}_{name}" for prop in found for name in BESIDE}
    features = set(rules.columns) if isinstance(rules, Listing) else set()
    read = {"row_id", "replicate", *OBJECT_COLUMNS, *ASKED, *found.values(), *beside, *features}
    others = [str(name) for name in data.columns if name not in read and not str(name).startswith(AS_RUN)]
    if not plates.is_plate(data):
        return _Columns(found, (), tuple(others))
    return _Columns(found, tuple(name for name in others if name != plates.CONTROL), ())


def _record(
    one: ToldObject, prop: Property, value: Value, conditions: Mapping[str, Any], source: str, row_id: str
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
