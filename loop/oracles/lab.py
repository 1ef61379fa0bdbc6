"""The oracle of a laboratory: nothing is called, the batch waits until its results are told."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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


def lab_oracle(
    *,
    name: str = "lab",
    cost_usd: float = 0.0,
    token_env: str | None = None,
    folder: Path,
    property: str,  # noqa: A002
) -> LabOracle:
    """Return a laboratory. It needs no folder and tells no property apart: whatever is told is taken.

    `token_env` is for those who post its results.
    """
    del folder, property, token_env
    return LabOracle(OracleInfo(name=name, cost_usd=cost_usd, idempotent=False, waits_for_people=True))
