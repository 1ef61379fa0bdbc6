import warnings
from copy import copy

import pytest
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.models.kernels import CategoricalKernel

from flowscout.errors import FlowscoutError, LabelError, ShapeError
from flowscout.surrogates import ExactGP, HammingKernel, Surrogate, SymmetricKernel, exact_gp


def codes(n: int, d: int = 8, levels: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(levels, (n, d), generator=generator).to(torch.float64)


def labels(X: torch.Tensor, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = 0.05 * torch.randn(X.shape[0], generator=generator, dtype=torch.float64)
    return ((X[:, 0] == 2).double() + 0.5 * (X[:, 1] == X[:, 2]).double() + noise).unsqueeze(-1)


def reverse_complement(X: torch.Tensor) -> torch.Tensor:
    return 3.0 - X.flip(-1)


def fitted(n: int = 60, **options) -> tuple[ExactGP, torch.Tensor, torch.Tensor]:
    X = codes(n)
    surrogate = ExactGP(**options)
    surrogate.fit(X, labels(X))
    return surrogate, X, labels(X)


def test_exact_gp_is_a_surrogate():
    surrogate: Surrogate = ExactGP()
    assert surrogate is not None


def test_hamming_kernel_equals_botorch_categorical_kernel():
    ours, theirs = HammingKernel(ard_num_dims=8).double(), CategoricalKernel(ard_num_dims=8).double()
    lengthscale = torch.linspace(0.2, 2.0, 8, dtype=torch.float64)
    ours.lengthscale = theirs.lengthscale = lengthscale
    a, b = codes(3 * 5).reshape(3, 5, 8), codes(3 * 7, seed=1).reshape(3, 7, 8)
    # 1e-14: the same sum in another order.
    assert torch.allclose(ours(a, b).to_dense(), theirs(a, b).to_dense(), rtol=0, atol=1e-14)
    assert torch.allclose(ours(a, a, diag=True), theirs(a, a, diag=True), rtol=0, atol=1e-14)


@pytest.mark.parametrize("symmetry", [None, reverse_complement])
def test_posterior_equals_botorch_posterior_of_the_same_model(symmetry):
    surrogate, _, Y = fitted(symmetry=symmetry)
    X = codes(20, seed=5)
    model = surrogate._fitted.model
    expected = model.posterior(X)
    mean, sd = surrogate.mean_sd(X)
    joint = surrogate.posterior(X)
    scale = Y.std(correction=0)
    # 1e-8: two orders of the same linear solves, with a condition number of about 1e4.
    assert torch.allclose(mean, Y.mean() + scale * expected.mean.squeeze(-1), atol=1e-8)
    assert torch.allclose(sd, scale * expected.variance.squeeze(-1).sqrt(), atol=1e-8)
    assert joint.mean.shape == (20, 1)
    assert torch.allclose(joint.mean.squeeze(-1), mean, atol=1e-12)
    assert torch.allclose(joint.variance.squeeze(-1).sqrt(), sd, atol=1e-8)


def test_fit_is_deterministic():
    first, second = fitted()[0], fitted()[0]
    X = codes(50, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.mean_sd(X), second.mean_sd(X), strict=True))


@pytest.mark.parametrize("symmetry", [None, reverse_complement])
def test_rebuilt_surrogate_predicts_the_same_to_the_last_bit(symmetry):
    surrogate, X, Y = fitted(symmetry=symmetry)
    rebuilt = ExactGP(symmetry=symmetry)
    rebuilt.load_state_dict(surrogate.state_dict(), X, Y)
    new = codes(50, seed=2)
    for a, b in zip(surrogate.mean_sd(new), rebuilt.mean_sd(new), strict=True):
        assert torch.equal(a, b)
    assert surrogate.diagnostics() == rebuilt.diagnostics()


def test_state_of_other_data_is_refused():
    surrogate, X, Y = fitted()
    with pytest.raises(ShapeError, match="60 labels and 59 came"):
        ExactGP().load_state_dict(surrogate.state_dict(), X[:-1], Y[:-1])
    with pytest.raises(ShapeError, match="symmetry"):
        ExactGP(symmetry=reverse_complement).load_state_dict(surrogate.state_dict(), X, Y)
    with pytest.raises(ShapeError, match="label_mean"):
        ExactGP().load_state_dict({}, X, Y)


def test_copy_keeps_its_predictions_when_the_original_is_fitted_again():
    surrogate, X, Y = fitted()
    before = surrogate.mean_sd(X)
    kept = copy(surrogate)
    surrogate.fit(X, -Y)
    assert torch.equal(kept.mean_sd(X)[0], before[0])
    assert not torch.allclose(surrogate.mean_sd(X)[0], before[0])


def test_symmetric_surrogate_cannot_tell_an_object_from_its_image():
    surrogate, X, _ = fitted(symmetry=reverse_complement)
    a, b = surrogate.mean_sd(X), surrogate.mean_sd(reverse_complement(X))
    # 1e-10: the four terms of the kernel are summed in another order.
    assert torch.allclose(a[0], b[0], rtol=0, atol=1e-10)
    assert torch.allclose(a[1], b[1], rtol=0, atol=1e-10)


def test_symmetric_kernel_gives_palindromes_no_extra_variance():
    kernel = SymmetricKernel(HammingKernel(ard_num_dims=4).double(), reverse_complement)
    X = torch.tensor([[0.0, 1, 2, 3], [0, 0, 0, 0], [3, 1, 2, 0]], dtype=torch.float64)
    assert torch.equal(reverse_complement(X)[0], X[0])
    assert torch.allclose(kernel(X).to_dense().diagonal(), torch.ones(3, dtype=torch.float64), atol=1e-14)
    assert torch.allclose(kernel(X, diag=True), torch.ones(3, dtype=torch.float64), atol=1e-14)


def test_samples_have_the_posterior_moments_and_follow_the_generator():
    surrogate, _, _ = fitted()
    X = codes(6, seed=9)
    draws = surrogate.sample(X, 20_000, generator=torch.Generator().manual_seed(0))
    again = surrogate.sample(X, 20_000, generator=torch.Generator().manual_seed(0))
    mean, sd = surrogate.mean_sd(X)
    assert draws.shape == (20_000, 6)
    assert torch.equal(draws, again)
    # 5 standard errors of 20,000 draws.
    assert bool(((draws.mean(0) - mean).abs() < 5 * sd / 20_000**0.5).all())
    covariance = surrogate.posterior(X).distribution.covariance_matrix
    assert torch.allclose(torch.cov(draws.T), covariance, atol=5 * float(sd.max() ** 2) / 20_000**0.5)


def test_sample_accepts_repeated_and_labelled_points():
    surrogate, X, _ = fitted()
    draws = surrogate.sample(X[:5].repeat(3, 1), 4, generator=torch.Generator().manual_seed(0))
    # 1e-2: a repeated point's draws differ by the root of the jitter, at most 1e-4 of the variance.
    assert torch.allclose(draws[:, :5], draws[:, 5:10], atol=1e-2)


@pytest.mark.parametrize("n", [1, 2, 40])
def test_constant_labels_predict_that_constant(n):
    X = codes(n)
    surrogate = ExactGP()
    surrogate.fit(X, torch.full((n, 1), 3.25, dtype=torch.float64))
    mean, sd = surrogate.mean_sd(codes(10, seed=3))
    assert torch.allclose(mean, torch.full((10,), 3.25, dtype=torch.float64))
    assert bool((sd > 0).all())
    diagnostics = surrogate.diagnostics()
    assert "loo_r2" not in diagnostics
    assert diagnostics["fit_succeeded"] == 1.0


def test_repeated_objects_with_conflicting_labels_average():
    X = codes(30).repeat(2, 1)
    Y = torch.cat([labels(X[:30]) - 0.3, labels(X[:30]) + 0.3])
    surrogate = ExactGP()
    surrogate.fit(X, Y)
    mean, _ = surrogate.mean_sd(X[:30])
    # 0.15, half the way to either label: shrinkage is allowed, siding with one of them is not.
    assert (mean - labels(X[:30]).squeeze(-1)).abs().mean() < 0.15


@pytest.mark.parametrize(("scale", "shift"), [(1e12, 0.0), (1.0, 1e6), (1e-9, 0.0)])
def test_predictions_follow_the_scale_of_the_labels(scale, shift):
    plain, X, Y = fitted()
    scaled = ExactGP()
    scaled.fit(X, scale * Y + shift)
    new = codes(10, seed=4)
    # 1e-4: standardising rounds the labels differently, and the optimiser stops at a slightly other point.
    (mean, sd), (scaled_mean, scaled_sd) = plain.mean_sd(new), scaled.mean_sd(new)
    assert torch.allclose(mean, (scaled_mean - shift) / scale, rtol=1e-4, atol=1e-4)
    assert torch.allclose(sd, scaled_sd / scale, rtol=1e-4, atol=1e-4)


def test_label_that_is_not_finite_is_refused_with_its_row():
    X = codes(5)
    for bad in (float("nan"), float("inf")):
        Y = labels(X)
        Y[3] = bad
        with pytest.raises(LabelError, match="row 3"):
            ExactGP().fit(X, Y)


def test_labels_whose_variance_overflows_are_refused():
    X = codes(4)
    with pytest.raises(LabelError, match="overflow"):
        ExactGP().fit(X, 1e200 * labels(X))


def test_wrong_shapes_are_refused():
    X = codes(5)
    Y = labels(X)
    surrogate = ExactGP()
    with pytest.raises(FlowscoutError, match="fit"):
        surrogate.mean_sd(X)
    with pytest.raises(ShapeError, match="unsqueeze"):
        surrogate.fit(X, Y.squeeze(-1))
    with pytest.raises(ShapeError, match="float64"):
        surrogate.fit(X.float(), Y)
    with pytest.raises(ShapeError, match="category codes"):
        surrogate.fit(X - 0.5, Y)
    with pytest.raises(ShapeError, match="at least one row"):
        surrogate.fit(X[:0], Y[:0])
    surrogate.fit(X, Y)
    with pytest.raises(ShapeError, match="n x 8"):
        surrogate.mean_sd(X[:, :7])


@pytest.mark.parametrize("error", [ModelFittingError, RuntimeError])
def test_failed_fit_falls_back_to_the_defaults_and_says_so(monkeypatch, error):
    def fail(*_: object, **__: object) -> None:
        raise error("no")

    monkeypatch.setattr(exact_gp, "fit_gpytorch_mll", fail)
    surrogate, X, _ = fitted()
    assert surrogate.diagnostics()["fit_succeeded"] == 0.0
    assert surrogate.diagnostics()["lengthscale_min"] == 0.5
    assert bool(surrogate.mean_sd(X)[1].isfinite().all())


def test_fit_emits_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        X = codes(40).clamp_max(0.0)  # one object, forty times
        surrogate = ExactGP()
        surrogate.fit(X, torch.linspace(0, 1, 40, dtype=torch.float64).unsqueeze(-1))
        surrogate.mean_sd(X)


def test_unseen_category_is_as_far_as_any_other():
    surrogate, X, _ = fitted()
    other = X[:1].clone()
    other[0, 3] = 17.0
    mean, sd = surrogate.mean_sd(other)
    assert bool(mean.isfinite().all())
    assert bool((sd > surrogate.mean_sd(X[:1])[1]).all())


def test_chunks_of_a_large_call_agree_with_single_calls():
    surrogate, _, _ = fitted()
    X = codes(2 * exact_gp._CHUNK + 3, seed=6)
    picks = torch.tensor([0, exact_gp._CHUNK - 1, exact_gp._CHUNK, X.shape[0] - 1])
    for whole, part in zip(surrogate.mean_sd(X), surrogate.mean_sd(X[picks]), strict=True):
        assert torch.allclose(whole[picks], part, rtol=0, atol=1e-12)
