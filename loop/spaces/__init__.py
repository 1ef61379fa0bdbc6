"""What can be built: one protocol, and the spaces that keep it.

Rewards and policies do not belong here: a space knows what may be built, never what is good. The names below
load on first use, so that `flowscout.loop.spaces.alphabets` can check objects without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowscout.loop.spaces.alphabets import SequenceRules
    from flowscout.loop.spaces.catalogue import CatalogueSpace, CatalogueState
    from flowscout.loop.spaces.dag import DagSpace, DagState
    from flowscout.loop.spaces.grid import GridSpace, GridState
    from flowscout.loop.spaces.growth import SequenceState
    from flowscout.loop.spaces.listing import Listing
    from flowscout.loop.spaces.neighbourhood import NeighbourhoodSpace, NeighbourState
    from flowscout.loop.spaces.protocol import CrossableSpace, EditableSpace, Space, State
    from flowscout.loop.spaces.records import PerDevice, TensorRecord
    from flowscout.loop.spaces.sequence import SequenceSpace
    from flowscout.loop.spaces.subset import SubsetSpace, SubsetState

__all__ = [
    "CatalogueSpace",
    "CatalogueState",
    "CrossableSpace",
    "DagSpace",
    "DagState",
    "EditableSpace",
    "GridSpace",
    "GridState",
    "Listing",
    "NeighbourState",
    "NeighbourhoodSpace",
    "PerDevice",
    "SequenceRules",
    "SequenceSpace",
    "SequenceState",
    "Space",
    "State",
    "SubsetSpace",
    "SubsetState",
    "TensorRecord",
]

_HOMES = {
    "CatalogueSpace": "flowscout.loop.spaces.catalogue",
    "CatalogueState": "flowscout.loop.spaces.catalogue",
    "CrossableSpace": "flowscout.loop.spaces.protocol",
    "DagSpace": "flowscout.loop.spaces.dag",
    "DagState": "flowscout.loop.spaces.dag",
    "EditableSpace": "flowscout.loop.spaces.protocol",
    "GridSpace": "flowscout.loop.spaces.grid",
    "GridState": "flowscout.loop.spaces.grid",
    "Listing": "flowscout.loop.spaces.listing",
    "NeighbourState": "flowscout.loop.spaces.neighbourhood",
    "NeighbourhoodSpace": "flowscout.loop.spaces.neighbourhood",
    "PerDevice": "flowscout.loop.spaces.records",
    "SequenceRules": "flowscout.loop.spaces.alphabets",
    "SequenceSpace": "flowscout.loop.spaces.sequence",
    "SequenceState": "flowscout.loop.spaces.growth",
    "Space": "flowscout.loop.spaces.protocol",
    "State": "flowscout.loop.spaces.protocol",
    "SubsetSpace": "flowscout.loop.spaces.subset",
    "SubsetState": "flowscout.loop.spaces.subset",
    "TensorRecord": "flowscout.loop.spaces.records",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
