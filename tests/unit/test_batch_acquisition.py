import math

import pytest
import torch
from botorch.acquisition import (
    LogExpectedImprovement,
    UpperConfidenceBound,
    qLogExpectedImprovement,
    qUpperConfidenceBound,
)
from botorch.sampling.normal import SobolQMCNormalSampler
from wrapped_gp import fitted_gp, points

from flowscout.errors import ConfigError, ShapeError
from flowscout.surrogates.acquisition import log_ei, ucb
from flowscout.surrogates.batch_acquisition import q_log_ei, q_ucb
from flowscout.surrogates.pending import condition_on, joint_moments

X = points(20, seed=5)
PENDING = points(3, seed=6)


def botorch_batch_value(make, X, X_pending):
    """Return BoTorch's value of the pending points and each row of `X`, over 2^14 quasi-random draws."""
    sampler = SobolQMCNormalSampler(torch.Size([2**14]), seed=0)
    with torch.no_grad():
        return make(fitted_gp().model, sampler=sampler, X_pending=X_pending)(X.unsqueeze(-2))


@pytest.mark.parametrize("best", [-0.5, 0.7, 1.2])
def test_q_log_ei_without_pending_is_log_ei_and_botorchs(best):
    expected = LogExpectedImprovement(fitted_gp().model, best_f=best)(X.unsqueeze(-2)).detach()
    value = q_log_ei(fitted_gp(), best)(X)
    assert torch.equal(value, log_ei(fitted_gp(), best)(X))
    # 1e-6: far in the tail both lose digits of the variance, which comes by two routes.
    assert torch.allclose(value, expected, rtol=1e-6)


def test_q_ucb_without_pending_is_ucb_and_botorchs():
    expected = UpperConfidenceBound(fitted_gp().model, beta=2.25)(X.unsqueeze(-2)).detach()
    assert torch.equal(q_ucb(fitted_gp(), 1.5)(X), ucb(fitted_gp(), 1.5)(X))
    assert torch.allclose(q_ucb(fitted_gp(), 1.5)(X), expected, rtol=1e-8)


@pytest.mark.parametrize("best", [-0.5, 0.7])
def test_q_log_ei_of_a_batch_is_botorchs(best):
    def make(model, **options):
        # Sharp smoothing, so that what is compared is the expected improvement itself.
        return qLogExpectedImprovement(model, best, tau_max=1e-4, tau_relu=1e-8, **options)

    value = q_log_ei(fitted_gp(), best, PENDING, incremental=False, n_draws=2**14)(X)
    # Quasi-Monte-Carlo error of 2^14 draws in 4 dimensions, of an integrand with kinks: about 1e-3 relative.
    assert torch.allclose(value, botorch_batch_value(make, X, PENDING), rtol=0.0, atol=5e-3)


@pytest.mark.parametrize("kappa", [0.5, 2.0])
def test_q_ucb_of_a_batch_is_botorchs(kappa):
    def make(model, **options):
        return qUpperConfidenceBound(model, beta=kappa**2, **options)

    value = q_ucb(fitted_gp(), kappa, PENDING, n_draws=2**14)(X)
    # As above; values are near 1.
    assert torch.allclose(value, botorch_batch_value(make, X, PENDING), rtol=0.0, atol=3e-3)


def test_one_pending_object_is_integrated_as_by_quadrature():
    belief_mean, belief_covariance = joint_moments(fitted_gp(), torch.cat([PENDING[:1], X[:1]]))
    nodes, weights = torch.meshgrid(*[torch.linspace(-8, 8, 801, dtype=torch.float64)] * 2, indexing="ij")
    z = torch.stack([nodes, weights], dim=-1)
    density = torch.exp(-0.5 * z.square().sum(-1)) / (2 * math.pi) * 0.02**2
    f = belief_mean + z @ torch.linalg.cholesky(belief_covariance).mT
    best, kappa = 0.4, 1.3
    improvement = ((f.amax(-1) - best).clamp_min(0.0) * density).sum()
    optimistic = belief_mean + kappa * math.sqrt(math.pi / 2) * (f - belief_mean).abs()
    bound = (optimistic.amax(-1) * density).sum()
    ei = q_log_ei(fitted_gp(), best, PENDING[:1], incremental=False, n_draws=2**16)(X[:1])
    reach = q_ucb(fitted_gp(), kappa, PENDING[:1], n_draws=2**16)(X[:1])
    # One-dimensional Sobol draws of a piecewise smooth function: error about 1 / n_draws.
    assert ei.exp().item() == pytest.approx(improvement.item(), rel=3e-4)
    assert reach.item() == pytest.approx(bound.item(), rel=3e-4)


def test_increment_is_the_batch_less_the_pending():
    whole = q_log_ei(fitted_gp(), 0.3, PENDING, incremental=False)
    belief = condition_on(fitted_gp(), PENDING)
    of_pending = (belief.outcomes.amax(1) - 0.3).clamp_min(0.0).mean()
    added = q_log_ei(fitted_gp(), 0.3, PENDING)(X).exp()
    # The same draws on both sides: rounding only.
    assert torch.allclose(whole(X).exp() - of_pending, added, rtol=1e-9, atol=1e-12)


def test_an_object_that_is_pending_adds_nothing():
    # Its conditional sd is kept at 1e-6 of its own, which is all that is left of its value.
    assert (q_log_ei(fitted_gp(), 0.0, PENDING)(PENDING) < math.log(1e-6)).all()
    reach = q_ucb(fitted_gp(), 1.0, PENDING)
    assert torch.allclose(reach(PENDING), reach(PENDING[:1]).expand(3), atol=1e-5)
    assert (reach(X) >= reach(PENDING[:1]) - 1e-5).all()


def test_without_optimism_q_ucb_is_the_larger_mean():
    mean, _ = fitted_gp().mean_sd(torch.cat([PENDING, X]))
    assert torch.allclose(q_ucb(fitted_gp(), 0.0, PENDING)(X), torch.maximum(mean[3:], mean[:3].max()))


def test_repeated_pending_objects_count_once():
    twice = q_log_ei(fitted_gp(), 0.3, torch.cat([PENDING, PENDING]), n_draws=2**12)(X)
    once = q_log_ei(fitted_gp(), 0.3, PENDING, n_draws=2**12)(X)
    # Different draws of the same law, 2^12 quasi-random ones, of improvements near 0.5.
    assert torch.allclose(twice.exp(), once.exp(), rtol=0.0, atol=1e-3)


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="best"):
        q_log_ei(fitted_gp(), math.nan)
    with pytest.raises(ConfigError, match="kappa"):
        q_ucb(fitted_gp(), -1.0)
    with pytest.raises(ShapeError, match="one row per pending"):
        q_ucb(fitted_gp(), 1.0, PENDING[0])
    with pytest.raises(ConfigError, match="n_draws"):
        q_ucb(fitted_gp(), 1.0, PENDING, n_draws=0)
