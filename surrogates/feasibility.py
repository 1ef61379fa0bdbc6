"""How likely an object can be made and measured at all: a classifier of past failures.

It knows nothing of labels; a surrogate models those of the objects that did not fail.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt

import torch
from torch import Tensor

from flowscout.errors import FlowscoutError, ShapeError
from flowscout.surrogates.censored import Sites, fit_sites
from flowscout.surrogates.kernels import HammingKernel, cholesky

_log = logging.getLogger(__name__)

Correlation = Callable[[Tensor, Tensor], Tensor]
"""Maps `n x d` and `m x d` features to correlations, `n x m`, that are 1 between equal rows."""

_VARIANCE = 4.0
"""Of the latent function, a constant like the unit of noise: probabilities from about 4 to 96% are usual."""

_CHUNK = 4096


def hamming(lengthscale: float, a: Tensor, b: Tensor) -> Tensor:
    """Return `exp(-share of places that differ / lengthscale)` between codes `n x d` and `m x d`: `n x m`."""
    kernel = HammingKernel(ard_num_dims=a.shape[-1]).to(a)
    kernel.lengthscale = torch.full_like(kernel.lengthscale, lengthscale)
    with torch.no_grad():
        correlation: Tensor = kernel.forward(a, b)
    return correlation


HAMMING_CORRELATIONS: tuple[Correlation, ...] = tuple(partial(hamming, scale) for scale in (0.05, 0.15, 0.5, 1.5))
"""From "only the nearest objects tell" to "all objects are alike"."""


@dataclass(frozen=True)
class _Fitted:
    X: Tensor  # n x d
    correlation: Correlation
    factor: Tensor  # n x n, of the sites' covariance
    alpha: Tensor  # n
    mean: Tensor  # scalar, prior mean of the latent function
    log_score: float  # mean leave-one-out log-probability of the outcomes


class FeasibilityClassifier:
    """Classify objects into those that can be measured and those that fail, by a probit Gaussian process.

    An object is feasible where a latent function plus standard normal noise is above 0: each outcome is a
    half-line site, found by expectation propagation. Far from all data the probability is the share of
    feasible objects, by the rule of succession `(k + 1) / (n + 2)`; with outcomes of one kind only, it is that
    everywhere. Of `correlations` (default: Hamming-exponential ones over category codes, of four
    lengthscales) the one is kept under which the outcomes are likeliest when each is left out.

    Cost is the cube of the number of outcomes; beyond `max_rows` evenly spaced ones of both kinds, in
    proportion, are kept, which a log message tells.
    """

    def __init__(
        self, *, correlations: Sequence[Correlation] = HAMMING_CORRELATIONS, max_rows: int = 1_000
    ) -> None:
        self._correlations = tuple(correlations)
        self._max_rows = max_rows
        self._fitted: _Fitted | None = None
        self._base_rate: Tensor | None = None

    def fit(self, X: Tensor, feasible: Tensor) -> None:
        """Fit to features `X`, `n x d` in float64, and outcomes `feasible`, `n` in torch.bool.

        Raises: ShapeError for wrong shapes or dtypes.
        """
        if X.ndim != 2 or feasible.shape != (len(X),) or feasible.dtype != torch.bool or len(X) == 0:
            raise ShapeError(
                f"X has shape {tuple(X.shape)} and feasible {tuple(feasible.shape)} in {feasible.dtype}, "
                "expected n x d and n in torch.bool, n at least 1. One row per object that was tried."
            )
        rate = (feasible.sum() + 1).to(X) / (len(X) + 2)
        fitted = None
        if bool(feasible.any()) and not bool(feasible.all()):
            keep = _thinned(feasible, self._max_rows)
            trials = (_fit(X[keep].clone(), feasible[keep], rate, c) for c in self._correlations)
            fitted = max(trials, key=lambda one: one.log_score)
        self._base_rate, self._fitted = rate, fitted

    def probability(self, X: Tensor) -> Tensor:
        """Return the probability that each object of `X`, `n x d`, can be measured: `n`."""
        return self.log_probability(X).exp()

    def log_probability(self, X: Tensor) -> Tensor:
        """Return its logarithm, `n`, finite however small it is: add it to a log-reward."""
        if self._base_rate is None:
            raise FlowscoutError(
                "the classifier holds no outcomes, expected a fit before a prediction. "
                "Call fit(X, feasible) first."
            )
        if self._fitted is None:
            return self._base_rate.log().expand(len(X)).clone()
        fitted = self._fitted
        return torch.cat([_log_probability(fitted, chunk) for chunk in torch.split(X, _CHUNK)])

    def diagnostics(self) -> dict[str, float]:
        """Return base_rate and, with outcomes of both kinds, loo_log_probability (mean) and n_outcomes."""
        if self._base_rate is None:
            return {}
        scores = {"base_rate": self._base_rate.item()}
        if self._fitted is not None:
            scores["loo_log_probability"] = self._fitted.log_score
            scores["n_outcomes"] = float(len(self._fitted.X))
        return scores


def _fit(X: Tensor, feasible: Tensor, rate: Tensor, correlation: Correlation) -> _Fitted:
    """Return the classifier of `X`, `n x d`, with one correlation."""
    # Chosen so that the prior probability, Phi(mean / sqrt(1 + variance)), is the base rate.
    mean = torch.special.ndtri(rate) * sqrt(1.0 + _VARIANCE)
    covariance = _VARIANCE * correlation(X, X)
    infinite = torch.full_like(X[:, 0], torch.inf)
    sites = fit_sites(
        mean.expand(len(X)),
        covariance,
        torch.ones_like(infinite),
        torch.where(feasible, 0.0, -infinite),
        torch.where(feasible, infinite, 0.0),
    )
    factor = cholesky(covariance + sites.variance.diag())
    alpha = torch.cholesky_solve((sites.mean - mean).unsqueeze(-1), factor).squeeze(-1)
    return _Fitted(X, correlation, factor, alpha, mean, _left_out(sites, feasible))


def _left_out(sites: Sites, feasible: Tensor) -> float:
    """Return the mean log-probability of each outcome by all the others."""
    z = sites.cavity_mean / (1.0 + sites.cavity_variance).sqrt()
    score: float = torch.special.log_ndtr(torch.where(feasible, z, -z)).mean().item()
    return score


def _log_probability(fitted: _Fitted, X: Tensor) -> Tensor:
    """Return the logarithm of the probability at `X`, `n x d`, the latent function averaged over: `n`."""
    cross = _VARIANCE * fitted.correlation(X, fitted.X)
    explained = torch.linalg.solve_triangular(fitted.factor, cross.mT, upper=False)
    variance = (_VARIANCE - explained.square().sum(0)).clamp_min(0.0)
    z = (fitted.mean + cross @ fitted.alpha) / (1.0 + variance).sqrt()
    log_probability: Tensor = torch.special.log_ndtr(z)
    return log_probability


def _thinned(feasible: Tensor, max_rows: int) -> Tensor:
    """Return at most about `max_rows` row numbers, evenly spaced within each kind, at least one of each."""
    n = len(feasible)
    if n <= max_rows:
        return torch.arange(n, device=feasible.device)
    kept = []
    for kind in (feasible, ~feasible):
        rows = kind.nonzero().flatten()
        wanted = max(1, round(max_rows * len(rows) / n))
        kept.append(rows[torch.linspace(0, len(rows) - 1, wanted, device=rows.device).round().long()])
    _log.info("%d outcomes, of which %d are kept: the classifier takes their cube", n, max_rows)
    return torch.cat(kept).sort().values
