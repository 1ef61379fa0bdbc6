"""Rows in files, as JSON lines, CSV or Parquet: written whole or not at all, read a batch at a time.

Which rows these are belongs in `export.py` and `archive.py`.
"""

import csv
import gzip
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, cast

from flowscout.errors import ConfigError, LabelError

Kind = Literal["int", "float", "text", "time", "bool", "json"]
Row = Mapping[str, Any]

BATCH = 5_000
"""How many rows are in memory at once."""

FORMATS = (".jsonl", ".csv", ".parquet")

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")


def escape_cell(text: str) -> str:
    """Return a text that no spreadsheet runs as a formula: one more apostrophe before what would be one."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_cell(text: str) -> str:
    """Return what `escape_cell` was given."""
    return text[1:] if _ESCAPED.match(text) else text


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the path of a new file beside `path`, which takes its name once everything is on the disk.

    Raises:
        ConfigError: the folder is not there or cannot be written to.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise ConfigError(
            f"{str(path)!r} cannot be written ({error.strerror}); make its folder, or name another file."
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, which takes its name once everything in it is on the disk.

    Raises:
        ConfigError: `path` is there already, or its parent cannot be written to.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{str(path)!r} is there already; nothing was written. Name another folder.")
    try:
        temporary = Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}."))
    except OSError as error:
        raise ConfigError(
            f"{str(path)!r} cannot be written ({error.strerror}); make the folder it is to lie in, or name "
            "another."
        ) from error
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush(file)
        temporary.chmod(0o755)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_rows(path: Path, kinds: Mapping[str, Kind], rows: Iterable[Row], *, form: str | None = None) -> int:
    """Write rows of these columns by the ending of `path`, or as `form`; return how many there were.

    A JSON line leaves out what a row does not have; the other formats have an empty cell there.

    Raises:
        ConfigError: the ending is none of `.jsonl`, `.csv` and `.parquet`, or pyarrow is not installed.
    """
    writers: dict[str, Callable[[Path, Mapping[str, Kind], Iterable[Row]], int]] = {
        ".jsonl": _write_json_lines,
        ".csv": _write_csv,
        ".parquet": _write_parquet,
    }
    return writers[check_format(path if form is None else Path(f"rows{form}"))](path, kinds, rows)


def check_format(path: Path) -> str:
    """Return the ending of a path if rows can be written so.

    Raises:
        ConfigError: they cannot.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(
            f"{path.name!r} ends in {path.suffix or 'nothing'!r}, expected {', '.join(FORMATS)}; "
            "name the file so, or a folder for the whole history."
        )
    if path.suffix == ".parquet":
        pyarrow()
    return path.suffix


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines, plain or gzipped.

    Raises:
        LabelError: a line is no JSON object.
    """
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise LabelError(
                    f"line {number} of {path.name!r} is no JSON ({error}); mend or remove the line."
                ) from error
            if not isinstance(row, dict):
                raise LabelError(f"line {number} of {path.name!r} is {row!r:.40}, expected a JSON object.")
            yield row


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file.

    Raises:
        ConfigError: pyarrow is not installed.
        LabelError: it is no Parquet file.
    """
    arrow = pyarrow()
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                yield from batch.to_pylist()
    except arrow.ArrowInvalid as error:
        raise LabelError(f"{str(path)!r} cannot be read as Parquet: {error}; check the file.") from error


def pyarrow() -> Any:
    """Return the module pyarrow.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow as module
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Parquet needs pyarrow, which is not installed; install it with: pip install 'flowscout[parquet]', "
            "or use .csv or .jsonl."
        ) from error
    return module


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: times in ISO, numbers that are not finite by their names."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def typed(value: Any, kind: Kind) -> Any:
    """Return a value as it was before it was written."""
    if value is None or kind == "json":
        return value
    if kind == "time":
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
        return found.astimezone(UTC)
    return float(value) if kind == "float" else value


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield cast("IO[str]", file)
    else:
        with path.open(encoding="utf-8") as file:
            yield file


def _write_json_lines(path: Path, kinds: Mapping[str, Kind], rows: Iterable[Row]) -> int:  # noqa: ARG001
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            count += 1
            file.write(json.dumps({name: plain(value) for name, value in row.items()}, allow_nan=False) + "\n")
    return count


def _write_csv(path: Path, kinds: Mapping[str, Kind], rows: Iterable[Row]) -> int:
    count = 0
    names = list(kinds)
    with path.open("w", encoding="utf-8", newline="") as file:
        # Both, as RFC 4180 has it: Python quotes a lone CR in a cell only where CR is part of the line's end.
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(names)
        for row in rows:
            count += 1
            writer.writerow([_cell(row.get(name)) for name in names])
    return count


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return escape_cell(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return json.dumps(value)
    return plain(value)


def _write_parquet(path: Path, kinds: Mapping[str, Kind], rows: Iterable[Row]) -> int:
    arrow = pyarrow()
    from pyarrow import parquet

    types = {
        "int": arrow.int64(),
        "float": arrow.float64(),
        "text": arrow.string(),
        "time": arrow.timestamp("us", tz="UTC"),
        "bool": arrow.bool_(),
        "json": arrow.string(),
    }
    schema = arrow.schema([(name, types[kind]) for name, kind in kinds.items()])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for batch in batches(rows, BATCH):
            columns = [[_arrow_cell(row, name, kind) for row in batch] for name, kind in kinds.items()]
            writer.write_table(arrow.table(columns, schema=schema))
            count += len(batch)
    return count


def _arrow_cell(row: Row, name: str, kind: Kind) -> Any:
    if kind == "json":
        return json.dumps(row[name]) if name in row else None
    value = row.get(name)
    return str(value) if kind == "text" and value is not None else value


def batches(rows: Iterable[Row], size: int) -> Iterator[Sequence[Row]]:
    """Yield rows in lists of at most `size`."""
    source = iter(rows)
    while batch := list(islice(source, size)):
        yield batch


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
