"""Results as they are: partial, of several properties, corrected, taken back; checked whole, by the row."""

import json

import pandas as pd
import pytest

from flowscout import Campaign
from flowscout.cli import run
from flowscout.errors import ConfigError, LabelError, NotFoundError

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize, unit: nM}]
properties: [{name: mass, unit: Da}, {name: purity}]
oracle: {type: lab, cost_usd: 2}
proposer: {type: local_search}
surrogate: {type: gp}
batch: {size: 4}
budget: {rounds: 8, cost: 20}
device: cpu
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    return tmp_path / "c.yaml"


@pytest.fixture
def campaign(path):
    with Campaign.from_yaml(path) as found:
        yield found


def table(**columns):
    return pd.DataFrame(columns)


def values(campaign):
    rows = campaign.history()
    kept = rows[~rows["superseded"]]
    return dict(zip(zip(kept["object"], kept["property"], strict=True), kept["value"], strict=True))


def test_half_a_plate_is_told_and_the_rest_later(campaign, tmp_path):
    (tmp_path / "plate.csv").write_text("row_id,object,y,mass,note\nA1,AAAA,1.5,,ok\nA2,CCCC,,300,\nA3,GGGG,,,\n")
    told = campaign.tell(tmp_path / "plate.csv")
    assert (told.added, told.empty, told.unread) == (2, 1, ("note",))
    (tmp_path / "plate.csv").write_text("row_id,object,y,mass\nA3,GGGG,7,\nA2,CCCC,2.5,300\nA1,AAAA,1.5,250\n")
    told = campaign.tell(tmp_path / "plate.csv")
    assert (told.added, told.unchanged) == (3, 2)
    assert values(campaign) == {
        ("AAAA", "y"): 1.5,
        ("CCCC", "mass"): 300,
        ("GGGG", "y"): 7,
        ("CCCC", "y"): 2.5,
        ("AAAA", "mass"): 250,
    }


def test_a_property_alone_answers_nothing_that_is_awaited(campaign):
    waiting = campaign.ask()["object"].tolist()
    campaign.tell(table(object=waiting, mass=1.0, purity=0.5))
    assert campaign.ask()["object"].tolist() == waiting
    campaign.tell(table(object=waiting, y=1.0, mass=1.0))
    assert campaign.status().rounds[0].state == "complete"
    assert campaign.best(1)["value"].tolist() == [1.0]


def test_units_stand_in_the_header_or_a_column_and_are_kept(campaign):
    campaign.tell(pd.DataFrame({"object": ["AAAA"], "y [nM]": [1.0]}))
    campaign.tell(table(object=["CCCC"], y=[1.0], y_unit=["nM"], mass=[2.0], purity=[0.9]))
    assert campaign.history()["unit"].fillna("none").tolist() == ["nM", "nM", "Da", "none"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"y [uM]": [1.0]}, r"column 'y \[uM\]': the unit of y is 'uM', expected 'nM'"),
        ({"y": [1.0], "y_unit": ["uM"]}, "row 1: the unit of y is 'uM', expected 'nM'.*Convert the values"),
        ({"purity [%]": [1.0]}, "the unit of purity is '%', but the campaign file names none"),
        ({"y": [1.0], "y [nM]": [1.0]}, r"columns y and y \[nM\], expected one"),
        ({"y": [None]}, "no value for y in any row"),
        ({"z": [1.0]}, "no column 'y' or 'mass' or 'purity'; it has object, z"),
        ({"y": [None], "y_sem": [0.1]}, "row 1: y is empty, but y_sem is not"),
        (
            {"y": [1.0], "y_qualifier": ["missing"]},
            "row 1: y is '1.0' and y_qualifier 'missing', expected no value",
        ),
        ({"y": [None], "y_qualifier": ["<"]}, "row 1: y is '', expected a finite number"),
        ({"y": [float("inf")]}, "row 1: y is 'inf', expected a finite number"),
        ({"y": [1.0], "as_run_": [3]}, "expected as_run_NAME"),
        ({"y": [1.0], "replicate": [0]}, "row 1: replicate is '0', expected a whole number"),
        ({"y": [1.0], "row_id": [""]}, "row 1: row_id is empty"),
        ({"y": [None], "y_qualifier": ["retracted"], "row_id": ["A1"]}, "no such row is stored"),
    ],
)
def test_one_wrong_cell_refuses_the_whole_table(campaign, columns, said):
    with pytest.raises(LabelError, match=said):
        campaign.tell(table(object=["AAAA"]).assign(**columns))
    assert campaign.status().measurements == 0


def test_bounds_may_be_written_as_people_write_them(campaign, tmp_path):
    (tmp_path / "t.csv").write_text("object,y,y_qualifier\nAAAA,<0.1,\nCCCC,> 100,\nGGGG,5,>\n")
    campaign.tell(tmp_path / "t.csv")
    rows = campaign.history()
    assert list(zip(rows["qualifier"], rows["value"], strict=True)) == [("<", 0.1), (">", 100.0), (">", 5.0)]


def test_missing_and_infeasible_are_answers(campaign):
    waiting = campaign.ask()["object"].tolist()
    qualifiers = ["missing", "infeasible", "", ""]
    campaign.tell(table(object=waiting, y=["", "", "1", "2"], y_qualifier=qualifiers))
    assert campaign.status().rounds[0].state == "complete"
    assert campaign.workbench.history.measurements.infeasible(campaign.workbench.campaign.id) == [waiting[1]]
    assert campaign.best()["value"].tolist() == [2.0, 1.0]


def test_conditions_are_kept_as_they_were_written(campaign, tmp_path):
    (tmp_path / "t.csv").write_text("object,y,as_run_celsius,as_run_plate\nAAAA,1,25,007\nCCCC,2,36.6,\n")
    campaign.tell(tmp_path / "t.csv")
    bench = campaign.workbench
    told = bench.history.measurements.as_run(bench.campaign.id, ["AAAA", "CCCC"])
    assert told == {"AAAA": {"celsius": 25, "plate": "007"}, "CCCC": {"celsius": 36.6}}
    frame = table(object=["AAAA", "CCCC"], y=[1, 2], as_run_celsius=[25.0, 36.6], as_run_plate=["007", None])
    assert campaign.tell(frame, source="t.csv").added == 0
    assert campaign.tell(frame.assign(as_run_celsius=4), source="t.csv").added == 2  # other readings


def test_replicates_are_numbered_or_counted(campaign):
    numbered = table(object=["AAAA", "AAAA", "CCCC"], y=[1.0, 1.0, 3.0], replicate=[1, 2, 1])
    assert campaign.tell(numbered, source="plate").added == 3
    assert campaign.tell(numbered.iloc[::-1], source="plate").unchanged == 3
    with pytest.raises(LabelError, match=r"row 'AAAA replicate 2' of 'plate' says y = 5.0"):
        campaign.tell(numbered.assign(y=[1.0, 5.0, 3.0]), source="plate")
    with pytest.raises(LabelError, match="the replicate 'AAAA replicate 1' stands in row 1 too"):
        campaign.tell(numbered.assign(replicate=1), source="plate")
    assert campaign.tell(table(object=["AAAA", "AAAA"], y=[1.0, 1.0]), source="plate").added == 2
    assert campaign.best(9)["count"].tolist() == [1, 4]


def test_a_correction_needs_a_row_and_a_reason(campaign):
    first = table(object=["AAAA"], y=[1.0], row_id=["A1"])
    campaign.tell(first, source="plate")
    fixed = first.assign(y=2.0)
    with pytest.raises(ConfigError, match="a correction came without a reason"):
        campaign.tell(fixed, source="plate", correct=True)
    with pytest.raises(LabelError, match="neither a column 'row_id' nor 'replicate'"):
        campaign.tell(fixed.drop(columns="row_id"), source="plate", correct=True, reason="typo")
    told = campaign.tell(fixed, source="plate", correct=True, reason="typo", actor="ann")
    assert (told.added, told.corrected) == (1, 1)
    assert campaign.best()["value"].tolist() == [2.0]
    assert campaign.status().rounds == ()
    [event] = campaign.events(kind="measurement_corrected").to_dict("records")
    assert (event["actor"], event["detail"]["reason"]) == ("ann", "typo")


def test_what_is_retracted_may_be_asked_for_again(campaign):
    batch = campaign.ask()
    assert campaign.budget().reserved_minor == 800
    campaign.tell(table(object=batch["object"], y=[1.0, 2.0, 3.0, 4.0], row_id=list("abcd")), source="plate")
    assert (campaign.budget().reserved_minor, campaign.budget().spent_minor) == (0, 800)
    gone = batch["object"][3]
    assert campaign.retract(gone, reason="contaminated") == 1
    assert campaign.retract(gone, reason="contaminated") == 0
    assert campaign.best()["value"].tolist() == [3.0, 2.0, 1.0]
    assert campaign.status().rounds[0].best == 3.0
    again = campaign.ask(include=[gone])
    assert again["object"][0] == gone
    campaign.tell(table(object=[gone], y=[9.0]), source="plate 2")
    assert campaign.best(1)["value"].tolist() == [9.0]
    assert campaign.retract(source="plate", row_id="a", reason="contaminated") == 1
    with pytest.raises(NotFoundError, match="no value of row 'z' of 'plate'"):
        campaign.retract(source="plate", row_id="z", reason="contaminated")
    with pytest.raises(ConfigError, match="expected either an object, all of whose values"):
        campaign.retract(gone, source="plate", row_id="a", reason="contaminated")
    with pytest.raises(ConfigError, match="expected either an object, all of whose values"):
        campaign.retract(gone, source="plate", reason="contaminated")


def test_a_laboratory_is_asked_as_far_as_the_budget_goes(campaign):
    for _ in range(2):
        batch = campaign.ask()
        assert len(batch) == 4
        campaign.tell(table(object=batch["object"], y=1.0))
    assert len(campaign.ask()) == 2  # of 20 dollars 16 are spent, at 2 each
    budget = campaign.budget()
    assert (budget.spent_minor, budget.reserved_minor, budget.limit_minor) == (1600, 400, 2000)
    assert campaign.events(kind=["budget_80", "budget_exhausted"])["kind"].tolist() == [
        "budget_80",
        "budget_exhausted",
    ]
    with pytest.raises(ConfigError, match="no events are of kind 'budget'"):
        campaign.events(kind="budget")


def command(capsys, *arguments, code=0):
    assert run([*map(str, arguments)]) == code
    return capsys.readouterr()


def test_a_person_corrects_and_retracts_from_the_command_line(path, tmp_path, capsys):
    (tmp_path / "t.csv").write_text("row_id,object,y,who\nA1,AAAA,1,me\nA2,CCCC,2,me\nA3,GGGG,,\n")
    said = command(capsys, "tell", path, tmp_path / "t.csv").out
    assert "2 values added, 0 known already" in said
    assert "1 rows without a value" in said
    assert "columns not read: who" in said
    (tmp_path / "t.csv").write_text("row_id,object,y\nA1,AAAA,5\n")
    said = command(capsys, "tell", path, tmp_path / "t.csv", code=2).err
    assert "--correct" in said
    told = command(capsys, "tell", path, tmp_path / "t.csv", "--correct", "--reason", "typo", "--json").out
    counts = {"added": 1, "unchanged": 0, "corrected": 1, "empty": 0, "controls": 0}
    assert json.loads(told) == {**counts, "unread": [], "conditions": []}
    assert "1 values taken back" in command(capsys, "retract", path, "CCCC", "--reason", "wrong well").out
    said = command(capsys, "retract", path, "--source", "t.csv", "--row", "A1", "--reason", "wrong well").out
    assert "1 values taken back" in said
    assert json.loads(command(capsys, "best", path, "--json").out) == []
    for odd in ([], ["AAAA", "--source", "t.csv"], ["--row", "A1"], ["AAAA", "--source", "t.csv", "--row", "A1"]):
        assert "expected either an object" in command(capsys, "retract", path, *odd, "--reason", "x", code=2).err
    assert "conflicts in binders: nothing yet" in command(capsys, "conflicts", path).out
    assert (
        "no conflict 7 is open"
        in command(capsys, "conflicts", path, "--settle", 7, "--keep", "stored", "--reason", "x", code=2).err
    )


def test_a_person_sees_and_sets_the_budget(path, capsys):
    command(capsys, "ask", path)
    shown = json.loads(command(capsys, "budget", path, "--json").out)
    assert (shown["limit_usd"], shown["reserved_usd"], shown["spent_usd"]) == (20.0, 8.0, 0.0)
    [row] = shown["rows"]
    assert row == {"round": 1, "oracle": "lab", "paid": 0, "spent_usd": 0.0, "reserved_usd": 8.0}
    said = command(capsys, "budget", path, "--set", "7", "--reason", "cuts", code=2).err
    assert "a limit of 7.00 came, expected at least 8.00" in said
    command(capsys, "budget", path, "--set", "50.5", "--reason", "a grant")
    assert "0.00 of 50.50 USD spent, 8.00 reserved" in command(capsys, "budget", path).out
    for odd in ("12.345", "-1", "1e400", "1e30", "nan", "much"):
        assert "expected US dollars in whole cents" in command(capsys, "budget", path, f"--set={odd}", code=2).err
    said = command(capsys, "budget", path, "--set", "60", code=2).err
    assert "without a reason" in said
    events = json.loads(command(capsys, "events", path, "--kind", "budget_set", "--json").out)
    assert [event["detail"]["limit_minor"] for event in events] == [2000, 5050]
