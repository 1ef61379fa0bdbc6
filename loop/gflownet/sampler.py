"""Draw objects from a policy, and give the log-probability of objects under it.

Behaviour (exploration) changes what is sampled, never what `log_pf` says. Losses belong in `losses`.
"""

import math
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from flowscout.errors import ConfigError
from flowscout.loop.gflownet.policy import Policy, masked_log_softmax, uniform_log_pb
from flowscout.loop.spaces.protocol import S, Space

CHUNK_ROWS = 16_384
"""Rows of one forward pass outside training: bounds memory at 16 MB per layer of 256 units."""


@dataclass(frozen=True)
class Trajectories(Generic[S]):
    """A batch of `b` whole trajectories of `t` steps, from the first state to a finished object.

    `encodings` is float32 `t x b x d` and `masks` bool `t x b x A`, both of the states in which `actions`,
    int64 `t x b`, were taken; `log_pb` is float64 `t x b`; `terminal` holds the finished objects.
    """

    terminal: S
    encodings: Tensor
    masks: Tensor
    actions: Tensor
    log_pb: Tensor

    def log_pf(self, policy: Policy) -> Tensor:
        """Return each action's log-probability under a policy, `b x t`, with its gradient."""
        logits = policy(self.encodings.flatten(0, 1)).unflatten(0, self.actions.shape)
        chosen = masked_log_softmax(logits, self.masks).gather(2, self.actions.unsqueeze(2))
        return chosen.squeeze(2).T


@dataclass(frozen=True)
class Draw(Generic[S]):
    """Finished objects drawn from a policy: `states`, `n` rows, and `log_pf`, float32 `n`.

    `log_pf` is the log-probability of the trajectory that was taken: in a tree, that of the state itself.
    """

    states: S
    log_pf: Tensor


def rollout(
    space: Space[S], policy: Policy, n: int, *, generator: torch.Generator, epsilon: float = 0.0
) -> Trajectories[S]:
    """Return `n` trajectories of the policy, on the device of the generator.

    With probability `epsilon` a step takes a uniform legal action instead.
    """
    _require_fixed_length(space)
    steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    with torch.inference_mode():
        state = space.reset(n, generator.device)
        for _ in range(space.max_steps):
            mask, encoding = space.forward_mask(state), space.encode(state)
            action = _choose(policy(encoding), mask, generator, epsilon)
            state = space.step(state, action)
            steps.append((encoding, mask, action, uniform_log_pb(space, state)))
    # Outside of inference mode, because autograd refuses to save the tensors made inside it.
    encodings, masks, actions, log_pb = (torch.stack(part) for part in zip(*steps, strict=True))
    terminal = state[torch.arange(n, device=generator.device)]
    return Trajectories(terminal, encodings, masks, actions, log_pb)


def draw(space: Space[S], policy: Policy, n: int, *, generator: torch.Generator) -> Draw[S]:
    """Return `n` finished objects of the policy with their log-probabilities.

    Memory does not grow with the number of steps: only the last state is kept.
    """
    _require_fixed_length(space)
    with torch.inference_mode():
        state = space.reset(n, generator.device)
        log_pf = torch.zeros(n, device=generator.device)
        for _ in range(space.max_steps):
            mask = space.forward_mask(state)
            logits = torch.cat([policy(rows) for rows in torch.split(space.encode(state), CHUNK_ROWS)])
            action = _choose(logits, mask, generator, 0.0)
            log_pf += masked_log_softmax(logits, mask).gather(1, action.unsqueeze(1)).squeeze(1)
            state = space.step(state, action)
    return Draw(state[torch.arange(n, device=generator.device)], log_pf.clone())


def backtrack(space: Space[S], terminal: S) -> Trajectories[S]:
    """Return the only trajectory that leads to each finished object of a tree.

    Raises:
        ConfigError: The space is not a tree, so an object has many.
    """
    _require_fixed_length(space)
    if not space.is_tree:
        raise ConfigError(
            f"{space!r} is not a tree, expected one: elsewhere many trajectories lead to one object. "
            "Estimate log-probabilities from `draw` there."
        )
    steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    state = terminal
    for _ in range(space.max_steps):
        log_pb = uniform_log_pb(space, state)
        back = space.backward_mask(state).int().argmax(dim=1)
        action = space.retrace(state, back)
        state = space.step_back(state, back)
        steps.append((space.encode(state), space.forward_mask(state), action, log_pb))
    encodings, masks, actions, log_pb = (torch.stack(part) for part in zip(*reversed(steps), strict=True))
    return Trajectories(terminal, encodings, masks, actions, log_pb)


def log_prob(space: Space[S], policy: Policy, terminal: S) -> Tensor:
    """Return the exact log-probability of each finished object of a tree under the policy, float32 `b`.

    It is that of the state: with two strands, a key's probability is the sum over both of its strings.

    Raises:
        ConfigError: The space is not a tree.
    """
    rows = max(1, CHUNK_ROWS // space.max_steps)
    with torch.no_grad():
        parts = [
            backtrack(space, terminal[index]).log_pf(policy).sum(dim=1)
            for index in torch.split(torch.arange(len(terminal), device=terminal.device), rows)
        ]
    return torch.cat(parts)


def _choose(logits: Tensor, mask: Tensor, generator: torch.Generator, epsilon: float) -> Tensor:
    """Return one legal action per row by the Gumbel-max trick, `b`."""
    if epsilon > 0:
        explore = torch.rand(len(logits), 1, generator=generator, device=logits.device) < epsilon
        logits = logits.masked_fill(explore, 0.0)
    # Minus the log of an exponential variate is Gumbel noise; the floor keeps log(0) out of the sum.
    noise = torch.empty_like(logits).exponential_(generator=generator).clamp_min_(1e-30)
    return (logits - noise.log_()).masked_fill(~mask, -math.inf).argmax(dim=1)


def _require_fixed_length(space: Space[S]) -> None:
    if not space.fixed_length:
        raise ConfigError(
            f"{space!r} has trajectories of different lengths, expected a space of fixed length. "
            "The sampler cannot finish rows early yet: pad the objects to one length."
        )
