"""How a campaign leaves a poor mode: a share of the batch is chosen elsewhere than where the best objects lie.

Far from its data a surrogate is confidently wrong, so that neither its own uncertainty nor its optimum leads out
of a mode. What is alike is therefore asked of the objects, not of the surrogate; which of the others are measured
is decided by the surrogate again, so that what exploration finds is followed up.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from flowscout.loop.rewards import FrozenReward
from flowscout.loop.spaces import SequenceSpace
from flowscout.loop.spaces.protocol import Space
from flowscout.surrogates.kernels import GappedPairKernel

EARLY_SHARES = (0.5, 0.5, 0.5, 0.25)
"""The shares of the first rounds under `explore: early`; later rounds explore no more."""

ALIKE = 0.4
"""Similarity from which two objects belong to one mode: random 8-mers of DNA have 0.2, one letter changed 0.7."""

N_ELITES = 32
"""Among how many of the best labelled objects the mode of the very best is looked for."""

MAX_INCUMBENTS = 8

BARRED = -1e9
"""The log-reward of what lies in the mode of the best: so low that it is never drawn."""


def explore_share(explore: float | Literal["early"], number: int) -> float:
    """Return the share of the batch of round `number`, from 1, that is chosen elsewhere."""
    if explore != "early":
        return explore
    return EARLY_SHARES[number - 1] if number <= len(EARLY_SHARES) else 0.0


def similarity(space: Space[Any], a: Any, b: Any) -> Tensor:
    """Return how alike finished objects are, float64 `n x m`, from 0 to 1, without a model.

    Sequences by the gapped pairs of letters that they share, wherever those stand; other objects by their
    distance, relative to the largest.
    """
    if isinstance(space, SequenceSpace) and space.fixed_length:
        kernel, levels = GappedPairKernel(len(space.rules.letters)), len(space.rules.letters)
        prepared = [kernel.prepare(space.features(states), levels) for states in (a, b)]
        return kernel.compare(*prepared).sqrt()
    distance = space.distance(a, b)
    return 1.0 - distance / distance.max().clamp_min(1e-12)


def incumbents(space: Space[Any], labelled: Any) -> Any:
    """Return the best labelled object and those of the next best that are alike; the best of `labelled` first."""
    elites = labelled[: min(N_ELITES, len(labelled))]
    alike = similarity(space, elites, elites[:1]).squeeze(1) >= ALIKE
    alike[0] = True
    return elites[alike.nonzero().squeeze(1)[:MAX_INCUMBENTS]]


@dataclass(frozen=True, kw_only=True)
class RewardElsewhere(FrozenReward):
    """A reward that bars what is alike to any of the `incumbents`."""

    space: Space[Any]
    incumbents: Any

    def __call__(self, state: Any) -> Tensor:
        """Return the log-reward of each state, `b`."""
        log_reward = super().__call__(state)
        return torch.where(self.barred(state).to(log_reward.device), BARRED, log_reward)  # it may be on a GPU

    def barred(self, state: Any) -> Tensor:
        """Return which states are alike to an incumbent, bool `b`."""
        return similarity(self.space, state, self.incumbents).amax(dim=1) >= ALIKE


def elsewhere(space: Space[Any], reward: FrozenReward, labelled: Any) -> RewardElsewhere:
    """Return the reward without the mode of the best labelled object; `labelled` has the best first."""
    kept = {field.name: getattr(reward, field.name) for field in fields(reward)}
    return RewardElsewhere(**kept, space=space, incumbents=incumbents(space, labelled))
