"""Same object, same value: alone, among others, and after the surrogate is fitted again."""

import pytest
import torch
from botorch.acquisition import PosteriorMean, qLogExpectedImprovement, qSimpleRegret
from botorch.acquisition.max_value_entropy_search import qLowerBoundMaxValueEntropy
from botorch.posteriors.ensemble import EnsemblePosterior
from torch import Generator
from wrapped_gp import WrappedGP, fitted_gp, points

from flowscout.errors import ConfigError, NonFiniteError, ObjectError
from flowscout.surrogates import ExactGP
from flowscout.surrogates.as_model import from_botorch
from flowscout.surrogates.batch_acquisition import q_log_ei, q_ucb
from flowscout.surrogates.entropy_search import max_value_entropy
from flowscout.surrogates.pending import condition_on, joint_moments
from flowscout.surrogates.posterior_draw import HasPaths, thompson


class LineGP(WrappedGP):
    """A surrogate with paths: random lines."""

    def path(self, generator):
        slope = torch.randn(2, generator=generator, dtype=torch.float64)
        return lambda X: X @ slope


def botorch_q_log_ei(surrogate, pending):
    return from_botorch(
        lambda model: qLogExpectedImprovement(model, 0.5, X_pending=pending),
        surrogate,
        name="q_log_ei",
        is_log=True,
    )


def botorch_gibbon(surrogate, pool):
    return from_botorch(
        lambda model: qLowerBoundMaxValueEntropy(model, pool), surrogate, name="gibbon", is_log=False
    )


POOL = points(40, seed=3)
MAKERS = {
    "q_log_ei": lambda s, X, P: q_log_ei(s, 0.5, P),
    "q_log_ei whole": lambda s, X, P: q_log_ei(s, 0.5, P, incremental=False),
    "q_log_ei alone": lambda s, X, P: q_log_ei(s, 0.5),
    "q_ucb": lambda s, X, P: q_ucb(s, 1.0, P),
    "max_value_entropy": lambda s, X, P: max_value_entropy(s, X, P),
    "max_value_entropy alone": lambda s, X, P: max_value_entropy(s, X),
    "max_value_entropy joint": lambda s, X, P: max_value_entropy(s, X, P, max_values="joint"),
    "thompson": lambda s, X, P: thompson(s, pool=X, generator=Generator().manual_seed(0)),
    "botorch q_log_ei": lambda s, X, P: botorch_q_log_ei(s, P),
    "botorch gibbon": lambda s, X, P: botorch_gibbon(s, X),
}


def codes(n, seed=0):
    return torch.randint(4, (n, 8), generator=Generator().manual_seed(seed)).to(torch.float64)


def exact_gp():
    X = codes(30, seed=1)
    gp = ExactGP()
    gp.fit(X, X[:, :2].sum(-1, keepdim=True))
    return gp


class Members:
    """An ensemble of eight random waves."""

    def __init__(self):
        self.fit(POOL[:1], torch.zeros(1, 1, dtype=torch.float64))

    def fit(self, X, Y):
        seed = int(1000 * Y.abs().sum().item())
        generator = Generator().manual_seed(seed)
        self.waves = torch.randn(8, 2, generator=generator, dtype=torch.float64)

    def posterior(self, X):
        return EnsemblePosterior((X @ self.waves.mT).mul(2.0).sin().mT.unsqueeze(-1))

    def mean_sd(self, X):
        posterior = self.posterior(X)
        return posterior.mean.squeeze(-1), posterior.variance.squeeze(-1).sqrt()

    def sample(self, X, n_draws, *, generator):
        return self.posterior(X).values.squeeze(-1)[torch.randint(8, (n_draws,), generator=generator)]


SETTINGS = {
    "ensemble": (Members, POOL, points(12, seed=4)),
    "features": (fitted_gp, POOL, points(4, seed=4)),
    # A pool with repeated rows, and one that is pending already.
    "codes": (exact_gp, torch.cat([codes(40, seed=2), codes(8, seed=2)]), codes(4, seed=2)),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", MAKERS)
def test_same_object_has_the_same_value_however_it_is_asked_for(name, setting):
    make_surrogate, pool, pending = SETTINGS[setting]
    surrogate = make_surrogate()
    acquisition = MAKERS[name](surrogate, pool, pending)
    whole = acquisition(pool)
    alone = torch.cat([acquisition(x.unsqueeze(0)) for x in pool])
    shuffled = acquisition(pool.flip(0)).flip(0)
    # Float64 rounding of joint covariances of up to 60 rows. A logarithm of the sd that is left of a pending
    # object amplifies it: there the sd is a millionth, and 1e-10 of it 1e-16 of the object's own.
    kept = alone > -30.0
    assert torch.allclose(whole[kept], alone[kept], rtol=1e-6, atol=1e-8)
    assert torch.allclose(whole[kept], shuffled[kept], rtol=1e-6, atol=1e-8)
    assert bool((whole[~kept] < -20.0).all())
    assert kept.sum() > 30


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", MAKERS)
def test_fitting_the_surrogate_again_changes_no_value(name, setting):
    make_surrogate, pool, pending = SETTINGS[setting]
    surrogate = make_surrogate()
    acquisition = MAKERS[name](surrogate, pool, pending)
    asked_first = MAKERS[name](surrogate, pool, pending)(pool)
    torch.manual_seed(123)
    surrogate.fit(pool[:20], -pool[:20, :1])
    assert torch.equal(acquisition(pool), asked_first)


def test_a_path_is_preferred_and_kept():
    surrogate = LineGP()
    surrogate.fit(POOL[:5], POOL[:5, :1])
    assert isinstance(surrogate, HasPaths)
    assert not isinstance(fitted_gp(), HasPaths)
    draw = thompson(surrogate, generator=Generator().manual_seed(0))
    first = draw(POOL)
    surrogate.fit(POOL[:5], -POOL[:5, :1])
    assert torch.equal(draw(POOL), first)
    assert not torch.equal(thompson(surrogate, generator=Generator().manual_seed(1))(POOL), first)
    assert (draw.name, draw.is_log) == ("thompson", False)


def test_a_draw_on_a_pool_is_the_surrogates_own():
    generator = Generator().manual_seed(7)
    draw = thompson(fitted_gp(), pool=POOL, generator=generator)
    expected = fitted_gp().sample(POOL, 1, generator=Generator().manual_seed(7))[0]
    assert torch.equal(draw(POOL.flip(0)), expected.flip(0))


def test_a_draw_says_which_object_it_does_not_know():
    draw = thompson(fitted_gp(), pool=POOL, generator=Generator())
    with pytest.raises(ObjectError, match="row 1 of 2"):
        draw(torch.stack([POOL[0], POOL[0] + 1.0]))
    with pytest.raises(ConfigError, match="no paths"):
        thompson(fitted_gp(), generator=Generator())


def test_scales_are_told():
    told = {name: make(fitted_gp(), POOL, POOL[:2]).is_log for name, make in MAKERS.items()}
    assert {name for name, is_log in told.items() if is_log} == {name for name in told if "log_ei" in name}


def test_any_botorch_acquisition_can_be_frozen():
    surrogate = fitted_gp()
    mean = from_botorch(PosteriorMean, surrogate, name="mean", is_log=False)
    assert torch.allclose(mean(POOL), surrogate.mean_sd(POOL)[0])
    before = torch.random.get_rng_state()
    regret = from_botorch(qSimpleRegret, surrogate, name="regret", is_log=False)
    # 512 quasi-random draws of a normal have their mean to about 1e-3 sd.
    assert torch.allclose(regret(POOL), mean(POOL), atol=5e-3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_posterior_without_a_factor_says_what_to_do():
    class Singular(WrappedGP):
        def posterior(self, X):
            raise torch.linalg.LinAlgError("not positive definite")

    surrogate = Singular()
    surrogate.fit(POOL[:5], POOL[:5, :1])
    with pytest.raises(NonFiniteError, match="linear operator"):
        q_ucb(surrogate, 1.0, POOL[:2])


def test_moments_of_an_ensemble_are_those_of_its_members():
    posterior = Members().posterior(POOL)
    mean, covariance = joint_moments(Members(), POOL)
    values = posterior.values.squeeze(-1)
    assert torch.allclose(mean, values.mean(0))
    assert torch.allclose(covariance.diagonal(), values.var(0))
    expected = torch.cov(values.mT) * 7 / 8
    off = ~torch.eye(40, dtype=torch.bool)
    assert torch.allclose(covariance[off], expected[off])


def test_more_pending_objects_than_members_leave_something_open():
    belief = condition_on(Members(), points(12, seed=4))
    _, sd = belief.mean_sd(POOL)
    assert bool((sd > 0.2 * Members().mean_sd(POOL)[1]).all())


def test_a_posterior_that_is_not_gaussian_is_refused():
    class Odd(WrappedGP):
        def posterior(self, X):
            return object()

    surrogate = Odd()
    surrogate.fit(POOL[:5], POOL[:5, :1])
    with pytest.raises(ConfigError, match="Gaussian"):
        q_ucb(surrogate, 1.0, POOL[:2])
