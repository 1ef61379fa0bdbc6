"""Variances of single labels and rows known by bounds, in the exact GP: against BoTorch, quadrature and limits."""

import pytest
import torch
from botorch.models import SingleTaskGP
from gpytorch.mlls import ExactMarginalLogLikelihood

from flowscout.errors import LabelError, ShapeError
from flowscout.surrogates import AveragedGP, ExactGP
from flowscout.surrogates.label_noise import PartlyKnownNoise

NAN, INF = float("nan"), float("inf")


def codes(n, d=6, levels=4, seed=0):
    return torch.randint(levels, (n, d), generator=torch.Generator().manual_seed(seed)).double()


def labels(X):
    noise = torch.randn(len(X), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return ((X == 2).sum(1) + 0.3 * noise).unsqueeze(-1)


def bounded(X, Y, rows, lower, upper):
    bounds = torch.full((len(X), 2), NAN, dtype=torch.float64)
    bounds[rows] = torch.tensor([lower, upper], dtype=torch.float64)
    return bounds


def test_without_noise_and_bounds_a_fit_is_what_it_was():
    X = codes(40)
    plain, told = ExactGP(), ExactGP()
    plain.fit(X, labels(X))
    told.fit(X, labels(X), noise=None, bounds=None)
    assert plain.state_dict().keys() == told.state_dict().keys()
    assert all(torch.equal(v, told.state_dict()[k]) for k, v in plain.state_dict().items())


def test_bounds_that_say_measured_everywhere_change_nothing():
    X = codes(40)
    plain, told = ExactGP(), ExactGP()
    plain.fit(X, labels(X))
    told.fit(X, labels(X), bounds=torch.full((40, 2), NAN, dtype=torch.float64))
    for one, other in zip(plain.mean_sd(codes(9, seed=1)), told.mean_sd(codes(9, seed=1)), strict=True):
        assert torch.equal(one, other)


def test_known_variances_predict_as_botorch_with_the_same_variances():
    X, Y = codes(40), labels(codes(40))
    noise = torch.linspace(0.05, 2.0, 40, dtype=torch.float64)
    gp = ExactGP()
    gp.fit(X, Y, noise=noise)
    fitted = gp._fitted
    scale = fitted.label_sd
    reference = SingleTaskGP(
        X,
        (Y - fitted.label_mean) / scale,
        train_Yvar=(noise / scale**2).unsqueeze(-1),
        covar_module=fitted.model.covar_module,
        mean_module=fitted.model.mean_module,
        outcome_transform=None,
    )
    new = codes(15, seed=1)
    posterior = reference.posterior(new)
    mean, sd = gp.mean_sd(new)
    # 1e-8: two routes through one linear system.
    torch.testing.assert_close(mean, fitted.label_mean + scale * posterior.mean.squeeze(-1), rtol=0, atol=1e-8)
    torch.testing.assert_close(sd, scale * posterior.variance.squeeze(-1).sqrt(), rtol=1e-6, atol=1e-8)


def test_the_likelihood_that_is_maximised_has_the_known_variances_and_the_learned_one():
    X, Y = codes(12), labels(codes(12))
    known = torch.where(torch.arange(12) < 5, 0.7, NAN).double()
    model = ExactGP()._build(X, Y.squeeze(-1), known)
    assert isinstance(model.likelihood, PartlyKnownNoise)
    model.train()
    value = model.likelihood(model(X)).log_prob(Y.squeeze(-1))
    noise = torch.where(known.isnan(), model.likelihood.noise, known)
    covariance = model.covar_module(X).to_dense() + noise.diag()
    mean = model.mean_module.constant.expand(12)
    expected = torch.distributions.MultivariateNormal(mean, covariance).log_prob(Y.squeeze(-1))
    torch.testing.assert_close(value, expected)
    mll = ExactMarginalLogLikelihood(model.likelihood, model)
    assert mll(model(X), Y.squeeze(-1)).requires_grad


def test_a_label_known_badly_counts_less_than_one_known_well():
    X = codes(30)
    Y = labels(X)
    Y[0] += 10.0
    found = []
    for sd in (0.1, 30.0):
        noise = torch.full((30,), 0.09, dtype=torch.float64)
        noise[0] = sd**2
        gp = ExactGP()
        gp.fit(X, Y, noise=noise)
        found.append(gp.mean_sd(X[:1])[0].item())
    assert found[0] > Y[0].item() - 1.0
    assert found[1] < Y[0].item() - 5.0


def test_a_bound_moves_the_belief_to_its_side_and_one_that_says_nothing_does_not():
    X, Y = codes(40), labels(codes(40))
    rest = torch.arange(1, 40)
    without = ExactGP()
    without.fit(X[rest], Y[rest])
    mean, sd = without.mean_sd(X[:1])
    found = {}
    for name, (lower, upper) in {"high": (8.0, INF), "none": (-1e3, INF), "low": (-INF, -3.0)}.items():
        gp = ExactGP()
        gp.fit(X, Y, bounds=bounded(X, Y, [0], lower, upper))
        found[name] = gp.mean_sd(X[:1])[0].item()
    assert found["high"] > mean.item() + 2 * sd.item()
    assert found["low"] < mean.item() - 2 * sd.item()
    # 1e-6: the site of a bound that says nothing keeps a precision of 1e-10 of the prior's.
    assert found["none"] == pytest.approx(mean.item(), abs=1e-6)


def test_the_belief_at_a_bounded_row_is_that_of_quadrature():
    X, Y = codes(30), labels(codes(30))
    rest = torch.arange(1, 30)
    gp = ExactGP()
    gp.fit(X, Y, bounds=bounded(X, Y, [0], 6.0, INF))
    others = ExactGP()
    others.load_state_dict(
        {k: v for k, v in gp.state_dict().items() if not k.startswith("stands")} | {"n_labels": torch.tensor(29)},
        X[rest],
        Y[rest],
    )
    mean, sd = (value.item() for value in others.mean_sd(X[:1]))
    noise_sd = gp.diagnostics()["noise_sd"]
    f = torch.linspace(mean - 12 * sd, mean + 12 * sd, 20_001, dtype=torch.float64)
    weight = torch.exp(-0.5 * ((f - mean) / sd) ** 2) * torch.special.ndtr((f - 6.0) / noise_sd)
    weight = weight / weight.sum()
    expected_mean = (weight * f).sum()
    expected_sd = (weight * (f - expected_mean) ** 2).sum().sqrt()
    found_mean, found_sd = gp.mean_sd(X[:1])
    # One bounded row: its site has the exact moments; 1e-5 is what settles at a tolerance of 1e-7.
    assert found_mean.item() == pytest.approx(expected_mean.item(), abs=1e-5)
    assert found_sd.item() == pytest.approx(expected_sd.item(), abs=1e-5)


@pytest.mark.parametrize("make", [ExactGP, lambda: AveragedGP({"product": 0.5, "pairs": 0.5}, levels=4)])
def test_a_rebuilt_fit_with_noise_and_bounds_predicts_the_same_to_the_last_bit(make):
    X, Y = codes(40), labels(codes(40))
    noise = torch.where(torch.arange(40) % 3 == 0, 0.2, NAN).double()
    first, again = make(), make()
    first.fit(X, Y, noise=noise, bounds=bounded(X, Y, [4, 7], -INF, 1.0))
    again.load_state_dict(first.state_dict(), X, Y)
    new = codes(11, seed=1)
    for one, other in zip(first.mean_sd(new), again.mean_sd(new), strict=True):
        assert torch.equal(one, other)
    assert first.diagnostics() == again.diagnostics()


def test_scores_are_of_measured_rows_and_bounded_ones_are_counted():
    X, Y = codes(40), labels(codes(40))
    gp = ExactGP()
    gp.fit(X, Y, noise=torch.full((40,), 0.04, dtype=torch.float64), bounds=bounded(X, Y, [1, 2, 3], 5.0, INF))
    found = gp.diagnostics()
    assert (found["n_labels"], found["n_bounded"]) == (40.0, 3.0)
    assert found["noise_sd"] == pytest.approx(0.2)
    assert "log_marginal_likelihood" not in found
    assert found["loo_rmse"] < 1.5


def test_bounds_alone_are_a_belief_without_a_score():
    X, Y = codes(6), labels(codes(6))
    gp = ExactGP()
    gp.fit(X, Y, bounds=bounded(X, Y, list(range(6)), 0.0, 9.0))
    assert gp.mean_sd(X)[0].isfinite().all()
    assert "loo_rmse" not in gp.diagnostics()


@pytest.mark.parametrize(
    ("noise", "bounds", "error", "message"),
    [
        (torch.ones(3, 1).double(), None, ShapeError, r"noise has shape \(3, 1\)"),
        (torch.tensor([1.0, -1.0, 1.0]).double(), None, LabelError, "noise -1.0 at row 1"),
        (None, torch.ones(3).double(), ShapeError, r"bounds have shape \(3,\)"),
        (None, torch.tensor([[NAN, NAN], [2.0, 1.0], [NAN, NAN]]).double(), LabelError, "row 1"),
        (None, torch.tensor([[NAN, NAN], [NAN, 1.0], [NAN, NAN]]).double(), LabelError, "row 1"),
    ],
)
def test_noise_and_bounds_that_cannot_be_are_refused(noise, bounds, error, message):
    with pytest.raises(error, match=message):
        ExactGP().fit(codes(3), labels(codes(3)), noise=noise, bounds=bounds)
