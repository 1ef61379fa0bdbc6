import math

import pytest
import torch

from flowscout.errors import ConfigError, ShapeError
from flowscout.surrogates import linear, score_predictions
from flowscout.surrogates.linear import PairwiseLinear


def data(n: int, d: int = 4, levels: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randint(levels, (n, d), generator=generator).to(torch.float64)
    noise = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return X, 3.0 + X[:, :1] - 0.7 * (X[:, 1:2] == X[:, 2:3]) + 0.3 * noise


def design(X: torch.Tensor, levels: int = 3) -> torch.Tensor:
    """Write every feature down, by loops."""
    rows = []
    for x in X.long().tolist():
        letters = [float(x[i] == a) for i in range(len(x)) for a in range(levels)]
        pairs = [
            float(x[i] == a and x[j] == b)
            for i in range(len(x))
            for j in range(i + 1, len(x))
            for a in range(levels)
            for b in range(levels)
        ]
        rows.append(letters + pairs)
    return torch.tensor(rows, dtype=torch.float64)


def fitted(n: int) -> tuple[PairwiseLinear, torch.Tensor, torch.Tensor]:
    X, Y = data(n)
    surrogate = PairwiseLinear(levels=3)
    surrogate.fit(X, Y)
    return surrogate, X, Y


def log_evidence(X: torch.Tensor, y: torch.Tensor, signal: float, noise: float) -> float:
    phi = design(X)
    covariance = signal * phi @ phi.T / 10.0 + noise * torch.eye(len(y), dtype=torch.float64)
    zero = torch.zeros_like(y)
    return torch.distributions.MultivariateNormal(zero, covariance).log_prob(y).item()


# 66 features: 12 letters and 54 pairs. 40 labels go by the dual, 90 by weights.
@pytest.mark.parametrize("n", [40, 90])
def test_posterior_is_that_of_the_normal_equations(n):
    surrogate, X, Y = fitted(n)
    new = data(25, seed=4)[0]
    state = surrogate.state_dict()
    phi, phi_new = design(X), design(new)
    y = (Y.squeeze(-1) - Y.mean()) / Y.std(correction=0)
    precision = phi.T @ phi / state["noise"] + 10.0 / state["signal"] * torch.eye(66, dtype=torch.float64)
    covariance = phi_new @ torch.linalg.inv(precision) @ phi_new.T
    expected = phi_new @ torch.linalg.inv(precision) @ (phi.T @ y) / state["noise"]
    mean, sd = surrogate.mean_sd(new)
    scale = Y.std(correction=0)
    # 1e-9: inverses of a matrix with a condition number of about 1e4.
    torch.testing.assert_close(mean, Y.mean() + scale * expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(sd, scale * covariance.diagonal().sqrt(), rtol=0, atol=1e-9)
    joint = surrogate.posterior(new).distribution.covariance_matrix
    torch.testing.assert_close(joint, scale.square() * covariance, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [40, 90])
def test_variances_are_the_most_probable(n):
    surrogate, X, Y = fitted(n)
    state = surrogate.state_dict()
    signal, noise = state["signal"].item(), state["noise"].item()
    y = (Y.squeeze(-1) - Y.mean()) / Y.std(correction=0)
    best = log_evidence(X, y, signal, noise)
    assert surrogate.diagnostics()["log_marginal_likelihood"] == pytest.approx(best / n, abs=1e-9)
    for a in (0.5, 0.9, 0.99, 1.0, 1.01, 1.1, 2.0):
        for b in (0.5, 0.9, 0.99, 1.0, 1.01, 1.1, 2.0):
            # 1e-9: rounding of two log-densities of about 100.
            assert log_evidence(X, y, a * signal, b * noise) <= best + 1e-9


@pytest.mark.parametrize("n", [40, 90])
def test_diagnostics_equal_refits_without_one_label(n):
    surrogate, X, Y = fitted(n)
    found, state = surrogate.diagnostics(), surrogate.state_dict()
    means, sds = [], []
    for i in range(n):
        rest = [j for j in range(n) if j != i]
        without = PairwiseLinear(levels=3)
        without.load_state_dict({**state, "n_labels": torch.tensor(n - 1)}, X[rest], Y[rest])
        mean, sd = without.mean_sd(X[i : i + 1])
        means.append(mean)
        sds.append((sd.square() + found["noise_sd"] ** 2).sqrt())
    expected = score_predictions(torch.cat(means), torch.cat(sds), Y.squeeze(-1)).as_dict("loo_")
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-8), name


@pytest.mark.parametrize("n", [40, 90])
def test_a_draw_is_one_function_over_all_calls(n):
    surrogate, _, _ = fitted(n)
    new = data(30, seed=4)[0]
    whole = surrogate.sample(new, 5, generator=torch.Generator().manual_seed(2))
    part = surrogate.sample(new[7:9], 5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(part, whole[:, 7:9], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "limit"), [(40, None), (90, None), (40, 0)])
def test_draws_have_the_posterior_covariance(monkeypatch, n, limit):
    if limit is not None:
        monkeypatch.setattr(linear, "_WEIGHT_DRAWS", limit)
    surrogate, _, _ = fitted(n)
    new = data(6, seed=4)[0]
    draws = surrogate.sample(new, 20_000, generator=torch.Generator().manual_seed(0))
    posterior = surrogate.posterior(new)
    covariance = posterior.distribution.covariance_matrix
    largest = covariance.diagonal().max()
    # 5 standard errors of 20,000 draws.
    assert bool(((draws.mean(0) - posterior.mean.squeeze(-1)).abs() < 5 * (largest / 20_000).sqrt()).all())
    torch.testing.assert_close(
        torch.cov(draws.T), covariance, rtol=0, atol=5 * (2 / 20_000) ** 0.5 * largest.item()
    )


def test_wide_objects_are_learned_without_writing_their_pairs_down():
    X, Y = data(30, d=10_000, levels=4)
    surrogate = PairwiseLinear(levels=4)
    surrogate.fit(X, Y)
    assert surrogate.diagnostics()["n_features"] == 40_000 + 16 * math.comb(10_000, 2)
    assert bool(surrogate.sample(X[:3], 2, generator=torch.Generator().manual_seed(0)).isfinite().all())


def test_too_many_labels_of_too_many_features_are_refused(monkeypatch):
    monkeypatch.setattr(linear, "_LIMIT", 35)
    with pytest.raises(ShapeError, match=r"40 labels of 66 features.*SVGP"):
        fitted(40)


def test_codes_outside_the_alphabet_are_refused():
    surrogate, X, Y = fitted(40)
    with pytest.raises(ShapeError, match="holds 3 at row 1, column 2"):
        surrogate.mean_sd(X.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(3.0, dtype=torch.float64)))
    with pytest.raises(ShapeError, match=r"holds 0\.5"):
        surrogate.fit(X * 0.5, Y)
    with pytest.raises(ConfigError, match="levels is 1"):
        PairwiseLinear(levels=1)
