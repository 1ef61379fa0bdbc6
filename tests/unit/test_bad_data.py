"""Data that laboratories really send: the campaign goes on, or says what is wrong with which row."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from flowscout import Campaign
from flowscout.errors import LabelError
from flowscout.loop.config import SurrogateSection
from flowscout.loop.spaces import SequenceSpace
from flowscout.loop.surrogate_choice import choose_surrogate, make_surrogate

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 5}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
proposer: {type: gflownet, steps: 5}
surrogate: {type: TYPE}
acquisition: {type: ACQUISITION}
batch: {size: 4}
budget: {rounds: 9}
device: cpu
"""
OBJECTS = [a + b + "ACG"[i % 3] + "TG" for i, a in enumerate("ACGT") for b in "ACGT"]
TYPES = ["auto", "gp", "linear", "ensemble", "svgp"]


def opened(folder: Path, kind: str = "auto", acquisition: str = "ucb") -> Campaign:
    (folder / "c.yaml").write_text(CAMPAIGN.replace("TYPE", kind).replace("ACQUISITION", acquisition))
    return Campaign.from_yaml(folder / "c.yaml")


def told(objects, values, row_ids=None):
    rows = {"object": objects, "y": values} | ({} if row_ids is None else {"row_id": row_ids})
    return pd.DataFrame(rows)


def goes_on(campaign: Campaign) -> pd.DataFrame:
    """Return the next batch, once it is whole and believed in finite numbers."""
    batch = campaign.ask()
    assert len(batch) == 4
    assert np.isfinite(batch[["mean", "sd", "acquisition"]].to_numpy(dtype=float)).all()
    return batch


@pytest.mark.parametrize("acquisition", ["ucb", "q_log_ei", "mes", "thompson"])
def test_constant_labels(tmp_path, acquisition):
    with opened(tmp_path, acquisition=acquisition) as campaign:
        campaign.tell(told(OBJECTS, [0.5] * len(OBJECTS)))
        batch = goes_on(campaign)
        assert batch["mean"].tolist() == pytest.approx([0.5] * 4, abs=1e-6)


@pytest.mark.parametrize("kind", ["linear", "ensemble", "svgp"])
def test_constant_labels_of_other_surrogates(tmp_path, kind):
    with opened(tmp_path, kind) as campaign:
        campaign.tell(told(OBJECTS, [0.5] * len(OBJECTS)))
        goes_on(campaign)


def test_one_label(tmp_path):
    with opened(tmp_path) as campaign:
        campaign.tell(told(OBJECTS[:1], [1.0]))
        batch = campaign.ask()
        assert len(batch) == 4  # nothing can be learned of one: a random batch
        assert batch["mean"].isna().all()
        campaign.tell(told(batch["object"].tolist(), [1.0, 2.0, 3.0, 4.0]))
        goes_on(campaign)


@pytest.mark.parametrize("kind", ["auto", "linear"])
def test_duplicates_with_conflicting_values(tmp_path, kind):
    with opened(tmp_path, kind) as campaign:
        objects = OBJECTS[:6] * 2
        values = [0.1 * i for i in range(6)] + [5.0 - i for i in range(6)]
        campaign.tell(told(objects, values, row_ids=list(range(12))))
        goes_on(campaign)
        if kind == "auto":  # only exact GPs take noise: replicates differ by up to 5
            assert campaign.status().rounds[0].surrogate["noise_sd"] > 0.5


@pytest.mark.parametrize("kind", TYPES)
def test_labels_of_1e12(tmp_path, kind):
    with opened(tmp_path, kind) as campaign:
        values = [1e12 * (1 + o.count("A")) for o in OBJECTS]
        campaign.tell(told(OBJECTS, values))
        batch = goes_on(campaign)
        assert batch["mean"].between(-1e13, 1e13).all()
        assert batch["mean"].abs().max() > 1e11


def test_one_label_of_1e12_among_small_ones(tmp_path):
    with opened(tmp_path) as campaign:
        campaign.tell(told(OBJECTS, [1e12] + [0.1 * i for i in range(len(OBJECTS) - 1)]))
        goes_on(campaign)


def test_labels_too_large_for_their_variance_are_told_with_a_way_out(tmp_path):
    with opened(tmp_path) as campaign:
        campaign.tell(told(OBJECTS, [(-1.0) ** i * 1e200 for i in range(len(OBJECTS))]))
        with pytest.raises(LabelError, match=r"overflow when their variance is taken.*Rescale them"):
            campaign.ask()


def test_a_row_without_a_number_says_nothing_yet_and_is_counted(tmp_path):
    with opened(tmp_path) as campaign:
        first = campaign.tell(told(OBJECTS[:3], [1.0, float("nan"), 2.0]))
        assert (first.added, first.empty) == (2, 1)
        assert campaign.tell(told(OBJECTS[:3], [1.0, 1.5, 2.0])).added == 1
        goes_on(campaign)


@pytest.mark.parametrize("value", [float("inf"), "n.d."])
def test_a_row_that_is_no_number_is_refused_by_its_place_and_nothing_is_written(tmp_path, value):
    with opened(tmp_path) as campaign:
        with pytest.raises(LabelError) as caught:
            campaign.tell(told(OBJECTS[:3], [1.0, value, 2.0]))
        assert "y" in str(caught.value)
        assert campaign.status().measurements == 0
        campaign.tell(told(OBJECTS[:3], [1.0, 1.5, 2.0]))
        goes_on(campaign)


# Three of five: with 10,000 places the ensemble's first layer has 41 million weights and trains for half an hour.
@pytest.mark.parametrize("kind", ["auto", "gp", "linear"])
def test_ten_thousand_features(kind):
    space = SequenceSpace("dna", 10_000)
    choice = choose_surrogate(SurrogateSection(type=kind), space, n_labels=12)
    surrogate = make_surrogate(choice, space, folder=Path())
    X = torch.randint(4, (12, 10_000), generator=torch.Generator().manual_seed(0)).double()
    Y = (X[:, :50] == 2).sum(1, keepdim=True).double()
    surrogate.fit(X, Y)
    mean, sd = surrogate.mean_sd(X)
    draws = surrogate.sample(X, 3, generator=torch.Generator().manual_seed(0))
    assert draws.shape == (3, 12)
    assert torch.cat([mean, sd, draws.flatten()]).isfinite().all()
    assert torch.tensor(list(surrogate.diagnostics().values())).isfinite().all()
