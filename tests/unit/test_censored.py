import math

import pytest
import torch
from torch import Generator

from flowscout.errors import LabelError, ShapeError
from flowscout.surrogates.censored import censored_sites, fit_sites

INF = math.inf


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def posterior(K, site_mean, site_variance):
    """Return mean and covariance of a GP whose labels and noises are the sites."""
    gain = torch.linalg.solve(K + site_variance.diag(), K).mT
    return gain @ site_mean, K - gain @ K


def bounded_posterior(K, noise, lower, upper, y, is_censored):
    return posterior(K, *censored_sites(K, noise, lower, upper, y, is_censored))


def exact_1d(variance, noise, lower, upper):
    f = torch.linspace(-12.0, 12.0, 400_001, dtype=torch.float64) * math.sqrt(variance)
    likelihood = torch.special.ndtr((upper - f) / math.sqrt(noise)) - torch.special.ndtr(
        (lower - f) / math.sqrt(noise)
    )
    weight = torch.exp(-0.5 * f.square() / variance) * likelihood
    mean = (weight * f).sum() / weight.sum()
    return mean.item(), ((weight * (f - mean).square()).sum() / weight.sum()).item()


@pytest.mark.parametrize(
    ("variance", "noise", "lower", "upper"),
    [(1.0, 0.1, 0.5, INF), (2.0, 0.01, -INF, -1.0), (1.0, 0.5, -0.2, 0.4), (0.5, 0.04, 2.5, INF)],
)
def test_one_bounded_value_is_exact(variance, noise, lower, upper):
    K = torch.tensor([[variance]], dtype=torch.float64)
    mean, covariance = bounded_posterior(
        K, noise, vector(lower), vector(upper), vector(math.nan), torch.tensor([True])
    )
    expected_mean, expected_variance = exact_1d(variance, noise, lower, upper)
    # 1e-6: the sites stop moving at 1e-8 of a standard deviation, the grid's step is 6e-5.
    assert mean.item() == pytest.approx(expected_mean, rel=1e-6)
    assert covariance.item() == pytest.approx(expected_variance, rel=1e-6)


def exact_2d(K, noise, lower, upper, y, is_censored):
    """Return posterior mean and covariance of two values by quadrature on a grid of 800 x 800."""
    root = torch.linalg.cholesky(K)
    axis = torch.linspace(-8.0, 8.0, 801, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2)
    f = z @ root.mT
    sd = math.sqrt(noise)
    inside = torch.special.ndtr((upper - f) / sd) - torch.special.ndtr((lower - f) / sd)
    measured = torch.exp(-0.5 * (torch.nan_to_num(y) - f).square() / noise)
    weight = torch.exp(-0.5 * z.square().sum(-1)) * torch.where(is_censored, inside, measured).prod(-1)
    weight = weight / weight.sum()
    mean = weight @ f
    centred = f - mean
    return mean, centred.mT @ (weight.unsqueeze(-1) * centred)


K2 = torch.tensor([[1.0, 0.7], [0.7, 1.0]], dtype=torch.float64)


def test_beside_a_measured_value_one_bounded_value_is_exact():
    case = (vector(0.8, 0.0), vector(INF, 0.0), vector(math.nan, -0.3), torch.tensor([True, False]))
    mean, covariance = bounded_posterior(K2, 0.1, *case)
    expected_mean, expected_covariance = exact_2d(K2, 0.1, *case)
    # One site that is not Gaussian: expectation propagation is exact; 1e-6 as above.
    assert torch.allclose(mean, expected_mean, rtol=1e-6, atol=1e-6)
    assert torch.allclose(covariance, expected_covariance, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        (vector(0.5, 0.5), vector(INF, INF)),
        (vector(0.5, -INF), vector(INF, -0.5)),  # at odds with the correlation
        (vector(-0.2, 0.1), vector(0.4, INF)),
        (vector(-INF, -INF), vector(-1.5, -2.5)),
    ],
)
def test_two_bounded_values_are_near_the_truth(lower, upper):
    case = (lower, upper, vector(math.nan, math.nan), torch.tensor([True, True]))
    mean, covariance = bounded_posterior(K2, 0.1, *case)
    expected_mean, expected_covariance = exact_2d(K2, 0.1, *case)
    # An approximation by a normal: a few thousandths for means, a few per cent of a variance, in prior units.
    assert torch.allclose(mean, expected_mean, rtol=0.0, atol=0.01)
    assert torch.allclose(covariance, expected_covariance, rtol=0.05, atol=0.005)


def random_covariance(n, seed=0):
    x = torch.rand(n, 1, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return torch.exp(-0.5 * ((x - x.mT) / 0.3).square()) + 1e-6 * torch.eye(n, dtype=torch.float64)


def test_five_values_are_near_dense_sampling():
    K = random_covariance(5)
    y = vector(0.5, -0.2, math.nan, math.nan, math.nan)
    lower, upper = vector(0, 0, 0.3, -INF, -0.1), vector(0, 0, INF, 0.4, 0.2)
    is_censored = torch.tensor([False, False, True, True, True])
    mean, covariance = bounded_posterior(K, 0.05, lower, upper, y, is_censored)
    generator = Generator().manual_seed(1)
    f = torch.randn(1_000_000, 5, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(K).mT
    sd = math.sqrt(0.05)
    inside = torch.special.ndtr((upper - f) / sd) - torch.special.ndtr((lower - f) / sd)
    measured = torch.exp(-0.5 * (torch.nan_to_num(y) - f).square() / 0.05)
    weight = torch.where(is_censored, inside, measured).prod(-1)
    weight = weight / weight.sum()
    # A million prior draws leave more than 10,000 effective ones: about 0.005; the rest is the method's.
    assert 1.0 / weight.square().sum() > 10_000
    assert torch.allclose(mean, weight @ f, rtol=0.0, atol=0.02)
    assert torch.allclose(covariance.diagonal(), weight @ (f - weight @ f).square(), rtol=0.05, atol=0.003)


def test_measured_rows_come_back_as_they_are():
    y, noise = vector(1.0, 2.0, math.nan), vector(0.1, 0.2, 0.3)
    mean, variance = censored_sites(
        random_covariance(3), noise, vector(0, 0, 1), vector(0, 0, INF), y, torch.tensor([False, False, True])
    )
    assert torch.equal(mean[:2], y[:2])
    assert torch.equal(variance[:2], noise[:2])
    none = censored_sites(random_covariance(2), noise[:2], y[:2], y[:2], y[:2], torch.tensor([False, False]))
    assert torch.equal(none[0], y[:2])


def test_a_bound_that_says_nothing_leaves_the_belief_alone():
    K = random_covariance(2)
    mean, covariance = bounded_posterior(
        K, 0.1, vector(0, -50), vector(0, INF), vector(0.4, math.nan), torch.tensor([False, True])
    )
    alone, alone_covariance = posterior(K, vector(0.4, 0.0), vector(0.1, 1e12))
    assert torch.allclose(mean, alone, atol=1e-7)
    assert torch.allclose(covariance, alone_covariance, atol=1e-7)


@pytest.mark.parametrize("bound", [30.0, 1e3])
def test_a_bound_far_from_all_belief_is_still_exact(bound):
    K, noise = torch.eye(1, dtype=torch.float64), 0.01
    mean, covariance = bounded_posterior(
        K, noise, vector(bound), vector(INF), vector(math.nan), torch.tensor([True])
    )
    # z = f + e above the bound is the bound plus nearly an exponential of scale 1.01 / bound; f is z / 1.01.
    excess = 1.01 / bound * (1 - 2 * 1.01 / bound**2)
    assert mean.item() == pytest.approx((bound + excess) / 1.01, rel=1e-6)
    # What is left is noise: 0.01 / 1.01, and the excess's variance.
    assert covariance.item() == pytest.approx(0.01 / 1.01 + (1.0 / bound) ** 2 / 1.01, rel=0.01)


@pytest.mark.parametrize("noise", [1.0, 1e-2, 1e-6, 0.0])
def test_sites_settle_and_their_moments_match(noise):
    n = 40
    K = random_covariance(n, seed=3)
    f = torch.linalg.cholesky(K) @ torch.randn(n, generator=Generator().manual_seed(2), dtype=torch.float64)
    lower = torch.where(f > 0.3, 0.3, -INF)
    upper = torch.where(f > 0.3, INF, 0.3)
    noises = torch.full((n,), noise, dtype=torch.float64)
    sites = fit_sites(torch.zeros_like(f), K, noises, lower.double(), upper.double())
    assert sites.converged
    mean, covariance = posterior(K, sites.mean, sites.variance)
    assert bool(((mean > 0.3) == (f > 0.3)).double().mean() > 0.9)
    precision = 1.0 / covariance.diagonal() - 1.0 / sites.variance
    # The cavity of each row is its marginal less its site, to what the sweeps' tolerance leaves.
    assert torch.allclose(1.0 / precision, sites.cavity_variance, rtol=1e-3)


def test_many_bounds_and_none_measured_settle():
    n = 200
    K = random_covariance(n, seed=4)
    lower = torch.full((n,), 1.0, dtype=torch.float64)
    mean, _ = bounded_posterior(
        K, 0.01, lower, torch.full_like(lower, INF), torch.full_like(lower, math.nan), torch.ones(n).bool()
    )
    assert bool((mean > 0.9).all())


def test_sites_predict_better_than_bounds_taken_for_values_or_left_out():
    generator = Generator().manual_seed(5)
    K = random_covariance(120, seed=6)
    errors = {"sites": 0.0, "as values": 0.0, "left out": 0.0}
    for _ in range(5):
        f = torch.linalg.cholesky(K) @ torch.randn(120, generator=generator, dtype=torch.float64)
        y = f + 0.2 * torch.randn(120, generator=generator, dtype=torch.float64)
        # A detection limit: below it only that it is below is known. Every third is held out.
        is_censored = y < -0.2
        held, train = torch.arange(0, 120, 3), torch.arange(120)[torch.arange(120) % 3 != 0]
        limit = torch.full_like(y, -0.2)
        free = torch.full_like(y, -INF)
        k, keep = K[train][:, train], train[~is_censored[train]]
        label, variance = censored_sites(k, 0.04, free[train], limit[train], y[train], is_censored[train])

        def rmse(rows, label, noise, held=held, f=f):
            weights = torch.linalg.solve(K[rows][:, rows] + noise.diag(), label)
            return (K[held][:, rows] @ weights - f[held]).square().mean().sqrt().item()

        noise = torch.full_like(y, 0.04)
        errors["sites"] += rmse(train, label, variance)
        errors["as values"] += rmse(train, torch.maximum(y, limit)[train], noise[train])
        errors["left out"] += rmse(keep, y[keep], noise[keep])
    assert errors["sites"] < 0.8 * errors["as values"]
    assert errors["sites"] < 0.8 * errors["left out"]


def test_a_bound_at_odds_with_a_noiseless_measurement_of_the_same_object_leaves_it():
    K = torch.ones(2, 2, dtype=torch.float64)
    case = (vector(0.0, 2.0), vector(0.0, INF), vector(0.5, math.nan), torch.tensor([False, True]))
    mean, variance = censored_sites(K, vector(0.0, 0.1), *case)
    assert bool(mean.isfinite().all())
    assert bool((variance >= 0.0).all())
    gain = K[:, :1] / (K[:1, :1] + 1e-9)  # the first row alone decides
    assert torch.allclose(posterior(K, mean, variance + 1e-9)[0], (gain * 0.5).flatten(), atol=1e-4)


def test_wrong_rows_are_named():
    K, yes, no = random_covariance(2), torch.tensor([True, True]), torch.tensor([False, False])
    with pytest.raises(LabelError, match="row 1"):
        censored_sites(K, 0.1, vector(0, 1), vector(1, 1), vector(0, 0), yes)
    with pytest.raises(LabelError, match="row 0"):
        censored_sites(K, 0.1, vector(0, 0), vector(1, 1), vector(math.nan, 0), no)
    with pytest.raises(LabelError, match="row 0"):
        censored_sites(K, -0.1, vector(0, 0), vector(1, 1), vector(0, 0), yes)
    with pytest.raises(ShapeError, match="n x n"):
        censored_sites(K, 0.1, vector(0), vector(1, 1), vector(0, 0), yes)
