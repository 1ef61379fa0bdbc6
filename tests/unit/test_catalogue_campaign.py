"""Campaigns over a catalogue: what the campaign file says, what is told, what is proposed."""

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text

from flowscout import Campaign
from flowscout.cli import run
from flowscout.errors import ConfigError, ObjectError
from flowscout.loop.config import parse_campaign
from flowscout.loop.fitting import new_surrogate
from flowscout.loop.outside import inside
from flowscout.loop.space_sections import CatalogueSection
from flowscout.loop.spaces import CatalogueSpace
from flowscout.loop.surrogate_choice import choose_surrogate
from flowscout.loop.workbench import lay_out, rules_of
from flowscout.surrogates.numeric_kernels import TanimotoKernel

CAMPAIGN = """\
campaign: compounds
seed: 3
space: {type: catalogue, path: list.csv}
objectives: [{name: y, direction: maximize}]
oracle: {type: table, path: list.csv, value: y}
proposer: {type: local_search}
batch: {size: 5}
budget: {rounds: 3}
device: cpu
"""


@pytest.fixture
def campaign(tmp_path):
    """Return how to open a campaign over 60 compounds: the pairs say what its file says differently."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=60).round(4), rng.poisson(2.0, 60)
    table = pd.DataFrame({"name": [f"c{i}" for i in range(60)], "a": a, "b": b, "y": (a - 0.2 * b).round(4)})
    table.to_csv(tmp_path / "list.csv", index=False)
    opened = []

    def start(*changes):
        text = CAMPAIGN
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "c.yaml").write_text(text)
        opened.append(Campaign.from_yaml(tmp_path / "c.yaml"))
        return opened[-1]

    yield start
    for found in opened:
        found.close()


def run_all(found):
    while found.run_round() is not None:
        pass


def test_section_has_its_defaults():
    section = parse_campaign(CAMPAIGN, name="c.yaml").space
    assert section == CatalogueSection(type="catalogue", path="list.csv")
    assert (section.object, section.features, section.metric) == (None, None, "euclid")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("path: list.csv}", "pfad: list.csv}", "unknown key 'pfad' in space; did you mean 'path'"),
        ("path: list.csv}", "path: list.csv, metric: cosine}", "space.metric is 'cosine'"),
        ("path: list.csv}", "path: list.csv, features: []}", "space.features: list should have at least 1 item"),
        ("type: catalogue, path: list.csv", "type: list", "space.*'sequence', 'catalogue'"),
        ("batch:", "surrogate: {type: gp}\nbatch:", "surrogate.type is 'gp', which learns from letters"),
    ],
)
def test_mistake_in_the_section_is_explained(old, new, said):
    with pytest.raises(ConfigError, match=said):
        parse_campaign(CAMPAIGN.replace(old, new, 1), name="c.yaml")


def test_mistake_in_the_list_is_found_before_anything_is_written(campaign, tmp_path):
    with pytest.raises(ConfigError, match=r"no catalogue at '.*none\.csv'"):
        campaign(("path: list.csv}", "path: none.csv}"))
    (tmp_path / "bad.csv").write_text("name,a\nx,1\ny,two\nz,3\n")
    with pytest.raises(ConfigError, match=r"'bad.csv', line 3, column 'a': 'two' came"):
        campaign(("path: list.csv}", "path: bad.csv}"))
    with pytest.raises(ConfigError, match=r"batch\.size is 61, larger than the space, which has 60 objects"):
        campaign(("size: 5", "size: 61"))
    assert not list(tmp_path.glob("*.db"))


def test_value_in_the_same_file_is_no_feature(campaign):
    assert campaign().workbench.tools.rules.columns == ("a", "b")
    moved = (("name: y", "name: score"), ("value: y", "object: name, value: y"))
    assert campaign(*moved).workbench.tools.rules.columns == ("a", "b")


def test_how_well_the_value_is_known_is_no_feature(campaign, tmp_path):
    table = pd.read_csv(tmp_path / "list.csv")
    table.assign(y_sem=0.1, y_n=3).to_csv(tmp_path / "list.csv", index=False)
    assert campaign().workbench.tools.rules.columns == ("a", "b")


def test_features_that_are_named_are_the_ones_that_are_used(campaign):
    found = campaign(("path: list.csv}", "path: list.csv, object: name, features: [b], metric: tanimoto}"))
    space = found.workbench.space
    assert isinstance(space, CatalogueSpace)
    assert (space.rules.columns, space.metric, space.size) == (("b",), "tanimoto", 60)


def test_metric_chooses_the_kernel(campaign):
    for metric, is_tanimoto in (("euclid", False), ("tanimoto", True)):
        found = campaign(("path: list.csv}", f"path: list.csv, features: [b], metric: {metric}}}"))
        bench = found.workbench
        space = bench.space
        surrogate = new_surrogate(bench, choose_surrogate(bench.config.surrogate, space, n_labels=9))
        X = space.features(space.enumerate())
        surrogate.fit(X[:9], X[:9] + 1)
        kernels = {type(module) for module in surrogate._fitted.model.modules()}
        assert (TanimotoKernel in kernels) == is_tanimoto


@pytest.mark.parametrize("proposer", ["{type: local_search}", "{type: random}", "{type: gflownet, steps: 5}"])
def test_campaign_runs_and_measures_no_object_twice(campaign, proposer):
    found = campaign(("{type: local_search}", proposer))
    run_all(found)
    rows = found.history()
    assert len(rows) == 15
    assert rows["object"].is_unique
    assert rows["predicted_mean"].notna().sum() == 10


def test_local_search_finds_the_best_of_the_list(campaign, tmp_path):
    found = campaign()
    run_all(found)
    table = pd.read_csv(tmp_path / "list.csv").sort_values("y", ascending=False)
    # 15 of 60 drawn at random hold the best with probability 1/4.
    assert found.best(1)["object"][0] == table["name"].iloc[0]


def test_list_that_is_small_is_measured_whole(campaign):
    found = campaign(("rounds: 3", "rounds: 20"), ("size: 5", "size: 25"))
    run_all(found)
    assert sorted(found.history()["object"]) == sorted(f"c{i}" for i in range(60))
    assert found.status().state == "finished"


def test_told_name_outside_the_list_is_refused_without_its_features(campaign):
    found = campaign()
    with pytest.raises(
        ObjectError, match=r"'c60' is not in the catalogue, expected one of its 60 names.*add a row"
    ):
        found.tell(pd.DataFrame({"object": ["c1", "c60"], "y": [1.0, 2.0]}))
    assert found.status().measurements == 0
    assert found.tell(pd.DataFrame({"object": ["c1", " c2"], "y": [1.0, 2.0]})).added == 2


def test_list_that_grew_brings_new_objects_and_keeps_what_was_measured(campaign, tmp_path):
    found = campaign(("{type: local_search}", "{type: gflownet, steps: 5}"), ("size: 5", "size: 20"))
    found.run_round()
    found.run_round()
    lines = [f"d{i},{i / 100},1,{i / 100 - 0.2}" for i in range(500)]
    with (tmp_path / "list.csv").open("a") as file:
        file.write("\n".join(lines) + "\n")
    again = Campaign.from_yaml(tmp_path / "c.yaml")
    run_all(again)
    assert again.workbench.space.size == 560
    assert again.best(1)["object"][0].startswith("d")
    again.close()


def versions(found):
    with found.workbench.history.database.read() as session:
        return [
            tuple(row) for row in session.execute(text("SELECT number, yaml FROM config_version ORDER BY number"))
        ]


def change_one_cell(path):
    first, second, *rest = path.read_text().splitlines()
    name, _, *others = second.split(",")
    path.write_text("\n".join([first, ",".join([name, "9.5", *others]), *rest]) + "\n")


def test_changed_list_is_a_new_version_of_the_campaign(campaign, tmp_path):
    first = campaign()
    first.run_round()
    assert [number for number, _ in versions(first)] == [1]
    change_one_cell(tmp_path / "list.csv")
    again = Campaign.from_yaml(tmp_path / "c.yaml")
    assert [number for number, _ in versions(again)] == [1, 2]
    assert versions(again)[0][1] == versions(again)[1][1]  # the campaign file says what it said
    again.run_round()
    rows = again.history()
    assert rows["config_sha256"].nunique() == 2
    again.close()


def test_same_list_is_the_same_version_wherever_it_stands(campaign, tmp_path):
    campaign().run_round()
    (tmp_path / "list.csv").touch()
    assert [number for number, _ in versions(campaign())] == [1]


def test_list_that_changed_under_a_registered_version_is_refused(campaign, tmp_path):
    found = campaign()
    found.run_round()
    original = (tmp_path / "list.csv").read_text()
    change_one_cell(tmp_path / "list.csv")
    bench = lay_out(found.workbench.history, "compounds")  # as a scheduled run does
    with pytest.raises(ConfigError, match=r"catalogue 'list\.csv' has changed.*that of version 1 of the campaign"):
        inside(bench, ["c1"])
    (tmp_path / "list.csv").write_text(original)
    assert lay_out(found.workbench.history, "compounds").tools.rules.size == 60


def test_surrogate_of_another_list_is_not_asked_what_it_foretold(campaign, tmp_path, caplog):
    found = campaign(("rounds: 3", "rounds: 4"))
    for _ in range(3):
        found.run_round()
    assert "foretold_n" in found.status().rounds[2].surrogate
    change_one_cell(tmp_path / "list.csv")
    again = Campaign.from_yaml(tmp_path / "c.yaml")
    again.run_round()
    assert "foretold_n" not in again.status().rounds[3].surrogate
    assert "'list.csv' has changed" in caplog.text
    again.close()


def test_surrogate_of_other_features_is_asked_by_those_that_it_knows(campaign):
    found = campaign(("path: list.csv}", "path: list.csv, features: [a]}"))
    for _ in range(2):
        found.run_round()
    again = campaign(("path: list.csv}", "path: list.csv, features: [a, b]}"))
    again.run_round()
    assert again.status().rounds[2].surrogate["foretold_n"] == 5.0


def test_object_that_waits_and_has_left_the_list_stops_no_round(campaign, tmp_path):
    (tmp_path / "assay.py").write_text(
        "from flowscout import oracle\n\n"
        "@oracle(idempotent=False)\n"
        "def score(requests): raise TimeoutError('cut off')\n"
    )
    found = campaign(("{type: table, path: list.csv, value: y}", "assay:score"))
    rows = pd.read_csv(tmp_path / "list.csv")
    found.tell(rows[["name", "y"]].head(9).rename(columns={"name": "object"}))
    found.run_round()
    gone = found.workbench.history.queries.pending(found.workbench.campaign.id)[0]
    rows[rows["name"] != gone].to_csv(tmp_path / "list.csv", index=False)
    again = campaign(("{type: table, path: list.csv, value: y}", "assay:score"))
    again.run_round()
    assert [row.state for row in again.status().rounds] == ["complete", "complete"]


def test_sequence_campaigns_have_their_rules_without_a_file(tmp_path):
    text = CAMPAIGN.replace("{type: catalogue, path: list.csv}", "{type: sequence, alphabet: dna, length: 4}")
    assert rules_of(parse_campaign(text, name="c.yaml"), tmp_path / "nowhere").size == 256


def test_command_line_speaks_of_the_list(campaign, tmp_path, capsys):
    campaign()
    assert run(["validate", str(tmp_path / "c.yaml")]) == 0
    assert "maximize y over 60 objects" in capsys.readouterr().out
    labels = tmp_path / "labels.csv"
    labels.write_text("object,y\nc1,0.5\nnone,1\n")
    assert run(["tell", str(tmp_path / "c.yaml"), str(labels)]) == 2
    assert "'none' is not in the catalogue" in capsys.readouterr().err
