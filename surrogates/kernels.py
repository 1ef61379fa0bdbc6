"""Covariance functions over category codes, and the Cholesky factor that everything here rests on.

What is fitted to labels belongs in the surrogate modules; what an object means belongs in `loop.spaces`.
"""

from collections.abc import Callable
from typing import Any

import torch
from botorch.models.kernels import CategoricalKernel
from gpytorch.kernels import Kernel
from torch import Tensor

from flowscout.errors import NonFiniteError

Symmetry = Callable[[Tensor], Tensor]
"""Maps codes `n x d` to the codes of the equivalent objects, `n x d`; applied twice it changes nothing."""


class HammingKernel(CategoricalKernel):
    """Correlate two code vectors by `exp(-mean_i([x_i != y_i] / lengthscale_i))`.

    The value is BoTorch's `CategoricalKernel`; only the arithmetic differs. One product of one-hot matrices
    replaces a comparison of size `n x m x d`, which at 2,000 x 300 points is the difference between a fast
    posterior and a slow one. Codes are integers from 0, stored as floating point.
    """

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, last_dim_is_batch: bool = False) -> Tensor:
        """Return the covariance, `... x n x m`, or its diagonal, `... x n`."""
        if last_dim_is_batch:
            plain: Tensor = super().forward(x1, x2, diag=diag, last_dim_is_batch=True)
            return plain
        weight = 1.0 / (self.lengthscale * x1.shape[-1])  # ... x 1 x d
        if diag:
            return torch.exp(-((x1 != x2) * weight).sum(-1))
        n_levels = 1 + int(max(x1.max().item(), x2.max().item()))
        weighted = _one_hot(x1, n_levels) * weight.unsqueeze(-1)  # ... x n x d x v
        agreement = weighted.flatten(-2) @ _one_hot(x2, n_levels).flatten(-2).mT
        return torch.exp(agreement - weight.sum(-1, keepdim=True))


class SymmetricKernel(Kernel):  # type: ignore[misc]
    """Average a kernel over a symmetry of order two, so that equivalent objects are one object to the model.

    With `s` the symmetry, `k(x, y) + k(x, sy) + k(sx, y) + k(sx, sy)` is the kernel of the summed features
    and therefore positive semi-definite; dividing by the root of its diagonal at `x` and at `y` keeps that
    and makes every prior variance one. Without the division an object that is its own image (a palindrome)
    would have up to twice the prior variance, and an optimistic acquisition would chase palindromes.

    Source: Haasdonk & Burkhardt 2007, "Invariant kernel functions for pattern analysis and machine
    learning" (Haar-integration kernels), with the cosine normalisation added.
    """

    def __init__(self, base_kernel: Kernel, symmetry: Symmetry) -> None:
        super().__init__()
        self.base_kernel = base_kernel
        self.symmetry = symmetry

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """Return the covariance, `... x n x m`, or its diagonal, `... x n`."""
        y1, y2 = self.symmetry(x1), self.symmetry(x2)
        base = self.base_kernel.forward
        total: Tensor = sum(base(a, b, diag=diag, **params) for a in (x1, y1) for b in (x2, y2))
        root1, root2 = self._root_of_diagonal(x1, y1), self._root_of_diagonal(x2, y2)
        if diag:
            return total / (root1 * root2)
        return total / (root1.unsqueeze(-1) * root2.unsqueeze(-2))

    def _root_of_diagonal(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the square root of the sum's diagonal, `... x n`, given points and their images."""
        base = self.base_kernel.forward
        total: Tensor = base(x, x, diag=True) + 2.0 * base(x, y, diag=True) + base(y, y, diag=True)
        return total.sqrt()


def cholesky(covariance: Tensor) -> Tensor:
    """Return the lower Cholesky factor of an `n x n` covariance, with the least jitter that lets it exist.

    The jitter is relative to the mean of the diagonal: 0, then 1e-10 to 1e-4 in steps of 100. Duplicated
    points (or a point and its mirror image) make a noise-free covariance singular, so some is often needed.

    Raises: NonFiniteError if the matrix is not finite or not positive semi-definite.
    """
    scale = covariance.diagonal().mean()
    for jitter in (0.0, 1e-10, 1e-8, 1e-6, 1e-4):
        eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        factor, info = torch.linalg.cholesky_ex(covariance + jitter * scale * eye)
        if info.item() == 0 and bool(factor.isfinite().all()):
            lower: Tensor = factor
            return lower
    raise NonFiniteError(
        f"a covariance of shape {tuple(covariance.shape)} has no Cholesky factor (mean variance "
        f"{scale.item():.3g}), expected a positive semi-definite matrix. If you wrote the kernel or the "
        "symmetry, check that the symmetry undoes itself: symmetry(symmetry(X)) must equal X."
    )


def _one_hot(codes: Tensor, n_levels: int) -> Tensor:
    """Return indicators `... x n x d x v` of codes `... x n x d`, in the codes' own dtype."""
    levels = torch.arange(n_levels, dtype=codes.dtype, device=codes.device)
    return (codes.unsqueeze(-1) == levels).to(codes.dtype)
