"""Tables in and out: what a campaign exports comes back, what a table says is what telling it says."""

import csv
import json
import sys
from pathlib import Path

import pytest

from flowscout import Campaign
from flowscout.cli import run
from flowscout.db import History
from flowscout.db.export import kind_of
from flowscout.db.rowfiles import escape_cell, unescape_cell
from flowscout.errors import ConfigError, LabelError, ObjectError
from flowscout.loop.tables import importing

CAMPAIGN = """\
campaign: {name}
seed: 3
space: {{type: sequence, alphabet: dna, length: 4}}
objectives: [{{name: y, direction: maximize}}]
oracle: {{type: lab}}
batch: {{size: 3}}
budget: {{rounds: 2}}
device: cpu
"""
LEGACY = "object,y,y_sem,y_n\nACGT,1.5,,\nTTTT,-2,0.1,3\nACGT,1.5,,\nCCCC,0.5,,\nACGT,1.5,,\n"


@pytest.fixture
def new(tmp_path: Path):
    """Return a function that opens a campaign of this name, in a database of its own."""
    opened = []

    def make(name: str = "binders") -> Campaign:
        (tmp_path / f"{name}.yaml").write_text(CAMPAIGN.format(name=name))
        opened.append(Campaign.from_yaml(tmp_path / f"{name}.yaml", actor="bench"))
        return opened[-1]

    yield make
    for campaign in opened:
        campaign.close()


def facts(campaign: Campaign) -> list[tuple[object, ...]]:
    names = ["seq", "object", "property", "value", "qualifier", "sem", "n", "unit", "source", "row_id"]
    rows = campaign.workbench.history.queries.history(campaign.name)
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize("piece", [2, 5_000])
def test_an_import_says_what_telling_says(new, tmp_path: Path, monkeypatch, piece: int) -> None:
    monkeypatch.setattr(importing, "BATCH", piece)
    (tmp_path / "legacy.csv").write_text(LEGACY)
    imported, told = new("imported"), new("told")
    done = imported.import_table(tmp_path / "legacy.csv")
    assert (done.added, done.unchanged) == (5, 0)
    told.tell(tmp_path / "legacy.csv")
    assert facts(imported) == facts(told)
    assert imported.tell(tmp_path / "legacy.csv").added == 0  # either way a row is the same row
    assert imported.import_table(tmp_path / "legacy.csv").unchanged == 5


def test_json_lines_say_the_same(new, tmp_path: Path) -> None:
    rows = [dict(zip(("object", "y"), one, strict=True)) for one in (("ACGT", 1.5), ("TTTT", -2))]
    (tmp_path / "legacy.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "legacy.csv").write_text("object,y\nACGT,1.5\nTTTT,-2\n")
    first, second = new("first"), new("second")
    first.import_table(tmp_path / "legacy.jsonl", source="x")
    second.import_table(tmp_path / "legacy.csv", source="x")
    assert facts(first) == facts(second) != []


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_an_exported_file_holds_every_measurement_and_comes_back(new, tmp_path: Path, ending: str) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow", reason="an extra that is not part of the tests' environment")
    (tmp_path / "legacy.csv").write_text(LEGACY)
    campaign, copy = new(), new("copy")
    campaign.import_table(tmp_path / "legacy.csv", source="=HYPERLINK(1)")
    assert campaign.export(tmp_path / f"out{ending}") == 5
    assert copy.import_table(tmp_path / f"out{ending}").added == 5
    assert facts(copy) == facts(campaign)
    assert copy.import_table(tmp_path / f"out{ending}").unchanged == 5


def test_no_text_cell_of_a_csv_file_is_a_formula_and_numbers_stay_numbers(new, tmp_path: Path) -> None:
    (tmp_path / "legacy.csv").write_text("object,y\nACGT,-1.5\n")
    campaign = new()
    for source in ("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "'=1", "plain", "''-2"):
        campaign.import_table(tmp_path / "legacy.csv", source=source)
    campaign.export(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == [
        "'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\tx", "'\rx", "''=1", "plain", "'''-2",
    ]  # fmt: skip
    assert {row["value"] for row in rows} == {"-1.5"}
    copy = new("copy")
    copy.import_table(tmp_path / "out.csv")
    assert facts(copy) == facts(campaign)


@pytest.mark.parametrize("text", ["=x", "'=x", "''+x", "'x", "'", "", "x=", "-", "a\tb", "'\r"])
def test_escaping_loses_nothing(text: str) -> None:
    assert unescape_cell(escape_cell(text)) == text


def test_every_column_of_the_view_has_the_type_that_is_said(new, tmp_path: Path) -> None:
    campaign = new()
    (tmp_path / "legacy.csv").write_text(LEGACY)
    campaign.import_table(tmp_path / "legacy.csv")
    kinds = {"int": int, "float": float, "text": str, "bool": bool}
    [*rows] = campaign.workbench.history.queries.history(campaign.name)
    for name, value in rows[1].items():
        if value is not None and kind_of(name) != "time":
            assert type(value) is kinds[kind_of(name)] or isinstance(value, str), name


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("legacy.csv", "object,y\nACGT,1\nTTTT,x\n", LabelError, "row 2: y is 'x'"),
        ("legacy.csv", "object,y\nACGT,1\nXXXX,1\n", ObjectError, "rows counted from row 1"),
        ("legacy.csv", "object,property,value,n\nACGT,y,1,0.5\n", LabelError, "row 1: n is 0.5"),
        ("legacy.csv", "object,property,value\nACGT,,1\n", LabelError, "row 1: property is empty"),
        ("legacy.csv", "object,property,value,qualifier\nACGT,y,1,about\n", LabelError, "expected =, <, >"),
        ("legacy.csv", "", LabelError, "cannot be read"),
        (
            "legacy.jsonl",
            '{"object": "ACGT", "y": 1}\nnonsense\n',
            LabelError,
            "line 2 of 'legacy.jsonl' is no JSON",
        ),
        ("legacy.xml", "<a/>", LabelError, "expected one of"),
        ("legacy.csv", "object,y,row_id\nACGT,1,a\nTTTT,1,a\n", LabelError, "'a' stands in row 1 too"),
    ],
)
def test_a_wrong_table_is_refused_and_nothing_is_written(
    new, tmp_path: Path, name: str, content: str, error: type[Exception], message: str
) -> None:
    (tmp_path / name).write_text(content)
    campaign = new()
    with pytest.raises(error, match=message):
        campaign.import_table(tmp_path / name)
    assert facts(campaign) == []


def test_parquet_without_its_library_names_the_extra(new, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    campaign = new()
    with pytest.raises(ConfigError, match=r"flowscout\[parquet\]"):
        campaign.export(tmp_path / "out.parquet")
    with pytest.raises(ConfigError, match=r"expected \.jsonl, \.csv, \.parquet"):
        campaign.export(tmp_path / "out.xlsx")
    assert {p.suffix for p in tmp_path.iterdir()} <= {".yaml", ".db", ".db-wal", ".db-shm"}


def test_the_commands_take_a_history_out_and_in(new, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "legacy.csv").write_text(LEGACY)
    campaign = new()
    file = str(tmp_path / "binders.yaml")
    said = []
    for line in (
        ["import", file, str(tmp_path / "legacy.csv"), "--source", "eln", "--json"],
        ["export", file, "--to", str(tmp_path / "out.csv"), "--json"],
        ["export", file, "--to", str(tmp_path / "all"), "--json"],
        ["import", str(tmp_path / "all"), "--db", str(tmp_path / "second.db"), "--json"],
    ):
        assert run(line) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == {"added": 5, "unchanged": 0}
    assert said[1]["rows"] == said[2]["rows"]["measurement"] == said[3]["rows"]["measurement"] == 5
    with History(str(tmp_path / "second.db")) as second:
        assert second.queries.history("binders") == campaign.workbench.history.queries.history("binders")
    for line, wrong in (
        (["import", str(tmp_path / "all")], "came without --db"),
        (["import", file], "came without a table"),
        (["import", str(tmp_path / "all"), "x.csv"], "takes --db and nothing else"),
        (["export", file, "--to", str(tmp_path / "all")], "is there already"),
        (["export", file, "--to", "x", "--format", "xml"], "expected jsonl or parquet"),
    ):
        assert run(line) == 2
        assert wrong in " ".join(capsys.readouterr().err.split())


def test_a_workbook_is_imported(new, tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="the extra excel is not installed")
    book = openpyxl.Workbook()
    for row in (["object", "y"], ["ACGT", 1.5], ["TTTT", 2]):
        book.active.append(row)
    book.save(tmp_path / "legacy.xlsx")
    campaign = new()
    assert campaign.import_table(tmp_path / "legacy.xlsx").added == 2
    assert campaign.import_table(tmp_path / "legacy.xlsx").unchanged == 2
    assert campaign.history()["value"].tolist() == [1.5, 2.0]
