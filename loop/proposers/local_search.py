"""Local search: the best that edits of the best objects find, in short and in long objects.

The search itself belongs in `evolution`.
"""

from dataclasses import dataclass
from typing import Any

from flowscout.loop.proposers.evolution import Evolution, SearchProposer
from flowscout.loop.spaces.protocol import EditableSpace

LONG = 20
"""Steps of a trajectory from which hard selection with crossover finds more than single edits of many parents."""


@dataclass(frozen=True)
class LocalSearchProposer(SearchProposer):
    """Climbs the reward by edits of the best objects, then draws from all it has seen.

    Short objects are edited in one place, of 64 parents; long ones have 32 parents and crossover, as in
    `genetic`: there one edit at a time does not get far.
    """

    kind: str = "local_search"

    def evolution(self, space: EditableSpace[Any]) -> Evolution:
        """Return the search for objects of this length."""
        if space.max_steps < LONG:
            return Evolution(self.evaluations, parents=64, children=192, crossover=0.0)
        return Evolution(self.evaluations, parents=32, children=128, crossover=0.5)
