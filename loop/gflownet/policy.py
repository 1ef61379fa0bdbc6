"""The policy network: what it believes about the next action, the last one, and the flow through a state.

Sampling from it belongs in `sampler`, changing its weights in `trainer`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flowscout.errors import ShapeError
from flowscout.loop.gflownet.network import Mlp, head, is_large, layer, linear, zero_linear
from flowscout.loop.spaces.protocol import S, Space

MANY_LOGITS = 4_096
"""From so many logits on, masks are applied by arithmetic on a CPU, and softmaxes of narrow rows by columns."""

NARROW = 16
"""Actions in a narrow row, at most."""


@dataclass(frozen=True)
class Heads:
    """What a policy says of `n` states: logits `n x A` and `n x B`, and `log_flow`, `n`; None for no such head."""

    forward: Tensor
    backward: Tensor | None
    log_flow: Tensor | None


class Policy(nn.Module):
    """A shared trunk with a head for each belief, and `log_z`; float32.

    `encoding_dim` and `n_actions` are those of a space. With `n_backward_actions` it learns a backward policy,
    with `log_flow` the flow through each state, relative to log Z or to a partial log-reward. With
    `condition_dim` columns of an encoded condition it sees them beside each state, and log Z is a function of
    them. The heads start at zero, so an untrained policy takes every legal action with equal probability; the
    other weights are drawn from `generator`, a CPU generator, and the global one is left alone.

    `trunk`, if given, takes the place of the MLP of `depth` layers of `width` units: any module that maps float32
    `n x (encoding_dim + condition_dim)` to `n x width`. A space's `encode` is one flat row for each state; a
    network for sequences or graphs unflattens it first.

    With `prior` the last `n_actions` columns of an encoding are added to the forward logits, and no trunk sees
    them: an untrained policy then follows these log-probabilities.
    """

    def __init__(
        self,
        encoding_dim: int,
        n_actions: int,
        *,
        generator: torch.Generator,
        width: int = 128,
        depth: int = 2,
        n_backward_actions: int = 0,
        log_flow: bool = False,
        condition_dim: int = 0,
        rounds: bool = False,
        trunk: nn.Module | None = None,
        prior: bool = False,
    ) -> None:
        super().__init__()
        self.n_prior = n_actions if prior else 0
        sizes = [encoding_dim - self.n_prior + condition_dim] + [width] * depth
        self.trunk = Mlp(sizes, generator, rounds=rounds) if trunk is None else trunk
        self.forward_head = zero_linear(width, n_actions)
        self.backward_head = zero_linear(width, n_backward_actions) if n_backward_actions else None
        self.flow_head = zero_linear(width, 1) if log_flow else None
        self.log_z = nn.Parameter(torch.zeros(()))
        self.log_z_head = _LogZ(condition_dim, width, generator) if condition_dim else None

    def forward(self, encoding: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the logits of the forward actions, `n x A`, of encoded states, `n x d`."""
        logits: Tensor = self.forward_head(self.trunk(_beside(self.seen(encoding), condition)))
        return self.with_prior(logits, encoding)

    def seen(self, encoding: Tensor) -> Tensor:
        """Return what the trunk sees of encoded states: all but the prior."""
        return encoding[:, : -self.n_prior] if self.n_prior else encoding

    def with_prior(self, logits: Tensor, encoding: Tensor) -> Tensor:
        """Return forward logits with the prior of their encoded states, if there is one, added."""
        return logits + encoding[:, -self.n_prior :] if self.n_prior else logits

    @property
    def rounds(self) -> bool:
        """Whether the trunk is an `Mlp` that trains in bfloat16."""
        return isinstance(self.trunk, Mlp) and self.trunk.rounds

    def frozen(self, *, rounds: bool = False) -> Callable[[Tensor, Tensor | None], Tensor]:
        """Return `forward` with the weights as they are now, for many passes without a gradient.

        With `rounds` an MLP that trains in bfloat16 does so here.
        """
        if not isinstance(self.trunk, Mlp):
            return self
        weights = [w.detach() for w in self.trunk.weights]
        rounds = rounds and self.rounds
        halves = [w.bfloat16() for w in weights] if rounds else []
        weight, bias = self.forward_head.weight.detach(), self.forward_head.bias.detach()

        def forward(encoding: Tensor, condition: Tensor | None = None) -> Tensor:
            x = _beside(self.seen(encoding), condition)
            used = halves if halves and is_large(len(x), weights) else weights
            x = x.to(used[0].dtype)
            for at in range(0, len(used), 2):
                x = layer(x, used[at], used[at + 1], rounds=rounds)
            return self.with_prior(head(x, weight, bias), encoding)

        return forward

    def heads(self, encoding: Tensor, condition: Tensor | None = None, *, backward_alone: bool = False) -> Heads:
        """Return all that the policy says of encoded states, `n x d`, in one pass.

        With `backward_alone`, the backward head's gradient stops at the trunk.
        """
        heads = [self.forward_head]
        if self.flow_head is not None:
            heads.append(self.flow_head)
        if self.backward_head is not None and not backward_alone:
            heads.append(self.backward_head)
        seen = _beside(self.seen(encoding), condition)
        if isinstance(self.trunk, Mlp) and not (backward_alone and self.backward_head is not None):
            forward, *others = self.trunk.with_heads(seen, heads)
        else:
            hidden = self.trunk(seen)
            forward, *others = [head(hidden) for head in heads]
            if self.backward_head is not None and backward_alone:
                others.append(self.backward_head(hidden.detach()))
        flow = others.pop(0).squeeze(1) if self.flow_head is not None else None
        return Heads(self.with_prior(forward, encoding), others[0] if others else None, flow)

    def log_partition(self, condition: Tensor | None = None) -> Tensor:
        """Return the belief about log Z: a scalar, or `n` for the encoded conditions `n x c`."""
        if condition is None or self.log_z_head is None:
            return self.log_z
        log_z: Tensor = self.log_z + self.log_z_head(condition)
        return log_z

    def network_parameters(self) -> list[nn.Parameter]:
        """Return all parameters but `log_z`."""
        return [p for name, p in self.named_parameters() if name != "log_z"]

    def log_z_parameters(self) -> list[nn.Parameter]:
        """Return `log_z`, which is trained at a rate of its own; what depends on a condition is network."""
        return [self.log_z]


class _LogZ(nn.Module):
    """Log Z as a function of an encoded condition, relative to `Policy.log_z`; zero at the start."""

    def __init__(self, condition_dim: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = linear(condition_dim, width, generator)
        self.out = zero_linear(width, 1)

    def forward(self, condition: Tensor) -> Tensor:
        log_z: Tensor = self.out(self.hidden(condition).relu()).squeeze(1)
        return log_z


def masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Return logits, `n x A`, with minus infinity where `mask` is False."""
    if logits.device.type != "cpu" or logits.numel() < MANY_LOGITS:
        return torch.where(mask, logits, -math.inf)
    # 1 - 1 / 1 = 0 and 1 - 1 / 0 = -inf: on a CPU `where` takes five times as long.
    return mask.view(torch.uint8).to(logits.dtype).reciprocal_().neg_().add_(1.0).add_(logits)


def log_softmax(logits: Tensor) -> Tensor:
    """Return log-probabilities over the last dim of `n x A`."""
    return logits.t().log_softmax(0).t() if _goes_by_columns(logits) else logits.log_softmax(1)


def softmax(logits: Tensor) -> Tensor:
    """Return probabilities over the last dim of `n x A`.

    Not the exponential of `log_softmax`: that of minus infinity takes a CPU twenty times as long as another.
    """
    return logits.t().softmax(0).t() if _goes_by_columns(logits) else logits.softmax(1)


def _goes_by_columns(logits: Tensor) -> bool:
    """Return whether a softmax is faster column by column: ten times on a CPU, for many narrow rows."""
    return logits.shape[1] <= NARROW and logits.numel() >= MANY_LOGITS


def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Return log-probabilities over the legal actions, `n x A`: minus infinity where `mask` is False."""
    return log_softmax(masked(logits, mask))


def chosen_log_softmax(logits: Tensor, mask: Tensor, actions: Tensor) -> Tensor:
    """Return the log-probability of one action per row, `n`: what `masked_log_softmax` says of it.

    One autograd node in place of four.
    """
    found: Tensor = _ChosenLogSoftmax.apply(logits, mask, actions)  # type: ignore[no-untyped-call]
    return found


class _ChosenLogSoftmax(torch.autograd.Function):
    """`chosen_log_softmax` and its gradient: the action's own 1 less the probabilities."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, mask: Tensor, actions: Tensor) -> Tensor:
        logits, chosen = masked(logits, mask), actions.unsqueeze(1)
        ctx.save_for_backward(logits, chosen)
        return log_softmax(logits).gather(1, chosen).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, chosen = ctx.saved_tensors
        column = grad.unsqueeze(1)
        return softmax(logits).mul_(-column).scatter_add_(1, chosen, column), None, None


def uniform_log_pb(space: Space[S], child: S) -> Tensor:
    """Return the log-probability, float64 `b`, of each backward action under a uniform backward policy.

    It is 0 in a tree, where every state has one parent.
    """
    if space.is_tree:
        return torch.zeros(len(child), dtype=torch.float64, device=child.device)
    return -space.backward_mask(child).sum(dim=1).double().log()


def _beside(encoding: Tensor, condition: Tensor | None) -> Tensor:
    return encoding if condition is None else torch.cat([encoding, condition], dim=1)


def load_policy(policy: Policy, state: Mapping[str, Tensor]) -> None:
    """Copy weights into a policy.

    Raises:
        ShapeError: They are those of a policy of another shape.
    """
    shapes = {name: tuple(value.shape) for name, value in policy.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    if shapes != given:
        raise ShapeError(
            f"The policy's state has the shapes {given}, expected {shapes}. Warm-start only from a policy of "
            "the same space, width and depth, or start fresh."
        )
    policy.load_state_dict(dict(state))
