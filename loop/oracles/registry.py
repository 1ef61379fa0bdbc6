"""From the oracle section of a campaign file to the oracle: one builder a type, of ours or of other packages."""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from flowscout.errors import FlowscoutError, OracleImportError
from flowscout.loop.oracles.function import function_oracle
from flowscout.loop.oracles.http import http_oracle
from flowscout.loop.oracles.lab import lab_oracle
from flowscout.loop.oracles.process import process_oracle
from flowscout.loop.oracles.protocol import Oracle
from flowscout.loop.oracles.table import table_oracle

GROUP = "flowscout.oracles"
"""The group of entry points by which other packages bring types of oracles."""

BUILDERS: Mapping[str, Callable[..., Oracle]] = {
    "callable": function_oracle,
    "http": http_oracle,
    "lab": lab_oracle,
    "process": process_oracle,
    "table": table_oracle,
}
"""Each takes the section's keys as named arguments, and `folder` and `property`."""


def plug_ins() -> dict[str, EntryPoint]:
    """Return the types of oracles that installed packages bring; nothing of theirs is loaded."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILDERS}


def build_oracle(section: Mapping[str, Any], *, folder: Path, property: str) -> Oracle:  # noqa: A002
    """Return the oracle that a section of a campaign file describes.

    `folder` is where the file stands, `property` the objective that a plain number is a value of.

    Raises:
        OracleImportError: of no known type, or a function that cannot be imported, or a plug-in that fails.
        LabelError: a table that cannot be read.
    """
    kind = str(section.get("type"))
    rest = {name: value for name, value in section.items() if name != "type"}
    if kind in BUILDERS:
        return BUILDERS[kind](**rest, folder=folder, property=property)
    installed = plug_ins()
    if kind not in installed:
        known = ", ".join([*BUILDERS, *sorted(installed)])
        raise OracleImportError(
            f"oracle type {kind!r} is not known, expected one of {known}. Correct it, or install the package that "
            f"brings it by an entry point of the group {GROUP}."
        )
    return _plugged_in(installed[kind], rest, folder=folder, property=property)


def _plugged_in(point: EntryPoint, rest: dict[str, Any], *, folder: Path, property: str) -> Oracle:  # noqa: A002
    """Return the oracle that another package builds of a section's keys.

    Raises:
        OracleImportError: it cannot be loaded, refuses the keys, or builds no oracle.
    """
    try:
        made: Any = point.load()(**rest, folder=folder, property=property)
    except FlowscoutError:
        raise
    except (Exception, SystemExit) as error:  # another package's own code
        reason = " ".join(str(error).split())
        raise OracleImportError(
            f"oracle type {point.name!r} ({point.value}) cannot be built of the keys {', '.join(rest) or 'none'}: "
            f"{type(error).__name__}: {reason}. Check the keys against that package's documentation."
        ) from error
    if not isinstance(made, Oracle):
        raise OracleImportError(
            f"oracle type {point.name!r} ({point.value}) built a {type(made).__name__}, expected an oracle: "
            "callable, with the attribute `info`. Report it to those who make that package."
        )
    return made
