"""Objects outside a catalogue: told with their features, learned from, never proposed."""

import numpy as np
import pandas as pd
import pytest
import torch

from flowscout import Campaign
from flowscout.errors import LabelError, ObjectError
from flowscout.loop.fitting import labels_of, load_surrogate, training_set

CAMPAIGN = """\
campaign: compounds
seed: 3
space: {type: catalogue, path: list.csv, metric: METRIC}
objectives: [{name: y, direction: maximize}]
oracle: {type: table, path: values.csv, value: y}
proposer: {type: PROPOSER, KEY: 5}
batch: {size: 4, explore: 0.5}
budget: {rounds: 3}
device: cpu
"""
OUTSIDE = pd.DataFrame(
    {
        "object": ["x1", "c3", "x2", " x3 "],
        "a": [9.0, 0.0, 0.25, 3.0],
        "b": [1, 0, 4, 0],
        "y": [9.0, 0.5, -1.0, 2.0],
    }
)


@pytest.fixture
def campaign(tmp_path):
    """Return how to open a campaign over 30 compounds."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=30).round(4) + 5, rng.poisson(2.0, 30)
    table = pd.DataFrame({"name": [f"c{i}" for i in range(30)], "a": a, "b": b})
    table.to_csv(tmp_path / "list.csv", index=False)
    table.assign(y=a - 0.2 * b)[["name", "y"]].to_csv(tmp_path / "values.csv", index=False)
    opened = []

    def start(proposer="local_search", metric="euclid"):
        key = "steps" if proposer == "gflownet" else "evaluations"
        text = CAMPAIGN.replace("PROPOSER", proposer).replace("METRIC", metric).replace("KEY", key)
        (tmp_path / "c.yaml").write_text(text)
        opened.append(Campaign.from_yaml(tmp_path / "c.yaml"))
        return opened[-1]

    yield start
    for found in opened:
        found.close()


def test_outside_objects_are_learned_from_with_their_own_features(campaign):
    found = campaign()
    assert found.tell(OUTSIDE).added == 4
    assert found.tell(OUTSIDE).added == 0
    bench = found.workbench
    labels = labels_of(bench, training_set(bench))
    space = bench.space
    inside = space.features(space.parse(["c3"]))  # what the list says counts, not what was told beside it
    assert torch.equal(labels.X, torch.cat([inside, torch.tensor([[9.0, 1.0], [0.25, 4.0], [3.0, 0.0]])]))
    assert labels.Y.squeeze(1).tolist() == [0.5, 9.0, -1.0, 2.0]
    assert found.best(1)["object"].tolist() == ["x1"]


@pytest.mark.parametrize("proposer", ["local_search", "gflownet", "exhaustive"])
@pytest.mark.parametrize("only_outside", [True, False])
def test_outside_objects_are_never_proposed_and_the_campaign_ends_as_ever(campaign, proposer, only_outside):
    found = campaign(proposer)
    found.tell(OUTSIDE[OUTSIDE["object"] != "c3"] if only_outside else OUTSIDE)
    while found.run_round() is not None:
        pass
    rows = found.history(round=1)
    assert rows["predicted_mean"].notna().all()
    proposed = found.history()
    proposed = proposed[proposed["round"].notna()]["object"]
    assert len(proposed) == 12
    assert set(proposed) <= {f"c{i}" for i in range(30)}
    bench = found.workbench
    fitted = bench.history.rounds.fit(bench.history.rounds.all(bench.campaign.id)[-1].id)
    surrogate = load_surrogate(bench, fitted)
    mean, _ = surrogate.mean_sd(torch.tensor([[9.0, 1.0], [0.25, 4.0]]).double())
    assert mean[0] > mean[1]  # they were told as 9 and -1


def test_outside_objects_do_not_end_a_campaign_early(campaign):
    found = campaign()
    many = pd.DataFrame(
        {"object": [f"x{i}" for i in range(40)], "a": np.arange(40.0), "b": 1, "y": np.arange(40.0)}
    )
    found.tell(many)
    assert found.run_round() is not None
    assert len(found.history(round=1)) == 4


def test_bounds_of_outside_objects_are_learned_from(campaign):
    found = campaign()
    found.tell(OUTSIDE.assign(y_qualifier=["=", "=", "<", "="]))
    bench = found.workbench
    labels = labels_of(bench, training_set(bench))
    assert labels.X_bounded.tolist() == [[0.25, 4.0]]
    assert found.run_round() is not None


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"a": None}, ObjectError, "'x1' is not in the catalogue.*all features .a, b.*no column 'a'"),
        ({"a": [9.0, 0.0, float("nan"), 3.0]}, LabelError, "row 3: a is nan"),
        ({"object": ["x1", "c3", "x1", "x3"]}, LabelError, "row 3: 'x1' has other features"),
        ({"object": ["x1", "c3", " ", "x3"]}, ObjectError, "' ' is not in the catalogue.*the name is empty"),
        ({"object": ["x1", "c3", 17, "x3"]}, ObjectError, "17 is not in the catalogue.*the name is no text"),
    ],
)
def test_what_cannot_be_featurised_is_refused_whole(campaign, changes, error, said):
    found = campaign()
    table = OUTSIDE.drop(columns="a") if changes == {"a": None} else OUTSIDE.assign(**changes)
    with pytest.raises(error, match=said):
        found.tell(table)
    assert found.status().measurements == 0


def test_negative_counts_are_refused_with_tanimoto(campaign):
    with pytest.raises(LabelError, match="row 1: a is -9, expected a number of at least 0"):
        campaign(metric="tanimoto").tell(OUTSIDE.assign(a=[-9.0, 0.0, 1.0, 2.0]))


def test_features_that_contradict_an_earlier_table_are_refused(campaign):
    found = campaign()
    found.tell(OUTSIDE)
    with pytest.raises(LabelError, match=r"'x2' came with a = 0.5, but was told with 0.25 before"):
        found.tell(OUTSIDE.assign(a=[9.0, 0.0, 0.5, 3.0]), source="again")
    assert found.status().measurements == 4
