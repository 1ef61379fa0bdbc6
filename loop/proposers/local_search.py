"""Local search: climbing the reward by edits of the best objects.

Selection by crossover belongs in `genetic`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from flowscout.loop.proposers.protocol import Problem, Samples, Trained


@dataclass(frozen=True)
class LocalSearchProposer:
    """Climbs the reward by single edits from the best labelled objects, then draws from all it has seen.

    In each of `generations` the `parents` best objects seen so far give `children` mutants.
    """

    generations: int = 40
    parents: int = 64
    children: int = 192
    kind: str = "local_search"

    def train(
        self,
        problem: Problem,
        *,
        seed: int,
        warm_start: Mapping[str, Tensor] | None = None,  # noqa: ARG002 - it starts from the labelled objects
    ) -> Trained:
        """Do nothing: the search itself is made by `draw`."""
        del seed
        params = {"generations": self.generations, "parents": self.parents, "children": self.children}
        return Trained(tensors={}, reward=problem.reward, params=params)

    def draw(self, problem: Problem, tensors: Mapping[str, Tensor], n: int, *, seed: int) -> Samples:
        """Return `n` of the objects seen, drawn without repeats in proportion to the reward."""
        del tensors
        space, generator = problem.space, Generator(problem.device).manual_seed(seed)
        texts = space.decode(problem.labelled)
        seen = {space.key(text): text for text in texts}
        log_reward = dict(zip(seen, problem.reward(space.parse(list(seen.values()))).tolist(), strict=True))
        for _ in range(self.generations):
            best = sorted(seen, key=lambda key: (-log_reward[key], key))[: self.parents]
            picks = torch.randint(len(best), (self.children,), generator=generator, device=problem.device)
            parents = space.parse([seen[best[i]] for i in picks.tolist()], problem.device)
            fresh = {space.key(text): text for text in space.decode(space.mutate(parents, generator))}
            fresh = {key: text for key, text in fresh.items() if key not in seen}
            if fresh:
                values = problem.reward(space.parse(list(fresh.values()), problem.device)).tolist()
                seen |= fresh
                log_reward |= dict(zip(fresh, values, strict=True))
        noise = torch.empty(len(seen), dtype=torch.float64).exponential_(generator=Generator().manual_seed(seed))
        # Gumbel top-k: a draw without replacement in proportion to the reward.
        perturbed = torch.tensor([log_reward[key] for key in seen], dtype=torch.float64) - noise.log()
        order = perturbed.argsort(descending=True)[:n].tolist()
        keys = list(seen)
        return Samples(space.parse([seen[keys[i]] for i in order], problem.device), None)
