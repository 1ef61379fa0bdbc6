"""Genetic search: hard selection, crossover of two parents, about one mutation a child.

The search itself belongs in `evolution`.
"""

from dataclasses import dataclass
from typing import Any

from flowscout.loop.proposers.evolution import Evolution, SearchProposer
from flowscout.loop.spaces.protocol import EditableSpace


@dataclass(frozen=True)
class GeneticProposer(SearchProposer):
    """Evolves the best objects under the reward, then draws from all it has seen.

    Where a space knows no crossover, every child is one edit away from its parent.
    """

    parents: int = 32
    children: int = 128
    crossover: float = 0.5
    kind: str = "genetic"

    def __post_init__(self) -> None:
        _ = Evolution(self.evaluations, self.parents, self.children, self.crossover)  # which checks the numbers

    def evolution(self, space: EditableSpace[Any]) -> Evolution:  # noqa: ARG002 - the same in every space
        """Return the evolution of these numbers."""
        return Evolution(self.evaluations, self.parents, self.children, self.crossover)
