"""Tables as people send them: each is read as what it shows, or refused by the row a person sees."""

import gzip
import zipfile

import pytest

from flowscout.errors import LabelError, TableError
from flowscout.loop.tables import sheets
from flowscout.loop.tables.mistakes import Mistakes
from flowscout.loop.tables.sheets import read_pieces, read_sheet

PARTS = {
    "[Content_Types].xml": "<Types/>",
    "xl/workbook.xml": '<workbook xmlns:r="r"><sheets><sheet name="a" r:id="r1"/>{more}</sheets></workbook>',
    "xl/_rels/workbook.xml.rels": (
        '<Relationships><Relationship Id="r1" Type="x/worksheet" Target="worksheets/s1.xml"/>'
        '<Relationship Id="r2" Type="x/worksheet" Target="/xl/worksheets/s1.xml"/>'
        '<Relationship Id="r3" Type="x/sharedStrings" Target="strings.xml"/>'
        '<Relationship Id="r4" Type="x/styles" Target="styles.xml"/></Relationships>'
    ),
    "xl/strings.xml": "<sst><si><t>object</t></si><si><r><t>A</t></r><r><t>C</t></r><rPh><t>x</t></rPh></si></sst>",  # noqa: E501
    "xl/styles.xml": (
        '<styleSheet><numFmts><numFmt numFmtId="170" formatCode="0.0 &quot;day&quot;"/></numFmts>'
        '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="170"/></cellXfs></styleSheet>'
    ),
}
HEAD = '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="inlineStr"><is><t>y</t></is></c></row>'


def book(tmp_path, rows, *, more="", after="", before="", name="t.xlsx", **parts):
    path = tmp_path / name
    sheet = f"{before}<worksheet><sheetData>{HEAD}{rows}</sheetData>{after}</worksheet>"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for part, text in {**PARTS, "xl/worksheets/s1.xml": sheet, **parts}.items():
            file.writestr(part, text.replace("{more}", more))
    return path


def read(path, **options):
    piece, mistakes = read_sheet(path, **options)
    mistakes.refuse()
    return [*zip(piece.numbers, piece.frame.values.tolist(), strict=True)]


def text(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_is_read_as_spreadsheets_write_it(tmp_path, encoding, delimiter):
    said = f'object{delimiter}y [µM]\r\n"A{delimiter}C"{delimiter}1.5\r\n\r\nGG{delimiter}\r\n'
    path = text(tmp_path, said.encode(encoding))
    assert read(path) == [(2, [f"A{delimiter}C", "1.5"]), (4, ["GG", ""])]
    assert read_sheet(path)[0].frame.columns.tolist() == ["object", "y [µM]"]


def test_the_line_that_tells_excel_the_delimiter_is_no_row(tmp_path):
    assert read(text(tmp_path, "sep=;\nobject;y\nAC;1\n")) == [(2, ["AC", "1"])]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("object,y\nAC,1\nµ,2\n".encode("cp1252"), "row 3, byte 0xb5: it is not text in UTF-8"),
        ("object,y\nAC,1\n".encode("utf-16-le"), "row 1: it holds zero bytes"),
        ("object,y\nAC,1,5\n", "row 2: it has 3 cells, expected 2; a comma in a number"),
        ("object,y,y\nAC,1,5\n", "column 'y' more than once"),
        ("object,y,\nAC,1,5\n", "row 2: cell C2 holds '5' and its column has no name"),
        ('object,y\nAC,"1\nGG,2\n', "row 2: unexpected end of data"),
        ("object,y\n", "no rows below its header"),
        ("\ufeff\n\n", "no rows|columns"),
        ("", "is empty"),
        (b"\xd0\xcf\x11\xe0rest", "protected by a password or of the old format"),
        (b"PAR1", "Parquet"),
        (b"PK\x03\x04rest", "cannot be read"),
        ("object,y\nAC," + "1" * 2**20, "row 2: the line is longer"),
    ],
)
def test_other_text_is_refused_by_its_row(tmp_path, content, said):
    with pytest.raises(LabelError, match=said):
        read(text(tmp_path, content))


def test_a_damaged_archive_is_refused(tmp_path):
    whole = gzip.compress(b"object,y\nAC,1\n" * 1000)
    with pytest.raises(LabelError, match="cannot be read"):
        read(text(tmp_path, whole[:-20], "t.csv.gz"))
    assert len(read(text(tmp_path, whole.replace(b"", b""), "t.csv.gz"))) == 1999


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"object": "AC", "y": NaN}', "row 1: it is no JSON .NaN"),
        ('{"object": "AC"}\n\n{"y": 1, "y": 2}', "row 3: it is no JSON .the name 'y' comes twice"),
        ('{"object": "AC"}\n[1]', "row 2: it is '\\[1\\]', expected a JSON object"),
        ('{"object": ["AC"]}', "row 1: object is .*expected a text or a number"),
        ('{"object": ' + "[" * 100_000, "row 1: it is no JSON"),
    ],
)
def test_json_lines_are_read_or_refused(tmp_path, content, said):
    with pytest.raises(LabelError, match=said):
        read(text(tmp_path, content, "t.jsonl"))
    right = text(tmp_path, '{"object": "AC", "y": 1}\n\n{"y": 2.5, "who": null}\n', "r.jsonl")
    assert read(right) == [(1, ["AC", 1, ""]), (3, ["", 2.5, ""])]


def test_a_workbook_shows_its_stored_values(tmp_path):
    rows = (
        '<row r="3"><c r="A3" t="s"><v>1</v></c><c r="B3"><f>1/3</f><v>0.25</v></c></row>'
        '<row><c t="str"><f>"G"</f><v>G</v></c><c s="1"><v>45000.5</v></c></row>'
        '<row r="6"><c r="B6" s="2"><v>25</v></c></row><row r="7"><c r="A7" t="b"><v>1</v></c></row>'
    )
    found = read(book(tmp_path, rows))
    assert found == [(3, ["AC", "0.25"]), (4, ["G", "2023-03-15 12:00:00"]), (6, ["", "25"]), (7, ["TRUE", ""])]


def test_a_number_shown_in_percent_is_what_it_shows(tmp_path):
    styles = (
        '<styleSheet><numFmts><numFmt numFmtId="170" formatCode="0.0%"/><numFmt numFmtId="171" formatCode="0\\%"/>'
        '</numFmts><cellXfs><xf numFmtId="0"/><xf numFmtId="9"/><xf numFmtId="170"/><xf numFmtId="171"/></cellXfs>'
        "</styleSheet>"
    )
    rows = "".join(
        f'<row r="{style + 2}"><c r="B{style + 2}" s="{style}"><v>0.07</v></c></row>' for style in range(4)
    )
    found = read(book(tmp_path, rows, **{"xl/styles.xml": styles}))
    assert [cells[1] for _, cells in found] == ["0.07", "7%", "7%", "0.07"]


def test_a_text_that_was_escaped_is_what_it_was_before(tmp_path):
    rows = '<row r="2"><c r="A2" t="inlineStr"><is><t>\'-AC</t></is></c></row>'
    assert read(book(tmp_path, rows)) == [(2, ["-AC", ""])]
    assert read(text(tmp_path, "object,y\n'-AC,\n")) == [(2, ["-AC", ""])]


@pytest.mark.parametrize("word", ["1", "true"])
def test_formulas_that_nobody_computed_have_no_value(tmp_path, word):
    rows = '<row r="2"><c r="A2"><v>5</v></c><c r="B2"><f>1/3</f><v>0</v></c></row>'
    changed = PARTS["xl/workbook.xml"].replace("</workbook>", f'<calcPr fullCalcOnLoad="{word}"/></workbook>')
    with pytest.raises(TableError, match="row 2: cell B2 is a formula without a stored value"):
        read(book(tmp_path, rows, **{"xl/workbook.xml": changed}))
    assert read(book(tmp_path, rows)) == [(2, ["5", "0"])]
    plain = rows.replace("<f>1/3</f>", "")
    assert read(book(tmp_path, plain, **{"xl/workbook.xml": changed})) == [(2, ["5", "0"])]


@pytest.mark.parametrize(
    ("rows", "after", "said"),
    [
        ('<row r="5"><c r="B5"><f>A1</f></c></row>', "", "row 5: cell B5 is a formula without a stored value"),
        ('<row r="5"><c r="B5" t="e"><v>#DIV/0!</v></c></row>', "", "row 5: cell B5 holds the error #DIV/0!"),
        ('<row r="5"><c r="B5" t="s"><v>9</v></c></row>', "", "row 5: cell B5 holds '9'"),
        ('<row r="5"><c r="C5"><v>1</v></c></row>', "", "row 5: cell C5 holds '1' and its column has no name"),
        (
            '<row r="2"><c r="A2"><v>1</v></c></row>',
            '<mergeCells><mergeCell ref="A2:A4"/></mergeCells>',
            "row 2: the cells A2:A4 are merged",
        ),
        ('<row r="5"/><row r="4"/>', "", "row 4 follows row 5"),
        ('<row r="2"><c r="B2"/><c r="A2"/></row>', "", "cell A2 stands after B2"),
        ("<row>" + "<a>" * 100, "", "deep"),
        (f'<row r="2"><c r="A2" t="str"><v>{"A" * 40_000}</v></c></row>', "", "more than 32,767 characters"),
        ('<row r="2"', "", "cannot be read"),
    ],
)
def test_what_no_cell_says_is_refused_by_its_name(tmp_path, rows, after, said):
    with pytest.raises(LabelError, match=said):
        read(book(tmp_path, rows, after=after))


def test_bombs_are_refused_before_they_unpack(tmp_path):
    row = '<row><c t="inlineStr"><is><t>A</t></is></c></row>'
    with pytest.raises(LabelError, match=r"unpacks from [0-9,]+ to [0-9,]+ bytes"):
        read(book(tmp_path, row * 3_000_000))
    entities = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    with pytest.raises(LabelError, match="declares a document type"):
        read(book(tmp_path, '<row r="2"><c r="A2"><v>1</v></c></row>', before=entities))
    with pytest.raises(LabelError, match="declares a document type"):
        read(book(tmp_path, "", **{"xl/strings.xml": entities + "<sst/>"}))


def test_of_several_sheets_one_is_named(tmp_path):
    path = book(tmp_path, '<row r="2"><c r="A2"><v>7</v></c></row>', more='<sheet name="b" r:id="r2"/>')
    with pytest.raises(LabelError, match=r"has 2 sheets \('a', 'b'\) and none was named"):
        read(path)
    assert read(path, sheet="b") == [(2, ["7", ""])]
    with pytest.raises(LabelError, match="no sheet 'c'; it has 'a', 'b'"):
        read(path, sheet="c")
    with pytest.raises(LabelError, match="no Excel workbook, and sheet 'a' was named"):
        read(text(tmp_path, "object,y\nA,1\n"), sheet="a")


def test_what_openpyxl_writes_is_read_as_it_was(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="the extra excel is not installed")
    from datetime import date

    written = openpyxl.Workbook()
    cells = [["object", "y", "when"], ["ACGT", 0.1, date(2026, 11, 22)], ["007", 3, None], [None, True, "é"]]
    for row in cells:
        written.active.append(row)
    written.save(tmp_path / "t.xlsx")
    found = read(tmp_path / "t.xlsx")
    assert [row for _, row in found] == [["ACGT", "0.1", "2026-11-22"], ["007", "3", ""], ["", "TRUE", "é"]]


def test_all_mistakes_are_kept_and_twenty_are_said(tmp_path):
    rows = "".join(f'<row r="{n}"><c r="B{n}" t="e"><v>#N/A</v></c></row>' for n in range(2, 32))
    with pytest.raises(TableError, match="has 30 mistakes; nothing was written") as caught:
        read(book(tmp_path, rows))
    assert [number for number, _ in caught.value.mistakes] == [*range(2, 32)]
    assert str(caught.value).count("\n  row ") == 20
    assert "and 10 more" in str(caught.value)


def test_a_large_table_is_read_in_pieces(tmp_path, monkeypatch):
    rows = "".join(f'<row r="{n}"><c r="A{n}"><v>{n}</v></c></row>' for n in range(2, 103))
    mistakes = Mistakes("table")
    pieces = [*read_pieces(book(tmp_path, rows), mistakes, size=50)]
    assert [len(piece.numbers) for piece in pieces] == [50, 50, 1]
    assert [number for piece in pieces for number in piece.numbers] == [*range(2, 103)]
    monkeypatch.setattr(sheets, "MAX_ROWS", 100)
    with pytest.raises(LabelError, match=r"more than 100 rows.*flowscout import"):
        read(tmp_path / "t.xlsx")
