"""Labels that are not all alike in an exact GP: variances of their own, and rows known only by bounds.

How sites are found is `censored.py`; how replicates make a variance, `noise.py`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from gpytorch.likelihoods import GaussianLikelihood
from linear_operator.operators import DiagLinearOperator, LinearOperator
from torch import Tensor

from flowscout.errors import LabelError, ShapeError
from flowscout.surrogates.censored import censored_sites

LEAST_NOISE = 1e-4
"""Of the labels' variance: repeated objects with equal labels still leave a Cholesky factor."""


@dataclass(frozen=True)
class Stands:
    """What a GP is conditioned on where labels are not all alike, in standardised units."""

    targets: Tensor  # n, labels; of bounded rows those of their sites
    noise: Tensor  # n, variances
    bounded: Tensor  # n, torch.bool

    def state(self) -> dict[str, Tensor]:
        """Return what a rebuild needs."""
        return {f"stands.{name}": value.clone() for name, value in vars(self).items()}


def stored_stands(state: dict[str, Tensor]) -> Stands | None:
    """Return the stands that a state was made of, None where it has none."""
    if "stands.targets" not in state:
        return None
    return Stands(**{name: state[f"stands.{name}"].clone() for name in ("targets", "noise", "bounded")})


def make_stands(
    labels: Tensor, known: Tensor, limits: Tensor, *, prior: Tensor, constant: Tensor, learned: Tensor
) -> Stands:
    """Return the stands of `labels`, `n`, with variances `known`, `n`, and `limits`, `n x 2`, all standardised.

    `prior` is the covariance of the noise-free labels, `n x n`, `constant` their prior mean, and `learned` the
    variance of a label whose own is not known (NaN).
    """
    bounded = ~limits.isnan().all(1)
    noise = torch.where(known.isnan(), learned, known)
    if not bool(bounded.any()):
        return Stands(labels, noise, bounded)
    lower, upper = (limits - constant).unbind(1)
    sites, variances = censored_sites(prior, noise, lower, upper, labels - constant, bounded)
    return Stands(torch.where(bounded, sites + constant, labels), variances, bounded)


class PartlyKnownNoise(GaussianLikelihood):  # type: ignore[misc]
    """Noise that is known for some of the labels of the fit, `known`, `n`, and learned where that is NaN."""

    def __init__(self, known: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self._known = known

    def _shaped_noise_covar(
        self, base_shape: torch.Size, *params: Any, **kwargs: Any
    ) -> LinearOperator:  # GPyTorch's own hook for what noise there is
        if base_shape[-1] != len(self._known):
            return super()._shaped_noise_covar(base_shape, *params, **kwargs)
        return DiagLinearOperator(torch.where(self._known.isnan(), self.noise, self._known))


def check_noise(noise: Tensor | None, labels: Tensor) -> Tensor:
    """Return the variances of `labels`, `n`, NaN where none is known.

    Raises: ShapeError for another shape or dtype; LabelError, naming the row, for one below 0 or infinite.
    """
    if noise is None:
        return torch.full_like(labels, torch.nan)
    if noise.shape != labels.shape or noise.dtype != labels.dtype:
        raise ShapeError(
            f"noise has shape {tuple(noise.shape)} and dtype {noise.dtype}, expected ({len(labels)},) in "
            f"{labels.dtype}: one variance per label, NaN where it is not known. A vector, not a column."
        )
    bad = ~(noise.isnan() | ((noise >= 0.0) & noise.isfinite()))
    if bool(bad.any()):
        row = int(bad.nonzero()[0].item())
        raise LabelError(
            f"noise {noise[row].item()!r} at row {row}, expected a variance of at least 0, or NaN. "
            "Square a standard error; leave it out where it was not estimated."
        )
    return noise.clone()


def check_bounds(bounds: Tensor | None, labels: Tensor) -> Tensor:
    """Return the bounds of `labels`, `n x 2`, NaN in the rows that were measured.

    Raises: ShapeError for another shape or dtype; LabelError, naming the row, for bounds out of order.
    """
    if bounds is None:
        return torch.full((len(labels), 2), torch.nan, dtype=labels.dtype, device=labels.device)
    if bounds.shape != (len(labels), 2) or bounds.dtype != labels.dtype:
        raise ShapeError(
            f"bounds have shape {tuple(bounds.shape)} and dtype {bounds.dtype}, expected ({len(labels)}, 2) in "
            f"{labels.dtype}: lower and upper bound of each row, NaN where it was measured."
        )
    bad = ~(bounds.isnan().all(1) | (bounds[:, 0] < bounds[:, 1]))
    if bool(bad.any()):
        row = int(bad.nonzero()[0].item())
        raise LabelError(
            f"bounds {bounds[row].tolist()!r} at row {row}, expected a lower one below the upper one, or NaN for "
            "both. Use -inf or inf where there is no such bound."
        )
    return bounds.clone()
