"""What surrogates are fitted to: values, how well each is known, and bounds, whichever way is better."""

import pytest
import torch

from flowscout.db import BoundedRow, Reading, TrainingRow, TrainingSet
from flowscout.loop.labels import MIN_FREEDOM, fit_to, make_labels, rebuild
from flowscout.loop.spaces import SequenceSpace
from flowscout.surrogates import AveragedGP, ExactGP, PairwiseLinear

SPACE = SequenceSpace("dna", 3)


def row(text, *values, sem=None, n=None):
    readings = tuple(Reading(value, sem, n) for value in values)
    mean = sum(values) / len(values)
    return TrainingRow(text, text, mean, len(values), readings if len(values) > 1 or sem or n else ())


def data(*rows, bounded=()):
    return TrainingSet(tuple(rows), 1, "", tuple(bounded))


def test_plain_values_have_no_noise_of_their_own():
    labels = make_labels(SPACE, data(row("ACG", 0.1 + 0.2), row("TTT", -1.0)), sign=-1.0)
    assert labels.Y.squeeze(-1).tolist() == [-(0.1 + 0.2), 1.0]
    assert labels.noise is None
    assert labels.X.tolist() == [[0.0, 1.0, 2.0], [3.0, 3.0, 3.0]]


def test_standard_errors_weigh_replicates_and_are_the_noise():
    mixed = TrainingRow("ACG", "ACG", 2.0, 2, (Reading(1.0, 0.1), Reading(3.0, 0.2)))
    labels = make_labels(SPACE, data(mixed, row("CCC", 5.0, sem=0.5), row("TTT", 7.0)), sign=1.0)
    weights = torch.tensor([100.0, 25.0]).double()
    mean = (100.0 * 1.0 + 25.0 * 3.0) / 125.0
    chi2 = (weights * (torch.tensor([1.0, 3.0]).double() - mean) ** 2).sum().item()
    assert labels.Y.squeeze(-1).tolist() == pytest.approx([mean, 5.0, 7.0])
    assert labels.noise[:2].tolist() == pytest.approx([chi2 / 125.0, 0.25])
    assert labels.noise[2].isnan()


def test_replicates_show_the_noise_of_one_reading_once_there_are_enough():
    few = make_labels(SPACE, data(row("ACG", 1.0, 1.4), row("TTT", 2.0)), sign=1.0)
    assert few.noise is None
    assert MIN_FREEDOM == 3
    enough = make_labels(SPACE, data(row("AAA", 2.0), row("ACG", 1.0, 1.4), row("TTT", 2.0, 2.0, 2.6)), sign=1.0)
    within = (2 * 0.2**2 + 2 * 0.2**2 + 0.4**2) / 3
    assert enough.noise[1:].tolist() == pytest.approx([within / 2, within / 3])
    assert enough.noise[0].isnan()


def test_an_error_of_zero_is_no_error():
    zero = TrainingRow("ACG", "ACG", 1.0, 1, (Reading(1.0, 0.0, 0),))
    assert make_labels(SPACE, data(zero), sign=1.0).noise is None


def test_bounds_turn_round_where_small_is_good():
    rows = [BoundedRow("ACG", "ACG", 2.0, None), BoundedRow("TTT", "TTT", 1.0, 3.0)]
    up = make_labels(SPACE, data(row("AAA", 0.0), bounded=rows), sign=1.0)
    down = make_labels(SPACE, data(row("AAA", 0.0), bounded=rows), sign=-1.0)
    assert up.bounds.tolist() == [[2.0, float("inf")], [1.0, 3.0]]
    assert down.bounds.tolist() == [[-float("inf"), -2.0], [-3.0, -1.0]]


@pytest.mark.parametrize(
    "make", [lambda: ExactGP(levels=4), lambda: AveragedGP({"product": 0.5, "pairs": 0.5}, levels=4)]
)
def test_a_gp_learns_from_bounds_and_is_rebuilt_with_them(make):
    measured = [row(text, float(text.count("A"))) for text in ("AAC", "ACC", "CCC", "GAA", "GGT", "TAT", "TTC")]
    high = [BoundedRow("GGG", "GGG", 6.0, None)]
    plain, bounded, again = make(), make(), make()
    fit_to(plain, make_labels(SPACE, data(*measured), sign=1.0))
    labels = make_labels(SPACE, data(*measured, bounded=high), sign=1.0)
    fit_to(bounded, labels)
    x = SPACE.features(SPACE.parse(["GGG"]))
    assert bounded.mean_sd(x)[0].item() > plain.mean_sd(x)[0].item() + 1.0
    rebuild(again, bounded.state_dict(), labels)
    assert torch.equal(again.mean_sd(x)[0], bounded.mean_sd(x)[0])


def test_another_surrogate_learns_from_measured_values_alone():
    measured = [row(text, float(text.count("A"))) for text in ("AAC", "ACC", "CCC", "GAA")]
    labels = make_labels(SPACE, data(*measured, bounded=[BoundedRow("GGG", "GGG", 6.0, None)]), sign=1.0)
    linear, plain = PairwiseLinear(levels=4), PairwiseLinear(levels=4)
    fit_to(linear, labels)
    plain.fit(labels.X, labels.Y)
    assert torch.equal(linear.mean_sd(labels.X)[0], plain.mean_sd(labels.X)[0])
    again = PairwiseLinear(levels=4)
    rebuild(again, linear.state_dict(), labels)
    assert torch.equal(again.mean_sd(labels.X)[0], plain.mean_sd(labels.X)[0])
