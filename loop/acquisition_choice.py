"""From the acquisition section of a campaign file to an acquisition, frozen on what is known and what is pending.

How a value becomes a reward belongs in `loop.rewards`.
"""

import torch
from torch import Generator, Tensor

from flowscout.loop.config import AcquisitionSection
from flowscout.surrogates import (
    CanonicalSurrogate,
    DeepEnsemble,
    FrozenAcquisition,
    HasPaths,
    PairwiseLinear,
    Surrogate,
    condition_on,
    log_ei,
    max_value_entropy,
    q_log_ei,
    q_ucb,
    thompson,
    ucb,
)

N_ANCHORS = 256
"""At how many objects a Gaussian process is drawn jointly, for a Thompson draw that values every object."""


def make_acquisition(
    section: AcquisitionSection,
    surrogate: Surrogate,
    *,
    labelled: Tensor,
    best: float,
    pending: Tensor,
    reference: Tensor,
    seed: int,
) -> FrozenAcquisition:
    """Return the acquisition of a round.

    `labelled`, `n x d`, are the measured objects, the best first, and `best` the largest label; `pending`,
    `p x d`, those that are being measured; `reference`, `c x d`, uniform ones. All that is random is by `seed`.
    """
    if section.type == "ucb":
        return ucb(surrogate, section.kappa)
    if section.type == "q_ucb":
        return q_ucb(surrogate, section.kappa, pending, seed=seed)
    if section.type == "log_ei":
        return log_ei(surrogate, best)
    if section.type == "q_log_ei":
        return q_log_ei(surrogate, best, pending, seed=seed)
    if section.type == "mes":
        return max_value_entropy(surrogate, torch.cat([labelled, reference]), pending, seed=seed)
    return _thompson(surrogate, torch.cat([labelled[: N_ANCHORS // 2], reference]), seed=seed)


def _thompson(surrogate: Surrogate, anchors: Tensor, *, seed: int) -> FrozenAcquisition:
    """Return one posterior draw as a function of any object.

    It is a path where the surrogate has them, or a member or weights drawn once. Of a Gaussian process it is a
    joint draw at the first `N_ANCHORS` different `anchors`, and elsewhere the mean that follows from it.
    """
    if isinstance(surrogate, HasPaths):
        return thompson(surrogate, generator=Generator().manual_seed(seed))
    if _draws_functions(surrogate):

        def evaluate(X: Tensor) -> Tensor:
            return surrogate.sample(X, 1, generator=Generator().manual_seed(seed)).squeeze(0)

        return FrozenAcquisition(name="thompson", is_log=False, evaluate=evaluate)
    draw = condition_on(surrogate, _distinct(anchors, N_ANCHORS), n_draws=1, seed=seed)
    return FrozenAcquisition(name="thompson", is_log=False, evaluate=lambda X: draw.mean_sd(X)[0].squeeze(0))


def _draws_functions(surrogate: Surrogate) -> bool:
    """Whether `sample` with one seed draws one function, whatever the points it is asked at."""
    inner = surrogate.surrogate if isinstance(surrogate, CanonicalSurrogate) else surrogate
    return isinstance(inner, DeepEnsemble | PairwiseLinear)


def _distinct(X: Tensor, n: int) -> Tensor:
    """Return the first `n` rows that differ from all before them."""
    _, place = torch.unique(X, dim=0, return_inverse=True)
    first = torch.full((int(place.max()) + 1,), len(X)).scatter_reduce(0, place, torch.arange(len(X)), "amin")
    return X[first.sort().values[:n]]
