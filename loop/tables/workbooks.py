"""Excel workbooks (.xlsx, .xlsm), read row by row in bounded memory: the values that were stored, and no macros.

What the rows mean belongs in `loop.tables.telling`. The reader is our own because none of those that were tried
says which formula has no stored value, names merged cells while it streams, and refuses bombs before it unpacks
them.
"""

import math
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from posixpath import dirname, normpath
from typing import IO, Any
from xml.parsers import expat

from flowscout.errors import LabelError

MAX_ROW, MAX_COLUMN = 1_048_576, 16_384
"""The size of a sheet, which Excel's format gives."""

MAX_CELL = 32_767
"""Characters in a cell, as Excel has it."""

MAX_PART = 2**30
"""Bytes of one unpacked part: a full sheet of ten columns has about half of it."""

MAX_SMALL_PART = 2**24
"""Bytes of a part that lists sheets or styles."""

MAX_STRINGS, MAX_TEXTS = 2**27, 2**21
"""Bytes of the unpacked list of shared texts, which is held in memory, and how many texts."""

MAX_RATIO, FREE = 200, 2**22
"""How many times its packed size a part may have beyond the first bytes. Sheets of one repeated row reach 60."""

CHUNK = 2**16

MAX_TOKEN, MAX_DEPTH = 2**22, 64
"""Bytes of one tag, and how deep elements may stand within each other: a parser holds both in memory."""

_OLE = b"\xd0\xcf\x11\xe0"
_BUILT_IN_PERCENTS = {9, 10}
_BUILT_IN_DATES = {*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)}
_LITERAL = re.compile(r'"[^"]*"|\\.|_.|\[[^\]]*\]|(?:General)')
_REFERENCE = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")


@dataclass(frozen=True)
class SheetRow:
    """A row of a sheet: its number as a person sees it, and its cells by column from 0, empty ones left out.

    `wrong` says of cells, by column, why they have no value that can be trusted.
    """

    number: int
    cells: dict[int, str]
    wrong: dict[int, str]


@dataclass(frozen=True)
class Merged:
    """Cells that are merged, by their corners: rows from 1, columns from 0, both ends included."""

    name: str
    rows: tuple[int, int]
    columns: tuple[int, int]


class Workbook:
    """An open workbook. Every part is unpacked piece by piece, and never beyond its limit."""

    def __init__(self, path: Path) -> None:
        """Open a workbook and read what it lists; sheets are read later.

        Raises:
            LabelError: it is no workbook, is damaged or protected by a password, or unpacks to more than fits.
        """
        self._where = f"workbook {path.name!r}"
        with path.open("rb") as file:
            start = file.read(4)
        if start == _OLE:
            raise LabelError(
                f"{self._where} is protected by a password or of the old format .xls, expected .xlsx without a "
                "password. Save it so."
            )
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise self._damaged(error) from error
        try:
            self._lay_out()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def __enter__(self) -> "Workbook":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def sheets(self) -> list[str]:
        """The names of the sheets, in their order."""
        return list(self._sheets)

    def choose(self, name: str | None) -> str:
        """Return the name of the sheet to read: the one that is wanted, else the only one.

        Raises:
            LabelError: there is none of this name, or several and none is named.
        """
        listed = ", ".join(map(repr, self._sheets))
        if name is None and len(self._sheets) != 1:
            raise LabelError(
                f"{self._where} has {len(self._sheets)} sheets ({listed}) and none was named, expected one; "
                "nothing was written. Name it with --sheet."
            )
        found = next(iter(self._sheets)) if name is None else name
        if found not in self._sheets:
            raise LabelError(f"{self._where} has no sheet {name!r}; it has {listed}. Name one of them.")
        return found

    def rows(self, sheet: str) -> Iterator[SheetRow | Merged]:
        """Yield the rows of a sheet that hold anything, in their order, and then which cells are merged.

        Raises:
            LabelError: the sheet is damaged or unpacks to more than fits.
        """
        reader = _SheetReader(
            self._where,
            self._strings,
            self._dates,
            self._percents,
            since_1904=self._since_1904,
            uncomputed=self._uncomputed,
        )
        for _ in self._feed(reader.parser, self._sheets[sheet], limit=MAX_PART):
            yield from reader.take()

    def _lay_out(self) -> None:
        links = self._links("xl/_rels/workbook.xml.rels", "xl")
        names: dict[str, str] = {}
        self._since_1904 = self._uncomputed = False

        def book(tag: str, attributes: dict[str, str]) -> None:
            if tag == "sheet" and "name" in attributes:
                names[attributes["name"]] = attributes.get("id", "")
            elif tag == "workbookPr" and attributes.get("date1904") in ("1", "true"):
                self._since_1904 = True
            elif tag == "calcPr" and attributes.get("fullCalcOnLoad") in ("1", "true"):
                self._uncomputed = True  # what stands beside a formula is a guess of the program that wrote it

        self._scan("xl/workbook.xml", book)
        parts = {one: path for one, (_, path) in links.items()}
        present = set(self._zip.namelist())
        self._sheets = {name: parts[link] for name, link in names.items() if parts.get(link) in present}
        if not self._sheets:
            raise self._damaged("it lists no sheet that is there")
        kinds = {kind: path for kind, path in links.values() if path in present}
        self._dates, self._percents = self._read_styles(kinds["styles"]) if "styles" in kinds else (set(), set())
        self._strings = self._shared_strings(kinds["sharedStrings"]) if "sharedStrings" in kinds else []

    def _links(self, part: str, folder: str) -> dict[str, tuple[str, str]]:
        """Return what a part refers to, kind and path by id."""
        found: dict[str, tuple[str, str]] = {}

        def link(tag: str, attributes: dict[str, str]) -> None:
            if tag == "Relationship" and attributes.get("TargetMode") != "External":
                target = attributes.get("Target", "")
                path = target[1:] if target.startswith("/") else f"{folder}/{target}"
                kind = attributes.get("Type", "").rpartition("/")[2]
                found[attributes.get("Id", "")] = (kind, normpath(path))

        assert dirname(part)
        self._scan(part, link)
        return found

    def _read_styles(self, part: str) -> tuple[set[int], set[int]]:
        """Return which cell styles show a number as a date or a time, and which in percent."""
        formats: dict[int, str] = {}
        dates: set[int] = set()
        percents: set[int] = set()
        inside, count = False, 0

        def style(tag: str, attributes: dict[str, str]) -> None:
            nonlocal inside, count
            if tag in ("cellXfs", "cellStyleXfs", "cellStyles", "dxfs"):
                inside = tag == "cellXfs"
            elif tag == "numFmt":
                formats[_whole(attributes.get("numFmtId"))] = attributes.get("formatCode", "")
            elif tag == "xf" and inside:
                number = _whole(attributes.get("numFmtId"))
                code = _LITERAL.sub("", formats.get(number, ""))
                if number in _BUILT_IN_DATES or re.search("[dmyhs]", code, re.IGNORECASE):
                    dates.add(count)
                elif number in _BUILT_IN_PERCENTS or "%" in code:
                    percents.add(count)
                count += 1

        self._scan(part, style)
        return dates, percents

    def _shared_strings(self, part: str) -> list[str]:
        found: list[str] = []
        texts = _Texts()

        def start(tag: str, attributes: dict[str, str]) -> None:  # noqa: ARG001
            texts.start(tag)

        def end(tag: str) -> None:
            if tag == "si":
                found.append(texts.take())
                if len(found) > MAX_TEXTS:
                    raise self._too_much(f"it holds more than {MAX_TEXTS:,} different texts")
            else:
                texts.end(tag)

        self._scan(part, start, end=end, data=texts.data, limit=MAX_STRINGS)
        return found

    def _scan(
        self, part: str, start: Any, *, end: Any = None, data: Any = None, limit: int = MAX_SMALL_PART
    ) -> None:
        """Read a part from its start to its end."""
        parser = _make_parser(self._where, start, end, data)
        for _ in self._feed(parser, part, limit=limit):
            pass

    def _part(self, name: str, *, limit: int) -> IO[bytes]:
        """Open a part, unless what it says of its size is too much. No more than that is ever unpacked of it."""
        try:
            info = self._zip.getinfo(name)
            if info.file_size > limit or info.file_size > FREE + MAX_RATIO * info.compress_size:
                raise self._too_much(
                    f"its part {name!r} unpacks from {info.compress_size:,} to {info.file_size:,} bytes, expected "
                    f"at most {limit:,}, and {MAX_RATIO} times as many as are packed"
                )
            return self._zip.open(info)
        except KeyError as error:
            raise self._damaged(f"it has no part {name!r}") from error
        except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError) as error:
            raise self._damaged(error) from error

    def _read(self, file: IO[bytes]) -> bytes:
        try:
            return file.read(CHUNK)
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
            raise self._damaged(error) from error
        except Exception as error:  # what a decompressor raises has no common class but this
            if type(error).__module__ not in ("zlib", "_lzma", "_bz2"):
                raise
            raise self._damaged(error) from error

    def _feed(self, parser: Any, part: str, *, limit: int) -> Iterator[None]:
        """Give a part to a parser, and yield after each piece of it."""
        fed = 0
        with self._part(part, limit=limit) as file:
            try:
                while chunk := self._read(file):
                    parser.Parse(chunk, False)
                    fed += len(chunk)
                    if fed - parser.CurrentByteIndex > MAX_TOKEN:
                        raise self._too_much(f"a tag in its part {part!r} is longer than {MAX_TOKEN:,} bytes")
                    yield
                parser.Parse(b"", True)
            except expat.ExpatError as error:
                raise self._damaged(error) from error
        yield

    def _too_much(self, why: str) -> LabelError:
        return LabelError(
            f"{self._where} is refused: {why}. Nothing was written. Save it as CSV if it is really so large."
        )

    def _damaged(self, why: object) -> LabelError:
        return LabelError(
            f"{self._where} cannot be read: {' '.join(str(why).split())[:200]}; expected an Excel workbook "
            "(.xlsx). Open it in Excel and save it again, or save the table as CSV."
        )


class _Texts:
    """Collects the text of a cell: of its runs, without how it is pronounced."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._open = self._spoken = False
        self._length = 0

    def start(self, tag: str) -> None:
        if tag == "rPh":
            self._spoken = True
        elif tag == "t":
            self._open = not self._spoken

    def end(self, tag: str) -> None:
        if tag == "rPh":
            self._spoken = False
        elif tag == "t":
            self._open = False

    def data(self, text: str) -> None:
        if self._open:
            self.add(text)

    def add(self, text: str) -> None:
        self._length += len(text)
        if self._length > MAX_CELL:
            raise LabelError(
                f"a cell of the workbook holds more than {MAX_CELL:,} characters, which Excel cannot; nothing was "
                "written. Shorten it."
            )
        self._pieces.append(text)

    def take(self) -> str:
        found = "".join(self._pieces)
        self._pieces.clear()
        self._length = 0
        return found


class _SheetReader:
    """Turns the elements of a sheet into rows."""

    def __init__(
        self,
        where: str,
        strings: list[str],
        dates: set[int],
        percents: set[int],
        *,
        since_1904: bool,
        uncomputed: bool,
    ) -> None:
        self._where, self._strings, self._dates, self._percents = where, strings, dates, percents
        self._since_1904, self._uncomputed = since_1904, uncomputed
        self._done: list[SheetRow | Merged] = []
        self._row, self._column = 0, -1
        self._cells: dict[int, str] = {}
        self._wrong: dict[int, str] = {}
        self._kind, self._style = "n", 0
        self._formula = self._in_value = False
        self._texts = _Texts()
        self.parser = _make_parser(where, self._start, self._end, self._data)

    def take(self) -> list[SheetRow | Merged]:
        """Return what has been read whole since the last time."""
        found, self._done = self._done, []
        return found

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "c":
            self._begin_cell(attributes)
        elif tag == "v":
            self._in_value = True
        elif tag == "f":
            self._formula = True
        elif tag == "row":
            number = _whole(attributes.get("r"), self._row + 1)
            if not self._row < number <= MAX_ROW:
                raise self._odd(f"row {number} follows row {self._row}")
            self._row, self._column, self._cells, self._wrong = number, -1, {}, {}
        elif tag == "mergeCell":
            self._merge(attributes.get("ref", ""))
        else:
            self._texts.start(tag)

    def _end(self, tag: str) -> None:
        if tag == "c":
            self._end_cell()
        elif tag == "v":
            self._in_value = False
        elif tag == "row":
            if self._cells or self._wrong:
                self._done.append(SheetRow(self._row, self._cells, self._wrong))
        else:
            self._texts.end(tag)

    def _data(self, text: str) -> None:
        if self._in_value:
            self._texts.add(text)
        else:
            self._texts.data(text)

    def _begin_cell(self, attributes: dict[str, str]) -> None:
        column = self._column + 1
        if "r" in attributes:
            match = _REFERENCE.fullmatch(attributes["r"])
            if match is None or int(match[2]) != self._row:
                raise self._odd(f"cell {attributes['r'][:20]!r} stands in row {self._row}")
            column = _column_of(match[1])
        if not self._column < column < MAX_COLUMN:
            raise self._odd(f"cell {_name(column, self._row)} stands after {_name(self._column, self._row)}")
        self._column = column
        self._kind = attributes.get("t", "n")
        self._style = _whole(attributes.get("s"), 0)
        self._formula = False

    def _end_cell(self) -> None:
        said, name = self._texts.take(), _name(self._column, self._row)
        if self._formula and (self._uncomputed or (not said and self._kind != "str")):
            self._wrong[self._column] = (
                f"cell {name} is a formula without a stored value; open the file in Excel and save it, or paste "
                "the values"
            )
            return
        if not said:
            return
        if self._kind == "e":
            self._wrong[self._column] = f"cell {name} holds the error {said[:20]}; mend or empty it"
            return
        try:
            self._cells[self._column] = self._value(said)
        except (ValueError, IndexError, OverflowError):
            self._wrong[self._column] = (
                f"cell {name} holds {said[:20]!r}, which is no value of type {self._kind!r}"
            )

    def _value(self, said: str) -> str:
        if self._kind == "s":
            place = int(said)
            if place < 0:
                raise IndexError(place)
            return self._strings[place]
        if self._kind in ("str", "inlineStr", "d"):
            return said
        if self._kind == "b":
            return {"0": "FALSE", "1": "TRUE"}[said] if said in ("0", "1") else said
        number = float(said)
        if self._style in self._dates and math.isfinite(number):
            return _date(number, since_1904=self._since_1904)
        if self._style in self._percents:  # 0.5 stands behind what a person reads as 50
            return f"{100 * number:.15g}%"
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)

    def _merge(self, reference: str) -> None:
        first, _, last = reference.partition(":")
        a, b = _REFERENCE.fullmatch(first), _REFERENCE.fullmatch(last or first)
        if a is None or b is None:
            raise self._odd(f"merged cells {reference[:40]!r}")
        rows, columns = (int(a[2]), int(b[2])), (_column_of(a[1]), _column_of(b[1]))
        self._done.append(Merged(reference, rows, columns))

    def _odd(self, why: str) -> LabelError:
        return LabelError(
            f"{self._where} cannot be read: {why}; expected rows and cells in their order. Open it in Excel and "
            "save it again, or save the table as CSV."
        )


def _make_parser(where: str, start: Any, end: Any, data: Any) -> Any:
    """Return a parser of XML that knows local names only, and no document type: with it go all entities."""
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise LabelError(
            f"{where} is refused: its XML declares a document type, which may hold entities that unpack to more "
            "than fits; Excel writes none. Open it in Excel and save it again, or save the table as CSV."
        )

    depth = 0

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise LabelError(f"{where} is refused: its elements stand more than {MAX_DEPTH} deep in each other.")
        start(tag.rpartition(" ")[2], {name.rpartition(" ")[2]: value for name, value in attributes.items()})

    def finish(tag: str) -> None:
        nonlocal depth
        depth -= 1
        if end is not None:
            end(tag.rpartition(" ")[2])

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = begin
    parser.EndElementHandler = finish
    if data is not None:
        parser.CharacterDataHandler = data
    return parser


def _whole(text: str | None, default: int = -1) -> int:
    """Return a text as a whole number, `default` where there is none, -1 where it is none."""
    if text is None:
        return default
    return int(text) if text.isdecimal() and len(text) < 10 else -1


def _column_of(letters: str) -> int:
    found = 0
    for letter in letters:
        found = 26 * found + ord(letter) - 64
    return found - 1


def _name(column: int, row: int) -> str:
    """Return the name of a cell, such as C5."""
    letters = column_name(column)
    return f"{letters}{row}"


def column_name(column: int) -> str:
    """Return the letters of a column, which is counted from 0 here."""
    letters, left = "", column + 1
    while left > 0:
        left, rest = divmod(left - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def _date(number: float, *, since_1904: bool) -> str:
    """Return a number of days as a date in ISO form, with the time of day where there is one."""
    first = datetime(1904, 1, 1) if since_1904 else datetime(1899, 12, 30)
    seconds = round(number * 86_400)
    found = first + timedelta(seconds=seconds)
    if 0 <= number < 1:
        return found.time().isoformat()
    return found.date().isoformat() if seconds % 86_400 == 0 else found.isoformat(sep=" ")
