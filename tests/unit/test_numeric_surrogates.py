"""Surrogates on numbers: the Tanimoto kernel against its definition, and what each kernel sees."""

import pytest
import torch
from gpytorch.kernels import ScaleKernel

from flowscout.errors import ConfigError, ShapeError
from flowscout.surrogates import numeric_kernels, spearman
from flowscout.surrogates.numeric import numeric_surrogate
from flowscout.surrogates.numeric_kernels import TanimotoKernel


def counts(n, d=7, *, seed=0, most=4):
    return torch.randint(0, most, (n, d), generator=torch.Generator().manual_seed(seed)).double()


def by_definition(a, b):
    """Return the sum of minima over the sum of maxima, pair by pair."""
    rows = []
    for x in a:
        minima = [float(sum(min(p, q) for p, q in zip(x.tolist(), y.tolist(), strict=True))) for y in b]
        maxima = [float(sum(max(p, q) for p, q in zip(x.tolist(), y.tolist(), strict=True))) for y in b]
        rows.append([low / high if high else 1.0 for low, high in zip(minima, maxima, strict=True)])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("most", [2, 4])
def test_tanimoto_is_minima_over_maxima(most):
    a, b = counts(9, most=most), counts(6, most=most, seed=1)
    a[0] = b[0] = 0
    kernel = TanimotoKernel()
    # Whole numbers below 2^53 are exact; the one division may round differently.
    torch.testing.assert_close(kernel(a, b).to_dense(), by_definition(a, b), rtol=0, atol=1e-15)
    torch.testing.assert_close(kernel(a[:6], b, diag=True), by_definition(a[:6], b).diagonal(), rtol=0, atol=1e-15)


def test_tanimoto_of_fractions_and_of_batches():
    x = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = TanimotoKernel()(x, x).to_dense()
    assert found.shape == (3, 5, 5)
    for one, covariance in zip(x, found, strict=True):
        torch.testing.assert_close(covariance, by_definition(one, one), rtol=0, atol=1e-14)  # sums of 4 numbers


def test_a_fit_compares_its_features_once(monkeypatch):
    asked = []
    known = numeric_kernels._covariance
    monkeypatch.setattr(numeric_kernels, "_covariance", lambda a, b: asked.append(a) or known(a, b))
    kernel = TanimotoKernel()
    for x in (counts(9), counts(9), counts(9, seed=1), counts(9)):
        torch.testing.assert_close(kernel(x, x).to_dense(), by_definition(x, x), rtol=0, atol=1e-15)
    assert len(asked) == 3
    kernel.eval()
    kernel(counts(9), counts(9)).to_dense()
    assert len(asked) == 4
    assert kernel._kept is None


def test_tanimoto_is_positive_semidefinite_on_distinct_counts():
    x = counts(60, 8).unique(dim=0)
    lowest = torch.linalg.eigvalsh(TanimotoKernel()(x, x).to_dense())[0]
    assert lowest > -1e-12  # rounding of a matrix whose trace is 60


def test_tanimoto_refuses_negative_features():
    with pytest.raises(ShapeError, match=r"hold -1, expected .* at least 0"):
        TanimotoKernel()(-counts(2).clamp_min(1).clamp_max(1), counts(2)).to_dense()


def test_tanimoto_surrogate_refuses_negative_features():
    with pytest.raises(ShapeError, match="at least 0"):
        numeric_surrogate("tanimoto").fit(counts(8) - 1, counts(8, 1))


def test_unknown_kernel_is_refused():
    with pytest.raises(ConfigError, match="kernel is 'linear', expected matern, rbf, tanimoto"):
        numeric_surrogate("linear")


@pytest.mark.parametrize("kernel", ["matern", "rbf"])
def test_scale_and_origin_of_a_feature_change_nothing(kernel):
    generator = torch.Generator().manual_seed(0)
    X, new = (torch.rand(n, 3, generator=generator, dtype=torch.float64) for n in (30, 8))
    Y = (5 * X[:, :1]).sin() + X[:, 1:2]
    scale, origin = torch.tensor([1.0, 1e4, 1e-4]), torch.tensor([0.0, 300.0, 7.0])
    plain, moved = numeric_surrogate(kernel), numeric_surrogate(kernel)
    plain.fit(X, Y)
    moved.fit(X * scale + origin, Y)
    # Standardising loses about 1e-12 of a column that is 1e-4 wide around 7; the optimiser stops within 1e-4.
    for a, b in zip(plain.mean_sd(new), moved.mean_sd(new * scale + origin), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


def test_feature_that_is_constant_among_the_labelled_says_little_elsewhere():
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(30, 2, generator=generator, dtype=torch.float64)
    X[:, 1] = 4.0
    surrogate = numeric_surrogate()
    surrogate.fit(X, (5 * X[:, :1]).sin())
    moved = X[:5].clone()
    moved[:, 1] = 4.01
    # A hundredth of the unit to which a constant column is scaled: no longer far from all that is known.
    torch.testing.assert_close(surrogate.mean_sd(moved)[0], surrogate.mean_sd(X[:5])[0], rtol=0, atol=0.05)


def test_tanimoto_learns_what_matern_cannot_see():
    """Few bits among many: what two objects share tells more than how far they are apart."""
    generator = torch.Generator().manual_seed(0)
    X = (torch.rand(160, 256, generator=generator) < 0.06).double()
    Y = (X[:, :12].sum(dim=1) / X.sum(dim=1).clamp_min(1)).unsqueeze(1)
    surrogate = numeric_surrogate("tanimoto")
    surrogate.fit(X[:120], Y[:120])
    assert (spearman(surrogate.mean_sd(X[120:])[0], Y[120:].squeeze(1)) or 0) > 0.5


def test_tanimoto_learns_its_output_scale():
    surrogate = numeric_surrogate("tanimoto")
    X = counts(40)
    surrogate.fit(X, X[:, :1] + 0.1 * counts(40, 1, seed=3))
    names = set(surrogate.state_dict())
    assert "model.covar_module.raw_outputscale" in names
    assert isinstance(surrogate._fitted.model.covar_module, ScaleKernel)
