"""Covariance functions over category codes, and the Cholesky factor that everything here rests on.

What is fitted to labels belongs in the surrogate modules; what an object means belongs in `loop.spaces`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, Self

import torch
from botorch.models.kernels import CategoricalKernel
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import Kernel
from gpytorch.priors import GammaPrior
from torch import Tensor

from flowscout.errors import NonFiniteError

Symmetry = Callable[[Tensor], Tensor]
"""Maps codes `n x d` to the codes of the equivalent objects, `n x d`; applied twice it changes nothing."""

KernelName = Literal["product", "additive", "pairs", "mixture"]

MAX_PAIRS = 2_048
"""The most features of `GappedPairKernel`: bounds its memory at 34 MB for 4,096 objects, and its time."""

Prepared = Any
"""What a kernel reads of codes, row by row: tensors `... x n x F`, or tuples of such."""


class CodeKernel(Protocol):
    """A kernel over codes that can keep what it reads of them: labelled objects are compared again and again.

    The diagonal is one. `n_levels` bounds the codes of both sides of a comparison.
    """

    def prepare(self, x: Tensor, n_levels: int) -> Prepared:
        """Return what is compared of codes, `... x n x d`."""
        ...

    def compare(self, a: Prepared, b: Prepared) -> Tensor:
        """Return the covariance of what was prepared, `... x n x m`."""
        ...

    def aligned(self, a: Prepared, b: Prepared) -> Tensor:
        """Return the covariance of each row of `a` with the same row of `b`, `... x n`."""
        ...


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
        return _forward(self, x1, x2, diag=diag)

    def prepare(self, x: Tensor, n_levels: int) -> Prepared:
        """Return weighted indicators, whose products count what agrees, and the weight of all positions."""
        weight = (1.0 / (self.lengthscale * x.shape[-1])).expand(*self.lengthscale.shape[:-1], x.shape[-1])
        indicators = (_one_hot(x, n_levels) * weight.sqrt().unsqueeze(-1)).flatten(-2)
        return indicators, weight.sum(-1, keepdim=True)

    def compare(self, a: Prepared, b: Prepared) -> Tensor:
        """Return the covariance, `... x n x m`."""
        return torch.exp(a[0] @ b[0].mT - a[1])

    def aligned(self, a: Prepared, b: Prepared) -> Tensor:
        """Return the covariance of each row of `a` with the same row of `b`, `... x n`."""
        return torch.exp((a[0] * b[0]).sum(-1) - a[1].squeeze(-1))


class AdditiveKernel(Kernel):  # type: ignore[misc]
    """Correlate two code vectors by the weighted share of positions at which they agree.

    The weights are positive, one for each position, and count relative to their sum, so that the diagonal is one.
    A sample from it is a sum of one independent effect for each position and letter.
    """

    has_lengthscale = False

    def __init__(self, n_positions: int) -> None:
        super().__init__()
        self.register_parameter("raw_weight", torch.nn.Parameter(torch.zeros(n_positions)))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        """Return the covariance, `... x n x m`, or its diagonal, `... x n`."""
        return _forward(self, x1, x2, diag=diag)

    def prepare(self, x: Tensor, n_levels: int) -> Prepared:
        """Return indicators, each times the root of its position's share."""
        return (_one_hot(x, n_levels) * self.raw_weight.softmax(0).sqrt().unsqueeze(-1)).flatten(-2)

    def compare(self, a: Prepared, b: Prepared) -> Tensor:
        """Return the covariance, `... x n x m`."""
        covariance: Tensor = a @ b.mT
        return covariance

    def aligned(self, a: Prepared, b: Prepared) -> Tensor:
        """Return the covariance of each row of `a` with the same row of `b`, `... x n`."""
        covariance: Tensor = (a * b).sum(-1)
        return covariance


class GappedPairKernel(Kernel):  # type: ignore[misc]
    """Correlate two sequences by the pairs of letters that both hold, wherever they stand.

    A pair is a letter, a later letter and the gap between them. With `f` the presence of each pair, of length one,
    the value is `(f . f')^2`: two sequences that share a motif are alike though it is shifted, and the square
    compares pairs of pairs, which is what makes a motif of four letters count. There is nothing to learn in it.
    Wide alphabets leave out wide gaps, to keep within `MAX_PAIRS`.

    A relative of the gapped k-mer kernels of Leslie and Kuang 2004, J. Mach. Learn. Res. 5, with exact gaps.
    """

    has_lengthscale = False

    def __init__(self, n_levels: int) -> None:
        super().__init__()
        self.max_gap = max(1, MAX_PAIRS // n_levels**2)
        self._kept: list[tuple[Tensor, int, Prepared]] = []

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        """Return the covariance, `... x n x m`, or its diagonal, `... x n`."""
        return _forward(self, x1, x2, diag=diag)

    def prepare(self, x: Tensor, n_levels: int) -> Prepared:
        """Return the presence of each pair, float32 `... x n x F`, and the root of their number, `... x n x 1`.

        In training mode the last two answers are kept: each step of a fit asks for the same codes, and images.
        """
        if not self.training:
            return self._read(x, n_levels)
        for codes, levels, found in self._kept:
            if levels == n_levels and torch.equal(codes, x):
                return found
        found = self._read(x, n_levels)
        self._kept = [*self._kept[-1:], (x.clone(), n_levels, found)]
        return found

    def train(self, mode: bool = True) -> Self:
        """Begin or end training; at its end nothing is kept."""
        self._kept = []
        trained: Self = super().train(mode)
        return trained

    def _read(self, x: Tensor, n_levels: int) -> Prepared:
        length = x.shape[-1]
        codes, n_gaps = x.long(), max(1, min(self.max_gap, length - 1))
        # Only near pairs are ever made: all pairs of 10,000 places are 50 million.
        place, step = torch.arange(length, device=x.device), torch.arange(1, n_gaps + 1, device=x.device)
        first, offset = torch.where(place.unsqueeze(-1) + step < length)
        if length == 1:
            place = torch.zeros_like(codes)  # no pair: all are alike
        else:
            place = (codes * n_levels).index_select(-1, first)
            place += codes.index_select(-1, first + offset + 1)
            place += offset * n_levels**2
        # float32 counts pairs exactly, in half the time of float64.
        found = torch.zeros(*codes.shape[:-1], n_gaps * n_levels**2, dtype=torch.float32, device=x.device)
        found.scatter_(-1, place, 1.0)
        return found, found.sum(-1, keepdim=True).to(x.dtype).sqrt()

    def compare(self, a: Prepared, b: Prepared) -> Tensor:
        """Return the covariance, `... x n x m`."""
        covariance: Tensor = ((a[0] @ b[0].mT) / a[1] / b[1].mT).square()
        return covariance

    def aligned(self, a: Prepared, b: Prepared) -> Tensor:
        """Return the covariance of each row of `a` with the same row of `b`, `... x n`."""
        covariance: Tensor = ((a[0] * b[0]).sum(-1, keepdim=True) / a[1] / b[1]).square().squeeze(-1)
        return covariance


class MixtureKernel(Kernel):  # type: ignore[misc]
    """A weighted mean of kernels whose diagonal is one; the weights are learned and sum to one."""

    has_lengthscale = False

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        super().__init__()
        self.parts: list[Any] = list(kernels)
        self.kernels = torch.nn.ModuleList(kernels)
        self.register_parameter("raw_weight", torch.nn.Parameter(torch.zeros(len(kernels))))

    @property
    def weight(self) -> Tensor:
        """The share of each kernel; they sum to one."""
        share: Tensor = self.raw_weight.softmax(0)
        return share

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        """Return the covariance, `... x n x m`, or its diagonal, `... x n`."""
        return _forward(self, x1, x2, diag=diag)

    def prepare(self, x: Tensor, n_levels: int) -> Prepared:
        """Return what each kernel reads."""
        return tuple(kernel.prepare(x, n_levels) for kernel in self.parts)

    def compare(self, a: Prepared, b: Prepared) -> Tensor:
        """Return the covariance, `... x n x m`."""
        return self._mean([kernel.compare(*pair) for kernel, *pair in zip(self.parts, a, b, strict=True)])

    def aligned(self, a: Prepared, b: Prepared) -> Tensor:
        """Return the covariance of each row of `a` with the same row of `b`, `... x n`."""
        return self._mean([kernel.aligned(*pair) for kernel, *pair in zip(self.parts, a, b, strict=True)])

    def _mean(self, parts: Sequence[Tensor]) -> Tensor:
        mixed: Tensor = sum(w * part for w, part in zip(self.weight, parts, strict=True))
        return mixed


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

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        """Return the covariance, `... x n x m`, or its diagonal, `... x n`."""
        return _forward(self, x1, x2, diag=diag)

    def prepare(self, x: Tensor, n_levels: int) -> Prepared:
        """Return what the kernel reads of both images, and the root of the sum's diagonal, `... x n`."""
        base = self.base_kernel
        here, there = base.prepare(x, n_levels), base.prepare(self.symmetry(x), n_levels)
        twice = base.aligned(here, here) + 2.0 * base.aligned(here, there) + base.aligned(there, there)
        return here, there, twice.sqrt()

    def compare(self, a: Prepared, b: Prepared) -> Tensor:
        """Return the covariance, `... x n x m`."""
        compare = self.base_kernel.compare
        total = sum(compare(one, other) for one in a[:2] for other in b[:2])
        covariance: Tensor = total / (a[2].unsqueeze(-1) * b[2].unsqueeze(-2))
        return covariance

    def aligned(self, a: Prepared, b: Prepared) -> Tensor:
        """Return the covariance of each row of `a` with the same row of `b`, `... x n`."""
        aligned = self.base_kernel.aligned
        total = sum(aligned(one, other) for one in a[:2] for other in b[:2])
        covariance: Tensor = total / (a[2] * b[2])
        return covariance


def code_kernel(name: KernelName, *, n_positions: int, n_levels: int, symmetry: Symmetry | None = None) -> Kernel:
    """Return a kernel over codes `n x n_positions` below `n_levels`, with a diagonal of one."""
    kernel = _plain_kernel(name, n_positions, n_levels)
    return kernel if symmetry is None else SymmetricKernel(kernel, symmetry)


def _plain_kernel(name: KernelName, n_positions: int, n_levels: int) -> Kernel:
    if name == "pairs":
        return GappedPairKernel(n_levels)
    product = HammingKernel(
        ard_num_dims=n_positions,
        lengthscale_prior=GammaPrior(3.0, 6.0),
        lengthscale_constraint=GreaterThan(1e-2, transform=None, initial_value=0.5),
    )
    if name == "product":
        return product
    additive = AdditiveKernel(n_positions)
    return MixtureKernel([additive, product, *([GappedPairKernel(n_levels)] if name == "mixture" else [])])


def describe(kernel: Kernel) -> dict[str, float]:
    """Return what a kernel of `code_kernel` has learned, by name."""
    if isinstance(kernel, SymmetricKernel):
        return describe(kernel.base_kernel)
    if isinstance(kernel, HammingKernel):
        lengthscale = kernel.lengthscale.detach()
        return {"lengthscale_min": lengthscale.min().item(), "lengthscale_max": lengthscale.max().item()}
    if isinstance(kernel, MixtureKernel):
        names = [type(part).__name__.removesuffix("Kernel").lower() for part in kernel.parts]
        weights = {f"weight_{name}": w for name, w in zip(names, kernel.weight.tolist(), strict=True)}
        return weights | {key: value for part in kernel.parts for key, value in describe(part).items()}
    return {}


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


def levels_of(kernel: Kernel, x: Tensor) -> int:
    """Return how many categories a kernel meets in codes: those of their images too, where there are some."""
    highest = x.max()
    if isinstance(kernel, SymmetricKernel):
        highest = torch.maximum(highest, kernel.symmetry(x).max())
    return 1 + int(highest)


def _forward(kernel: Any, x1: Tensor, x2: Tensor, *, diag: bool) -> Tensor:
    n_levels = max(levels_of(kernel, x1), levels_of(kernel, x2))
    a = kernel.prepare(x1, n_levels)
    b = a if x1.shape == x2.shape and torch.equal(x1, x2) else kernel.prepare(x2, n_levels)
    covariance: Tensor = kernel.aligned(a, b) if diag else kernel.compare(a, b)
    return covariance


def _one_hot(codes: Tensor, n_levels: int) -> Tensor:
    """Return indicators `... x n x d x v` of codes `... x n x d`, in the codes' own dtype."""
    levels = torch.arange(n_levels, dtype=codes.dtype, device=codes.device)
    return (codes.unsqueeze(-1) == levels).to(codes.dtype)
