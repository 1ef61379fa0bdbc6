import math
from functools import partial

import pytest
import torch
from torch import Generator

from flowscout.errors import FlowscoutError, ShapeError
from flowscout.surrogates.feasibility import FeasibilityClassifier, hamming


def codes(n, seed=0, length=6):
    return torch.randint(4, (n, length), generator=Generator().manual_seed(seed)).to(torch.float64)


def rule(X):
    """Objects with two letters 3 fail."""
    return (X == 3).sum(-1) < 2


def fitted(n=150):
    classifier = FeasibilityClassifier()
    classifier.fit(codes(n), rule(codes(n)))
    return classifier


def test_it_learns_which_objects_fail():
    X = codes(500, seed=1)
    probability = fitted().probability(X)
    truth = rule(X)
    right = ((probability > 0.5) == truth).double().mean().item()
    share = truth.double().mean().item()
    log_loss = -torch.where(truth, probability, 1 - probability).log().mean().item()
    by_share = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    # Far better than the majority class and the base rate, with 150 outcomes of a rule on counts.
    assert right > max(share, 1 - share) + 0.1
    assert log_loss < 0.75 * by_share


def test_the_correlation_is_that_of_its_formula():
    a, b = codes(5), codes(7, seed=1)
    differ = (a.unsqueeze(1) != b).double().mean(-1)
    assert torch.allclose(hamming(0.3, a, b), torch.exp(-differ / 0.3), rtol=1e-12)


def test_one_outcome_of_each_kind_is_as_by_quadrature():
    X = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    correlation = partial(hamming, 0.5)
    classifier = FeasibilityClassifier(correlations=[correlation])
    classifier.fit(X, torch.tensor([True, False]))
    axis = torch.linspace(-8.0, 8.0, 1201, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2)
    f = z @ torch.linalg.cholesky(4.0 * correlation(X, X)).mT  # the base rate is 1/2: the prior mean is 0
    weight = torch.exp(-0.5 * z.square().sum(-1)) * torch.special.ndtr(f[:, 0]) * torch.special.ndtr(-f[:, 1])
    expected = (weight.unsqueeze(-1) * torch.special.ndtr(f)).sum(0) / weight.sum()
    # Two probit sites: expectation propagation is known to be good to a few thousandths of a probability.
    assert torch.allclose(classifier.probability(X), expected, atol=5e-3)


@pytest.mark.parametrize("outcome", [True, False])
def test_with_one_kind_of_outcome_the_probability_is_constant(outcome):
    classifier = FeasibilityClassifier()
    classifier.fit(codes(8), torch.full((8,), outcome))
    expected = 9 / 10 if outcome else 1 / 10
    assert torch.allclose(classifier.probability(codes(5, seed=3)), torch.tensor(expected).double())
    assert classifier.diagnostics() == {"base_rate": pytest.approx(expected)}


def test_far_from_all_outcomes_the_probability_is_the_base_rate():
    far = torch.full((1, 6), 9.0, dtype=torch.float64)
    classifier = FeasibilityClassifier(correlations=[partial(hamming, 0.02)])
    classifier.fit(codes(60), rule(codes(60)))
    assert classifier.probability(far).item() == pytest.approx(classifier.diagnostics()["base_rate"], rel=1e-6)


def test_log_probability_stays_finite_and_alone_equals_among_others():
    classifier = fitted()
    X = codes(30, seed=5)
    together = classifier.log_probability(X)
    assert bool(together.isfinite().all())
    assert bool((together <= 0.0).all())
    assert torch.allclose(torch.cat([classifier.log_probability(x.unsqueeze(0)) for x in X]), together)


def test_the_lengthscale_is_chosen_by_leaving_outcomes_out():
    X, feasible = codes(80), rule(codes(80))
    scores = []
    for scale in (0.02, 0.15, 0.5):
        one = FeasibilityClassifier(correlations=[partial(hamming, scale)])
        one.fit(X, feasible)
        scores.append(one.diagnostics()["loo_log_probability"])
    several = FeasibilityClassifier(correlations=[partial(hamming, scale) for scale in (0.02, 0.15, 0.5)])
    several.fit(X, feasible)
    assert several.diagnostics()["loo_log_probability"] == max(scores)
    # Beyond all doubt the outcomes of 80 objects say more than their share.
    rate = feasible.double().mean().item()
    assert max(scores) > rate * math.log(rate) + (1 - rate) * math.log(1 - rate)


def test_conflicting_outcomes_of_one_object_leave_it_uncertain():
    X = codes(1).repeat(10, 1)
    classifier = FeasibilityClassifier()
    classifier.fit(X, torch.tensor([True, False] * 5))
    assert classifier.probability(X[:1]).item() == pytest.approx(0.5, abs=1e-6)


def test_too_many_outcomes_are_thinned_in_proportion(caplog):
    X = codes(400)
    classifier = FeasibilityClassifier(max_rows=100, correlations=[partial(hamming, 0.15)])
    with caplog.at_level("INFO", logger="flowscout.surrogates.feasibility"):
        classifier.fit(X, rule(X))
    assert 98 <= classifier.diagnostics()["n_outcomes"] <= 102
    assert "400 outcomes" in caplog.text


def test_wrong_use_is_refused():
    with pytest.raises(ShapeError, match=r"in torch\.bool"):
        FeasibilityClassifier().fit(codes(3), torch.ones(3))
    with pytest.raises(FlowscoutError, match="no outcomes"):
        FeasibilityClassifier().probability(codes(3))
    assert FeasibilityClassifier().diagnostics() == {}
