"""A plate goes out as a map and comes back filled: nothing is told twice, no control becomes a candidate."""

import random

import pandas as pd
import pytest

from flowscout import Campaign
from flowscout.cli import run
from flowscout.errors import ConfigError, LabelError, StateError, TableError
from flowscout.loop.tables.plate_maps import read_control
from flowscout.loop.tables.plates import parse_well

PLAIN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 5}
objectives: [{name: y, direction: minimize, unit: nM}]
properties: [{name: mass, unit: Da}]
oracle: {type: lab}
proposer: {type: random}
batch: {size: 9, replicates: 2}
budget: {rounds: 4}
device: cpu
"""
NORMAL = PLAIN.replace(
    "objectives: [{name: y, direction: minimize, unit: nM}]",
    'objectives: [{name: y, direction: maximize, unit: "%", normalize: {raw: signal}}]',
).replace("properties: [{name: mass, unit: Da}]", "properties: [{name: signal}]")
CONTROLS = ["positive=ACGTA:A1-B1", "negative=DMSO:A12,B12"]


@pytest.fixture
def campaign(tmp_path):
    opened = []

    def make(content=PLAIN):
        (tmp_path / "c.yaml").write_text(content)
        opened.append(Campaign.from_yaml(tmp_path / "c.yaml"))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def read(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")


def fill(sheet, values, column):
    return sheet.assign(**{column: values})


def plate_of(found, tmp_path, **options):
    found.ask()
    found.export_plate(tmp_path / "plate.csv", **options)
    return read(tmp_path / "plate.csv")


def test_a_map_holds_all_that_waits_and_the_controls(campaign, tmp_path):
    found = campaign()
    sheet = plate_of(found, tmp_path, controls=CONTROLS)
    head = ["plate", "well", "object", "replicate", "row_id", "control", "y [nM]", "mass [Da]"]
    assert sheet.columns.tolist() == head
    assert sheet["well"].tolist()[:4] == ["A1", "B1", "C1", "D1"]
    assert sheet["control"].tolist() == ["positive"] * 2 + [""] * 18 + ["negative"] * 2
    samples = sheet[sheet["control"] == ""]
    assert sorted(samples["replicate"]) == ["1"] * 9 + ["2"] * 9
    assert samples["row_id"].is_unique
    assert set(samples["object"]) == set(found.ask()["object"])
    found.export_plate(tmp_path / "again.csv", controls=CONTROLS)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "plate.csv").read_bytes()


def test_what_does_not_fit_one_plate_goes_on_the_next(campaign, tmp_path):
    sheet = plate_of(campaign(), tmp_path, controls=["blank=:A1-H11"])
    sizes = sheet[sheet["control"] == ""].groupby("plate").size()
    assert sizes.to_dict() == {"binders-1-1": 8, "binders-1-2": 8, "binders-1-3": 2}
    assert (sheet["control"] == "blank").sum() == 3 * 88


def test_a_filled_map_is_told_in_any_order_and_part(campaign, tmp_path):
    found = campaign()
    sheet = plate_of(found, tmp_path, controls=CONTROLS)
    sheet = sheet.assign(**{"y [nM]": [f"{n}.5" for n in range(len(sheet))], "celsius": "25", "note": ""})
    shuffled = sheet.sample(frac=1, random_state=1)
    shuffled.iloc[:10].to_csv(tmp_path / "p1.csv", index=False)
    told = found.tell(tmp_path / "p1.csv")
    assert (told.added, told.controls) == ((shuffled.iloc[:10]["control"] == "").sum(), 10 - told.added)
    assert told.conditions == ("plate", "well", "celsius", "note")
    shuffled.to_csv(tmp_path / "another name.csv", index=False, sep=";")
    rest = found.tell(tmp_path / "another name.csv", source="another source")
    assert (rest.added, rest.unchanged, rest.controls) == (18 - told.added, told.added, 4)
    history = found.history()
    assert len(history) == 18
    assert set(history["source"]) == {"plates"}
    first = sheet[sheet["control"] == ""].iloc[0]
    [row] = history[history["row_id"] == first["row_id"]].to_dict("records")
    assert (row["object"], row["value"]) == (first["object"], float(first["y [nM]"]))
    assert row["as_run"] == {"plate": "binders-1-1", "well": first["well"], "celsius": 25}
    assert found.status().rounds[0].state == "complete"
    assert "DMSO" not in set(history["object"])


def test_each_replicate_settles_its_own_evaluation(campaign, tmp_path):
    found = campaign()
    sheet = plate_of(found, tmp_path)
    found.tell(sheet[sheet["replicate"] == "2"].assign(**{"y [nM]": 1.0}))
    assert set(found.pending()["replicate"]) == {1}


def test_an_id_beside_another_object_is_refused(campaign, tmp_path):
    found = campaign()
    sheet = plate_of(found, tmp_path).assign(**{"y [nM]": "1"})
    wrong = sheet.assign(object=sheet["object"].tolist()[1:] + sheet["object"].tolist()[:1])
    with pytest.raises(TableError, match="was a column sorted without the others") as caught:
        found.tell(wrong)
    assert len(caught.value.mistakes) >= 9
    foreign = sheet.replace({"row_id": {sheet["row_id"][0]: "fs-0123456789abcdef"}})
    with pytest.raises(TableError, match="row 1: the row_id 'fs-0123456789abcdef' is not that of"):
        found.tell(foreign)
    assert found.history().empty


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"well": "Q1"}, "well is 'Q1', expected A1 to P24"),
        ({"well": ""}, "well is ''"),
        ({"well": "B01"}, "the well binders-1-1 B1 stands in row 1 too"),
    ],
)
def test_wells_are_checked(campaign, tmp_path, changes, said):
    found = campaign()
    sheet = plate_of(found, tmp_path).assign(**{"y [nM]": "1"})
    sheet = sheet.iloc[[1, 2]].reset_index(drop=True)
    sheet.loc[1, list(changes)] = list(changes.values())
    with pytest.raises(TableError, match=said):
        found.tell(sheet)


def test_a_readers_own_plate_is_known_by_its_wells(campaign):
    found = campaign()
    rows = [{"well": "A1", "object": "AAAAA", "y": 1.0}, {"well": "a02", "object": "AAAAA", "y": 1.0}]
    assert found.tell(rows, source="reader").added == 2
    assert found.tell(rows[::-1], source="reader").unchanged == 2
    with pytest.raises(LabelError, match=r"row 'A1' of 'reader' says y = 2.0"):
        found.tell([{**rows[0], "y": 2.0}], source="reader")


def test_values_are_normalised_by_their_plates_controls(campaign, tmp_path):
    found = campaign(NORMAL)
    sheet = plate_of(found, tmp_path, controls=CONTROLS)
    assert "y [%]" not in sheet.columns
    readings = {"positive": [90.0, 110.0], "negative": [9.0, 11.0]}
    sheet["signal"] = [
        str(readings[kind].pop()) if kind in readings else str(10.0 + n) for n, kind in enumerate(sheet["control"])
    ]
    sheet.loc[2, "signal"] = "<28"
    told = found.tell(sheet)
    assert told.added == 36
    history = found.history()
    raw = history[history["property"] == "signal"].set_index("row_id")
    made = history[history["property"] == "y"].set_index("row_id")
    for _, row in sheet[sheet["control"] == ""].iterrows():
        signal = float(row["signal"].removeprefix("<"))
        assert raw.loc[row["row_id"], "value"] == signal
        assert made.loc[row["row_id"], "value"] == pytest.approx(100 * (signal - 10) / (100 - 10), abs=1e-12)
    assert made["qualifier"].value_counts().to_dict() == {"=": 17, "<": 1}
    run = made["as_run"].iloc[0]["controls"]
    assert run["positive"] == {"mean": 100.0, "sd": pytest.approx(200**0.5), "n": 2}
    assert "controls" not in raw["as_run"].iloc[0]
    assert found.tell(sheet.sample(frac=1, random_state=3)).unchanged == 36
    assert found.status().rounds[0].state == "complete"


def test_a_falling_signal_turns_bounds_and_scales_errors(campaign):
    found = campaign(NORMAL)
    controls = [{"control": "Positive", "signal": 10.0}, {"control": "negative", "signal": 110.0}]
    sample = {"object": "AAAAA", "well": "A1", "signal": ">60", "signal_sem": 2.0}
    wells = [{**one, "well": well, "object": ""} for one, well in zip(controls, ("B1", "B2"), strict=True)]
    assert found.tell([sample, *wells]).added == 2
    [row] = found.history(property="y").to_dict("records")
    assert (row["value"], row["qualifier"], row["sem"]) == (50.0, "<", 2.0)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("AAAAA", "", 5.0)], "has no value of the controls"),
        ([("AAAAA", "", 5.0), ("", "positive", 1.0)], "no value of signal in a negative control"),
        ([("AAAAA", "", 5.0), ("", "positive", 1.0), ("", "negative", 1.0)], "read the same"),
        (
            [("AAAAA", "", 5.0), ("", "positive", "<1"), ("", "negative", 1.0)],
            "row 2: signal of a control is a bound",
        ),
        ([("AAAAA", "", 5.0), ("", "positive", 1e300), ("", "negative", 1.0), ("", "positive", -1e300)], "same"),
    ],
)
def test_controls_that_say_nothing_refuse_the_sheet(campaign, rows, said):
    found = campaign(NORMAL)
    table = [
        {"object": text, "control": kind, "signal": value, "well": f"A{n + 1}"}
        for n, (text, kind, value) in enumerate(rows)
    ]
    with pytest.raises(TableError, match=said):
        found.tell(table)
    assert found.history().empty


def test_a_plate_is_told_and_not_imported(campaign, tmp_path):
    found = campaign()
    sheet = plate_of(found, tmp_path).assign(**{"y [nM]": "1"})
    sheet.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(LabelError, match="the sheet of a plate, expected results; tell it"):
        found.import_table(tmp_path / "p.csv")


def test_other_controls_later_are_a_correction(campaign):
    found = campaign(NORMAL)

    def sheet(high):
        rows = [("AAAAA", "", 5.0), ("", "positive", high), ("", "negative", 0.0)]
        return [
            {"object": text, "control": kind, "signal": value, "well": f"A{n + 1}"}
            for n, (text, kind, value) in enumerate(rows)
        ]

    found.tell(sheet(10.0), source="p")
    with pytest.raises(LabelError, match=r"says y = 25.0.*stored with value 50.0"):
        found.tell(sheet(20.0), source="p")
    told = found.tell(sheet(20.0), source="p", correct=True, reason="a control well was read again")
    assert (told.corrected, told.unchanged) == (1, 1)
    assert found.best()["value"].tolist() == [25.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("positive", "expected NAME=OBJECT:WELLS"),
        ("=A:A1", "expected NAME=OBJECT:WELLS"),
        ("p=A:I1", "expected A1 to H12"),
        ("p=A:A13", "expected A1 to H12"),
        ("p=A:", "expected NAME"),
    ],
)
def test_controls_are_checked(text, said):
    with pytest.raises(ConfigError, match=said):
        read_control(text, size=96)
    assert read_control("p=A:B:A1-B2", size=96).object == "A:B"
    assert [parse_well(one) for one in ("a01", "P24", "P25", "A0", "AA1", "1")] == [
        "A1",
        "P24",
        None,
        None,
        None,
        None,
    ]


def test_controls_that_share_a_well_and_empty_batches_are_refused(campaign, tmp_path):
    found = campaign()
    with pytest.raises(StateError, match="awaits no measurement"):
        found.export_plate(tmp_path / "p.csv")
    found.ask()
    with pytest.raises(ConfigError, match="well B1 is to hold 'p' and 'n'"):
        found.export_plate(tmp_path / "p.csv", controls=["p=A:A1-B1", "n=C:B1"])
    with pytest.raises(ConfigError, match="the controls take all 96"):
        found.export_plate(tmp_path / "p.csv", controls=["p=A:A1-H12"])
    with pytest.raises(ConfigError, match="a plate of 24 wells"):
        found.export_plate(tmp_path / "p.csv", size=24)
    assert not (tmp_path / "p.csv").exists()


def test_a_workbook_goes_out_and_comes_back(campaign, tmp_path, capsys):
    openpyxl = pytest.importorskip("openpyxl", reason="the extra excel is not installed")
    found = campaign()
    found.ask()
    path = str(tmp_path / "c.yaml")
    map_ = str(tmp_path / "p.xlsx")
    assert run(["export", path, "--plate", "384", "--to", map_, "--control", "positive=ACGTA:A1"]) == 0
    book = openpyxl.load_workbook(map_)
    for row in list(book.active.iter_rows(min_row=2))[:10]:
        row[6].value = 2.5
    book.save(map_)
    assert run(["tell", path, map_]) == 0
    said = capsys.readouterr().out
    assert "18 samples and 1 controls on binders-1-1" in said
    assert "9 values added" in said
    assert "columns kept as conditions: plate, well" in said
    assert "1 wells of controls" in said


def test_384_wells_are_told_twice_and_the_history_is_exact(campaign, tmp_path):
    found = campaign(NORMAL.replace("size: 9, replicates: 2", "size: 176, replicates: 2"))
    sheet = plate_of(found, tmp_path, size=384, controls=["positive=ACGTA:A1-P1", "negative=DMSO:A24-P24"])
    assert len(sheet) == 384
    draw = random.Random(5)
    level = {"positive": 1000.0, "negative": 100.0}
    sheet["signal"] = [f"{level.get(kind, 500.0) + draw.gauss(0, 40):.2f}" for kind in sheet["control"]]
    back = sheet.sample(frac=2 / 3, random_state=7)
    back.to_csv(tmp_path / "back.csv", index=False)
    samples = back[back["control"] == ""]
    first, again = found.tell(tmp_path / "back.csv"), found.tell(tmp_path / "back.csv")
    assert (first.added, first.unchanged) == (2 * len(samples), 0)
    assert (again.added, again.unchanged) == (0, 2 * len(samples))
    assert first.controls == len(back) - len(samples)
    history = found.history(property="signal").set_index("row_id")
    assert history["value"].to_dict() == dict(zip(samples["row_id"], samples["signal"].astype(float), strict=True))
    assert history["object"].to_dict() == dict(zip(samples["row_id"], samples["object"], strict=True))
    means = {
        kind: back[back["control"] == kind]["signal"].astype(float).mean() for kind in ("positive", "negative")
    }
    made = found.history(property="y").set_index("row_id")["value"]
    for row_id, signal in zip(samples["row_id"], samples["signal"].astype(float), strict=True):
        wanted = 100 * (signal - means["negative"]) / (means["positive"] - means["negative"])
        assert made[row_id] == pytest.approx(wanted, rel=1e-12)  # pandas sums in another order
    assert len(found.pending()) == 352 - len(samples)


def test_rows_without_wells_are_the_same_rows_whatever_their_controls_read(campaign):
    found = campaign(NORMAL)
    rows = [("ACGTA", "", 60), ("x", "positive", 100), ("x", "negative", 0), ("x", "positive", 200)]
    sheet = pd.DataFrame(rows, columns=["object", "control", "signal"])
    assert found.tell(sheet.iloc[:3]).added == 2
    with pytest.raises(LabelError, match="40"):
        found.tell(sheet)
    assert found.history()["value"].tolist() == [60.0, 60.0]


@pytest.mark.parametrize("word", ["no", "FALSE", 0, True])
def test_a_control_is_a_name_and_no_yes_or_no(campaign, word):
    sheet = pd.DataFrame({"object": ["ACGTA", "CCGTA"], "y": [1.0, 2.0], "control": ["", word]}, dtype=object)
    with pytest.raises(TableError, match=r"row 2: control is .*expected the name of a control"):
        campaign().tell(sheet)


def test_plates_and_rows_that_numbers_name_are_the_same_in_every_table(campaign, tmp_path):
    found = campaign()
    (tmp_path / "t.csv").write_text("plate,well,object,y\n1,A1,ACGTA,5\n,A1,CCGTA,6\n")
    assert found.tell(tmp_path / "t.csv", source="reader").added == 2
    again = found.tell(pd.read_csv(tmp_path / "t.csv"), source="reader")  # a gap makes plate 1 plate 1.0
    assert (again.added, again.unchanged) == (0, 2)


def test_what_waits_outside_the_rules_of_today_has_its_place_on_the_plate(campaign, tmp_path):
    found = campaign()
    waiting = found.ask()["object"].tolist()
    first = waiting[0]
    rules = f"length: 5, letters: {{1: {'ACGT'.replace(first[0], '')}}}"
    narrow = campaign(PLAIN.replace("length: 5", rules))
    assert first in narrow.pending()["object"].tolist()
    narrow.export_plate(tmp_path / "plate.csv")
    sheet = read(tmp_path / "plate.csv")
    assert set(sheet["object"]) == set(waiting)
    assert narrow.tell(sheet.assign(**{"y [nM]": "1"})).added == 18
