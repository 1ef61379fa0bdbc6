import math

import pytest
import torch
from botorch.acquisition.max_value_entropy_search import qLowerBoundMaxValueEntropy, qMaxValueEntropy
from torch import Generator
from wrapped_gp import WrappedGP, fitted_gp, points

from flowscout.errors import ConfigError, ShapeError
from flowscout.surrogates import entropy_search as module
from flowscout.surrogates.as_model import AsModel
from flowscout.surrogates.entropy_search import information_about_maximum, max_value_entropy
from flowscout.surrogates.pending import condition_on

X = points(15, seed=5)
POOL = points(200, seed=8)
PENDING = points(2, seed=6)


def entropy_lost(g):
    """Return by quadrature what the cut at `g` takes of a standard normal's entropy."""
    x = torch.linspace(-12.0, g, 400_001, dtype=torch.float64)
    log_density = -0.5 * x.square() - 0.5 * math.log(2 * math.pi)
    density = log_density.exp()
    mass = torch.trapezoid(density, x)
    entropy = -torch.trapezoid(density / mass * (log_density - mass.log()), x)
    return 0.5 * math.log(2 * math.pi * math.e) - entropy.item()


@pytest.mark.parametrize("g", [-6.0, -2.0, -0.5, 0.0, 0.5, 3.0, 8.0])
def test_information_is_the_entropy_lost_by_the_cut(g):
    value = information_about_maximum(torch.tensor(g, dtype=torch.float64)).item()
    # The quadrature's step of 5e-5, at densities down to 1e-9.
    assert value == pytest.approx(entropy_lost(g), rel=1e-6, abs=1e-9)


def test_information_keeps_its_digits_far_below():
    # The series of the Mills ratio: -log Phi = g^2/2 + log(|g| sqrt(2 pi)) + 1/g^2 - ... and
    # g phi / Phi = -g^2 - 1 + 2/g^2 - ...; what is left out is of the order of 10 / g^4, 1e-7 at -100.
    g = torch.tensor([-1e2, -1e3, -1e6], dtype=torch.float64)
    tail = 0.5 * torch.log(2 * torch.pi * g.square()) - 0.5
    assert torch.allclose(information_about_maximum(g), tail + 2.0 / g.square(), rtol=1e-7)


def test_information_falls_as_the_cut_rises_and_is_never_negative():
    g = torch.linspace(-2000.0, 38.0, 40_001, dtype=torch.float64)
    value = information_about_maximum(g)
    assert bool((value.diff() <= 1e-12).all())
    assert bool((value >= 0.0).all())


def with_maxima(acquisition, values):
    acquisition.posterior_max_values = values.unsqueeze(-1)
    return acquisition


def our_maxima(max_values):
    belief = condition_on(fitted_gp(), None)
    draw = module._gumbel_maxima if max_values == "gumbel" else module._joint_maxima
    return draw(belief, POOL, 64, 0)


@pytest.mark.parametrize("max_values", ["gumbel", "joint"])
def test_value_is_botorchs_for_the_same_maxima(max_values):
    largest = our_maxima(max_values)
    model = AsModel(fitted_gp(), noise_variance=1e-7)
    with torch.no_grad():
        torch.manual_seed(0)
        mes = with_maxima(qMaxValueEntropy(model, POOL, num_y_samples=2**12), largest)(X.unsqueeze(-2))
        lower = with_maxima(qLowerBoundMaxValueEntropy(model, POOL), largest)(X.unsqueeze(-2))
    value = max_value_entropy(fitted_gp(), POOL, max_values=max_values)(X)
    # BoTorch averages over draws of a noisy label, noise 1e-7, and keeps probabilities above 1e-8.
    assert torch.allclose(value, mes, rtol=0.03, atol=0.01)
    assert bool((value >= lower - 1e-9).all())


def test_maxima_have_the_law_of_the_posteriors_maximum():
    draws = fitted_gp().sample(POOL, 20_000, generator=Generator().manual_seed(3)).amax(1)
    belief = condition_on(fitted_gp(), None)
    joint = module._joint_maxima(belief, POOL, 20_000, 1)
    assert joint.mean().item() == pytest.approx(draws.mean().item(), abs=0.02)
    assert joint.std().item() == pytest.approx(draws.std().item(), abs=0.02)


def test_gumbel_draws_have_the_quartiles_of_independent_marginals():
    belief = condition_on(fitted_gp(), None)
    largest = module._gumbel_maxima(belief, POOL, 4_000, 1)
    mean, sd = fitted_gp().mean_sd(POOL)
    independent = mean + sd * torch.randn(20_000, 200, generator=Generator().manual_seed(2), dtype=mean.dtype)
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    # 20,000 draws have quartiles to 0.01 of their spread, which is below 1.
    assert torch.allclose(largest.quantile(levels), independent.amax(1).quantile(levels), atol=0.015)


@pytest.mark.parametrize("max_values", ["gumbel", "joint"])
def test_what_is_pending_has_less_left_to_tell(max_values):
    alone = max_value_entropy(fitted_gp(), POOL, max_values=max_values)
    given = max_value_entropy(fitted_gp(), POOL, PENDING, max_values=max_values)
    assert bool((given(PENDING) < 0.2 * alone(PENDING) + 1e-6).all())


def test_given_pending_the_value_is_the_conditional_information():
    """The same by brute force: each outcome of the pending object is a new label of the model."""
    largest_given = condition_on(fitted_gp(), PENDING[:1], n_draws=16)
    maxima = module._gumbel_maxima(largest_given, POOL, 16, 0)
    values = []
    for outcome, largest in zip(largest_given.outcomes, maxima, strict=True):
        model = fitted_gp().model
        labels = torch.cat([model.train_targets, outcome]).unsqueeze(-1)
        noise = torch.full_like(labels, 1e-2)
        noise[-1] = 1e-6
        again = WrappedGP(noise)
        again.fit(torch.cat([model.train_inputs[0], PENDING[:1]]), labels)
        mean, sd = again.mean_sd(X)
        values.append(information_about_maximum((largest - mean) / sd))
    expected = torch.stack(values).mean(0)
    actual = max_value_entropy(fitted_gp(), POOL, PENDING[:1], n_values=16)(X)
    # The pending outcome has noise 1e-6 in the brute force, none here.
    assert torch.allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_wrong_settings_are_refused():
    with pytest.raises(ShapeError, match="candidates"):
        max_value_entropy(fitted_gp(), POOL[:0])
    with pytest.raises(ConfigError, match="gumbel"):
        max_value_entropy(fitted_gp(), POOL, max_values="exact")
    with pytest.raises(ConfigError, match="n_values"):
        max_value_entropy(fitted_gp(), POOL, n_values=0)
