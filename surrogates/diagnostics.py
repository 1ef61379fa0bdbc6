"""How far a surrogate's predictions can be trusted: leave-one-out and prequential scores.

Pure functions of tensors. What to do about a bad score is decided by the loop's health gate, not here.
"""

from dataclasses import dataclass
from math import log, pi, sqrt

import torch
from torch import Tensor

from flowscout.errors import LabelError, ShapeError

INTERVAL_90 = 1.6448536269514722
"""Half the width of a central 90% interval, in standard deviations of a normal."""


@dataclass(frozen=True)
class PredictionScores:
    """Scores of `n` predictions against measured labels.

    `r2` and `spearman` are None where the labels (or, for `spearman`, the predictions) are all equal.
    """

    n: int
    rmse: float
    r2: float | None
    spearman: float | None
    nlpd: float
    coverage90: float

    def as_dict(self, prefix: str = "") -> dict[str, float]:
        """Return the defined scores under `prefix` + name, without `n`."""
        named = {
            "rmse": self.rmse,
            "r2": self.r2,
            "spearman": self.spearman,
            "nlpd": self.nlpd,
            "coverage90": self.coverage90,
        }
        return {prefix + name: value for name, value in named.items() if value is not None}


def leave_one_out(cholesky: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Return each label's error and sd when predicted from all others, `n` and `n`, in closed form.

    `cholesky` is the lower factor of the `n x n` covariance of the labels, noise included; `residual` is
    the labels less the prior mean, `n`. The error is label minus prediction, the sd is that of a new noisy
    measurement. Hyper-parameters stay those of the fit to all labels.

    Source: Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, eq. 5.12.
    """
    inverse = torch.cholesky_inverse(cholesky)
    variance = inverse.diagonal().reciprocal()
    return (inverse @ residual) * variance, variance.sqrt()


def score_predictions(mean: Tensor, sd: Tensor, measured: Tensor) -> PredictionScores:
    """Score normal predictions `mean`, `sd` against `measured`, each `n`.

    Made before the labels were known, this is the prequential score of a batch; a single batch of 24 says
    little about calibration, so pool several. `sd` should include the noise of a measurement.

    Raises: ShapeError if the shapes differ or nothing is given; LabelError for a label that is not finite.
    """
    _check_vectors(mean, sd, measured)
    error = measured - mean
    z = error / sd
    total = (measured - measured.mean()).square().sum()
    return PredictionScores(
        n=measured.numel(),
        rmse=error.square().mean().sqrt().item(),
        r2=None if _all_equal(measured) else (1.0 - error.square().sum() / total).item(),
        spearman=spearman(mean, measured),
        nlpd=(0.5 * z.square() + sd.log()).mean().item() + 0.5 * log(2.0 * pi),
        coverage90=(z.abs() <= INTERVAL_90).to(mean.dtype).mean().item(),
    )


def spearman(a: Tensor, b: Tensor) -> float | None:
    """Return the rank correlation of `a` and `b`, each `n`, ties sharing their mean rank.

    None where either is constant: there is no order to agree with.
    """
    if _all_equal(a) or _all_equal(b):
        return None
    rank_a, rank_b = _centred_ranks(a), _centred_ranks(b)
    return (rank_a @ rank_b).item() / sqrt((rank_a @ rank_a).item() * (rank_b @ rank_b).item())


def _centred_ranks(values: Tensor) -> Tensor:
    """Return mean ranks, `n` in float64, shifted to mean zero."""
    _, group, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).to(torch.float64)
    mean_rank = last - 0.5 * (counts.to(torch.float64) - 1.0)
    ranks: Tensor = mean_rank[group]
    return ranks - ranks.mean()


def _all_equal(values: Tensor) -> bool:
    return bool((values == values[0]).all())


def _check_vectors(mean: Tensor, sd: Tensor, measured: Tensor) -> None:
    shapes = [tuple(t.shape) for t in (mean, sd, measured)]
    if measured.ndim != 1 or measured.numel() == 0 or len(set(shapes)) != 1:
        raise ShapeError(
            f"mean, sd and measured have shapes {shapes}, expected three vectors of one length, at least 1. "
            "If your labels are a column, squeeze them: labels.squeeze(-1)."
        )
    bad = (~measured.isfinite()).nonzero().flatten()
    if bad.numel():
        row = int(bad[0].item())
        raise LabelError(
            f"label {measured[row].item()!r} at row {row}, expected a finite number. "
            "Leave measurements without a value out of the comparison."
        )
