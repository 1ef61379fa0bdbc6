"""Covariance functions over features that are numbers: counts, fingerprints.

Kernels over category codes live in `kernels.py`; GPyTorch's own are used as they are.
"""

from typing import Any, Self

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from flowscout.errors import ShapeError

_COLUMNS_AT_ONCE = 4_096


class TanimotoKernel(Kernel):  # type: ignore[misc] # GPyTorch is not typed
    """Correlate two vectors of counts by the sum of their minima over the sum of their maxima (MinMax).

    On indicators this is the number of features that both have over the number that either has. Features are at
    least 0; two vectors of zeros alone are taken for equal. There is nothing to learn: a `ScaleKernel` around
    it brings the variance. No gradient flows to the features. In training mode the last covariance of features
    with themselves is kept: each step of a fit asks for the same.

    Source: Ralaivola et al. 2005, Graph kernels for chemical informatics, Neural Networks 18(8).
    """

    has_lengthscale = False

    def __init__(self) -> None:
        super().__init__()
        self._kept: tuple[Tensor, Tensor] | None = None  # features and their covariance

    def train(self, mode: bool = True) -> Self:
        """Begin or end training; at its end nothing is kept."""
        self._kept = None
        trained: Self = super().train(mode)
        return trained

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        diag: bool = False,
        last_dim_is_batch: bool = False,
        **params: Any,  # noqa: ARG002 (GPyTorch's own)
    ) -> Tensor:
        """Return the covariance, `... x n x m`, or its diagonal, `... x n`, of features `... x n x d`.

        Raises: ShapeError for a negative feature.
        """
        if last_dim_is_batch:
            x1, x2 = x1.mT.unsqueeze(-1), x2.mT.unsqueeze(-1)
        x1, x2 = x1.detach(), x2.detach()
        for x in (x1, x2):
            _check_not_negative(x)
        if diag:
            return _ratio((x1 - x2).abs().sum(dim=-1), x1.sum(dim=-1) + x2.sum(dim=-1))
        if not (self.training and x1.shape == x2.shape and torch.equal(x1, x2)):
            return _covariance(x1, x2)
        if self._kept is None or not torch.equal(self._kept[0], x1):
            self._kept = (x1.clone(), _covariance(x1, x1))
        return self._kept[1]


def _covariance(a: Tensor, b: Tensor) -> Tensor:
    """Return minima over maxima of features `... x n x d` and `... x m x d`: `... x n x m`."""
    return _ratio(_l1(a, b), a.sum(dim=-1).unsqueeze(-1) + b.sum(dim=-1).unsqueeze(-2))


def _ratio(apart: Tensor, total: Tensor) -> Tensor:
    """Return minima over maxima from the L1 distance and the sum of all: these are their difference and sum."""
    return torch.where(total > 0, (total - apart) / (total + apart), 1.0)


def _l1(a: Tensor, b: Tensor) -> Tensor:
    """Return the L1 distance of features, `... x n x m`; by one product of matrices where all are 0 or 1."""
    if bool(((a == 0) | (a == 1)).all()) and bool(((b == 0) | (b == 1)).all()):
        return a.sum(dim=-1).unsqueeze(-1) + b.sum(dim=-1).unsqueeze(-2) - 2 * a @ b.mT
    parts = [torch.cdist(a, part, p=1.0) for part in torch.split(b, _COLUMNS_AT_ONCE, dim=-2)]
    return torch.cat(parts, dim=-1)


def _check_not_negative(x: Tensor) -> None:
    lowest = x.min().item() if x.numel() else 0.0
    if lowest < 0:
        raise ShapeError(
            f"the features hold {lowest:g}, expected numbers of at least 0: minima over maxima mean nothing "
            "below. Give counts or indicators, or take another kernel."
        )
