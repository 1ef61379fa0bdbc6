"""A table may say how well each value is known, and that it is a bound: checked whole, kept, learned from."""

import pandas as pd
import pytest

from flowscout import Campaign
from flowscout.errors import LabelError
from flowscout.loop.fitting import labels_of, training_set

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: minimize}]
oracle: {type: lab}
proposer: {type: local_search}
surrogate: {type: gp}
batch: {size: 4}
budget: {rounds: 8}
device: cpu
"""
TABLE = """\
object,y,y_sem,y_n,y_qualifier
AAAA,1.5,0.2,3,
CCCC,2.5,,,=
GGGG,9,,2,>
TTTT,0.5,0.1,,<
"""


@pytest.fixture
def campaign(tmp_path):
    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    (tmp_path / "t.csv").write_text(TABLE)
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        yield found


def test_errors_counts_and_bounds_are_kept(campaign, tmp_path):
    assert campaign.tell(tmp_path / "t.csv").added == 4
    rows = campaign.history()
    assert rows["qualifier"].tolist() == ["=", "=", ">", "<"]
    assert rows["sem"].fillna(-1).tolist() == [0.2, -1, -1, 0.1]
    assert rows["n"].fillna(-1).tolist() == [3, -1, 2, -1]
    assert campaign.tell(tmp_path / "t.csv").added == 0


def test_they_reach_the_labels_that_the_surrogate_is_fitted_to(campaign, tmp_path):
    campaign.tell(tmp_path / "t.csv")
    bench = campaign.workbench
    labels = labels_of(bench, training_set(bench))
    assert labels.Y.squeeze(1).tolist() == [-1.5, -2.5]  # what is to be small is turned
    assert labels.noise[0].item() == pytest.approx(0.04)
    assert labels.noise[1].isnan()
    assert labels.bounds.tolist() == [[float("-inf"), -9.0], [-0.5, float("inf")]]
    assert campaign.ask()["mean"].notna().all()


def test_a_bound_settles_what_was_awaited(campaign):
    waiting = campaign.ask()["object"].tolist()
    campaign.tell(pd.DataFrame({"object": waiting, "y": 3.0, "y_qualifier": ["<", ">", None, float("nan")]}))
    assert campaign.status().rounds[0].state == "complete"
    assert campaign.history()["qualifier"].tolist() == ["<", ">", "=", "="]


def test_tables_of_numbers_and_of_text_say_the_same(campaign, tmp_path):
    campaign.tell(tmp_path / "t.csv", source="plate")
    frame = pd.DataFrame(
        {
            "object": ["AAAA", "CCCC", "GGGG", "TTTT"],
            "y": [1.5, 2.5, 9.0, 0.5],
            "y_sem": [0.2, None, None, 0.1],
            "y_n": pd.array([3, None, 2, None], dtype="Int64"),
            "y_qualifier": [None, "=", ">", "<"],
        }
    )
    assert campaign.tell(frame, source="plate").added == 0


def test_a_plain_value_is_the_row_it_was_before_there_were_such_columns(campaign):
    plain = pd.DataFrame({"object": ["AAAA"], "y": [1.5]})
    campaign.tell(plain, source="plate")
    assert campaign.tell(plain.assign(y_sem=[None], y_n="", y_qualifier="="), source="plate").added == 0
    assert campaign.tell(plain.assign(y_qualifier="<"), source="plate").added == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("TTTT,0.5,0.1", "TTTT,0.5,-0.1", "row 5: y_sem is '-0.1', expected a standard error"),
        ("TTTT,0.5,0.1", "TTTT,0.5,inf", "row 5: y_sem is 'inf'"),
        ("GGGG,9,,2", "GGGG,9,,2.5", "row 4: y_n is '2.5', expected how many readings"),
        ("GGGG,9,,2", "GGGG,9,,0", "row 4: y_n is '0'"),
        ("TTTT,0.5,0.1,,<", "TTTT,0.5,0.1,,<=", "row 5: y_qualifier is '<=', expected <, > or ="),
    ],
)
def test_one_wrong_cell_refuses_the_table(campaign, tmp_path, old, new, said):
    assert old in TABLE
    (tmp_path / "t.csv").write_text(TABLE.replace(old, new))
    with pytest.raises(LabelError, match=said):
        campaign.tell(tmp_path / "t.csv")
    assert campaign.status().measurements == 0


def test_a_row_with_another_error_is_another_content(campaign):
    first = pd.DataFrame({"object": ["AAAA"], "y": [1.5], "y_sem": [0.2], "row_id": ["A1"]})
    campaign.tell(first, source="plate")
    assert campaign.tell(first, source="plate").unchanged == 1
    with pytest.raises(LabelError, match=r"says y = 1.5 \(sem 0.3\) .* stored with value 1.5 \(sem 0.2\)"):
        campaign.tell(first.assign(y_sem=0.3), source="plate")


def test_a_list_of_rows_says_what_a_table_says(campaign):
    rows = [{"object": "AAAA", "y": 1, "y_n": 3}, {"object": "CCCC", "y": 2.5}, {"object": "GGGG"}]
    told = campaign.tell(rows)
    assert (told.added, told.empty) == (2, 1)
    assert campaign.history()["value"].tolist() == [1.0, 2.5]
    assert campaign.tell(pd.DataFrame(rows)).added == 0


@pytest.mark.parametrize(
    ("data", "came"),
    [
        ([], "a list without rows"),
        ([{"object": "AAAA", "y": 1.0}, "CCCC"], "a list that holds 'CCCC'"),
        ({"object": "AAAA", "y": 1.0}, "dict"),
        (pd.Series([1.0]), "pandas.*Series"),
        (b"AAAA,1.0", "bytes"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_table_is_refused(campaign, data, came):
    with pytest.raises(LabelError, match=rf"^{came} was told, expected a pandas DataFrame.*Turn it into"):
        campaign.tell(data)
    assert campaign.history().empty


@pytest.mark.parametrize("name", ["2-Sep", "01-Mar-26", "Dec-20", "2026-09-02", "1.00E+05"])
def test_a_name_that_a_spreadsheet_made_of_another_is_no_new_object(tmp_path, name):
    (tmp_path / "list.csv").write_text("object,a\nSEPT2,1\nMARCH1,2\nDEC20,3\n1E5,4\n2-Mar,5\n")
    text = CAMPAIGN.replace("{type: sequence, alphabet: dna, length: 4}", "{type: catalogue, path: list.csv}")
    (tmp_path / "c.yaml").write_text(text.replace("surrogate: {type: gp}\n", ""))
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        with pytest.raises(LabelError, match="a spreadsheet makes"):
            found.tell(pd.DataFrame({"object": [name], "a": [1.0], "y": [1.0]}))
        assert found.tell(pd.DataFrame({"object": ["2-Mar", "new"], "a": [5.0, 1.0], "y": [1.0, 2.0]})).added == 2
