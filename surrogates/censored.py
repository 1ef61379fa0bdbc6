"""Labels known only as "less than" or "more than" (or between two values), as Gaussian sites for a GP.

A Gaussian process that takes a noise for each label needs nothing else: the sites' means stand in for the
labels and the sites' variances for their noise. What replicates say about noise belongs in `noise.py`.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from flowscout.errors import LabelError, ShapeError
from flowscout.surrogates.kernels import cholesky
from flowscout.surrogates.truncated import interval_moments

_log = logging.getLogger(__name__)

_TOLERANCE = 1e-7
"""Change of a sweep at which the sites are settled, in prior standard deviations."""

_MAX_SWEEPS = 400

_PATIENCE = 10
"""Sweeps in which the change must have fallen; else the sites swing to and fro and the step is shortened."""

_LEAST_PRECISION = 1e-10
"""Of a site, in units of the prior's: a bound that says nothing leaves a wide site, not an infinite one."""

_LEAST_VARIANCE = 1e-10
"""Of a bounded value given all that was measured, in units of the prior's."""


@dataclass(frozen=True)
class Sites:
    """Gaussian stand-ins for `n` bounded values, and what all the others say about each.

    `cavity_mean` and `cavity_variance`, `n`, are the belief about each latent value without its own site: the
    leave-one-out prediction.
    """

    mean: Tensor
    variance: Tensor
    cavity_mean: Tensor
    cavity_variance: Tensor
    sweeps: int
    converged: bool


def censored_sites(
    K: Tensor, noise: Tensor | float, lower: Tensor, upper: Tensor, y: Tensor, is_censored: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a label and a noise variance for each row, `n` and `n`, that a GP takes in place of the bounds.

    The prior is `f ~ N(0, K)`, `K` being `n x n`: subtract the prior mean from labels and bounds. `noise` is
    the variance of a measurement, `n` or one for all. Row `i` is either measured as `y_i = f_i + e_i`, or,
    where `is_censored`, all that is known is `lower_i < f_i + e_i < upper_i`, infinite where there is no such
    bound; `y` is not read there, and the bounds not elsewhere. Measured rows come back as they are. Of a
    bounded row, the site is the normal that, times what all other rows say, has the mean and the variance
    of the truth. The noise of a site is not that of a measurement: it is small where the bound is at odds with
    everything else and large where it says nothing new.

    Raises: ShapeError for lengths that differ; LabelError, naming the row, for a label or noise that is not
    finite, or bounds out of order.
    Source: Minka 2001, arXiv:1301.2294 (expectation propagation); Rasmussen & Williams 2006, section 3.6,
    with parallel updates and damping; Groot & Lucas 2012 use it for censored regression.
    """
    noise = _check(K, noise, lower, upper, y, is_censored)
    site_mean, site_variance = y.clone(), noise.clone()
    bounded = is_censored.nonzero().flatten()
    if len(bounded) == 0:
        return site_mean, site_variance
    mean, covariance = _given_measured(K, noise, y, is_censored)
    sites = fit_sites(mean, covariance, noise[bounded], lower[bounded], upper[bounded])
    site_mean[bounded], site_variance[bounded] = sites.mean, sites.variance
    return site_mean, site_variance


def fit_sites(mean: Tensor, covariance: Tensor, noise: Tensor, lower: Tensor, upper: Tensor) -> Sites:
    """Return Gaussian sites for `lower < f + e < upper` under `f ~ N(mean, covariance)`, `n` and `n x n`.

    `e` has variances `noise`, `n`, which may be 0. All sites are updated together, each sweep half-way to its
    target: whole steps swing to and fro where rows are strongly correlated, shorter ones are slow.
    """
    prior = covariance.diagonal()
    precision = torch.zeros_like(mean)
    shift = torch.zeros_like(mean)  # precision times mean of each site, relative to `mean`
    marginal_mean, marginal_variance = torch.zeros_like(mean), prior.clone()
    low, high = lower - mean, upper - mean
    step, change, sweep = 0.5, float("inf"), 0
    changes: list[float] = []
    while change >= _TOLERANCE and sweep < _MAX_SWEEPS:
        sweep += 1
        cavity_mean, cavity_variance = _cavity(marginal_mean, marginal_variance, precision, shift)
        target_mean, target_variance = _tilted(cavity_mean, cavity_variance, noise, low, high)
        new_precision = (1.0 / target_variance - 1.0 / cavity_variance).clamp_min(_LEAST_PRECISION / prior.max())
        new_shift = target_mean / target_variance - cavity_mean / cavity_variance
        precision = precision + step * (new_precision - precision)
        shift = shift + step * (new_shift - shift)
        before_mean, before_variance = marginal_mean, marginal_variance
        marginal_mean, marginal_variance = _marginals(covariance, precision, shift)
        moved = (marginal_mean - before_mean).abs() / prior.sqrt()
        change = max(moved.max().item(), ((marginal_variance - before_variance).abs() / prior).max().item())
        changes.append(change)
        if sweep % _PATIENCE == 0 and sweep > _PATIENCE and change > 0.9 * changes[-1 - _PATIENCE]:
            step = 0.5 * step
    if change >= _TOLERANCE:
        _log.warning("the sites of %d bounded labels still move by %.2g after %d sweeps", len(mean), change, sweep)
    cavity_mean, cavity_variance = _cavity(marginal_mean, marginal_variance, precision, shift)
    return Sites(
        mean=mean + shift / precision,
        variance=1.0 / precision,
        cavity_mean=mean + cavity_mean,
        cavity_variance=cavity_variance,
        sweeps=sweep,
        converged=change < _TOLERANCE,
    )


def _tilted(mean: Tensor, variance: Tensor, noise: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of `f ~ N(mean, variance)` given `lower < f + e < upper`, each `n`.

    The noisy value is a cut-off normal; `f` given the noisy value is linear in it.
    """
    total = variance + noise
    sd = total.sqrt()
    cut = interval_moments((lower - mean) / sd, (upper - mean) / sd)
    gain = variance / total
    return mean + gain * sd * cut.mean, gain * noise + gain.square() * total * cut.variance


def _cavity(mean: Tensor, variance: Tensor, precision: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return each marginal without its own site. Sites of log-concave likelihoods never take all of it."""
    left = (1.0 / variance - precision).clamp_min(1e-12 / variance)
    return (mean / variance - shift) / left, 1.0 / left


def _marginals(covariance: Tensor, precision: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and variance, `n`, of `N(0, covariance)` times the sites.

    Through `B = I + S covariance S`, `S` being the roots of the precisions, whose eigenvalues are at least 1.
    Source: Rasmussen & Williams 2006, eqs. 3.67 and 3.68.
    """
    root = precision.sqrt()
    B = torch.eye(len(root)).to(covariance) + root.unsqueeze(-1) * covariance * root
    half = torch.linalg.solve_triangular(cholesky(B), root.unsqueeze(-1) * covariance, upper=False)
    variance = (covariance.diagonal() - half.square().sum(0)).clamp_min(1e-14 * covariance.diagonal())
    return covariance @ shift - half.mT @ (half @ shift), variance


def _given_measured(K: Tensor, noise: Tensor, y: Tensor, is_censored: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of the bounded rows' values given the rows that were measured."""
    bounded, measured = is_censored.nonzero().flatten(), (~is_censored).nonzero().flatten()
    covariance = K[bounded][:, bounded]
    if len(measured) == 0:
        return torch.zeros_like(y[bounded]), covariance
    factor = cholesky(K[measured][:, measured] + noise[measured].diag())
    explained = torch.linalg.solve_triangular(factor, K[measured][:, bounded], upper=False)
    white = torch.linalg.solve_triangular(factor, y[measured].unsqueeze(-1), upper=False).squeeze(-1)
    left = covariance - explained.mT @ explained
    # A bounded row may repeat an object that was measured without noise: rounding is then all that is left.
    short = (_LEAST_VARIANCE * covariance.diagonal() - left.diagonal()).clamp_min(0.0)
    return explained.mT @ white, left + short.diag()


def _check(
    K: Tensor, noise: Tensor | float, lower: Tensor, upper: Tensor, y: Tensor, is_censored: Tensor
) -> Tensor:
    """Return the noise as a vector, `n`, once everything fits together."""
    n = len(y)
    noise = torch.as_tensor(noise, dtype=K.dtype, device=K.device).expand(n)
    shapes = {"lower": lower.shape, "upper": upper.shape, "is_censored": is_censored.shape}
    wrong = [f"{name} has shape {tuple(shape)}" for name, shape in shapes.items() if shape != (n,)]
    if K.shape != (n, n) or y.ndim != 1 or wrong or is_censored.dtype != torch.bool:
        raise ShapeError(
            f"K has shape {tuple(K.shape)}, y {tuple(y.shape)}, is_censored dtype {is_censored.dtype}"
            f"{''.join(', ' + one for one in wrong)}; expected n x n and vectors of n, is_censored of torch.bool. "
            "Give every row a place in each of them; infinite bounds where there is none."
        )
    bad_label = ~is_censored & ~y.isfinite()
    bad_bounds = is_censored & ~(lower < upper)
    bad_noise = ~(noise.isfinite() & (noise >= 0.0))
    for bad, what in ((bad_label, "label"), (bad_bounds, "pair of bounds"), (bad_noise, "noise variance")):
        if bool(bad.any()):
            row = int(bad.nonzero()[0].item())
            raise LabelError(
                f"row {row} has y {y[row].item()!r}, bounds {lower[row].item()!r} and {upper[row].item()!r}, "
                f"noise {noise[row].item()!r}: not a usable {what}, expected finite labels, lower < upper and "
                "a finite noise of at least 0. Correct the row or leave it out."
            )
    return noise
