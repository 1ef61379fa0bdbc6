"""Genetic search: hard selection, crossover of two parents, about one mutation a child.

The search itself belongs in `evolution`.
"""

from dataclasses import dataclass

from flowscout.loop.proposers.evolution import SearchProposer


@dataclass(frozen=True)
class GeneticProposer(SearchProposer):
    """Evolves the best objects under the reward, then draws from all it has seen.

    Where a space knows no crossover, every child is one edit away from its parent.
    """

    parents: int = 32
    children: int = 128
    crossover: float = 0.5
    kind: str = "genetic"
