"""From the oracle section of a campaign file to the oracle: one builder a type."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flowscout.errors import OracleImportError
from flowscout.loop.oracles.function import function_oracle
from flowscout.loop.oracles.http import http_oracle
from flowscout.loop.oracles.lab import lab_oracle
from flowscout.loop.oracles.protocol import Oracle
from flowscout.loop.oracles.table import table_oracle

BUILDERS: Mapping[str, Callable[..., Oracle]] = {
    "callable": function_oracle,
    "http": http_oracle,
    "lab": lab_oracle,
    "table": table_oracle,
}
"""Each takes the section's keys as named arguments, and `folder` and `property`."""


def build_oracle(section: Mapping[str, Any], *, folder: Path, property: str) -> Oracle:  # noqa: A002
    """Return the oracle that a section of a campaign file describes.

    `folder` is where the file stands, `property` the objective that a plain number is a value of.

    Raises:
        OracleImportError: of no known type, or a function that cannot be imported.
        LabelError: a table that cannot be read.
    """
    kind = section.get("type")
    builder = BUILDERS.get(str(kind))
    if builder is None:
        raise OracleImportError(f"oracle type {kind!r} is not known, expected one of {', '.join(BUILDERS)}.")
    rest = {name: value for name, value in section.items() if name != "type"}
    return builder(**rest, folder=folder, property=property)
