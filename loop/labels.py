"""From a training set to what surrogates are fitted to: features, labels, and how well each label is known.

Which surrogate that is belongs in `loop.surrogate_choice`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowscout.db import TrainingRow, TrainingSet
from flowscout.loop.spaces import Space
from flowscout.surrogates import AveragedGP, ExactGP, Surrogate, pool_replicates

MIN_FREEDOM = 3
"""How many repeats beyond the first show what one reading is off by; a pair may agree by chance."""


@dataclass(frozen=True)
class Labels:
    """What was measured, `n x d` and `n x 1`, and what is known by bounds only, `p x d` and `p x 2`.

    Larger is better. `noise`, `n`, is the variance of each label where it is known, else NaN; None where none is.
    """

    X: Tensor
    Y: Tensor
    noise: Tensor | None
    X_bounded: Tensor
    bounds: Tensor

    def __len__(self) -> int:
        """Return the number of measured objects."""
        return len(self.Y)


def features_of(
    space: Space[Any], objects: Sequence[str], *, outside: Mapping[str, Sequence[float]] | None = None
) -> Tensor:
    """Return the features of objects given as text, `n x d`; those of objects `outside` the space are given."""
    if not outside:
        return space.features(space.parse(list(objects)))
    X = space.features(space.parse([text for text in objects if text not in outside]))
    strange = torch.tensor([text in outside for text in objects], dtype=torch.bool)
    found = X.new_empty(len(objects), X.shape[1])
    found[~strange] = X
    given = [outside[text] for text in objects if text in outside]
    found[strange] = torch.tensor(given, dtype=X.dtype).reshape(-1, X.shape[1])
    return found


def make_labels(
    space: Space[Any], data: TrainingSet, *, sign: float, outside: Mapping[str, Sequence[float]] | None = None
) -> Labels:
    """Return the labels of a training set in the order of candidate keys; `sign` is -1 where small is good.

    `outside` holds the features of those of its objects that are not in the space.
    """
    values, noise = _pooled(data.rows)
    limits = [
        (-torch.inf if row.lower is None else row.lower, torch.inf if row.upper is None else row.upper)
        for row in data.bounded
    ]
    bounds = torch.tensor(limits, dtype=torch.float64).reshape(-1, 2)
    return Labels(
        X=features_of(space, [row.object for row in data.rows], outside=outside),
        Y=(sign * values).unsqueeze(-1),
        noise=noise,
        X_bounded=features_of(space, [row.object for row in data.bounded], outside=outside),
        bounds=bounds if sign > 0 else -bounds.flip(1),
    )


def fit_to(surrogate: Surrogate, labels: Labels) -> None:
    """Fit a surrogate to all that it can take: exact GPs take noise and bounds, others measured labels alone."""
    if not isinstance(surrogate, ExactGP | AveragedGP):
        surrogate.fit(labels.X, labels.Y)
        return
    X, Y = _with_bounded(labels)
    if len(labels.bounds) == 0:
        surrogate.fit(X, Y, noise=labels.noise)
        return
    unknown = torch.full((len(Y),), torch.nan, dtype=Y.dtype)
    noise, bounds = unknown.clone(), torch.stack([unknown, unknown], dim=1)
    if labels.noise is not None:
        noise[: len(labels)] = labels.noise
    bounds[len(labels) :] = labels.bounds
    surrogate.fit(X, Y, noise=noise, bounds=bounds)


def rebuild(surrogate: Surrogate, state: dict[str, Tensor], labels: Labels) -> None:
    """Let a surrogate be what it was when `fit_to` the same labels gave `state`."""
    exact = isinstance(surrogate, ExactGP | AveragedGP)
    surrogate.load_state_dict(state, *(_with_bounded(labels) if exact else (labels.X, labels.Y)))


def _with_bounded(labels: Labels) -> tuple[Tensor, Tensor]:
    """Return features and labels of the measured rows, then the bounded ones, labelled by a bound of theirs."""
    if len(labels.bounds) == 0:
        return labels.X, labels.Y
    lower, upper = labels.bounds.unbind(1)
    stated = torch.where(lower.isfinite(), lower, upper)
    return torch.cat([labels.X, labels.X_bounded]), torch.cat([labels.Y, stated.unsqueeze(-1)])


def _pooled(rows: Sequence[TrainingRow]) -> tuple[Tensor, Tensor | None]:
    """Return each row's value, `n`, and its variance, `n`, NaN where it is not known; None where none is."""
    values = torch.tensor([row.value for row in rows], dtype=torch.float64)
    if not any(row.readings for row in rows):
        return values, None
    keys, readings, sems, counts = [], [], [], []
    for row in rows:
        for one in row.readings:
            keys.append(row.key)
            readings.append(one.value)
            # An error of 0 or less, or a count of 0, is no estimate.
            sems.append(one.sem if one.sem is not None and one.sem > 0 else torch.nan)
            counts.append(max(1, one.n) if one.n is not None else 1)
    columns = (torch.tensor(column, dtype=torch.float64) for column in (readings, sems, counts))
    pooled = pool_replicates(keys, *columns)
    freedom = len(keys) - len(pooled.keys)
    one_reading = pooled.within_variance if freedom >= MIN_FREEDOM else None
    variances = pooled.noise(torch.nan if one_reading is None else one_reading)
    place = {key: i for i, key in enumerate(pooled.keys)}
    noise = torch.full_like(values, torch.nan)
    for i, row in enumerate(rows):
        if row.readings:
            noise[i] = variances[place[row.key]]
            if any(one.sem is not None or one.n is not None for one in row.readings):
                values[i] = pooled.means[place[row.key]]
    return values, None if bool(noise.isnan().all()) else noise
