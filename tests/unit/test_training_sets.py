"""What a round reads several times is read once: what is known up to a cut-off never changes."""

from dataclasses import replace
from pathlib import Path

import pytest

from flowscout import Campaign
from flowscout.db.measurements import Measurements
from flowscout.loop import fitting
from flowscout.loop.fitting import REMEMBERED, labels_of, training_set

CAMPAIGN = """\
campaign: told
space: {type: sequence, alphabet: dna, length: 6}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
batch: {size: 2}
budget: {rounds: 2}
"""


@pytest.fixture
def campaign(tmp_path: Path):
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    with Campaign.from_yaml(tmp_path / "campaign.yaml") as found:
        found.tell([{"object": "ACGTAC", "row_id": "1", "y": 1.0}], source="first")
        yield found


def test_the_same_cut_off_is_read_once(campaign, monkeypatch):
    first = training_set(campaign.workbench)
    monkeypatch.setattr(Measurements, "training_set", None)  # whoever read again would fail
    assert training_set(campaign.workbench, upto_seq=first.upto_seq) is first


def test_what_is_told_later_is_in_the_set_of_now_and_not_in_that_of_then(campaign):
    then = training_set(campaign.workbench)
    row = {"object": "ACGTAC", "row_id": "1", "y": 2.0}
    campaign.tell([row], source="first", correct=True, reason="misread")
    now = training_set(campaign.workbench)
    assert [row.value for row in now.rows] == [2.0]
    assert [row.value for row in training_set(campaign.workbench, upto_seq=then.upto_seq).rows] == [1.0]


def test_few_sets_are_kept(campaign, monkeypatch):
    read = []
    plain = Measurements.training_set
    monkeypatch.setattr(Measurements, "training_set", lambda *a, **k: read.append(k) or plain(*a, **k))
    cut_offs = range(REMEMBERED + 1)
    for upto_seq in [*cut_offs, *reversed(cut_offs)]:
        training_set(campaign.workbench, upto_seq=upto_seq)
    assert len(read) == 2 * len(cut_offs) - REMEMBERED


def test_labels_are_made_once_of_a_training_set_and_of_each_version(campaign, tmp_path):
    bench = campaign.workbench
    data = training_set(bench)
    labels = labels_of(bench, data)
    assert labels_of(bench, data) is labels
    assert labels_of(bench, replace(data)) is not labels  # of which nobody knows that it is the same
    text = CAMPAIGN.replace("maximize", "minimize")
    (tmp_path / "campaign.yaml").write_text(text)
    with Campaign.from_yaml(tmp_path / "campaign.yaml") as turned:
        other = replace(turned.workbench, history=bench.history)
        assert labels_of(other, data).Y.tolist() == [[-1.0]]
    assert labels_of(bench, data).Y.tolist() == [[1.0]]


def test_labels_with_large_features_are_not_kept(campaign, monkeypatch):
    monkeypatch.setattr(fitting, "REMEMBERED_BYTES", 0)
    data = training_set(campaign.workbench)
    assert labels_of(campaign.workbench, data) is not labels_of(campaign.workbench, data)
