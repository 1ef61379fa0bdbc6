"""The oracle of a laboratory: nothing is called, the batch waits until its results are told."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowscout.errors import OracleError
from flowscout.loop.oracles.protocol import OracleInfo, Request, Result


@dataclass(frozen=True)
class LabOracle:
    """A laboratory whose results come by `tell`."""

    info: OracleInfo

    def __call__(self, requests: Sequence[Request]) -> list[Result]:
        """Refuse: a laboratory is not called."""
        raise OracleError(
            f"oracle {self.info.name!r} is a laboratory and cannot be called for {len(requests)} objects; "
            "its results are told with `flowscout tell`."
        )
