"""Moments of a standard normal between two bounds, to float64 rounding however far out the bounds lie.

What a bounded label tells a Gaussian process belongs in `censored.py`.
"""

from math import log, pi
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowscout.errors import LabelError

_NODES = 64
"""Gauss-Legendre nodes: moments of the whole normal, the widest case, come out to 1e-13 with 64."""

_REACH = 80.0
"""Twice the fall of the log-density at which the rest is left out: exp(-40) is below 1e-17."""


class IntervalMoments(NamedTuple):
    """Of a standard normal between two bounds: the log of its mass there, its mean and its variance."""

    log_mass: Tensor
    mean: Tensor
    variance: Tensor


def interval_moments(lower: Tensor, upper: Tensor) -> IntervalMoments:
    """Return the moments of a standard normal cut to `lower < x < upper`, elementwise; bounds may be infinite.

    The textbook ratios of phi and Phi cancel in the tail (at 1e3 the variance, 1e-6, would be the difference
    of two numbers near 1e6). Instead the density is integrated from its highest point in the interval,
    `p`, as far as it matters, by Gauss-Legendre quadrature in the distance `t` from `p`:
    `exp(-t (2 p + t) / 2)` has no large exponent, and mean and variance are sums of positive terms.

    Raises: LabelError if a lower bound is not below its upper bound.
    """
    if not bool((lower < upper).all()):
        bad = int((~(lower < upper)).flatten().nonzero()[0].item())
        raise LabelError(
            f"bounds {lower.flatten()[bad].item()!r} and {upper.flatten()[bad].item()!r} at place {bad}, "
            "expected the lower one below the upper one. A value that is known exactly is not censored."
        )
    peak = torch.zeros_like(lower).clamp(lower, upper)
    right = torch.minimum(upper - peak, _reach(peak))
    left = torch.minimum(peak - lower, _reach(-peak))
    nodes, weights = (torch.from_numpy(part).to(lower) for part in np.polynomial.legendre.leggauss(_NODES))
    width = (right + left).unsqueeze(-1)
    t = width * (0.5 + 0.5 * nodes) - left.unsqueeze(-1)
    mass = 0.5 * width * weights * torch.exp(-0.5 * t * (2.0 * peak.unsqueeze(-1) + t))
    total = mass.sum(-1)
    distance = (mass * t).sum(-1) / total
    variance = (mass * (t - distance.unsqueeze(-1)).square()).sum(-1) / total
    log_mass = total.log() - 0.5 * peak.square() - 0.5 * log(2.0 * pi)
    return IntervalMoments(log_mass, peak + distance, variance)


def _reach(peak: Tensor) -> Tensor:
    """Return how far beyond `peak`, away from 0 where that is positive, the density still matters."""
    slope = peak.clamp_min(0.0)
    return _REACH / (slope + (slope.square() + _REACH).sqrt())
