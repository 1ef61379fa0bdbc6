"""What one check found."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How it is: `warning` works, and will hurt; `broken` does not work."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True)
class Check:
    """What was looked at, how it is, what was found, and how it is mended where it is not right."""

    name: str
    state: State
    found: str
    mend: str = ""


def ok(name: str, found: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name, State.OK, found)


def warning(name: str, found: str, mend: str) -> Check:
    """Return a check that found what will hurt."""
    return Check(name, State.WARNING, found, mend)


def broken(name: str, found: str, mend: str) -> Check:
    """Return a check that found what does not work."""
    return Check(name, State.BROKEN, found, mend)
