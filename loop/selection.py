"""From a pool of samples to a batch: which are measured, and why the others are not.

Selection works on samples as they were drawn; sorting everything a sampler ever evaluated throws its
diversity away.
"""

import logging

import torch
from torch import Generator, Tensor

from flowscout.errors import ConfigError
from flowscout.surrogates import Surrogate
from flowscout.surrogates.kernels import cholesky
from flowscout.surrogates.pending import joint_moments

logger = logging.getLogger(__name__)

_CHUNK = 256
"""Objects whose joint covariance with the pending ones is taken at once: it grows with the square."""


def thompson_batch(
    surrogate: Surrogate, X: Tensor, n: int, *, generator: Generator, X_pending: Tensor | None = None
) -> list[int]:
    """Return `n` distinct rows of the pool `X`, `m x d`: the best of one joint posterior draw for each slot.

    Each slot follows a belief of its own, so the batch spreads over what could be best. The draws suppose that
    the pending objects, `X_pending`, `p x d`, turn out as expected: see `pending_draws`.
    Source: Kandasamy et al. 2018, arXiv:1705.09236 (synchronous parallel Thompson sampling).
    """
    if n == 0:
        return []
    chosen: list[int] = []
    for values in pending_draws(surrogate, X, min(n, len(X)), X_pending, generator=generator):
        values = values.clone()
        values[chosen] = -torch.inf
        chosen.append(int(values.argmax()))
    return chosen


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
