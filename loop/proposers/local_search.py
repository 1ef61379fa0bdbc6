"""Local search: climbing the reward by edits of the best objects, with hard selection.

The search itself belongs in `evolution`.
"""

from dataclasses import dataclass

from flowscout.loop.proposers.evolution import SearchProposer


@dataclass(frozen=True)
class LocalSearchProposer(SearchProposer):
    """Climbs the reward by single edits of the best objects, then draws from all it has seen."""

    parents: int = 64
    children: int = 192
    crossover: float = 0.0
    kind: str = "local_search"
