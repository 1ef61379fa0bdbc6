"""Which objects are in a catalogue: names with their features, and the CSV file that both are read from.

Tensors do not belong here: the command line checks objects with this module and never loads torch.
"""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowscout.errors import ConfigError, ObjectError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

MOSTLY = 0.5
"""A column whose cells are numbers by more than this share is taken for a numeric one: the others are mistakes."""


@dataclass(frozen=True, eq=False)
class Listing:
    """Say what can be bought: distinct names, and the features of each, `n x d` in float64, finite.

    `columns` names the features (default: their numbers). A name is compared without the space around it.

    Raises:
        ConfigError: There are no names, a name is empty or stands twice, or the features cannot be.
    """

    names: Sequence[str]
    features: "NDArray[np.float64]"
    columns: Sequence[str] = ()
    _rows: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        import numpy as np

        if isinstance(self.names, str) or not all(isinstance(name, str) for name in self.names):
            raise ConfigError(f"names are {self.names!r:.80}, expected a list of texts. Write one per object.")
        names = tuple([name.strip() for name in self.names])
        features = np.require(self.features, dtype=np.float64, requirements=["C", "W"])
        if not names or features.ndim != 2 or features.shape[0] != len(names) or features.shape[1] == 0:
            raise ConfigError(
                f"{len(names)} names came with features of shape {features.shape}, expected one or more names and "
                f"{len(names)} x d features, d at least 1. Give one row of numbers for each name."
            )
        columns = tuple(self.columns) or tuple(map(str, range(features.shape[1])))
        if len(columns) != features.shape[1]:
            raise ConfigError(
                f"{len(columns)} column names came with {features.shape[1]} features, expected one for each."
            )
        _check_names(names)
        bad = np.argwhere(~np.isfinite(features))
        if bad.size:
            row, column = bad[0].tolist()
            raise ConfigError(
                f"The object {names[row]!r} has {features[row, column]} as {columns[column]!r}, expected a finite "
                "number. Correct it, or leave the object out."
            )
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "_rows", {name: row for row, name in enumerate(names)})

    @property
    def size(self) -> int:
        """The number of objects."""
        return len(self.names)

    def __contains__(self, text: object) -> bool:
        """Return whether an object is in the catalogue."""
        return isinstance(text, str) and text.strip() in self._rows

    def row(self, text: object) -> int:
        """Return which row an object stands in, from 0.

        Raises:
            ObjectError: It is not in the catalogue.
        """
        found = self._rows.get(text.strip()) if isinstance(text, str) else None
        if found is None:
            raise ObjectError(
                f"The object {text!r} is not in the catalogue, expected one of its {self.size:,} names, such as "
                f"{self.names[0]!r}. Correct the name, or add a row with its features to the catalogue."
            )
        return found

    def validate(self, text: object) -> str | None:
        """Return why the text is not an object of the catalogue, or None if it is one."""
        try:
            self.row(text)
        except ObjectError as error:
            return str(error)
        return None

    def require(self, text: str) -> str:
        """Return the name of an object as the catalogue writes it.

        Raises:
            ObjectError: It is not in the catalogue.
        """
        return self.names[self.row(text)]

    def key(self, text: str) -> str:
        """Return the canonical identity of an object: its name.

        Raises:
            ObjectError: It is not in the catalogue.
        """
        return self.require(text)


def read_listing(
    path: Path, *, column: str | None = None, features: Sequence[str] | None = None, without: Sequence[str] = ()
) -> Listing:
    """Return the catalogue of a CSV file (`.csv`, `.csv.gz`), its first line a header.

    `column` holds the names (default: the first column). `features` are the columns of numbers (default: every
    numeric column but the names and those in `without`).

    Raises:
        ConfigError: The file cannot be read, or a cell is wrong; the message names the line and the column.
    """
    frame, objects = _read_frame(path, column)
    where = f"catalogue {path.name!r}"
    names = [name.strip() for name in frame[objects]]
    try:
        _check_names(names)
    except ConfigError as error:
        raise ConfigError(_repeated(path, names, objects) or f"{where}: {error}") from None
    wanted = _feature_columns(frame, objects, features, without, where=where)
    numeric = frame[wanted].apply(_numbers)
    import numpy as np

    values = numeric.to_numpy(dtype=np.float64)
    wrong = np.argwhere(~np.isfinite(values))
    if wrong.size:
        row, position = wrong[0].tolist()
        column = wanted[position]
        more = "" if len(wrong) == 1 else f" ({len(wrong) - 1} more cells are like it)"
        raise ConfigError(
            f"{where}, line {_line_of(path, row)}, column {column!r}: {frame[column].tolist()[row]!r} came, "
            f"expected a finite number. Correct the cell or remove the row{more}, or name the features "
            "without this column."
        )
    return Listing(names, values, wanted)


def _read_frame(path: Path, column: str | None) -> "tuple[pd.DataFrame, str]":
    """Return the cells of a file, those of the column of names as text, and the name of that column."""
    import pandas as pd

    if not path.is_file():
        raise ConfigError(
            f"no catalogue at {str(path)!r}, expected a CSV file. Check the path, which is relative to the "
            "campaign file."
        )
    try:
        header = pd.read_csv(path, nrows=0, encoding="utf-8").columns
        objects = str(header[0]) if column is None else column
        if objects not in header:
            raise ConfigError(
                f"catalogue {path.name!r} has no column {objects!r} for the objects, expected one of "
                f"{', '.join(map(str, header))}. Name one of them."
            )
        # keep_default_na: "NA" and "null" may be names, and an empty cell is a mistake to be named.
        frame = pd.read_csv(
            path, dtype={objects: str}, keep_default_na=False, encoding="utf-8", low_memory=False, index_col=False
        )
    except (OSError, EOFError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ConfigError(
            f"catalogue {str(path)!r} cannot be read: {' '.join(str(error).split())}; expected a CSV file in "
            "UTF-8 with a header line, plain or gzipped."
        ) from error
    if frame.empty:
        raise ConfigError(f"catalogue {path.name!r} has no rows below its header, expected one for each object.")
    return frame, objects


def _feature_columns(
    frame: "pd.DataFrame", objects: str, features: Sequence[str] | None, without: Sequence[str], *, where: str
) -> list[str]:
    others = [str(name) for name in frame.columns if name != objects]
    if features is not None:
        missing = [name for name in features if name not in others]
        if missing or not features or len(set(features)) < len(features):
            fault = f"{missing[0]!r} is none of them" if missing else "none came, or one twice"
            raise ConfigError(
                f"{where}: the features are {list(features)!r}, expected distinct columns of "
                f"{', '.join(others) or 'numbers, of which there are none'}, and {fault}. Correct the list."
            )
        return list(features)
    found = [name for name in others if name not in without and _numbers(frame[name]).notna().mean() > MOSTLY]
    if not found:
        raise ConfigError(
            f"{where} has the columns {', '.join(map(str, frame.columns))}, expected a numeric one beside "
            f"{objects!r}: nothing can be learned of objects without features. Add columns of numbers."
        )
    return found


def _numbers(cells: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return cells as numbers, NaN where they are none."""
    import pandas as pd

    return pd.to_numeric(cells, errors="coerce")


def _check_names(names: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for row, name in enumerate(names):
        if not name:
            raise ConfigError(f"row {row + 1} has no name, expected a text. Name the object or remove the row.")
        if name in seen:
            raise ConfigError(
                f"rows {seen[name] + 1} and {row + 1} both have the name {name!r}, expected distinct names. "
                "Remove one, or tell them apart."
            )
        seen[name] = row


def _repeated(path: Path, names: Sequence[str], column: str) -> str | None:
    """Return what is wrong with the names of a file, by its lines."""
    seen: dict[str, int] = {}
    for row, name in enumerate(names):
        place = f"catalogue {path.name!r}, line {_line_of(path, row)}, column {column!r}" if not name else ""
        if not name:
            return f"{place}: the cell is empty, expected a name. Name the object or remove the line."
        if name in seen:
            return (
                f"catalogue {path.name!r}, lines {_line_of(path, seen[name])} and {_line_of(path, row)}, column "
                f"{column!r}: both are {name!r}, expected distinct names. Remove one, or tell them apart."
            )
        seen[name] = row
    return None


def _line_of(path: Path, row: int) -> int:
    """Return the line of a file, from 1, that a row of its table ends in: blank lines hold none."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="") as lines:
        reader = csv.reader(lines)
        filled = (reader.line_num for cells in reader if cells)
        for number, line in enumerate(filled, start=-1):
            if number == row:
                return line
    return row + 2
