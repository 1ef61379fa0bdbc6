"""What is stored is what was measured; what is learned and predicted is its logarithm where the file says so."""

import math

import pandas as pd
import pytest

from flowscout import Campaign
from flowscout.cli import run
from flowscout.db import BoundedRow, Reading, TrainingRow, TrainingSet
from flowscout.errors import ConfigError, LabelError, TableError
from flowscout.loop.beliefs import make_problem
from flowscout.loop.fitting import labels_of, training_set
from flowscout.loop.prequential import foretold
from flowscout.loop.scales import Scale

CAMPAIGN = """\
campaign: inhibitors
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: ic50, direction: minimize, unit: nM, transform: -log10}]
oracle: {type: lab}
proposer: {type: random}
surrogate: {type: gp}
batch: {size: 4}
budget: {rounds: 8}
device: cpu
"""
TABLE = "object,ic50 [nM],ic50_sem\nAAAA,100,10\nCCCC,1000,\nGGGG,>10000,\nTTTT,<1,\nACGT,10,\nACGT,1000,\n"


@pytest.fixture
def campaign(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    opened = []

    def make(content=CAMPAIGN):
        (tmp_path / "c.yaml").write_text(content)
        opened.append(Campaign.from_yaml(tmp_path / "c.yaml"))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.mark.parametrize(
    ("transform", "direction", "value", "sign"),
    [
        ("none", "minimize", 100.0, -1.0),
        ("log10", "minimize", 2.0, -1.0),
        ("-log10", "minimize", -2.0, 1.0),
        ("ln", "maximize", math.log(100.0), 1.0),
    ],
)
def test_values_errors_and_bounds_in_closed_form(transform, direction, value, sign):
    scale = Scale.of(transform, direction)
    assert scale.value(100.0) == pytest.approx(value, rel=1e-15)
    assert scale.sign == sign
    step = 1e-4  # the error of the central difference is of order step^2
    slope = (scale.value(100.0 + step) - scale.value(100.0 - step)) / (2 * step)
    assert scale.sem(100.0, 5.0) == pytest.approx(abs(slope) * 5.0, rel=1e-7)
    data = TrainingSet(
        rows=(TrainingRow("A", "A", 505.0, 2, (Reading(10.0), Reading(1000.0, 1.0, 3))),),
        upto_seq=1,
        sha256="as it is",
        bounded=(BoundedRow("B", "B", 10.0, 1000.0), BoundedRow("C", "C", -1.0, None)),
    )
    learned = scale.learned(data)
    mean = (scale.value(10.0) + scale.value(1000.0)) / 2
    assert learned.rows[0].value == pytest.approx(505.0 if transform == "none" else mean)
    assert learned.bounded[0].lower == min(scale.value(10.0), scale.value(1000.0))
    assert learned.bounded[0].upper == max(scale.value(10.0), scale.value(1000.0))
    assert (len(learned.bounded), learned.sha256) == (2 if transform == "none" else 1, "as it is")


def test_raw_values_are_stored_and_logarithms_learned(campaign, tmp_path):
    found = campaign()
    assert found.tell(tmp_path / "t.csv").added == 6
    assert found.history()["value"].tolist() == [100, 1000, 10000, 1, 10, 1000]
    assert found.history()["qualifier"].tolist() == ["=", "=", ">", "<", "=", "="]
    bench = found.workbench
    labels = labels_of(bench, training_set(bench))
    # in the order of keys: AAAA, ACGT (two readings), CCCC; larger is better
    assert labels.Y.squeeze(1).tolist() == pytest.approx([-2.0, -2.0, -3.0])
    assert labels.noise[0].item() == pytest.approx((10 / (100 * math.log(10))) ** 2)
    assert labels.bounds.tolist() == [[-math.inf, -4.0], [0.0, math.inf]]  # > and < are turned
    assert found.best(1)["object"].tolist() == ["AAAA"]
    record = bench.history.campaigns.objectives(bench.campaign.id)[0]
    assert (record.transform, record.direction) == ("-log10", "minimize")


def test_predictions_are_on_the_scale_and_compared_there(campaign, tmp_path):
    found = campaign()
    found.tell(tmp_path / "t.csv")
    batch = found.ask()
    assert batch["mean"].between(-6, 2).all()
    found.tell(batch[["object"]].assign(ic50=50.0))
    rows = found.workbench.history.queries.history(found.name)
    values = foretold(rows, {}, property="ic50", scale=found.workbench.scale)
    assert [one.value for one in values] == pytest.approx([-math.log10(50.0)] * 4)
    assert [one.mean for one in values] == pytest.approx(batch["mean"].tolist())


@pytest.mark.parametrize(("transform", "best"), [("-log10", "AAAA"), ("log10", "AAAA"), ("none", "CCCC")])
def test_the_best_that_a_sampler_starts_from_are_those_that_are_learned(campaign, transform, best):
    found = campaign(CAMPAIGN.replace("-log10", transform))
    # Of AAAA the arithmetic mean is 500 and the geometric one 32, of CCCC both are 100.
    objects = ["CCCC", "AAAA", "CCCC", "AAAA", "GGGG", "TTTT"]
    found.tell(pd.DataFrame({"object": objects, "ic50": [100.0, 1.0, 100.0, 999.0, 2000.0, 3000.0]}))
    found.ask()
    bench = found.workbench
    [record] = bench.history.rounds.all(bench.campaign.id)
    problem = make_problem(bench, record, bench.history.rounds.fit(record.id))
    assert bench.space.decode(problem.labelled)[0] == best


@pytest.mark.parametrize("transform", ["log10", "ln", "none"])
def test_the_direction_is_of_the_measured_value_whatever_is_learned(campaign, tmp_path, transform):
    found = campaign(CAMPAIGN.replace("-log10", transform))
    found.tell(tmp_path / "t.csv")
    bench = found.workbench
    data = training_set(bench)
    learned = dict(zip([row.key for row in data.rows], labels_of(bench, data).Y.squeeze(1).tolist(), strict=True))
    assert learned["AAAA"] > learned["CCCC"]  # 100 nM is better than 1000 nM
    mean = found.ask()["mean"]
    assert (mean > 0).mean() > 0.5  # shown with the sign of the value


def test_a_large_minus_log_is_not_what_maximize_says(tmp_path):
    (tmp_path / "c.yaml").write_text(CAMPAIGN.replace("minimize", "maximize"))
    with pytest.raises(ConfigError, match=r"a large ic50 is a small -log10 of it. Write direction: minimize"):
        Campaign.from_yaml(tmp_path / "c.yaml")


def test_what_has_no_logarithm_is_refused_with_its_row(campaign, tmp_path):
    found = campaign()
    (tmp_path / "t.csv").write_text("object,ic50\nAAAA,1\nCCCC,0\nGGGG,<-1\n")
    with pytest.raises(TableError, match="row 3: ic50 is '0', expected a number above 0") as caught:
        found.tell(tmp_path / "t.csv")
    assert [row for row, _ in caught.value.mistakes] == [3, 4]
    (tmp_path / "t.csv").write_text("object,property,value\nAAAA,ic50,-1\n")
    with pytest.raises(LabelError, match="ic50 of 'AAAA' is -1, expected a number above 0"):
        found.import_table(tmp_path / "t.csv")
    assert found.history().empty


def test_a_value_stored_before_there_was_a_transform_is_named(campaign):
    plain = CAMPAIGN.replace(", transform: -log10", "")
    campaign(plain).tell(pd.DataFrame({"object": ["AAAA", "CCCC"], "ic50": [0.0, 5.0]}))
    with pytest.raises(LabelError, match=r"'AAAA' is stored with the value 0, expected more than 0.*retract"):
        campaign().ask()


def test_an_oracle_that_answers_what_has_no_logarithm_fails_for_that_object(campaign, tmp_path):
    (tmp_path / "assay.py").write_text(
        "def score(objects):\n    return [0.0 if 'A' in o else 5.0 for o in objects]\n"
    )
    found = campaign(CAMPAIGN.replace("oracle: {type: lab}", "oracle: assay:score"))
    found.run_round()
    assert set(found.history()["value"]) <= {5.0}
    assert not any("A" in text for text in found.history()["object"])


def test_people_are_told_what_is_learned(campaign, tmp_path, capsys):
    campaign()
    assert run(["validate", str(tmp_path / "c.yaml")]) == 0
    assert (
        "learned and predicted is -log10(ic50 [nM]); ic50 is stored as it is measured" in capsys.readouterr().out
    )
