"""Flowscout runs active-learning discovery campaigns, and trains the samplers behind them.

The names below load on first use: importing `flowscout` loads neither torch nor Prefect.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flowscout.version import __version__

if TYPE_CHECKING:
    from flowscout.loop.campaign import Campaign
    from flowscout.loop.gflownet import Behaviour, GFlowNet, TrainerSettings
    from flowscout.loop.oracles import NOT_KNOWN, Request, Result, oracle
    from flowscout.loop.spaces import CatalogueSpace, DagSpace, GridSpace, SequenceSpace, SubsetSpace

__all__ = [
    "NOT_KNOWN",
    "Behaviour",
    "Campaign",
    "CatalogueSpace",
    "DagSpace",
    "GFlowNet",
    "GridSpace",
    "Request",
    "Result",
    "SequenceSpace",
    "SubsetSpace",
    "TrainerSettings",
    "__version__",
    "oracle",
]

_HOMES = {
    "NOT_KNOWN": "flowscout.loop.oracles",
    "Behaviour": "flowscout.loop.gflownet",
    "Campaign": "flowscout.loop.campaign",
    "CatalogueSpace": "flowscout.loop.spaces",
    "DagSpace": "flowscout.loop.spaces",
    "GFlowNet": "flowscout.loop.gflownet",
    "GridSpace": "flowscout.loop.spaces",
    "Request": "flowscout.loop.oracles",
    "Result": "flowscout.loop.oracles",
    "SequenceSpace": "flowscout.loop.spaces",
    "SubsetSpace": "flowscout.loop.spaces",
    "TrainerSettings": "flowscout.loop.gflownet",
    "oracle": "flowscout.loop.oracles",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flowscout' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
