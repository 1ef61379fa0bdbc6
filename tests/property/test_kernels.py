import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowscout.surrogates import ExactGP, HammingKernel, SymmetricKernel


@st.composite
def code_matrices(draw, n_min: int = 1, n_max: int = 12, levels: int = 4) -> torch.Tensor:
    n, d = draw(st.integers(n_min, n_max)), draw(st.integers(1, 6))
    seed = draw(st.integers(0, 2**31))
    return torch.randint(levels, (n, d), generator=torch.Generator().manual_seed(seed)).to(torch.float64)


@given(X=code_matrices(), lengthscale=st.floats(0.05, 10.0))
@settings(deadline=None, max_examples=50)  # the first call loads lazily compiled parts of torch
def test_symmetric_kernel_is_positive_semi_definite_and_symmetric(X, lengthscale):
    base = HammingKernel(ard_num_dims=X.shape[1]).double()
    base.lengthscale = torch.linspace(0.5, 1.5, X.shape[1], dtype=torch.float64) * lengthscale
    kernel = SymmetricKernel(base, lambda codes: 3.0 - codes.flip(-1))
    with torch.no_grad():
        gram = kernel.forward(X, X)
        image = kernel.forward(3.0 - X.flip(-1), X)
    # 1e-12 and 1e-14: rounding of sums of at most 12 values of size one.
    assert torch.linalg.eigvalsh(gram).min() > -1e-12
    assert torch.allclose(gram, image, rtol=0, atol=1e-14)
    assert torch.allclose(gram, gram.T, rtol=0, atol=1e-14)


@given(X=code_matrices(), seed=st.integers(0, 1000), magnitude=st.sampled_from([1e-6, 1.0, 1e12]))
@settings(deadline=None, max_examples=15)  # each example fits a model
def test_any_finite_labels_give_finite_predictions(X, seed, magnitude):
    Y = magnitude * torch.randn(X.shape[0], 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    surrogate = ExactGP()
    surrogate.fit(X, Y)
    mean, sd = surrogate.mean_sd(X)
    assert bool(mean.isfinite().all())
    assert bool((sd > 0).all())
    assert all(value == value for value in surrogate.diagnostics().values())
