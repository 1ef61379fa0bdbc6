import pytest
import torch
from botorch.acquisition.analytic import LogExpectedImprovement, UpperConfidenceBound
from botorch.models.model import Model

from flowscout.errors import ConfigError
from flowscout.surrogates import ExactGP, log_ei, ucb
from flowscout.surrogates.acquisition import log_h


def codes(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, (n, 8), generator=torch.Generator().manual_seed(seed)).to(torch.float64)


@pytest.fixture(scope="module")
def surrogate() -> ExactGP:
    X = codes(50)
    gp = ExactGP()
    gp.fit(X, (X[:, :3].sum(-1, keepdim=True) - X[:, 5:6]) / 3.0)
    return gp


class Adapter(Model):
    """Give BoTorch's acquisitions our posterior: they call `posterior` with `1 x 1 x d`."""

    num_outputs = 1

    def __init__(self, surrogate: ExactGP) -> None:
        super().__init__()
        self.surrogate = surrogate

    def posterior(self, X, posterior_transform=None):
        return self.surrogate.posterior(X.squeeze(-2))


def botorch_values(acquisition_class, surrogate, X, **options):
    """Evaluate BoTorch's formula one point at a time."""
    acquisition = acquisition_class(Adapter(surrogate), **options)
    return torch.stack([acquisition(x.reshape(1, 1, -1)).squeeze() for x in X])


@pytest.mark.parametrize("best", [-1.0, 0.5, 3.0, 30.0])
def test_log_ei_equals_botorch(surrogate, best):
    X = codes(30, seed=1)
    expected = botorch_values(LogExpectedImprovement, surrogate, X, best_f=best)
    # 1e-8 relative: the variances come by two routes.
    assert torch.allclose(log_ei(surrogate, best)(X), expected.detach(), rtol=1e-8)


def test_ucb_equals_botorch(surrogate):
    X = codes(30, seed=1)
    # BoTorch's beta is the square of our kappa.
    expected = botorch_values(UpperConfidenceBound, surrogate, X, beta=2.25)
    assert torch.allclose(ucb(surrogate, 1.5)(X), expected.detach(), rtol=1e-8)


def test_log_h_is_exact_where_high_precision_values_are_known():
    # 80-digit arithmetic (mpmath) of log(phi(u) + u Phi(u)).
    u = torch.tensor([-1e4, -100.0, -10.0, -1.0, -0.999999, 0.0, 3.0], dtype=torch.float64)
    known = [
        -50000019.33961931,
        -5010.12957880025,
        -55.55312203612235,
        -2.4851210257126413,
        -2.485119121441769,
        -0.9189385332046728,
        1.0987396653277077,
    ]
    expected = torch.tensor(known, dtype=torch.float64)
    assert torch.allclose(log_h(u), expected, rtol=1e-10)


def test_log_h_is_continuous_and_increasing():
    u = torch.cat([-torch.logspace(8, -3, 4000, dtype=torch.float64), torch.linspace(0, 5, 100).double()])
    assert bool((log_h(u).diff() > 0).all())
    assert bool(log_h(torch.tensor([-1e100], dtype=torch.float64)).isfinite().all())


@pytest.mark.parametrize("make", [lambda s: ucb(s, 1.0), lambda s: log_ei(s, 1.0)])
def test_same_object_has_the_same_value_alone_or_in_any_batch(surrogate, make):
    acquisition = make(surrogate)
    X = codes(64, seed=2)
    whole = acquisition(X)
    alone = torch.cat([acquisition(x.unsqueeze(0)) for x in X])
    shuffled = acquisition(X.flip(0)).flip(0)
    # Float64 rounding of a product with 50 labels, relative to labels of size 1.
    assert torch.allclose(whole, alone, rtol=1e-11, atol=1e-12)
    assert torch.allclose(whole, shuffled, rtol=1e-11, atol=1e-12)


def test_acquisition_does_not_change_when_the_surrogate_is_fitted_again():
    X = codes(20)
    gp = ExactGP()
    gp.fit(X, X[:, :1])
    acquisitions = [ucb(gp, 1.0), log_ei(gp, 2.0)]
    before = [a(X) for a in acquisitions]
    gp.fit(X, -X[:, :1])
    assert all(torch.equal(a(X), b) for a, b in zip(acquisitions, before, strict=True))


def test_names_and_scales_are_told(surrogate):
    assert (ucb(surrogate, 1.0).name, ucb(surrogate, 1.0).is_log) == ("ucb", False)
    assert (log_ei(surrogate, 1.0).name, log_ei(surrogate, 1.0).is_log) == ("log_ei", True)


@pytest.mark.parametrize("kappa", [-0.1, float("nan"), float("inf")])
def test_impossible_kappa_is_refused(surrogate, kappa):
    with pytest.raises(ConfigError, match="kappa"):
        ucb(surrogate, kappa)


def test_best_that_is_not_finite_is_refused(surrogate):
    with pytest.raises(ConfigError, match="best"):
        log_ei(surrogate, float("nan"))
