"""The policy network: what it believes about the next action, and its estimate of log Z.

Sampling from it belongs in `sampler`, changing its weights in `trainer`.
"""

import itertools
import math

import torch
from torch import Tensor, nn

from flowscout.loop.spaces.protocol import S, Space


class Policy(nn.Module):
    """A shared trunk with a head for the forward policy, and the parameter `log_z`; float32.

    `encoding_dim` and `n_actions` are those of a space. The trunk has `depth` layers of `width` units. The
    forward head starts at zero, so an untrained policy takes every legal action with equal probability; the
    other weights are drawn from `generator`, a CPU generator, and the global one is left alone. A learned
    backward policy or a log-flow is one more head on `trunk(encoding)`.
    """

    def __init__(
        self,
        encoding_dim: int,
        n_actions: int,
        *,
        generator: torch.Generator,
        width: int = 128,
        depth: int = 2,
    ) -> None:
        super().__init__()
        sizes = [encoding_dim] + [width] * depth
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [_linear(n_in, n_out, generator), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.forward_head = _linear(sizes[-1], n_actions, generator)
        nn.init.zeros_(self.forward_head.weight)
        nn.init.zeros_(self.forward_head.bias)
        self.log_z = nn.Parameter(torch.zeros(()))

    def forward(self, encoding: Tensor) -> Tensor:
        """Return the logits of the forward actions, `n x A`, of encoded states, `n x d`."""
        logits: Tensor = self.forward_head(self.trunk(encoding))
        return logits


def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Return log-probabilities over the legal actions, `n x A`: minus infinity where `mask` is False."""
    return logits.masked_fill(~mask, -math.inf).log_softmax(dim=-1)


def uniform_log_pb(space: Space[S], child: S) -> Tensor:
    """Return the log-probability, float64 `b`, of each backward action under a uniform backward policy.

    It is 0 in a tree, where every state has one parent.
    """
    if space.is_tree:
        return torch.zeros(len(child), dtype=torch.float64, device=child.device)
    return -space.backward_mask(child).sum(dim=1).double().log()


def _linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    # PyTorch's own initialisation, from our generator: uniform within 1 / sqrt(n_in).
    layer = nn.Linear(n_in, n_out, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(n_in)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer
