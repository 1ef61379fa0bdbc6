"""Batches from a pool, one object at a time, each for what it adds to those already taken.

Thompson batches and distances between objects live in `loop.selection`.
"""

from math import isfinite, pi, sqrt
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from flowscout.errors import ConfigError, ShapeError
from flowscout.surrogates.protocol import Surrogate

BatchAcquisition = Literal["q_ucb", "q_log_ei"]


def greedy_batch(
    surrogate: Surrogate,
    X: Tensor,
    n: int,
    acquisition: BatchAcquisition = "q_ucb",
    *,
    X_pending: Tensor | None = None,
    best: float | None = None,
    kappa: float = 1.0,
    n_draws: int = 512,
    generator: Generator,
) -> list[int]:
    """Return `n` distinct rows of the pool `X`, `m x d`, each the best to add to those before it and the pending.

    Posterior draws are made once, jointly on pool and pending objects, `p x d`. With utilities `u`, of shape
    `n_draws x m`, a batch is worth the mean over draws of its largest `u`: for `q_log_ei` the improvement
    over `best`, `max(f - best, 0)`; for `q_ucb` `mu + kappa sqrt(pi/2) |f - mu|`. Both are submodular, so
    that the greedy batch adds to the pending objects at least 63% of what the best batch would. Where no draw
    improves any more, the object that comes nearest to it is next. Costs the cube of `m + p` once and
    `n x m x n_draws`.

    Raises: ConfigError for an unknown acquisition, or q_log_ei without a finite `best`.
    Source: Wilson et al. 2018, arXiv:1805.10196, section 3 (greedy maximisation); Nemhauser et al. 1978.
    """
    _check_options(acquisition, best, kappa)
    n_pending = 0 if X_pending is None else len(X_pending)
    everything = X if X_pending is None else torch.cat([X_pending.to(X), X])
    draws = surrogate.sample(everything, n_draws, generator=generator)
    if acquisition == "q_ucb":
        mean, _ = surrogate.mean_sd(everything)
        utility = mean + kappa * sqrt(pi / 2.0) * (draws - mean).abs()
        reached = torch.full_like(utility[:, 0], -torch.inf)
    else:
        assert best is not None
        utility = draws
        reached = torch.full_like(utility[:, 0], best)
    if n_pending:
        reached = torch.maximum(reached, utility[:, :n_pending].amax(1))
    return _add_one_by_one(utility[:, n_pending:], reached, min(n, len(X)))


def _add_one_by_one(utility: Tensor, reached: Tensor, n: int) -> list[int]:
    """Return `n` columns of `utility`, `s x m`, each raising the mean of the rows' maxima the most."""
    chosen: list[int] = []
    free = torch.ones(utility.shape[1], dtype=torch.bool, device=utility.device)
    for _ in range(n):
        raised = torch.maximum(utility, reached.unsqueeze(-1)).mean(0)
        if not bool((raised[free] > reached.mean()).any()):
            raised = (utility - reached.unsqueeze(-1)).amax(0)
        pick = int(torch.where(free, raised, -torch.inf).argmax())
        chosen.append(pick)
        free[pick] = False
        reached = torch.maximum(reached, utility[:, pick])
    return chosen


def dpp_batch(quality: Tensor, kernel: Tensor, n: int) -> list[int]:
    """Return `n` distinct rows that greedily maximise `det(L)` over the batch, `L = q_i k_ij q_j`.

    `quality` is `m`, positive: how good each object is; `kernel` is `m x m`, positive semi-definite with ones
    on its diagonal: how alike two objects are. The determinant is the squared volume that the chosen feature
    vectors span, so that a near-copy adds next to nothing however good. The Cholesky factor of the chosen
    rows grows by one row a step: `O(n^2 m)` in all. Once the rest adds no volume (the kernel's rank is used
    up), the best of the rest by quality follow.

    Raises: ShapeError for shapes that do not fit; ConfigError for a quality that is not positive and finite.
    Source: Chen et al. 2018, arXiv:1709.05135, algorithm 1 (greedy MAP of a k-DPP); Kulesza & Taskar 2012,
    arXiv:1207.6083, section 3.1 (quality and diversity).
    """
    m = len(quality)
    if quality.ndim != 1 or kernel.shape != (m, m):
        raise ShapeError(
            f"quality has shape {tuple(quality.shape)} and kernel {tuple(kernel.shape)}, expected m and m x m. "
            "Take the kernel between all objects of the pool."
        )
    if not bool(((quality > 0.0) & quality.isfinite()).all()):
        raise ConfigError(
            f"quality lies between {quality.min().item()!r} and {quality.max().item()!r}, expected positive "
            "finite weights. Exponentiate a log-reward after its largest value is taken off."
        )
    # The quality multiplies each step's volume and no ratio of volumes: it enters as a sum of logarithms.
    log_quality = 2.0 * quality.log()
    left = kernel.diagonal().clone()
    empty = 1e-10 * left  # below the rounding of the updates nothing is left of an object
    rows = torch.zeros(min(n, m), m, dtype=kernel.dtype, device=kernel.device)
    free = torch.ones(m, dtype=torch.bool, device=kernel.device)
    chosen: list[int] = []
    for step in range(min(n, m)):
        usable = free & (left > empty)
        if bool(usable.any()):
            score = torch.where(usable, log_quality + left.clamp_min(0.0).log(), -torch.inf)
            pick = int(score.argmax())
            rows[step] = (kernel[pick] - rows[:step, pick] @ rows[:step]) / left[pick].sqrt()
            left = left - rows[step].square()
        else:
            pick = int(torch.where(free, log_quality, -torch.inf).argmax())
        chosen.append(pick)
        free[pick] = False
    return chosen


def _check_options(acquisition: str, best: float | None, kappa: float) -> None:
    if acquisition not in get_args(BatchAcquisition):
        raise ConfigError(
            f"acquisition is {acquisition!r}, expected one of {', '.join(get_args(BatchAcquisition))}. "
            "Start from q_ucb."
        )
    if acquisition == "q_log_ei" and (best is None or not isfinite(best)):
        raise ConfigError(
            f"best is {best!r} and the acquisition q_log_ei, expected a finite label to improve on. "
            "Pass the largest one measured so far."
        )
    if not (isfinite(kappa) and kappa >= 0.0):
        raise ConfigError(f"kappa is {kappa!r}, expected a finite number of at least 0. Start from 1.")
