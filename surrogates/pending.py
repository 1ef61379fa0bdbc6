"""What a surrogate believes of an object once the outcomes of the pending ones are supposed known.

The acquisitions that ask it live in `batch_acquisition.py` and `entropy_search.py`.
"""

from copy import copy
from dataclasses import dataclass

import torch
from botorch.posteriors.ensemble import EnsemblePosterior
from botorch.posteriors.posterior import Posterior
from botorch.utils.sampling import draw_sobol_normal_samples
from gpytorch.distributions import MultivariateNormal
from torch import Tensor

from flowscout.errors import ConfigError, NonFiniteError, ShapeError
from flowscout.surrogates.kernels import cholesky
from flowscout.surrogates.protocol import Surrogate

_CHUNK = 256
"""Objects whose joint covariance with the pending ones is taken at once: it grows with the square."""

_LEAST_VARIANCE = 1e-12
"""Conditional variances are kept above this share of the object's own: the pending objects have none left."""


@dataclass(frozen=True)
class PendingBelief:
    """Beliefs about objects, given each of `s` fixed draws of what the `p` pending ones will turn out to be.

    The draws are joint, of the noise-free property, and made once: all that is asked later is exact given
    them, so that one object has one value. Where nothing is pending, `s` is 1 and this is the surrogate.
    """

    surrogate: Surrogate
    X_pending: Tensor  # p x d
    mean: Tensor  # p
    factor: Tensor  # p x p, lower Cholesky factor of the pending objects' covariance
    base: Tensor  # s x p, standard normal
    outcomes: Tensor  # s x p

    def __len__(self) -> int:
        """Return the number of draws, `s`."""
        return len(self.outcomes)

    def mean_sd(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean given each draw, `s x n`, and the sd, `n`, which is the same given any, at `n x d`."""
        if len(self.X_pending) == 0:
            mean, sd = self.surrogate.mean_sd(X)
            return mean.unsqueeze(0), sd
        parts = [self._conditional(chunk) for chunk in torch.split(X, _CHUNK)]
        return torch.cat([part[0] for part in parts], dim=1), torch.cat([part[1] for part in parts])

    def _conditional(self, X: Tensor) -> tuple[Tensor, Tensor]:
        p = len(self.X_pending)
        mean, covariance = joint_moments(self.surrogate, torch.cat([self.X_pending.to(X), X]))
        explained = torch.linalg.solve_triangular(self.factor, covariance[:p, p:], upper=False)  # p x n
        prior = covariance.diagonal()[p:]
        variance = torch.maximum(prior - explained.square().sum(0), _LEAST_VARIANCE * prior)
        # Where members of an ensemble agree to the last bit; an acquisition divides by the sd.
        variance = variance.clamp_min(1e-200)
        return mean[p:] + self.base @ explained, variance.sqrt()


def condition_on(
    surrogate: Surrogate, X_pending: Tensor | None, *, n_draws: int = 128, seed: int = 0
) -> PendingBelief:
    """Return what `surrogate` believes given `n_draws` joint draws of the outcomes at `X_pending`, `p x d`.

    The draws are quasi-random (scrambled Sobol points) and fixed by `seed`; take a power of two. The
    surrogate's state of the moment is kept.

    Raises: ShapeError for pending objects that are not a matrix; ConfigError for no draws, or a surrogate
    whose joint posterior is neither Gaussian nor an ensemble.
    Source: Snoek et al. 2012, arXiv:1206.2944, section 3.3 (outcomes of pending experiments integrated out).
    """
    if n_draws < 1:
        raise ConfigError(f"n_draws is {n_draws!r}, expected at least 1. Take a power of two, such as 128.")
    frozen = copy(surrogate)
    if X_pending is None or len(X_pending) == 0:
        none = torch.zeros(0, dtype=torch.float64)
        return PendingBelief(frozen, none.reshape(0, 0), none, none.reshape(0, 0), none, none.reshape(1, 0))
    if X_pending.ndim != 2:
        raise ShapeError(
            f"X_pending has shape {tuple(X_pending.shape)}, expected p x d, one row per pending object. "
            "A single object is one row: X_pending.unsqueeze(0)."
        )
    mean, covariance = joint_moments(frozen, X_pending)
    factor = cholesky(covariance)
    base = draw_sobol_normal_samples(d=len(X_pending), n=n_draws, dtype=mean.dtype, device=mean.device, seed=seed)
    return PendingBelief(frozen, X_pending.clone(), mean, factor, base, mean + base @ factor.mT)


def joint_moments(surrogate: Surrogate, X: Tensor) -> tuple[Tensor, Tensor]:
    """Return the joint posterior mean, `n`, and covariance, `n x n`, of noise-free labels at `X`, `n x d`.

    Of an ensemble they are the moments over its members, between different objects reduced by one part in the
    number of members: as much as a covariance of so few draws is off, and enough that a batch larger than
    the ensemble does not seem to settle everything. Equal rows are asked for once, because a covariance with
    equal rows has no Cholesky factor.

    Raises: ConfigError if the surrogate's joint posterior is neither Gaussian nor an ensemble; NonFiniteError
    if it cannot be made because objects that differ are one object to the kernel.
    """
    distinct, place = torch.unique(X, dim=0, return_inverse=True)
    try:
        with torch.no_grad():
            mean, covariance = _moments(surrogate, surrogate.posterior(distinct))
    except torch.linalg.LinAlgError as err:  # type: ignore[attr-defined]
        raise NonFiniteError(
            f"the joint covariance of {len(distinct)} different objects has no Cholesky factor, expected one "
            "from surrogate.posterior(X). Let the surrogate return its covariance as a linear operator, which "
            "is factored only where a factor is asked for."
        ) from err
    return mean[place], covariance[place][:, place]


def _moments(surrogate: Surrogate, posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Return the mean, `n`, and covariance, `n x n`, of a posterior of event shape `n x 1`."""
    if isinstance(posterior, EnsemblePosterior):
        mean, weights = posterior.mean.squeeze(-1), posterior.weights
        centred = posterior.values.squeeze(-1) - mean  # members x n
        share = weights.square().sum()
        covariance = centred.mT @ (weights.unsqueeze(-1) * centred) / (1.0 - share)
        return mean, (1.0 - share) * covariance + share * covariance.diagonal().diag()
    distribution = getattr(posterior, "distribution", None)
    if isinstance(distribution, MultivariateNormal):
        return distribution.mean, distribution.covariance_matrix
    raise ConfigError(
        f"{type(surrogate).__name__} has a joint posterior of type {type(posterior).__name__}, expected a "
        "Gaussian one (GPyTorchPosterior) or an ensemble's (EnsemblePosterior). Choose another surrogate, or an "
        "acquisition without pending objects."
    )
