"""Plate maps: where on a plate each thing that waits is measured, and where the controls stand.

What is made of the filled sheet belongs in `loop.tables.plates`.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowscout.db import RoundState, WaitingRow
from flowscout.db.rowfiles import escape_cell, whole_file
from flowscout.errors import ConfigError, StateError
from flowscout.loop.outside import known_key
from flowscout.loop.tables import plates
from flowscout.loop.tables.workbooks import column_name
from flowscout.loop.workbench import Workbench

SHAPES = {96: (8, 12), 384: (16, 24)}
"""Rows and columns of a plate by how many wells it has."""

FORMATS = (".csv", ".xlsx")

COLUMNS = (plates.PLATE, plates.WELL, "object", "replicate", "row_id", plates.CONTROL)

_CONTROL = re.compile(r"(?P<name>[^=:]+)=(?P<object>.*):(?P<wells>[^:]+)")


@dataclass(frozen=True)
class Control:
    """A control: its name, what it is, and its wells on every plate, as rows and columns from 0."""

    name: str
    object: str
    wells: tuple[tuple[int, int], ...]


def read_control(text: str, *, size: int) -> Control:
    """Return a control written as NAME=OBJECT:WELLS, its wells as A1,B1 or A1-H1 (a block by its corners).

    Raises:
        ConfigError: it is not written so, or a well is not on the plate.
    """
    match = _CONTROL.fullmatch(text.strip())
    if match is None or not match["name"].strip():
        raise ConfigError(
            f"control {text!r} came, expected NAME=OBJECT:WELLS such as positive=ACGT:A1-H1 or "
            "negative=DMSO:A12,B12; write it so."
        )
    found: list[tuple[int, int]] = []
    for block in match["wells"].split(","):
        first, _, last = block.strip().partition("-")
        (top, left), (bottom, right) = (_place(one, size=size, of=text) for one in (first, last or first))
        rows, columns = sorted((top, bottom)), sorted((left, right))
        found += [(r, c) for c in range(columns[0], columns[1] + 1) for r in range(rows[0], rows[1] + 1)]
    return Control(match["name"].strip(), match["object"].strip(), tuple(dict.fromkeys(found)))


def plate_rows(
    bench: Workbench, *, size: int, controls: Sequence[str | Control] = ()
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns and rows of the plate maps of all that waits, column by column of each plate.

    Each further plate has the same controls. Cells of the properties are empty: they are to be filled. A row's id
    hangs on object and replicate alone, so that exporting again gives the same.

    Raises:
        ConfigError: there is no such plate, or the controls leave no well or share one.
        StateError: nothing waits.
    """
    if size not in SHAPES:
        raise ConfigError(f"a plate of {size} wells was asked for, expected {' or '.join(map(str, SHAPES))}.")
    wanted = [one if isinstance(one, Control) else read_control(one, size=size) for one in controls]
    held = _held(wanted)
    n_rows, n_columns = SHAPES[size]
    order = [(row, column) for column in range(n_columns) for row in range(n_rows)]
    free = [place for place in order if place not in held]
    found = bench.history.queries.waiting(bench.campaign.id)
    waiting = [row for row in found if row.round_state is not RoundState.AWAITING_APPROVAL]
    if not waiting:
        raise StateError(
            f"campaign {bench.campaign.name!r} awaits no measurement, so there is nothing to put on a plate; ask "
            "for a batch first: flowscout ask FILE"
        )
    if not free:
        raise ConfigError(f"the controls take all {size} wells, expected room for candidates; name fewer.")
    columns = [*COLUMNS, *_filled(bench)]
    rows = []
    for start in range(0, len(waiting), len(free)):
        name = f"{bench.campaign.name}-{waiting[start].round or 0}-{start // len(free) + 1}"
        here = dict(zip(free, waiting[start : start + len(free)], strict=False))
        for place in order:
            if place in here or place in held:
                said = _sample(bench, here[place]) if place in here else _of_control(held[place])
                rows.append({plates.PLATE: name, plates.WELL: _well(place), **said})
    return columns, rows


def write_plate(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write plate maps as CSV or Excel by the ending of `path`, whole or not at all.

    Raises:
        ConfigError: the ending is another, or openpyxl is not installed, or the file cannot be written.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(
            f"{path.name!r} ends in {path.suffix!r}, expected {' or '.join(FORMATS)} for a plate map."
        )
    if path.suffix == ".xlsx":
        openpyxl = load_openpyxl()
    with whole_file(path) as temporary:
        if path.suffix == ".xlsx":
            _write_excel(openpyxl, temporary, columns, rows)
            return
        with temporary.open("w", encoding="utf-8-sig", newline="") as file:  # Excel knows UTF-8 by the mark
            writer = csv.writer(file, lineterminator="\r\n")
            writer.writerow(columns)
            for row in rows:
                writer.writerow([escape_cell(str(row.get(name, ""))) for name in columns])


def load_openpyxl() -> Any:
    """Return the module that writes workbooks. None is needed to read them.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        raise ConfigError(
            "writing Excel needs openpyxl, which is not installed; install it with: pip install "
            "'flowscout[excel]', or write a .csv, which Excel opens."
        ) from error
    return openpyxl


def _write_excel(openpyxl: Any, path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "plate"
    sheet.append(list(columns))
    for row in rows:
        sheet.append([row.get(name, None) for name in columns])
        for cell in sheet[sheet.max_row]:
            if cell.data_type == "f":  # an object that begins with =
                cell.data_type = "s"
    for cell in sheet[1]:
        cell.font = openpyxl.styles.Font(bold=True)
    sheet.freeze_panes = "A2"
    for place, name in enumerate(columns):
        widest = max([len(name), *(len(str(row.get(name, ""))) for row in rows)])
        sheet.column_dimensions[column_name(place)].width = min(widest + 2, 60)
    book.save(path)


def _filled(bench: Workbench) -> list[str]:
    """Return the columns that a person fills: of all that is measured, but for what is made of it."""
    section = bench.config.objective.normalize
    made = {bench.config.objective.name} if section is not None else set()
    found = [one for one in bench.config.measured if one.name not in made]
    return [one.name if one.unit is None else f"{one.name} [{one.unit}]" for one in found]


def _held(controls: Sequence[Control]) -> dict[tuple[int, int], Control]:
    held: dict[tuple[int, int], Control] = {}
    for control in controls:
        for place in control.wells:
            if place in held:
                raise ConfigError(
                    f"well {_well(place)} is to hold {held[place].name!r} and {control.name!r}, expected one; "
                    "give one of them another well."
                )
            held[place] = control
    return held


def _sample(bench: Workbench, row: WaitingRow) -> dict[str, Any]:
    # It may be outside the space by now: the rules were changed, or the catalogue has it no more.
    row_id = plates.row_id_of(bench.campaign.name, known_key(bench, row.object), row.replicate)
    return {"object": row.object, "replicate": row.replicate, "row_id": row_id}


def _of_control(control: Control) -> dict[str, Any]:
    return {"object": control.object, plates.CONTROL: control.name}


def _place(text: str, *, size: int, of: str) -> tuple[int, int]:
    name = plates.parse_well(text)
    place = None if name is None else (ord(name[0]) - 65, int(name[1:]) - 1)
    n_rows, n_columns = SHAPES[size]
    if place is None or place[0] >= n_rows or place[1] >= n_columns:
        last = _well((n_rows - 1, n_columns - 1))
        raise ConfigError(f"control {of!r} names the well {text!r}, expected A1 to {last} on a plate of {size}.")
    return place


def _well(place: tuple[int, int]) -> str:
    return f"{chr(65 + place[0])}{place[1] + 1}"
