"""From a pool of samples to a batch: which are measured, and why the others are not.

Selection works on samples as they were drawn; sorting everything a sampler ever evaluated throws its
diversity away.
"""

from typing import Any

import torch
from torch import Generator, Tensor

from flowscout.loop.spaces.protocol import Space
from flowscout.surrogates import Surrogate


def thompson_batch(surrogate: Surrogate, X: Tensor, n: int, *, generator: Generator) -> list[int]:
    """Return `n` distinct rows of the pool `X`, `m x d`: the best of one joint posterior draw for each slot.

    Each slot follows a belief of its own, so the batch spreads over what could be best.
    Source: Kandasamy et al. 2018, arXiv:1705.09236 (synchronous parallel Thompson sampling).
    """
    draws = surrogate.sample(X, min(n, len(X)), generator=generator)
    chosen: list[int] = []
    for values in draws:
        values = values.clone()
        values[chosen] = -torch.inf
        chosen.append(int(values.argmax()))
    return chosen


def most_dissimilar(space: Space[Any], candidates: Any, elites: Any, n: int) -> list[int]:
    """Return `n` candidates, greedily the farthest from all elites and from those already taken.

    It asks no model: far from its data a surrogate is confidently wrong, so that its own uncertainty does not
    lead out of a poor mode.
    """
    if n == 0:
        return []
    distance = space.distance(candidates, elites).amin(dim=1)
    between = space.distance(candidates, candidates)
    chosen: list[int] = []
    for _ in range(min(n, len(candidates))):
        pick = int(distance.argmax())
        chosen.append(pick)
        distance = torch.minimum(distance, between[pick])
        distance[pick] = -1.0
    return chosen
