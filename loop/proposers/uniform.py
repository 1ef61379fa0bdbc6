"""Uniform draws from a space: the proposer `random`, and the states that rewards are centred on.

Nothing here looks at a reward.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from flowscout.loop.gflownet import draw as draw_from
from flowscout.loop.gflownet.policy import Policy
from flowscout.loop.proposers.protocol import Problem, Samples, Trained
from flowscout.loop.spaces import SequenceSpace
from flowscout.loop.spaces.protocol import Space


@dataclass(frozen=True)
class RandomProposer:
    """Draws uniformly from the space: what is done before anything is known, and the floor of benchmarks."""

    kind: str = "random"

    def train(
        self,
        problem: Problem,
        *,
        seed: int,
        warm_start: Mapping[str, Tensor] | None = None,  # noqa: ARG002 - there is nothing to learn
    ) -> Trained:
        """Do nothing."""
        del seed
        return Trained(tensors={}, reward=problem.reward)

    def draw(self, problem: Problem, tensors: Mapping[str, Tensor], n: int, *, seed: int) -> Samples:
        """Return `n` finished objects, each step a uniform legal action."""
        del tensors
        return Samples(uniform_states(problem.space, n, seed=seed, device=problem.device), None)


def uniform_states(space: Space[Any], n: int, *, seed: int, device: torch.device) -> Any:
    """Return `n` finished states, each step of their making a uniform legal action.

    Sequences under rules are drawn uniformly instead: step by step, a few mutations would all come first.
    """
    generator = Generator(device).manual_seed(seed)
    if isinstance(space, SequenceSpace) and space.rules.constraints:
        return space.uniform(n, generator)
    # The forward head of a new policy is zero, so it takes every legal action with equal probability.
    policy = Policy(space.encoding_dim, space.n_actions, generator=Generator().manual_seed(0), width=1, depth=1)
    return draw_from(space, policy.to(device), n, generator=generator).states
