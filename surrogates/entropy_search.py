"""Max-value entropy search: how much an object's label would tell about the largest label there is.

The largest labels are drawn once, on a candidate set that stays the same for the round.
"""

from math import log, pi, sqrt
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from flowscout.errors import ConfigError, ShapeError
from flowscout.surrogates.acquisition import FrozenAcquisition
from flowscout.surrogates.kernels import cholesky
from flowscout.surrogates.pending import PendingBelief, condition_on, joint_moments
from flowscout.surrogates.protocol import Surrogate

MaxValues = Literal["gumbel", "joint"]

_BISECTIONS = 60
"""Halvings of the bracket of a quantile: 2^-60 of its width is below float64's resolution."""


def max_value_entropy(
    surrogate: Surrogate,
    candidates: Tensor,
    X_pending: Tensor | None = None,
    *,
    max_values: MaxValues = "gumbel",
    n_values: int = 64,
    seed: int = 0,
) -> FrozenAcquisition:
    """Return the mutual information, in nats, between an object's noise-free label and the largest label.

    The largest label `y*` is drawn `n_values` times over `candidates`, `c x d` (put the labelled objects
    among them): from a Gumbel law with the quartiles of the product of the marginals, which takes a large
    set, or from joint draws of the posterior, which takes the cube of its size. Given a draw, the label is a
    normal cut off at `y*`, and the value is the mean over draws of `g phi(g) / (2 Phi(g)) - log Phi(g)`,
    `g = (y* - mean) / sd`. Given pending objects, `p x d`, each draw of `y*` comes with outcomes of those,
    and both the label and `y*` are conditioned on them.

    Raises: ConfigError for an unknown way to draw, or no draws; ShapeError for an empty candidate set.
    Source: Wang & Jegelka 2017, arXiv:1703.01968, eq. 6 and section 3.1; the conditioning on pending outcomes
    that of Takeno et al. 2020, arXiv:1901.08275, with outcomes and maxima drawn jointly.
    """
    _check(candidates, max_values, n_values)
    belief = condition_on(surrogate, X_pending, n_draws=n_values, seed=seed)
    if max_values == "gumbel":
        largest = _gumbel_maxima(belief, candidates, n_values, seed)
    else:
        largest = _joint_maxima(belief, candidates, n_values, seed)

    def evaluate(X: Tensor) -> Tensor:
        mean, sd = belief.mean_sd(X)
        return information_about_maximum((largest.unsqueeze(-1) - mean) / sd).mean(0)

    return FrozenAcquisition(name="max_value_entropy", is_log=False, evaluate=evaluate)


def information_about_maximum(g: Tensor) -> Tensor:
    """Return how much entropy a standard normal loses by being cut off above at `g`, elementwise, in nats.

    `g phi(g) / (2 Phi(g)) - log Phi(g)`. Below 0 both terms grow with `g^2 / 2` and cancel; with
    `r = phi(g) / Phi(g)`, a scaled error function, they are `g (r + g) / 2` and a logarithm. `r + g` loses
    its digits in turn, and beyond -1e3 is replaced by its series, `g (r + g) = -1 + 2 / g^2 - ...`.
    """
    upper = g.clamp_min(0.0)
    log_cdf = torch.special.log_ndtr(upper)
    direct = 0.5 * upper * torch.exp(-0.5 * upper.square() - 0.5 * log(2.0 * pi) - log_cdf) - log_cdf
    lower = g.clamp_max(0.0)
    scaled = torch.special.erfcx(-lower / sqrt(2.0))
    near = lower.clamp_min(-1e3)
    product = near * (sqrt(2.0 / pi) / torch.special.erfcx(-near / sqrt(2.0)) + near)
    far = g.clamp_max(-1e3)
    product = torch.where(g > -1e3, product, -1.0 + 2.0 / far.square() - 10.0 / far.pow(4))
    return torch.where(g > 0.0, direct, 0.5 * product - (0.5 * scaled).log())


def _joint_maxima(belief: PendingBelief, candidates: Tensor, n_values: int, seed: int) -> Tensor:
    """Return one largest label, `n_values`, for each draw of the belief, from joint draws at `c x d`."""
    n_pending = len(belief.X_pending)
    if n_pending == 0:
        generator = Generator(device=candidates.device).manual_seed(seed)
        return belief.surrogate.sample(candidates, n_values, generator=generator).amax(1)
    mean, covariance = joint_moments(belief.surrogate, torch.cat([belief.X_pending, candidates]))
    explained = torch.linalg.solve_triangular(belief.factor, covariance[:n_pending, n_pending:], upper=False)
    left = covariance[n_pending:, n_pending:] - explained.mT @ explained
    generator = Generator(device=candidates.device).manual_seed(seed)
    noise = torch.randn(n_values, len(candidates), generator=generator, dtype=mean.dtype, device=candidates.device)
    draws = mean[n_pending:] + belief.base @ explained + noise @ cholesky(left).mT
    return torch.maximum(draws.amax(1), belief.outcomes.amax(1))


def _gumbel_maxima(belief: PendingBelief, candidates: Tensor, n_values: int, seed: int) -> Tensor:
    """Return `n_values` largest labels from the Gumbel law fitted to the marginals at `candidates`, `c x d`.

    The law is that of each draw of the belief, and the draws of the law are stratified.
    """
    mean, sd = belief.mean_sd(candidates)  # s x c, c
    quartiles = torch.stack([_quantile_of_maximum(mean, sd, p) for p in (0.25, 0.5, 0.75)])  # 3 x s
    width = (quartiles[2] - quartiles[0]) / (log(log(4.0)) - log(log(4.0 / 3.0)))
    centre = quartiles[1] + width * log(log(2.0))
    generator = Generator().manual_seed(seed)
    strata = (torch.randperm(n_values, generator=generator) + torch.rand(n_values, generator=generator)) / n_values
    uniform = strata.to(mean).clamp(1e-12, 1.0 - 1e-12)
    largest = centre - width * (-uniform.log()).log()
    if len(belief.X_pending):
        largest = torch.maximum(largest, belief.outcomes.amax(1))
    return largest


def _quantile_of_maximum(mean: Tensor, sd: Tensor, probability: float) -> Tensor:
    """Return where the product of the normal laws with `mean`, `s x c`, and `sd`, `c`, is `probability`: `s`."""
    low, high = (mean - 8.0 * sd).amin(1), (mean + 8.0 * sd).amax(1)
    target = log(probability)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        too_low = torch.special.log_ndtr((middle.unsqueeze(-1) - mean) / sd).sum(1) < target
        low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
    return 0.5 * (low + high)


def _check(candidates: Tensor, max_values: str, n_values: int) -> None:
    if candidates.ndim != 2 or len(candidates) == 0:
        raise ShapeError(
            f"candidates have shape {tuple(candidates.shape)}, expected c x d with at least one row. "
            "Pass the pool or a uniform sample of the space, with the labelled objects."
        )
    if max_values not in get_args(MaxValues):
        raise ConfigError(
            f"max_values is {max_values!r}, expected one of {', '.join(get_args(MaxValues))}. "
            "Start from gumbel, whose cost grows linearly with the candidates."
        )
    if n_values < 1:
        raise ConfigError(f"n_values is {n_values!r}, expected at least 1. 16 to 64 suffice.")
