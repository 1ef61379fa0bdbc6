"""What a proposer is given, what it returns, and the one protocol that all of them keep.

No way of proposing belongs here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from flowscout.loop.rewards import FrozenReward
from flowscout.loop.spaces.protocol import EditableSpace


@dataclass(frozen=True)
class Problem:
    """What a proposer works on: a space, a frozen reward, and the labelled states, the best first."""

    space: EditableSpace[Any]
    reward: FrozenReward
    labelled: Any
    device: torch.device


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
    """Finished states that a proposer drew, `n`, and their keys' log-probabilities, `n`, where it knows them."""

    states: Any
    log_prob: Tensor | None


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
