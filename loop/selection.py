"""From a pool of samples to a batch: which are measured, and why the others are not.

Selection works on samples as they were drawn; sorting everything a sampler ever evaluated throws its
diversity away. Where the pool comes from belongs in `loop.pools`.
"""

import logging
from typing import Any

import torch
from torch import Generator, Tensor

from flowscout.errors import ConfigError
from flowscout.loop.config import BatchSection
from flowscout.loop.exploration import similarity
from flowscout.loop.proposers import Problem
from flowscout.loop.proposers.local_search import LONG
from flowscout.loop.spaces import SequenceSpace
from flowscout.surrogates import Surrogate, dpp_batch, greedy_batch
from flowscout.surrogates.kernels import cholesky
from flowscout.surrogates.pending import joint_moments

logger = logging.getLogger(__name__)

_CHUNK = 256
"""Objects whose joint covariance with the pending ones is taken at once: it grows with the square."""


APART = 16
"""Long sequences of a batch differ in one of so many letters at least, where no distance is given."""

TOP_OF = 5
"""From how many samples for each place `select: top` takes the best."""


def choose_batch(
    section: BatchSection,
    problem: Problem,
    surrogate: Surrogate,
    states: Any,
    n: int,
    *,
    generator: Generator,
    X_pending: Tensor | None = None,
    taken: Any | None = None,
) -> list[int]:
    """Return at most `n` distinct rows of the pool, `m` finished states in the order they were drawn.

    `section.select` says how: see `thompson_batch`, `flowscout.surrogates.greedy_batch` (`greedy`, by q-UCB) and
    `dpp_batch` (`dpp`, of the rewards and `similarity`); `top` takes the best by acquisition of the first
    `TOP_OF n`. None is nearer than `least_distance` to another, or to one of the states that are `taken` into
    the batch already, while the pool has others. `X_pending`, `p x d`, are the features of what is being measured.
    """
    n = min(n, len(states))
    if n == 0:
        return []
    X = problem.reward.features(states)
    if section.select == "greedy":
        return greedy_batch(surrogate, X, n, X_pending=X_pending, generator=generator)
    if section.select == "dpp":
        log_reward = problem.reward(states).double()
        # The square root: a determinant counts each quality twice.
        quality = (0.5 * (log_reward - log_reward.max()).clamp_min(-600.0)).exp()
        return dpp_batch(quality, _alike(problem, states).to(quality), n)
    near = barred = None
    distance = least_distance(section, problem.space)
    if distance is not None:
        near = (problem.space.distance(states, states) < distance).to(X.device)
        if taken is not None and len(taken):
            barred = (problem.space.distance(states, taken) < distance).any(dim=1).to(X.device)
    if section.select == "top":
        some = states[: TOP_OF * n]
        return _pick(problem.reward.values(some).unsqueeze(0).expand(n, -1), near, barred)
    return thompson_batch(surrogate, X, n, generator=generator, X_pending=X_pending, near=near, barred=barred)


def least_distance(section: BatchSection, space: Any) -> float | None:
    """Return how far apart objects of a batch are to be, or None where they may be as near as they are.

    `auto` is one letter in `APART`, and at least 2, of sequences of one length that have `LONG` or more: those
    that rank best are near copies of each other there, and measuring them tells little more than measuring one.
    In short ones, in other spaces, and where `select` spreads a batch by itself, it is None.
    """
    if section.distance != "auto":
        return section.distance
    if section.select in ("greedy", "dpp") or not isinstance(space, SequenceSpace) or not space.fixed_length:
        return None
    return float(max(2, space.rules.length // APART)) if space.rules.length >= LONG else None


def thompson_batch(
    surrogate: Surrogate,
    X: Tensor,
    n: int,
    *,
    generator: Generator,
    X_pending: Tensor | None = None,
    near: Tensor | None = None,
    barred: Tensor | None = None,
) -> list[int]:
    """Return `n` distinct rows of the pool `X`, `m x d`: the best of one joint posterior draw for each slot.

    Each slot follows a belief of its own, so the batch spreads over what could be best. The draws suppose that
    the pending objects, `X_pending`, `p x d`, turn out as expected: see `pending_draws`. Of objects that are
    `near` to each other, bool `m x m`, one is taken, and of those that are `barred`, bool `m`, none, while there
    are others.
    Source: Kandasamy et al. 2018, arXiv:1705.09236 (synchronous parallel Thompson sampling).
    """
    if n == 0:
        return []
    draws = pending_draws(surrogate, X, min(n, len(X)), X_pending, generator=generator)
    return _pick(draws, near, barred)


def _pick(values: Tensor, near: Tensor | None, barred: Tensor | None) -> list[int]:
    """Return for each row of `values`, `n x m`, the best column that is free, if possible `near` to none taken.

    Those that are `barred` are free where no others are left. `near` and `barred` may know of more columns.
    """
    chosen: list[int] = []
    none = torch.zeros(values.shape[1], dtype=torch.bool, device=values.device)
    barred = none if barred is None else barred[: len(none)].clone()
    for row in values:
        taken = torch.zeros_like(barred)
        taken[chosen] = True
        out = taken if bool(barred.all()) else barred | taken
        chosen.append(int(torch.where(out, -torch.inf, row).argmax()))
        if near is not None:
            barred |= near[chosen[-1], : len(barred)]
        barred[chosen[-1]] = True
    return chosen


def _alike(problem: Problem, states: Any) -> Tensor:
    """Return how alike objects are, `m x m`, with ones on the diagonal and no negative eigenvalue to speak of."""
    alike = similarity(problem.space, states, states).double()
    alike.fill_diagonal_(1.0)
    return alike


def pending_draws(
    surrogate: Surrogate, X: Tensor, n_draws: int, X_pending: Tensor | None, *, generator: Generator
) -> Tensor:
    """Return joint draws at `X`, `n_draws x m`, given that the `p x d` pending objects have their mean values.

    The mean stays, and what the pending objects will tell is uncertain no more, so that a slot is not spent on
    learning it twice. (Pending outcomes drawn anew for every slot would change nothing: the law of such a draw
    is the posterior itself.) A draw at the pending and the other objects is moved by what it is off at the
    pending ones, `f(x) + k(x, p) k(p, p)^-1 (m(p) - f(p))`: exactly the conditional law of a Gaussian posterior,
    its linear part for an average of Gaussian processes or an ensemble. A surrogate whose joint posterior is
    neither (a user's own) cannot be asked: its draws know nothing of what is pending, and the log says so.
    Source: Desautels et al. 2014, JMLR 15, section 4.1 (hallucinated outcomes); Wilson et al. 2020,
    arXiv:2002.09309, eq. 9 (Matheron's rule).
    """
    if X_pending is None or len(X_pending) == 0:
        return surrogate.sample(X, n_draws, generator=generator)
    X_pending = torch.unique(X_pending.to(X), dim=0)
    p = len(X_pending)
    try:
        moments = [joint_moments(surrogate, torch.cat([X_pending, some])) for some in torch.split(X, _CHUNK)]
    except ConfigError as error:
        logger.warning("the batch is drawn without regard to what is pending: %s", error)
        return surrogate.sample(X, n_draws, generator=generator)
    mean, covariance = moments[0]
    cross = torch.cat([found[:p, p:] for _, found in moments], dim=1)
    draws = surrogate.sample(torch.cat([X_pending, X]), n_draws, generator=generator)
    off = torch.cholesky_solve((mean[:p] - draws[:, :p]).mT, cholesky(covariance[:p, :p])).mT
    return draws[:, p:] + off @ cross
