"""Tables of measured values: reading one, and an oracle that looks its answers up in one."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from flowscout.errors import LabelError
from flowscout.loop.oracles.protocol import OracleInfo, Request, Result

if TYPE_CHECKING:
    import pandas as pd

PACKAGED = "flowscout:"
"""The prefix of a table that is shipped with Flowscout, as in `flowscout:tfbind8_six6`."""


def table_path(path: str, *, folder: Path) -> Path:
    """Return where a table stands: relative to `folder`, or inside the package.

    Raises:
        LabelError: there is no such file; the message names the packaged ones.
    """
    data = Path(str(resources.files("flowscout.data")))
    found = data / f"{path.removeprefix(PACKAGED)}.csv.gz" if path.startswith(PACKAGED) else folder / path
    if not found.is_file():
        shipped = ", ".join(f"{PACKAGED}{p.name.removesuffix('.csv.gz')}" for p in data.glob("*.csv.gz"))
        raise LabelError(
            f"no table at {str(found)!r} (from {path!r}); check the path, which is relative to the campaign "
            f"file. Shipped with Flowscout: {shipped}."
        )
    return found


def read_table(path: Path) -> "pd.DataFrame":
    """Return a CSV file (`.csv`, `.csv.gz`) as text cells, one row a line.

    Raises:
        LabelError: it cannot be read as CSV in UTF-8, or has no rows.
    """
    import pandas as pd

    try:
        # keep_default_na: "NA" and "NAN" are sequences of amino acids, not missing values.
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, EOFError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise LabelError(
            f"table {str(path)!r} cannot be read: {' '.join(str(error).split())}; expected a CSV file in "
            "UTF-8 with a header line, plain or gzipped."
        ) from error
    if frame.empty:
        raise LabelError(f"table {str(path)!r} has no rows below its header; add at least one.")
    return frame


def numbers(frame: "pd.DataFrame", column: str, *, where: str, rows: Sequence[int] | None = None) -> list[float]:
    """Return a column as finite numbers, of all rows or of these.

    Raises:
        LabelError: the column is missing, or a cell is NaN, infinite or not a number; the message names the row.
    """
    import numpy as np
    import pandas as pd

    if column not in frame.columns:
        raise LabelError(
            f"{where} has no column {column!r}; it has {', '.join(map(str, frame.columns))}. "
            "Rename one, or name it in the campaign file."
        )
    wanted = np.arange(len(frame)) if rows is None else np.asarray(rows)
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float)[wanted]
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        row = int(wanted[wrong[0]])
        raise LabelError(
            f"{where}, row {row + 1}: {column} is {frame[column].tolist()[row]!r}, expected a finite number; "
            f"mend or remove the row{'' if wrong.size == 1 else f' (and {wrong.size - 1} more like it)'}."
        )
    return [float(value) for value in values]


@dataclass(frozen=True)
class TableOracle:
    """An oracle that looks objects up among values that were measured before."""

    values: dict[str, float]
    info: OracleInfo
    property: str

    def __call__(self, requests: Sequence[Request]) -> list[Result]:
        """Look every object up; one that is not in the table fails for good."""
        return [self._result(request.object) for request in requests]

    def _result(self, text: str) -> Result:
        value = self.values.get(text)
        if value is None:
            message = f"{text!r} is not in the table {self.info.name!r}"
            return Result(failure="permanent", message=message)
        return Result(values={self.property: value})


def table_oracle(
    path: str,
    *,
    folder: Path,
    property: str,  # noqa: A002
    object: str | None = None,  # noqa: A002
    value: str | None = None,
    cost_usd: float = 0.0,
) -> TableOracle:
    """Return the oracle of a table.

    The column `object` holds the objects (default: the first), `value` their values (default: the column named
    like the property, or else the second).

    Raises:
        LabelError: the table cannot be read, or a value is not a finite number, or an object stands twice.
    """
    found = table_path(path, folder=folder)
    frame = read_table(found)
    where = f"table {found.name!r}"
    if len(frame.columns) < 2:
        raise LabelError(f"{where} has one column, expected two or more: the object and its value.")
    objects = object or str(frame.columns[0])
    if objects not in frame.columns:
        raise LabelError(f"{where} has no column {objects!r}; it has {', '.join(map(str, frame.columns))}.")
    column = value or (property if property in frame.columns else str(frame.columns[1]))
    values = dict(zip(frame[objects], numbers(frame, column, where=where), strict=True))
    if len(values) != len(frame):
        twice = frame[objects][frame[objects].duplicated()].iloc[0]
        raise LabelError(f"{where} holds {twice!r} more than once; keep one row for each object.")
    return TableOracle(values, OracleInfo(name=path, cost_usd=cost_usd), property)
