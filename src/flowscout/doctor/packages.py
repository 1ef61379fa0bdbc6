"""Checks of what is installed, against the ranges that the package's own metadata gives."""

import platform
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flowscout.doctor.checks import Check, broken, ok, warning

OURS = "flowscout"
Versions = Callable[[str], str | None]


def installed_version(name: str) -> str | None:
    """Return the version of an installed package, or None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_packages(*, versions: Versions = installed_version) -> list[Check]:
    """Check Python and every package that ours needs; the ranges are those that it was installed with."""
    try:
        wanted, python = requires(OURS) or [], metadata(OURS)["Requires-Python"]
    except PackageNotFoundError:
        return [
            warning(
                "packages",
                "flowscout runs from a folder and is not installed: which versions it needs is not known",
                "install it: pip install flowscout, or `make setup` in its checkout",
            )
        ]
    return [check_python(python or ""), *check_requirements(wanted, versions), check_extras(wanted, versions)]


def check_python(wanted: str, *, came: str | None = None) -> Check:
    """Check the version of Python."""
    came = platform.python_version() if came is None else came
    if SpecifierSet(wanted).contains(came, prereleases=True):
        return ok("python", came)
    return broken(
        "python", f"{came}, expected {wanted}", "make an environment with such a Python and install there"
    )


def check_requirements(wanted: Iterable[str], versions: Versions) -> list[Check]:
    """Check the packages that are needed always: those that are wrong by themselves, the others together."""
    needed = [one for one in map(Requirement, wanted) if one.marker is None or one.marker.evaluate({"extra": ""})]
    faults = [fault for one in needed if (fault := _fault(one, versions))]
    if faults:
        return faults
    shown = ", ".join(f"{one.name} {versions(one.name)}" for one in needed if _is_bounded(one))
    return [ok("packages", f"{len(needed)} in their ranges ({shown})")]


def check_extras(wanted: Iterable[str], versions: Versions) -> Check:
    """Check what may be installed besides. Of an extra that is there whole, every part should be in its range.

    A part alone says nothing: somebody else may have brought it.
    """
    extras: dict[str, list[Requirement]] = {}
    for one in map(Requirement, wanted):
        for extra in _extras_of(one):
            if one.name != OURS:
                extras.setdefault(extra, []).append(one)
    there = [name for name, parts in extras.items() if all(versions(one.name) is not None for one in parts)]
    wrong = [(name, one) for name in there for one in extras[name] if _fault(one, versions)]
    if wrong:
        name, first = wrong[0]
        return warning(
            "extras", f"of {name!r}: {first.name} {versions(first.name)}, expected {first.specifier}", _pip(first)
        )
    absent = [name for name in extras if name not in there]
    missing = f"; not installed: {', '.join(absent)} (pip install 'flowscout[NAME]')" if absent else ""
    return ok("extras", (", ".join(there) or "none") + missing)


def _extras_of(one: Requirement) -> list[str]:
    """Return the extras that ask for a requirement."""
    if one.marker is None or one.marker.evaluate({"extra": ""}):
        return []
    named = str(one.marker).split('extra == "')[1:]
    return [part.partition('"')[0] for part in named]


def _fault(one: Requirement, versions: Versions) -> Check | None:
    came = versions(one.name)
    if came is None:
        return broken(one.name, f"not installed, expected {one.specifier or 'any version'}", _pip(one))
    if not one.specifier.contains(came, prereleases=True):
        return broken(one.name, f"{came}, expected {one.specifier}: others do not work with it", _pip(one))
    return None


def _is_bounded(one: Requirement) -> bool:
    """Return whether newer versions are known not to work."""
    return any(part.operator.startswith("<") for part in one.specifier)


def _pip(one: Requirement) -> str:
    extras = f"[{','.join(sorted(one.extras))}]" if one.extras else ""
    return f"pip install '{one.name}{extras}{one.specifier}'"
