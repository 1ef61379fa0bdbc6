"""Flowscout runs active-learning discovery campaigns.

The names below load on first use: importing `flowscout` loads neither torch nor Prefect.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flowscout.version import __version__

if TYPE_CHECKING:
    from flowscout.loop.campaign import Campaign
    from flowscout.loop.oracles import Request, Result, oracle

__all__ = ["Campaign", "Request", "Result", "__version__", "oracle"]

_HOMES = {
    "Campaign": "flowscout.loop.campaign",
    "Request": "flowscout.loop.oracles",
    "Result": "flowscout.loop.oracles",
    "oracle": "flowscout.loop.oracles",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flowscout' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
