"""Tables that people send: CSV, Excel or JSON lines, read as texts with the row numbers that a person sees.

What the columns mean belongs in `loop.tables.telling`.
"""

import csv
import gzip
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

from flowscout.db.rowfiles import BATCH, unescape_cell
from flowscout.errors import LabelError
from flowscout.loop.tables.mistakes import Mistakes
from flowscout.loop.tables.workbooks import Merged, Workbook, column_name

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 100_000
"""Rows that are told at once: all of them are in memory while they are checked. `import` takes any number."""

MAX_CHARACTERS = 2**27
"""Of all cells of a piece that is in memory."""

MAX_LINE = 2**20
"""Characters of one line of a text file."""

MAX_COLUMNS = 1_000

DELIMITERS = (",", ";", "\t")
"""Of a CSV file. Where Excel writes decimal commas it parts columns by semicolons."""

_BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_ZIP, _PARQUET, _OLE = b"PK", b"PAR1", b"\xd0\xcf\x11\xe0"
_LINES = (".jsonl", ".ndjson", ".json")
_BOOKS = (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods")


@dataclass(frozen=True)
class Piece:
    """Some rows of a table: their cells, and the number of each as a person sees it."""

    frame: "pd.DataFrame"
    numbers: list[int]


@dataclass(frozen=True)
class _Line:
    """One row: its number, its cells in the order of the header, and what is wrong with it."""

    number: int
    cells: list[Any]
    wrong: tuple[str, ...] = ()


def read_sheet(path: Path, *, sheet: str | None = None) -> tuple[Piece, Mistakes]:
    """Return a table whole, and the mistakes that its cells have by themselves.

    Raises:
        LabelError: it cannot be read, has no rows or more than `MAX_ROWS`, or a `sheet` was named and it has none.
    """
    mistakes = Mistakes(f"table {path.name!r}")
    [piece] = read_pieces(path, mistakes, sheet=sheet, size=MAX_ROWS, whole=True)
    # From here on mistakes are named by place: the numbers of the rows are known now.
    numbered = Mistakes(mistakes.where, piece.numbers)
    numbered.take(mistakes)
    return piece, numbered


def read_pieces(
    path: Path, mistakes: Mistakes, *, sheet: str | None = None, size: int = BATCH, whole: bool = False
) -> Iterator[Piece]:
    """Yield a table in pieces of so many rows, noting what is wrong with cells; a `whole` one is one piece.

    Raises:
        LabelError: it cannot be read, or has no rows, or is not whole in one piece.
    """
    import pandas as pd

    where = mistakes.where
    if sheet is not None and _kind(path) != "excel":
        raise LabelError(f"{where} is no Excel workbook, and sheet {sheet!r} was named; leave out the sheet.")
    empty = True
    with _rows_of(path, where, sheet) as (names, lines):
        while batch := list(islice(lines, size)):
            empty = False
            for line in batch:
                for said in line.wrong:
                    mistakes.add_numbered(line.number, said)
            if whole and next(lines, None) is not None:
                raise LabelError(
                    f"{where} has more than {size:,} rows, expected at most so many to be told at once; nothing "
                    "was written. Import it instead: flowscout import FILE TABLE takes any number of rows."
                )
            if sum(len(cell) for line in batch for cell in line.cells if isinstance(cell, str)) > MAX_CHARACTERS:
                raise LabelError(f"{where} holds more than {MAX_CHARACTERS:,} characters; split it.")
            columns = {name: [line.cells[place] for line in batch] for place, name in names.items()}
            frame = pd.DataFrame(columns, index=range(len(batch)), dtype=object)
            yield Piece(frame, [line.number for line in batch])
    if empty:
        mistakes.refuse()
        raise LabelError(f"{where} has no rows below its header; add at least one.")


def _rows_of(
    path: Path, where: str, sheet: str | None
) -> AbstractContextManager[tuple[dict[int, str], Iterator[_Line]]]:
    """Return the header of a table, names by place, and its rows, while its file is open."""
    make = {"excel": _excel_rows, "json": _json_rows, "csv": _csv_rows}[_kind(path)]
    return contextmanager(make)(path, where, sheet)


def _kind(path: Path) -> str:
    """Return what a file is, by its content: excel, json or csv.

    Raises:
        LabelError: it is none of them, or not there.
    """
    where = f"table {path.name!r}"
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise LabelError(f"{where} cannot be read: {error.strerror}; check the path.") from error
    if start.startswith((_ZIP, _OLE)):
        return "excel"
    if path.suffix.lower() in _BOOKS:
        raise LabelError(
            f"{where} is no Excel workbook (.xlsx), whatever its name says; save it as one, or as CSV."
        )
    if start.startswith(_PARQUET):
        raise LabelError(f"{where} is a Parquet file; `flowscout import FILE TABLE` reads it.")
    if not start.strip():
        raise LabelError(f"{where} is empty, expected a table with a header line.")
    name = path.name.lower().removesuffix(".gz")
    return "json" if name.endswith(_LINES) or start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") else "csv"


# --- text


def _binary(path: Path) -> IO[bytes]:
    """Open a file, plain or gzipped."""
    return cast("IO[bytes]", gzip.GzipFile(path)) if path.name.lower().endswith(".gz") else path.open("rb")


@contextmanager
def _text(path: Path, where: str) -> Iterator[Iterator[str]]:
    """Yield the lines of a text file, each with its end; no line is held that is too long."""
    try:
        with _binary(path) as binary:
            start = binary.read(4)
            binary.seek(0)
            encoding = next((name for bom, name in _BOMS.items() if start.startswith(bom)), "utf-8")
            # newline="": a CR within quotes belongs to the cell
            with io.TextIOWrapper(binary, encoding=encoding, newline="") as file:
                yield _lines(file, where)
    except UnicodeDecodeError as error:
        raise LabelError(
            f"{where}, {_bad_line(path, error)}: it is not text in UTF-8 or UTF-16 with a byte order mark "
            f"({error.reason}); nothing was written. Save it as 'CSV UTF-8', or as .xlsx."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise LabelError(f"{where} cannot be read: {error}; check the file.") from error


def _lines(file: IO[str], where: str) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise LabelError(
                f"{where}, row {number}: the line is longer than {MAX_LINE:,} characters; check the file."
            )
        if "\0" in line:
            raise LabelError(
                f"{where}, row {number}: it holds zero bytes, expected text in UTF-8 (or UTF-16 with a byte order "
                "mark); nothing was written. Save it as 'CSV UTF-8', or as .xlsx."
            )
        yield line


def _bad_line(path: Path, error: UnicodeDecodeError) -> str:
    """Return which line cannot be decoded, as a person counts."""
    if error.encoding.lower().replace("-", "") not in ("utf8", "utf8sig"):
        return "row unknown"
    with _binary(path) as file:
        number = 0
        while line := file.readline(4 * MAX_LINE):
            number += 1
            try:
                line.decode()
            except UnicodeDecodeError as bad:
                return f"row {number}, byte 0x{line[bad.start]:02x}"
    return "row unknown"


def _csv_rows(path: Path, where: str, sheet: str | None) -> Iterator[tuple[dict[int, str], Iterator[_Line]]]:
    del sheet
    with _text(path, where) as lines:
        top, first = next((found for found in enumerate(lines, start=1) if found[1].strip()), (1, ""))
        # A line for Excel, which shows no row of it.
        if first.lower().startswith("sep=") and len(first.strip()) == 5:
            delimiter, first = first[4], next(lines, "")
        else:
            delimiter = _delimiter(first)

        def source() -> Iterator[str]:
            yield first
            yield from lines

        reader = csv.reader(source(), delimiter=delimiter, strict=True)
        records = _records(reader, where)
        header = next(records, [])
        names = _header([unescape_cell(name) for name in header], where)
        yield names, _cells_of(records, names, len(header), top=top)


def _delimiter(line: str) -> str:
    """Return what parts the columns of a header line: what shows an object in one, else what stands there most."""
    found = {}
    for delimiter in DELIMITERS:
        try:
            cells = next(csv.reader([line], delimiter=delimiter), [])
        except csv.Error:
            cells = []
        known = any(cell.strip().lower() in ("object", "sequence", "well") for cell in cells)
        found[delimiter] = (known and len(cells) > 1, len(cells))
    return max(found, key=lambda one: found[one])


def _records(reader: Any, where: str) -> Iterator[list[str]]:
    number = 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise LabelError(
                f"{where}, row {number + 1}: {error}; expected cells parted by a comma, semicolon or tab, a quote "
                "within quotes doubled. Mend the row."
            ) from error
        number += 1
        yield row


def _cells_of(records: Iterator[list[str]], names: dict[int, str], width: int, *, top: int) -> Iterator[_Line]:
    for number, row in enumerate(records, start=top + 1):
        if not any(cell.strip() for cell in row):
            continue
        wrong = tuple(
            _nameless(place, number, cell)
            if place < width
            else f"it has {len(row)} cells, expected {width}; a comma in a number or a name must stand in quotes"
            for place, cell in enumerate(row)
            if place not in names and cell.strip()
        )
        cells = [unescape_cell(cell) for cell in row] + [""] * (width - len(row))
        yield _Line(number, cells, wrong[:1])


def _header(cells: list[str], where: str) -> dict[int, str]:
    """Return the names of columns by their places; unnamed ones are left out.

    Raises:
        LabelError: a name comes twice, or there are none or too many.
    """
    names = {place: cell.strip() for place, cell in enumerate(cells) if cell.strip()}
    [(twice, count)] = Counter(names.values()).most_common(1) or [("", 0)]
    if count > 1:
        raise LabelError(f"{where} has the column {twice!r} more than once; leave one out or rename it.")
    if not names or len(cells) > MAX_COLUMNS:
        raise LabelError(
            f"{where} has {len(cells):,} columns, {len(names):,} of them named, expected 1 to {MAX_COLUMNS:,} "
            "with their names in the first row; check the file."
        )
    return names


# --- JSON lines


def _json_rows(path: Path, where: str, sheet: str | None) -> Iterator[tuple[dict[int, str], Iterator[_Line]]]:
    del sheet
    # Twice: which columns there are is known at the end only.
    names: dict[str, int] = {}
    with _text(path, where) as lines:
        for _, row, _ in _objects(lines, where):
            for name in row:
                names.setdefault(name, len(names))
            if len(names) > MAX_COLUMNS:
                raise LabelError(f"{where} has more than {MAX_COLUMNS:,} columns; check the file.")

    def rows(lines: Iterator[str]) -> Iterator[_Line]:
        for number, row, wrong in _objects(lines, where):
            cells = [""] * len(names)
            for name, value in row.items():
                cells[names[name]] = value
            yield _Line(number, cells, wrong)

    with _text(path, where) as lines:
        yield {place: name for name, place in names.items()}, rows(lines)


def _objects(lines: Iterator[str], where: str) -> Iterator[tuple[int, dict[str, Any], tuple[str, ...]]]:
    """Yield number, cells and mistakes of each line."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_constant, object_pairs_hook=_each_once)
        except (ValueError, RecursionError) as error:
            raise LabelError(
                f"{where}, row {number}: it is no JSON ({error}), expected one object a line, such as "
                '{"object": "ACGT", "y": 0.5}; nothing was written. Mend or remove the line.'
            ) from error
        if not isinstance(row, dict):
            raise LabelError(
                f"{where}, row {number}: it is {line.strip()[:40]!r}, expected a JSON object; nothing was "
                "written. Write one object a line."
            )
        wrong = tuple(
            f"{name} is {str(value)[:40]!r}, expected a text or a number; mend the cell"
            for name, value in row.items()
            if isinstance(value, dict | list)
        )
        yield number, {name: _scalar(value) for name, value in row.items()}, wrong


def _scalar(value: Any) -> Any:
    """Return a value of JSON as a cell: an empty one for null."""
    if value is None:
        return ""
    if isinstance(value, float) and not math.isfinite(value):  # 1e999
        return repr(value)
    return value if isinstance(value, str | bool | int | float) else str(value)[:40]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return found


# --- Excel


def _excel_rows(path: Path, where: str, sheet: str | None) -> Iterator[tuple[dict[int, str], Iterator[_Line]]]:
    with Workbook(path) as book:
        rows = book.rows(book.choose(sheet))
        header = next(rows, None)
        if header is None or isinstance(header, Merged):
            raise LabelError(f"{where} has no rows, expected the names of the columns in the first.")
        if header.wrong:
            raise LabelError(f"{where}, row {header.number}: {next(iter(header.wrong.values()))}.")
        width = max(header.cells) + 1
        names = _header([header.cells.get(place, "") for place in range(width)], where)
        yield names, _excel_lines(rows, names, width, top=header.number)


def _excel_lines(rows: Iterator[Any], names: dict[int, str], width: int, *, top: int) -> Iterator[_Line]:
    last = top
    for row in rows:
        if isinstance(row, Merged):
            (first, end), columns = row.rows, range(row.columns[0], row.columns[1] + 1)
            if first <= last and end >= top and any(place in names for place in columns):
                raise LabelError(
                    f"row {max(first, top)}: the cells {row.name} are merged, of which only the first holds "
                    "a value; nothing was written. Unmerge them and fill each."
                )
            continue
        wrong = [said for _, said in sorted(row.wrong.items())]
        wrong += [
            _nameless(place, row.number, cell)
            for place, cell in row.cells.items()
            if place not in names and cell.strip()
        ][:1]
        last = row.number
        if wrong or any(cell.strip() for cell in row.cells.values()):
            cells = [unescape_cell(row.cells.get(place, "")) for place in range(width)]  # of an opened CSV
            yield _Line(row.number, cells, tuple(wrong))


def _nameless(place: int, number: int, cell: str) -> str:
    return f"cell {column_name(place)}{number} holds {cell[:20]!r} and its column has no name; name or empty it"
