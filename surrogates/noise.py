"""Replicates of an object pooled to one label, with the variance that the label then has.

Labels that are only bounds are not pooled here: see `censored.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowscout.errors import LabelError, ShapeError


@dataclass(frozen=True)
class PooledLabels:
    """One label for each of `n` objects, in the order in which they first appear.

    `rows`: where each first appears, to pick its features. `means`: the label. `variances`: that of the label
    where it is known, NaN where it is the unknown noise of one measurement over `counts`.
    `within_variance`: that noise as the replicates show it, None where none of the unknown kind was repeated.
    """

    keys: tuple[str, ...]
    rows: Tensor
    means: Tensor
    variances: Tensor
    counts: Tensor
    within_variance: float | None

    def noise(self, shared: Tensor | float) -> Tensor:
        """Return each label's noise variance, `n`, when one measurement of unknown noise has `shared`."""
        return torch.where(self.variances.isnan(), shared / self.counts, self.variances)


def pool_replicates(
    keys: Sequence[str], values: Tensor, sem: Tensor | None = None, n: Tensor | None = None
) -> PooledLabels:
    """Pool `m` measurements, `values` with objects `keys`, to one label an object.

    `sem`, `m`, is a measurement's standard error as it was reported, NaN where it was not; `n`, `m`, how many
    readings it is the mean of (default 1).

    - Every measurement of the object has a sem: weights `w_i = 1 / sem_i^2`, `mean = sum w_i v_i / sum w_i`,
      `variance = max(1, chi^2 / (R - 1)) / sum w_i` with `chi^2 = sum w_i (v_i - mean)^2` over its `R`
      measurements: where they disagree by more than their errors allow, the errors are scaled up.
    - Otherwise: `mean = sum n_i v_i / sum n_i`, `count = sum n_i`, and the variance is that of one reading,
      shared by all objects of this kind and left to the model, over the count. Replicates estimate it as
      `sum n_i (v_i - mean)^2 / sum (R - 1)`, both sums over all these objects.

    Raises: ShapeError for lengths that differ; LabelError, naming the row, for a value that is not finite, a
    sem that is not above 0, or a count under 1.
    Source: Birge 1932, Physical Review 40, 207 (the scale factor); the second is the within-group mean square
    of a one-way analysis of variance.
    """
    sem = torch.full_like(values, torch.nan) if sem is None else sem
    n = torch.ones_like(values) if n is None else n.to(values)
    _check(keys, values, sem, n)
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    place = {key: i for i, key in enumerate(first)}
    group = torch.tensor([place[key] for key in keys], dtype=torch.long, device=values.device)

    def total(x: Tensor) -> Tensor:
        return torch.zeros(len(first), dtype=values.dtype, device=values.device).index_add_(0, group, x)

    repeats = total(torch.ones_like(values))
    known = total(sem.isnan().to(values)) == 0
    weight = torch.where(known[group], sem.square().reciprocal(), n)
    weights = total(weight)
    # Around the first value, so that labels far from zero lose no digits.
    origin = values[torch.tensor(list(first.values()), device=values.device)]
    means = origin + total(weight * (values - origin[group])) / weights
    scatter = total(weight * (values - means[group]).square())
    freedom = repeats - 1.0
    scale = torch.where(freedom > 0, scatter / freedom.clamp_min(1.0), 0.0).clamp_min(1.0)
    shared_freedom = freedom[~known].sum().item()
    return PooledLabels(
        keys=tuple(first),
        rows=torch.tensor(list(first.values()), device=values.device),
        means=means,
        variances=torch.where(known, scale / weights, torch.nan),
        counts=total(n),
        within_variance=scatter[~known].sum().item() / shared_freedom if shared_freedom else None,
    )


def _check(keys: Sequence[str], values: Tensor, sem: Tensor, n: Tensor) -> None:
    m = len(keys)
    shapes = [tuple(t.shape) for t in (values, sem, n)]
    if m == 0 or any(shape != (m,) for shape in shapes):
        raise ShapeError(
            f"{m} keys with values, sem and n of shapes {shapes}, expected vectors of one length, at least 1. "
            "Give each measurement a row; NaN where its sem is not known."
        )
    bad = ~values.isfinite() | ~(sem.isnan() | ((sem > 0.0) & sem.isfinite())) | ~(n.isfinite() & (n >= 1.0))
    if bool(bad.any()):
        row = int(bad.nonzero()[0].item())
        raise LabelError(
            f"row {row} ({keys[row]!r}) has value {values[row].item()!r}, sem {sem[row].item()!r} and n "
            f"{n[row].item()!r}; expected a finite value, a sem above 0 or NaN, and a count of at least 1. "
            "A sem of 0 claims perfect knowledge: leave it out where it was not estimated."
        )
