"""A mixture: several proposers, each of which makes a share of the samples, under its own name.

What each of them does belongs in its own file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from flowscout.errors import ConfigError
from flowscout.loop.proposers.local_search import LocalSearchProposer
from flowscout.loop.proposers.protocol import Problem, Proposer, Samples, Trained
from flowscout.surrogates.auto import shares as whole_shares

_FALLBACK = "fallback"
"""Marks a part that failed its health check, beside the tensors of the others."""


@dataclass(frozen=True)
class MixtureProposer:
    """Has each of `parts` draw its share; a part that trains unfit is replaced by local search, and says so.

    `shares` are positive and sum to 1, one for each part. Parts are trained one after the other, each on the
    reward that the one before it ended with, so that the last of them says which reward that is. `evaluations`
    are those of a local search that steps in.

    Raises:
        ConfigError: The shares are not those of the parts, or not shares.
    """

    parts: tuple[Proposer, ...]
    shares: tuple[float, ...]
    evaluations: int = LocalSearchProposer.evaluations
    kind: str = "mixture"

    def __post_init__(self) -> None:
        names = [part.kind for part in self.parts]
        wrong = len(set(names)) != len(names) or len(names) != len(self.shares) or not names
        if wrong or not all(share > 0 for share in self.shares) or abs(sum(self.shares) - 1) > 1e-6:
            raise ConfigError(
                f"a mixture of {', '.join(names) or 'nothing'} came with the shares {list(self.shares)}, expected "
                "different proposers and for each a positive share, together 1. Write for example "
                "shares: {gflownet: 0.5, genetic: 0.5}."
            )

    def train(self, problem: Problem, *, seed: int, warm_start: Mapping[str, Tensor] | None = None) -> Trained:
        """Train every part."""
        tensors: dict[str, Tensor] = {}
        params: dict[str, Any] = {"shares": dict(zip((p.kind for p in self.parts), self.shares, strict=True))}
        diagnostics: dict[str, Any] = {}
        for part in self.parts:
            start = _of(part, warm_start or {}) or None
            trained = part.train(problem, seed=seed, warm_start=start)
            if not trained.healthy and trained.params.get("warm_start"):  # a stale start may be worse than none
                trained = part.train(problem, seed=seed)
            params[part.kind] = dict(trained.params)
            diagnostics[part.kind] = dict(trained.diagnostics) | {"fallback": not trained.healthy}
            if trained.healthy:
                tensors |= {f"{part.kind}.{name}": tensor for name, tensor in trained.tensors.items()}
                problem = replace(problem, reward=trained.reward)
            else:
                tensors[f"{_FALLBACK}.{part.kind}"] = torch.tensor(True)
        return Trained(tensors, problem.reward, params, diagnostics)

    def draw(self, problem: Problem, tensors: Mapping[str, Tensor], n: int, *, seed: int) -> Samples:
        """Return `n` samples, each part's share of them, mixed at random: none is cut off where a pool is full.

        Those of one part keep their order: a search draws without repeats, the best most likely first.
        """
        states, log_probs = [], []
        origins: list[str] = []
        for drawer, own, count in self._drawers(tensors, n):
            found = drawer.draw(problem, own, count, seed=seed)
            states.append(found.states)
            unknown = torch.full((len(found.states),), torch.nan)
            log_probs.append(unknown if found.log_prob is None else found.log_prob.float().cpu())
            origins.extend([drawer.kind] * len(found.states) if found.origins is None else found.origins)
        order = _interleaved([len(some) for some in states], seed=seed)
        mixed = type(states[0]).cat(states)[order.to(problem.device)]
        return Samples(mixed, torch.cat(log_probs)[order], tuple(origins[i] for i in order.tolist()))

    def _drawers(self, tensors: Mapping[str, Tensor], n: int) -> list[tuple[Proposer, dict[str, Tensor], int]]:
        """Return who draws, with which tensors, how many of `n`; a local search draws for those that fell out."""
        counts = dict(zip((part.kind for part in self.parts), whole_shares(self.shares, n), strict=True))
        fallen = [part.kind for part in self.parts if f"{_FALLBACK}.{part.kind}" in tensors]
        search: Proposer = LocalSearchProposer(self.evaluations)
        drawers = {part.kind: part for part in self.parts if part.kind not in fallen}
        if fallen:
            search = drawers.setdefault(search.kind, search)
            counts[search.kind] = counts.get(search.kind, 0) + sum(counts[kind] for kind in fallen)
        return [(drawer, _of(drawer, tensors), counts[kind]) for kind, drawer in drawers.items()]


def _interleaved(counts: Sequence[int], *, seed: int) -> Tensor:
    """Return an order of rows that mixes parts of so many rows, and keeps the order within each part."""
    part = torch.repeat_interleave(torch.tensor(counts))
    part = part[torch.randperm(len(part), generator=Generator().manual_seed(seed))]
    order = torch.empty_like(part)
    order[part.argsort(stable=True)] = torch.arange(len(part))
    return order


def _of(part: Proposer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one part, by its own names."""
    prefix = f"{part.kind}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
