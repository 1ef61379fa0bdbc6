"""Acquisition functions, frozen for a round: the same object always has the same value.

How a value becomes a reward belongs in `loop.rewards`; which objects are bought, in `loop.selection`.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from math import isfinite, log, pi, sqrt

import torch
from torch import Tensor

from flowscout.errors import ConfigError
from flowscout.surrogates.protocol import Surrogate


@dataclass(frozen=True)
class FrozenAcquisition:
    """Value objects by the belief held when it was made.

    Calling it maps `X`, `n x d`, to values, `n`; larger is better. `is_log` says that the values are
    logarithms already, so that a reward multiplies them instead of exponentiating a shifted copy. Nothing
    in it is random and it keeps the surrogate's state of the moment: fitting the surrogate again changes no
    value, nor does evaluating an object alone or among others (to float64 rounding).
    """

    name: str
    is_log: bool
    evaluate: Callable[[Tensor], Tensor]

    def __call__(self, X: Tensor) -> Tensor:
        """Return the values at `X`, `n x d`: `n`."""
        return self.evaluate(X)


def ucb(surrogate: Surrogate, kappa: float) -> FrozenAcquisition:
    """Return the upper confidence bound `mean + kappa x sd`.

    Raises: ConfigError if `kappa` is negative or not finite.
    Source: Srinivas et al. 2010, arXiv:0912.3995, eq. 6, with a fixed weight.
    """
    if not (isfinite(kappa) and kappa >= 0.0):
        raise ConfigError(
            f"kappa is {kappa!r}, expected a finite number of at least 0. "
            "Start from 1; raise it to explore more, 0 is pure exploitation."
        )
    frozen = copy(surrogate)

    def evaluate(X: Tensor) -> Tensor:
        mean, sd = frozen.mean_sd(X)
        return mean + kappa * sd

    return FrozenAcquisition(name="ucb", is_log=False, evaluate=evaluate)


def log_ei(surrogate: Surrogate, best: float) -> FrozenAcquisition:
    """Return the logarithm of the expected improvement over `best`, which is on the labels' scale.

    Raises: ConfigError if `best` is not finite.
    Source: Ament et al. 2023, arXiv:2310.20708, eqs. 8 and 9.
    """
    if not isfinite(best):
        raise ConfigError(
            f"best is {best!r}, expected a finite label to improve on. Pass the largest one measured so far."
        )
    frozen = copy(surrogate)

    def evaluate(X: Tensor) -> Tensor:
        mean, sd = frozen.mean_sd(X)
        return log_h((mean - best) / sd) + sd.log()

    return FrozenAcquisition(name="log_ei", is_log=True, evaluate=evaluate)


def log_h(u: Tensor) -> Tensor:
    """Return `log(phi(u) + u Phi(u))` elementwise, accurate for float64 down to u = -1e100.

    Above -1 the direct formula keeps its digits. Below, `phi` is taken out: what is left,
    `1 - |u| sqrt(pi/2) erfcx(|u|/sqrt(2))`, cancels to nothing beyond about 1e6 and is replaced by its
    leading term `1/u^2` there.

    Source: Ament et al. 2023, arXiv:2310.20708, eq. 9.
    """
    upper = u.clamp_min(-1.0)
    direct = (torch.exp(-0.5 * upper.square()) / sqrt(2.0 * pi) + upper * torch.special.ndtr(upper)).log()
    size = -u.clamp_max(-1.0)
    bounded = size.clamp_max(1e6)
    log_ratio = (bounded * sqrt(pi / 2.0) * torch.special.erfcx(bounded / sqrt(2.0))).log()
    # expm1 near 0 and log1p far from it: log(1 - exp(w)) without cancellation (Maechler 2012).
    rest = torch.where(log_ratio > -log(2.0), (-torch.expm1(log_ratio)).log(), torch.log1p(-log_ratio.exp()))
    far = -2.0 * size.log()
    return torch.where(
        u > -1.0,
        direct,
        -0.5 * size.square() - 0.5 * log(2.0 * pi) + torch.where(size < 1e6, rest, far),
    )
