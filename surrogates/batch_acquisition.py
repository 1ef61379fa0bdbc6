"""Acquisitions that know what is pending: the worth of adding one object to a batch that is under way.

BoTorch averages over draws of the whole batch. Here only the pending outcomes are drawn; given them, an
object's own contribution is a normal integral in closed form, so that its value carries no sampling noise.
"""

from math import isfinite, log, pi, sqrt

import torch
from torch import Tensor

from flowscout.errors import ConfigError
from flowscout.surrogates.acquisition import FrozenAcquisition, log_h
from flowscout.surrogates.pending import condition_on
from flowscout.surrogates.protocol import Surrogate


def q_log_ei(
    surrogate: Surrogate,
    best: float,
    X_pending: Tensor | None = None,
    *,
    incremental: bool = True,
    n_draws: int = 128,
    seed: int = 0,
) -> FrozenAcquisition:
    """Return the logarithm of the improvement over `best` that an object is expected to add to `X_pending`.

    With `f_p` the outcomes of the pending objects, `p x d`, and `m = max(best, f_p)`, it is
    `log E[max(f(x), m) - m]`; not `incremental`, the value of the whole batch, `log E[max(f(x), m) - best]`,
    as BoTorch's qLogExpectedImprovement. Both have the same best object; the first is the reward to sample
    by, because the pending objects' own worth, a constant, would flatten the second. Each draw of `f_p`
    contributes `s h((mu - m) / s)` exactly, so that without pending objects this is `log_ei`.

    Raises: ConfigError if `best` is not finite.
    Source: Ament et al. 2023, arXiv:2310.20708, section 4.2, with the last object integrated in closed form in
    place of smoothed maxima.
    """
    if not isfinite(best):
        raise ConfigError(
            f"best is {best!r}, expected a finite label to improve on. Pass the largest one measured so far."
        )
    belief = condition_on(surrogate, X_pending, n_draws=n_draws, seed=seed)
    reached = _best_of(belief.outcomes, best)  # s
    # A draw in which nothing pending improves has no gain yet, log 0, which logaddexp leaves out.
    log_gain = (reached - best).log()

    def evaluate(X: Tensor) -> Tensor:
        mean, sd = belief.mean_sd(X)
        added = log_h((mean - reached.unsqueeze(-1)) / sd) + sd.log()  # s x n
        total = added if incremental else torch.logaddexp(added, log_gain.unsqueeze(-1))
        return total.logsumexp(0) - log(len(belief))

    return FrozenAcquisition(name="q_log_ei", is_log=True, evaluate=evaluate)


def q_ucb(
    surrogate: Surrogate,
    kappa: float,
    X_pending: Tensor | None = None,
    *,
    n_draws: int = 128,
    seed: int = 0,
) -> FrozenAcquisition:
    """Return the upper confidence bound of the batch of `X_pending`, `p x d`, and one more object.

    It is `E max_i (mu_i + kappa sqrt(pi/2) |f_i - mu_i|)` over the pending objects and `x`: for one object
    `mean + kappa x sd`, which is `ucb`. BoTorch's `beta` is `kappa` squared. An object that the pending ones
    make certain adds nothing to it.

    Raises: ConfigError if `kappa` is negative or not finite.
    Source: Wilson et al. 2017, arXiv:1712.00424, appendix A, with the last object integrated in closed form.
    """
    if not (isfinite(kappa) and kappa >= 0.0):
        raise ConfigError(
            f"kappa is {kappa!r}, expected a finite number of at least 0. "
            "Start from 1; raise it to explore more, 0 is pure exploitation."
        )
    belief = condition_on(surrogate, X_pending, n_draws=n_draws, seed=seed)
    weight = kappa * sqrt(pi / 2.0)
    optimistic = belief.mean + weight * (belief.outcomes - belief.mean).abs()  # s x p
    reached = _best_of(optimistic, -torch.inf)  # s

    def evaluate(X: Tensor) -> Tensor:
        centre, own_sd = belief.surrogate.mean_sd(X)
        if len(belief.X_pending) == 0:
            return centre + kappa * own_sd
        if weight == 0.0:
            return torch.maximum(centre, reached.max())
        mean, sd = belief.mean_sd(X)
        return _expected_reach(reached.unsqueeze(-1), centre, mean - centre, sd, weight).mean(0)

    return FrozenAcquisition(name="q_ucb", is_log=False, evaluate=evaluate)


def _expected_reach(reached: Tensor, centre: Tensor, shift: Tensor, sd: Tensor, weight: float) -> Tensor:
    """Return `E max(reached, centre + weight |z|)` for `z ~ N(shift, sd^2)`, all broadcast to `s x n`.

    With `t = (reached - centre) / weight` it is `reached + weight E(|z| - t)+`; for `t` below 0 the positive
    part is the whole, `E|z| - t`.
    """
    threshold = (reached - centre) / weight
    above = threshold.clamp_min(0.0)
    excess = sd * (_h((shift - above) / sd) + _h((-shift - above) / sd))
    return reached + weight * (excess + (above - threshold))


def _h(u: Tensor) -> Tensor:
    """Return `phi(u) + u Phi(u)` elementwise, through its logarithm, which keeps the digits of the tail."""
    return log_h(u).exp()


def _best_of(values: Tensor, least: float) -> Tensor:
    """Return the largest of each row of `values`, `s x p`, and of `least`: `s`."""
    floor = torch.full((len(values), 1), least, dtype=values.dtype, device=values.device)
    return torch.cat([values, floor], dim=1).amax(1)
