"""From a pool of samples to a batch: which are measured, and why the others are not.

Selection works on samples as they were drawn; sorting everything a sampler ever evaluated throws its
diversity away.
"""

import torch
from torch import Generator, Tensor

from flowscout.surrogates import Surrogate


def thompson_batch(surrogate: Surrogate, X: Tensor, n: int, *, generator: Generator) -> list[int]:
    """Return `n` distinct rows of the pool `X`, `m x d`: the best of one joint posterior draw for each slot.

    Each slot follows a belief of its own, so the batch spreads over what could be best.
    Source: Kandasamy et al. 2018, arXiv:1705.09236 (synchronous parallel Thompson sampling).
    """
    if n == 0:
        return []
    draws = surrogate.sample(X, min(n, len(X)), generator=generator)
    chosen: list[int] = []
    for values in draws:
        values = values.clone()
        values[chosen] = -torch.inf
        chosen.append(int(values.argmax()))
    return chosen
