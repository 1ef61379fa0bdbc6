"""What a proposer is given, what it returns, and the one protocol that all of them keep.

No way of proposing belongs here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from flowscout.loop.rewards import FrozenReward
from flowscout.loop.spaces.protocol import EditableSpace

UNIQUE_RANGE = (0.60, 0.85)
"""The share of unique samples that a round aims for: less is a sampler stuck on a few objects, more is one
that hardly prefers anything."""

TEST_DRAWS = 1_000
"""Of how many samples that share is taken."""

LARGE = 1e7
"""The number of objects (4^12, 20^6) from which a policy's own samples teach it too little, and a search that
starts from what was measured finds more."""


@dataclass(frozen=True)
class Problem:
    """What a proposer works on: a space, a frozen reward, and the labelled states, the best first.

    `sd` says how uncertain the surrogate is of each of `n` finished states, `n`, where that is known.
    """

    space: EditableSpace[Any]
    reward: FrozenReward
    labelled: Any
    device: torch.device
    sd: Callable[[Any], Tensor] | None = None


@dataclass(frozen=True)
class Trained:
    """A trained proposer: the tensors to keep, the reward it ended with, and what to say of it."""

    tensors: Mapping[str, Tensor]
    reward: FrozenReward
    params: Mapping[str, Any] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    healthy: bool = True


@dataclass(frozen=True)
class Samples:
    """Finished states that a proposer drew, `n`, and their keys' log-probabilities, `n`, where it knows them.

    A log-probability is NaN where only that row's is unknown. `origins` says who made each row, `n`; without,
    all are of the proposer that drew them.
    """

    states: Any
    log_prob: Tensor | None
    origins: tuple[str, ...] | None = None


class Proposer(Protocol):
    """Whatever turns a frozen reward into samples. `train` and `draw` follow from their seeds alone."""

    @property
    def kind(self) -> str:
        """The name it is stored under."""
        ...

    def train(self, problem: Problem, *, seed: int, warm_start: Mapping[str, Tensor] | None = None) -> Trained:
        """Prepare for drawing; `warm_start` holds the tensors of an earlier round's proposer of this kind."""
        ...

    def draw(self, problem: Problem, tensors: Mapping[str, Tensor], n: int, *, seed: int) -> Samples:
        """Return `n` samples, repeats included, in proportion to the reward as well as it can."""
        ...


def is_large(space: EditableSpace[Any]) -> bool:
    """Return whether a space is too large for a policy that learns from its own samples alone."""
    return space.size is None or space.size >= LARGE


def holds_test_draws(space: EditableSpace[Any]) -> bool:
    """Return whether so many different samples may be asked of a space: one of a few thousand has no room."""
    return space.size is None or space.size >= 20 * TEST_DRAWS
