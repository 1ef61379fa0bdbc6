"""Tell a campaign thousands of generated tables: each is accepted whole, or refused whole by its wrong rows.

CSV, Excel, JSON lines and data frames, right ones and ones with mistakes of every kind that comes from a bench:
encodings, delimiters, NaN and infinities, decimal commas, formulas, merged cells, errors, dates, ids that stand
twice or beside another object, truncated and damaged files, bombs. A refusal must be an `InputError` whose
message names the row where a row was wrong, and must leave the history as it was; what is accepted must add
exactly the rows it has. Peak memory is printed. Exit code 1 if anything else happens.

    python benchmarks/fuzz_tables.py --inputs 10000
"""

import argparse
import gzip
import json
import random
import resource
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowscout import Campaign
from flowscout.errors import InputError
from flowscout.loop.tables.plates import row_id_of

CAMPAIGN = """\
campaign: fuzz
space: {type: sequence, alphabet: dna, length: 8}
objectives: [{name: y, direction: minimize, unit: nM, transform: -log10}]
properties: [{name: mass, unit: Da}]
oracle: {type: lab}
proposer: {type: random}
surrogate: {type: linear}
batch: {size: 8}
budget: {rounds: 3}
device: cpu
"""

ROWS_AT_ONCE = 100_000


@dataclass
class Table:
    """A table that is right until something is done to it. `wrong` are rows by place, `whole` is without one."""

    names: list[str]
    rows: list[list[Any]]
    wrong: set[int] = field(default_factory=set)
    whole: bool = False
    kind: str = "right"


Mistake = Callable[[Table, random.Random], None]


def new_table(draw: random.Random, serial: int) -> Table:
    """Return a table of a few rows that is right, whose row ids no other has."""
    names = ["object", "y", "row_id"]
    more = [name for name in ("y_sem", "y_n", "mass", "as_run_celsius", "note") if draw.random() < 0.4]
    cells: dict[str, Callable[[int], Any]] = {
        "object": lambda _: "".join(draw.choice("ACGT") for _ in range(8)),
        "y": lambda _: f"{draw.choice(['', '', '', '<', '>'])}{draw.uniform(0.1, 1e4):.4g}",
        "row_id": lambda row: f"t{serial}-{row}",
        "y_sem": lambda _: f"{draw.uniform(0, 2):.3g}",
        "y_n": lambda _: str(draw.randint(1, 9)),
        "mass": lambda _: draw.choice(["", f"{draw.gauss(500, 100):.1f}"]),
        "as_run_celsius": lambda _: draw.choice(["25", "37.5", "warm", "é"]),
        "note": lambda _: draw.choice(["", "spilled", "a, b; c", 'said "no"', "line\nbreak", "=1+1", "µ"]),
    }
    names += more
    draw.shuffle(names)
    rows = [[cells[name](row) for name in names] for row in range(draw.randint(1, 12))]
    return Table(names, rows)


def put(table: Table, draw: random.Random, name: str, value: Any) -> None:
    """Put a wrong cell into one row."""
    row = draw.randrange(len(table.rows))
    table.rows[row][table.names.index(name)] = value
    table.wrong.add(row)


def bad_value(table: Table, draw: random.Random) -> None:
    """Put what is no positive finite number."""
    odd = "nan inf -inf Infinity 1e999 high 1,5 1.234,5 1_000 0 -3 0x10 <nan >< ≤3 1e-999 ½ 1e301 TRUE #N/A"
    put(table, draw, "y", draw.choice([*odd.split(), "1 2", "--", "1.5 nM"]))


def bad_object(table: Table, draw: random.Random) -> None:
    """Put what is in no space."""
    put(table, draw, "object", draw.choice(["", "ACGT", "ACGTACGX", "ACGTACGTA", "É", "nan", "A" * 20_000, "=A1"]))


def bad_beside(table: Table, draw: random.Random) -> None:
    """Put a wrong error, count, qualifier or unit."""
    name = draw.choice(["y_sem", "y_n", "y_qualifier", "y_unit"])
    if name not in table.names:
        table.names.append(name)
        for row in table.rows:
            row.append("")
    odd = {"y_sem": ["-1", "nan", "x"], "y_n": ["0", "1.5", "1e300", "-1"], "y_unit": ["uM"]}
    put(table, draw, name, draw.choice(odd.get(name, ["<=", "maybe", "approx"])))


def bad_id(table: Table, draw: random.Random) -> None:
    """Put an id that is empty, too long, of another object or another row."""
    place, row = table.names.index("row_id"), draw.randrange(len(table.rows))
    own = row_id_of("fuzz", "A" * 8, 1)
    odd: list[Any] = ["", "x" * 500, own]
    if row:
        odd.append(table.rows[0][place])
    table.rows[row][place] = draw.choice(odd)
    if table.rows[row][place] == own:
        table.rows[row][table.names.index("object")] = "CCCCCCCC"
    table.wrong.add(row)


def bad_columns(table: Table, draw: random.Random) -> None:
    """Rename a column that is needed; a table that still has another property is right without it."""
    name = draw.choice(["y", "object"])
    odd = ["y (uM)", "y [uM]", "as_run_features"] if "mass" in table.names else ["z", "Y", "y (uM)", "as_run_"]
    table.names[table.names.index(name)] = draw.choice(odd)
    table.whole = True


def several(table: Table, draw: random.Random) -> None:
    """Put three mistakes."""
    for _ in range(3):
        draw.choice([bad_value, bad_object])(table, draw)


MISTAKES: list[Mistake] = [bad_value, bad_value, bad_object, bad_beside, bad_id, bad_columns, several]


def write_csv(table: Table, path: Path, draw: random.Random) -> dict[int, int] | None:
    """Write a table as CSV; return the numbers of its rows, None where the file itself is wrong."""
    delimiter = draw.choice([",", ";", "\t"])
    end = draw.choice(["\n", "\r\n"])

    def cell(value: Any) -> str:
        text = str(value)
        quoted = any(one in text for one in (delimiter, '"', "\n", "\r", ",")) or draw.random() < 0.1
        return '"' + text.replace('"', '""') + '"' if quoted else text

    lines = [delimiter.join(map(cell, row)) for row in [table.names, *table.rows]]
    numbers = {row: row + 2 for row in range(len(table.rows))}
    said = end.join(lines) + draw.choice(["", end])
    encoding = draw.choice(["utf-8", "utf-8-sig", "utf-16"])
    broken = draw.random()
    if broken < 0.03 and not said.isascii():
        content = said.encode(draw.choice(["cp1252", "utf-16-le"]), errors="replace")
    elif broken < 0.05:
        content = draw.randbytes(draw.randint(1, 300))
    elif broken < 0.07:
        content = said.encode() + b"\n" + b'"open,1\n'
    elif broken < 0.09:
        content = said.encode() + b"\n\xff\xfe\x00"
    elif broken < 0.1:
        content = said.encode("utf-16-le")
    else:
        content = said.encode(encoding)
        if draw.random() < 0.1:
            path = path.with_suffix(".csv.gz")
            content = gzip.compress(content)
            if draw.random() < 0.2:
                path.write_bytes(content[: len(content) // 2])
                return None
        path.write_bytes(content)
        return numbers
    path.write_bytes(content)
    return None


def write_json(table: Table, path: Path, draw: random.Random) -> dict[int, int] | None:
    """Write a table as JSON lines."""

    def cell(text: Any) -> Any:
        try:
            number = float(text)
        except ValueError:
            return text
        if "_" in text:  # a number to Python alone
            return text
        return number if draw.random() < 0.5 else text

    lines = [
        json.dumps(
            {n: cell(v) if n in ("y", "y_sem", "mass") else v for n, v in zip(table.names, row, strict=True)}
        )
        for row in table.rows
    ]
    numbers = {row: row + 1 for row in range(len(lines))}
    broken = draw.random()
    if broken < 0.1:
        odd = ["{", "[1]", "7", '{"object": {"a": 1}}', '{"y": NaN}', "[" * 5_000, '{"a": 1, "a": 2}', "\x00"]
        lines.insert(draw.randrange(len(lines) + 1), draw.choice([*odd, '{"object": "\\ud800"}']))
        numbers = {}
    path.write_bytes("\n".join(lines).encode())
    return numbers or None


CONTENT = '<?xml version="1.0"?>'
SPREAD = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def write_excel(table: Table, path: Path, draw: random.Random) -> dict[int, int] | None:  # noqa: C901 - one branch a kind of damage
    """Write a table as a workbook, with shared and inline texts, or one that is damaged or a bomb."""
    strings: dict[str, int] = {}
    top = draw.choice([1, 1, 1, 3])
    gap = draw.choice([0, 0, 2])
    wrong = draw.random()
    spoiled = draw.randrange(len(table.rows)) if wrong < 0.1 else None

    def cell(value: Any, name: str, *, spoil: bool) -> str:
        text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
        if spoil:
            return draw.choice(
                [
                    f'<c r="{name}"><f>A1+1</f></c>',
                    f'<c r="{name}" t="e"><v>#REF!</v></c>',
                    f'<c r="{name}" t="s"><v>99999</v></c>',
                    f'<c r="{name}"><v>nothing</v></c>',
                ]
            )
        if text == "":
            return f'<c r="{name}"/>' if draw.random() < 0.5 else ""
        try:
            number = repr(float(text)) if "_" not in text and text.strip() == text else None
        except ValueError:
            number = None
        if number is not None and draw.random() < 0.7:
            formula = "<f>B1*2</f>" if draw.random() < 0.2 else ""
            return f'<c r="{name}">{formula}<v>{number}</v></c>'
        if draw.random() < 0.5:
            return f'<c r="{name}" t="inlineStr"><is><t>{text}</t></is></c>'
        return f'<c r="{name}" t="s"><v>{strings.setdefault(text, len(strings))}</v></c>'

    numbers, lines = {}, []
    for place, row in enumerate([table.names, *table.rows]):
        number = top + place + (gap if place else 0)
        bad = place > 0 and place - 1 == spoiled
        cells = [
            cell(value, f"{chr(65 + column)}{number}", spoil=bad and table.names[column] == "y")
            for column, value in enumerate(row)
        ]
        lines.append(f'<row r="{number}">{"".join(cells)}</row>')
        if place:
            numbers[place - 1] = number
    if spoiled is not None and "y" in table.names:
        table.wrong.add(spoiled)
    merged = 0.1 <= wrong < 0.14
    after = (
        f'<mergeCells><mergeCell ref="A{min(numbers.values())}:A{max(numbers.values())}"/></mergeCells>'
        if (merged)
        else ""
    )
    before = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>' if 0.14 <= wrong < 0.16 else ""
    body = "".join(lines)
    if 0.16 <= wrong < 0.165:
        body += f'<row><c t="inlineStr"><is><t>{"A" * 1000}</t></is></c></row>' * 20_000
    sheets = '<sheet name="one" sheetId="1" r:id="rId1"/>'
    sheets += '<sheet name="two" sheetId="2" r:id="rId1"/>' if 0.17 <= wrong < 0.18 else ""
    sheets = f"<sheets>{sheets}</sheets>"
    shared = "".join(f"<si><t>{text}</t></si>" for text in strings)
    rel = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    parts = {
        "xl/workbook.xml": f'{CONTENT}<workbook xmlns="{SPREAD}" xmlns:r="{rel}">{sheets}</workbook>',
        "xl/_rels/workbook.xml.rels": (
            f'{CONTENT}<Relationships><Relationship Id="rId1" Type="{rel}/worksheet" Target="worksheets/s.xml"/>'
            f'<Relationship Id="rId2" Type="{rel}/sharedStrings" Target="sharedStrings.xml"/></Relationships>'
        ),
        "xl/sharedStrings.xml": f'{CONTENT}{before}<sst xmlns="{SPREAD}">{shared}</sst>',
        "xl/worksheets/s.xml": f'<worksheet xmlns="{SPREAD}"><sheetData>{body}</sheetData>{after}</worksheet>',
    }
    if 0.18 <= wrong < 0.2:
        del parts[draw.choice(list(parts)[:2] + list(parts)[3:])]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in parts.items():
            file.writestr(name, text)
        file.writestr("xl/vbaProject.bin", b"macros are not looked at")
    if 0.2 <= wrong < 0.24:
        content = bytearray(path.read_bytes())
        for _ in range(draw.randint(1, 5)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content)
        table.kind = "flipped bytes"  # may have hit nothing that is read
        return None
    if 0.24 <= wrong < 0.26:
        path.write_bytes(path.read_bytes()[: draw.randrange(4, 400)])
    whole = merged or before or 0.16 <= wrong < 0.165 or 0.17 <= wrong < 0.2 or 0.24 <= wrong < 0.26
    return None if whole else numbers


def as_frame(table: Table, draw: random.Random) -> Any:
    """Return a table as a data frame or a list of rows."""
    import pandas as pd

    if draw.random() < 0.5:
        return [dict(zip(table.names, row, strict=True)) for row in table.rows]
    frame = pd.DataFrame(table.rows, columns=table.names)
    if draw.random() < 0.3 and len(table.rows) > 1:
        frame = frame.replace({"": None})
    return frame


class Fuzz:
    """One campaign that is told everything, and what came of it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        (folder / "c.yaml").write_text(CAMPAIGN)
        self.campaign = Campaign.from_yaml(folder / "c.yaml")
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.stored = 0

    def one(self, serial: int) -> None:
        """Make a table, tell it, and see that it was taken whole or refused whole."""
        table = new_table(self.draw, serial)
        if self.draw.random() < 0.55:
            self.draw.choice(MISTAKES)(table, self.draw)
        for old in self.folder.glob("t.*"):
            old.unlink()
        form = self.draw.choice(["csv", "xlsx", "jsonl", "frame"])
        numbers: dict[int, int] | None
        if form == "frame":
            data, numbers = as_frame(table, self.draw), {row: row + 1 for row in range(len(table.rows))}
        else:
            write = {"csv": write_csv, "xlsx": write_excel, "jsonl": write_json}[form]
            numbers = write(table, self.folder / f"t.{form}", self.draw)
            data = next(self.folder.glob("t.*"))
        self.judge(serial, form, table, numbers, data)

    def judge(self, serial: int, form: str, table: Table, numbers: dict[int, int] | None, data: Any) -> None:  # noqa: C901 - one branch a verdict
        """Tell a table and compare what came of it with what was to come."""
        right = numbers is not None and not table.wrong and not table.whole
        expected = 0
        for name in {"y", "mass"} & set(table.names):
            expected += sum(str(row[table.names.index(name)]) != "" for row in table.rows)
        try:
            told = self.campaign.tell(data, source=f"input {serial}")
        except InputError as error:
            self.counts[f"{form} refused"] += 1
            if right:
                self.fail(serial, form, f"a right table was refused: {error}")
            elif numbers is not None and table.wrong and not table.whole:
                named = [numbers[row] for row in table.wrong]
                if not any(f"row {number}:" in f"{error}" for number in named):
                    self.fail(serial, form, f"rows {named} are not named: {error}")
            added = 0
        except Exception:  # noqa: BLE001 - what must not happen, whatever it is
            self.fail(serial, form, traceback.format_exc())
            added = 0
        else:
            self.counts[f"{form} accepted"] += 1
            added = told.added
            if right and added != expected:
                self.fail(serial, form, f"{added} values were added, expected {expected}")
            if not right and table.kind == "right":
                self.fail(serial, form, f"a wrong table was accepted: {table}")
            if serial % 10 == 0:
                again = self.campaign.tell(data, source=f"input {serial}")
                if again.added or again.unchanged != added:
                    self.fail(serial, form, f"told again it added {again.added}")
        self.stored += added
        if serial % 10 == 0 or added == 0:
            found = self.campaign.status().measurements
            if found != self.stored:
                self.fail(serial, form, f"the history holds {found} values, expected {self.stored}")
                self.stored = found

    def fail(self, serial: int, form: str, said: str) -> None:
        """Note what must not be, with the input kept for a look."""
        self.failures.append(f"input {serial} ({form}): {said[:1500]}")

    def large(self) -> None:
        """Tell a million rows, in each form, and bombs: refused in bounded memory, saying what to do instead."""
        rows = 1_000_000
        csv = self.folder / "large.csv"
        with csv.open("w") as file:
            file.write("object,y\n")
            file.writelines(f"ACGTACGT,{n % 997 + 1}\n" for n in range(rows))
        lines = self.folder / "large.jsonl"
        with lines.open("w") as file:
            file.writelines(f'{{"object": "ACGTACGT", "y": {n % 997 + 1}}}\n' for n in range(rows))
        book = self.folder / "large.xlsx"
        with zipfile.ZipFile(book, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("xl/workbook.xml", '<workbook xmlns:r="r"><sheet name="a" r:id="1"/></workbook>')
            file.writestr(
                "xl/_rels/workbook.xml.rels",
                '<Relationships><Relationship Id="1" Type="x/worksheet" Target="s.xml"/></Relationships>',
            )
            with file.open("xl/s.xml", "w") as sheet:
                sheet.write(b'<worksheet><row r="1"><c t="str"><v>object</v></c><c t="str"><v>y</v></c></row>')
                for n in range(2, rows + 2):
                    sheet.write(
                        f'<row r="{n}"><c t="str"><v>ACGTACGT</v></c><c r="B{n}"><v>{n}</v></c></row>'.encode()
                    )
                sheet.write(b"</worksheet>")
        bomb = self.folder / "bomb.xlsx"
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
            for name in ("xl/workbook.xml", "xl/_rels/workbook.xml.rels"):
                with file.open(name, "w") as part:
                    for _ in range(512):
                        part.write(b" " * 2**20)
        packed = self.folder / "bomb.csv.gz"
        with gzip.open(packed, "wb", compresslevel=1) as zipped:
            for _ in range(512):
                zipped.write(b"A" * 2**20)
        for path in (csv, lines, book, bomb, packed):
            before, start = peak_mb(), time.perf_counter()
            try:
                self.campaign.tell(path)
            except InputError as error:
                said = " ".join(str(error).split())[:90]
            else:
                said = "accepted"
                self.fail(-1, path.name, "was accepted")
            size, seconds = path.stat().st_size / 2**20, time.perf_counter() - start
            print(
                f"{path.name} ({size:.1f} MiB): peak {before:.0f} -> {peak_mb():.0f} MiB, {seconds:.1f} s: {said}"
            )
            path.unlink()


def peak_mb() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Run and print; return 1 if anything was neither taken whole nor refused whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-large", action="store_true", help="leave out the million rows and the bombs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        fuzz = Fuzz(Path(name), options.seed)
        start = time.perf_counter()
        print(f"peak memory before: {peak_mb():.0f} MiB")
        for serial in range(options.inputs):
            fuzz.one(serial)
        print(f"{options.inputs:,} inputs in {time.perf_counter() - start:.0f} s: {dict(fuzz.counts)}")
        print(f"peak memory after them: {peak_mb():.0f} MiB; {fuzz.stored:,} values stored")
        if not options.no_large:
            fuzz.large()
        fuzz.campaign.close()
    for failure in fuzz.failures[:20]:
        print(failure)
    print(f"{len(fuzz.failures)} failures")
    return 1 if fuzz.failures else 0


if __name__ == "__main__":
    sys.exit(main())
