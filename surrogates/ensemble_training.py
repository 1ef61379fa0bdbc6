"""Training many small networks as one batched network: bootstrap samples, Adam, early stopping.

It knows nothing of labels' scales or of beliefs; what is made of the networks belongs in `ensemble.py`.
"""

import logging
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor
from torch.nn.functional import silu

_log = logging.getLogger(__name__)

_BLOCK = 20
"""Steps between two looks at the labels that a member was not given; minibatches are drawn for as many."""

_MAX_HELD_OUT = 2048
"""Of how many labels those left out are looked at to stop a member: more cost much and change little."""

Weights = tuple[Tensor, ...]
"""For each layer the weights, `k x fan_in x fan_out`, and the offsets, `k x 1 x fan_out`, of all members."""


@dataclass(frozen=True)
class TrainingOptions:
    """How members are trained: Adam with decoupled weight decay on squared error, stopped early.

    A member stops once `patience` looks in a row, 20 steps apart, have not improved its error on the labels that
    its bootstrap sample left out, and keeps the weights of its best look. `weight_decay` is divided by the number
    of labels, as a prior on weights weighs less the more labels there are.
    """

    width: int = 64
    n_hidden: int = 2
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 100.0
    max_steps: int = 3000
    patience: int = 15


def bootstrap(n: int, members: int, seed: int) -> Tensor:
    """Return the rows of each member's bootstrap sample, `members x n`: `n` draws from `n` with replacement."""
    return torch.stack([torch.randint(n, (n,), generator=_generator(seed, k, 0)) for k in range(members)])


def train_members(
    X: Tensor,
    labels: Tensor,
    rows: Tensor,
    *,
    options: TrainingOptions,
    seed: int,
    first: int = 0,
) -> Weights:
    """Return the weights of networks trained on `rows`, `k x n`, of inputs `X`, `n x d`, and `labels`, `n`.

    All `k` are one network of batched matrix products: on small networks most of a step is overhead, which they
    share. Member `k` of the call is number `first + k` of the ensemble and decides its own weights, minibatches
    and end, so that training members apart or together gives the same weights, to float32 rounding.
    """
    n_members = len(rows)
    numbers = range(first, first + n_members)
    sizes = [X.shape[1], *[options.width] * options.n_hidden, 1]
    weights = _first_weights(sizes, numbers, seed, X)
    minibatches = [_generator(seed, number, 2) for number in numbers]
    optimiser = torch.optim.AdamW(
        weights, lr=options.learning_rate, weight_decay=options.weight_decay / len(labels), fused=True
    )
    stop = _EarlyStop(X, labels, rows, options.patience, weights)
    whole = rows.to(X.device) if rows.shape[1] <= options.batch_size else None
    stop.look(weights)
    n_steps = 0
    while n_steps < options.max_steps and stop.any_active:
        if whole is None:
            drawn = [
                row[torch.randint(rows.shape[1], (_BLOCK, options.batch_size), generator=g)]
                for row, g in zip(rows, minibatches, strict=True)
            ]
            batches = torch.stack(drawn, dim=1).to(X.device)
        for step in range(_BLOCK):
            batch = batches[step] if whole is None else whole
            optimiser.zero_grad(set_to_none=True)
            error = forward(tuple(weights), X[batch]) - labels[batch]
            # The sum over members: each gets the gradient of its own mean squared error.
            error.square().mean(dim=1).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        n_steps += _BLOCK
        stop.look(weights)
    _log.debug("trained %d members in %d steps", n_members, n_steps)
    return stop.best


def forward(weights: Weights, X: Tensor) -> Tensor:
    """Return the outputs of `k` networks, `k x n`, at shared inputs `n x d` or at their own, `k x n x d`."""
    hidden = X if X.ndim == 3 else X.expand(weights[0].shape[0], *X.shape)
    for number in range(0, len(weights), 2):
        if number:
            hidden = silu(hidden)
        # Not baddbmm: it first copies the offsets to every row, which took a fifth of a step.
        hidden = torch.bmm(hidden, weights[number]).add_(weights[number + 1])
    return hidden.squeeze(-1)


class _EarlyStop:
    """Remembers each member's weights where its error on the labels it was not given was least.

    A member that was given every label (few labels, by chance) has no such error: its latest weights stand.
    """

    def __init__(self, X: Tensor, labels: Tensor, rows: Tensor, patience: int, weights: list[Tensor]) -> None:
        some = torch.linspace(0, len(labels) - 1, min(len(labels), _MAX_HELD_OUT)).long()
        held_out = left_out(rows.cpu())[:, some]
        # Each member is asked for its own left-out labels alone, about 37 in 100: the shortest lists are padded.
        longest = max(1, int(held_out.sum(1).max()))
        first = held_out.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :longest]
        self._held_out = held_out.gather(1, first).to(X.device, X.dtype)
        own = some[first].to(X.device)
        self._X, self._labels = X[own], labels[own]
        self._patience = patience
        self._error = torch.full((len(rows),), torch.inf, dtype=X.dtype, device=X.device)
        self._since = torch.zeros(len(rows), dtype=torch.int64, device=X.device)
        self.best: Weights = tuple(weight.detach().clone() for weight in weights)

    @property
    def any_active(self) -> bool:
        """Tell whether some member is still learning."""
        return bool((self._since < self._patience).any())

    @torch.no_grad()
    def look(self, weights: list[Tensor]) -> None:
        """Take note of the members' weights where they are better, unless the member has stopped."""
        squared = (forward(tuple(weights), self._X) - self._labels).square()
        count = self._held_out.sum(1)
        error = (self._held_out * squared).sum(1) / count.clamp_min(1.0)
        active = self._since < self._patience
        better = active & ((error < self._error) | (count == 0))
        self._error = torch.where(better, error, self._error)
        self._since = torch.where(better, 0, self._since + 1).where(active, self._since)
        chosen = better[:, None, None]
        self.best = tuple(
            torch.where(chosen, new.detach(), old) for new, old in zip(weights, self.best, strict=True)
        )


def _first_weights(sizes: list[int], numbers: range, seed: int, like: Tensor) -> list[Tensor]:
    """Return each layer's weights and offsets, uniform within `1 / sqrt(fan_in)`, that need gradients."""
    generators = [_generator(seed, number, 1) for number in numbers]
    weights = []
    for fan_in, fan_out in pairwise(sizes):
        for shape in ((fan_in, fan_out), (1, fan_out)):
            drawn = torch.stack([torch.rand(*shape, generator=g, dtype=torch.float64) for g in generators])
            weights.append(((2.0 * drawn - 1.0) * fan_in**-0.5).to(like).requires_grad_())
    return weights


def _generator(seed: int, number: int, purpose: int) -> Generator:
    """Return the generator of one member for one purpose: no two share a stream."""
    return torch.Generator().manual_seed((seed * 100_003 + number) * 3 + purpose)


def left_out(rows: Tensor) -> Tensor:
    """Return which labels a member was not given, `k x n`."""
    given = torch.zeros(rows.shape, dtype=torch.bool, device=rows.device)
    return ~given.scatter_(1, rows, value=True)
