"""Evolution under a frozen reward: what local search, genetic search and the anchors of a policy have in common.

How many objects of it are proposed belongs to the proposers.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from flowscout.errors import ConfigError
from flowscout.loop.proposers.protocol import Problem, Samples, Trained
from flowscout.loop.spaces.protocol import CrossableSpace, EditableSpace

_MAX_IDLE = 20
"""Generations without a single new object after which a search has seen all that it can reach."""


@dataclass(frozen=True)
class Found:
    """New objects that a search has met, each key once, and their log-rewards, float64 `n` on the CPU."""

    states: Any
    log_reward: Tensor

    def draw(self, n: int, *, seed: int) -> Any:
        """Return at most `n` of the states, drawn without replacement in proportion to the reward."""
        return self.states[gumbel_top(self.log_reward, n, seed=seed).to(self.states.device)]


@dataclass(frozen=True)
class Evolution:
    """Selection of the best, crossover and mutation, from the labelled objects on.

    In each generation the `parents` best objects seen so far have `children`; of these a share `crossover` has
    two parents and Poisson(1) edits, the others one parent and one edit. It ends when `evaluations` new objects
    have been scored, or when it meets none any more. Labelled objects are parents, never found.

    Raises:
        ConfigError: A number cannot be.
    """

    evaluations: int
    parents: int
    children: int
    crossover: float

    def __post_init__(self) -> None:
        for name in ("evaluations", "parents", "children"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, expected at least 1. Omit it for the default."
                )
        if not 0 <= self.crossover <= 1:
            raise ConfigError(f"crossover is {self.crossover!r}, expected a share from 0 to 1. Try 0.5.")

    def run(self, problem: Problem, *, seed: int) -> Found:
        """Search, and return all new objects that were scored."""
        space, generator = problem.space, Generator(problem.device).manual_seed(seed)
        seen: set[str] = set()
        best = problem.labelled[fresh(space, problem.labelled, seen)]
        values = score(problem, best)
        parts, rewards = [best[:0]], [values[:0]]
        left, idle = self.evaluations, 0
        while left and idle < _MAX_IDLE and len(best):
            kept = values.argsort(descending=True, stable=True)[: self.parents]
            best, values = best[kept.to(problem.device)], values[kept]
            born = self._children(space, best, generator)
            born = born[fresh(space, born, seen, limit=left)]
            idle = 0 if len(born) else idle + 1
            if len(born):
                left -= len(born)
                parts.append(born)
                rewards.append(score(problem, born))
                best, values = type(best).cat([best, born]), torch.cat([values, rewards[-1]])
        return Found(type(best).cat(parts), torch.cat(rewards))

    def _children(self, space: EditableSpace[Any], best: Any, generator: Generator) -> Any:
        device = generator.device
        first, second = torch.randint(len(best), (2, self.children), generator=generator, device=device)
        crossed = torch.rand(self.children, generator=generator, device=device) < self.crossover
        edits = torch.ones(self.children, device=device)
        if not (self.crossover and isinstance(space, CrossableSpace)):
            return edit(space, best[first], edits.long(), generator)
        pairs = space.crossover(best[first], best[second], generator)
        both = type(best).cat([best[first], pairs])
        place = torch.arange(self.children, device=device)
        states = both[torch.where(crossed, place + self.children, place)]
        edits = torch.where(crossed, torch.poisson(edits, generator=generator), edits)
        return edit(space, states, edits.long(), generator)


@dataclass(frozen=True)
class SearchProposer(ABC):
    """Draws from the new objects that an evolution has met; which evolution that is, its kind says."""

    evaluations: int = 7_680
    kind: str = "search"

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise ConfigError(
                f"evaluations is {self.evaluations!r}, expected at least 1. Omit it for the default."
            )

    @abstractmethod
    def evolution(self, space: EditableSpace[Any]) -> Evolution:
        """Return how objects of a space are searched."""

    def train(
        self,
        problem: Problem,
        *,
        seed: int,
        warm_start: Mapping[str, Tensor] | None = None,  # noqa: ARG002 - it starts from the labelled objects
    ) -> Trained:
        """Do nothing: the search itself is made by `draw`."""
        del seed
        return Trained(tensors={}, reward=problem.reward, params=asdict(self.evolution(problem.space)))

    def draw(self, problem: Problem, tensors: Mapping[str, Tensor], n: int, *, seed: int) -> Samples:
        """Return at most `n` of the new objects seen, drawn without repeats in proportion to the reward."""
        del tensors
        return Samples(self.evolution(problem.space).run(problem, seed=seed).draw(n, seed=seed), None)


def edit(space: EditableSpace[Any], states: Any, counts: Tensor, generator: Generator) -> Any:
    """Return each finished row after `counts` single edits, int64 `n`, made one after the other."""
    place = torch.arange(len(states), device=counts.device)
    for number in range(int(counts.max()) if len(states) else 0):
        changed = counts > number
        both = type(states).cat([states, space.mutate(states[changed], generator)])
        moved = place.clone()
        moved[changed] = len(states) + torch.arange(int(changed.sum()), device=counts.device)
        states = both[moved]
    return states


def gumbel_top(log_weight: Tensor, n: int, *, seed: int) -> Tensor:
    """Return at most `n` indices, drawn without replacement in proportion to `exp(log_weight)`, the first first.

    Source: the Gumbel-top-k trick, Kool et al. 2019, arXiv:1903.06059. The noise is drawn on the CPU.
    """
    noise = torch.empty(len(log_weight), dtype=torch.float64)
    noise.exponential_(generator=Generator().manual_seed(seed))
    return (log_weight.double().cpu() - noise.log()).topk(min(n, len(log_weight))).indices


def score(problem: Problem, states: Any) -> Tensor:
    """Return the log-reward of each state, float64 `n` on the CPU."""
    if len(states) == 0:
        return torch.zeros(0, dtype=torch.float64)
    return problem.reward(states).double().cpu()


def fresh(space: EditableSpace[Any], states: Any, seen: set[str], *, limit: int | None = None) -> Tensor:
    """Return the rows whose keys are not in `seen`, each key once and at most `limit`, and put them there."""
    rows: list[int] = []
    for row, key in enumerate(space.keys(states)):
        if key not in seen and (limit is None or len(rows) < limit):
            seen.add(key)
            rows.append(row)
    return torch.tensor(rows, dtype=torch.int64, device=states.device)
