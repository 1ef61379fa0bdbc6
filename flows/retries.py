"""Which failures of a task a second try may mend."""

from typing import Any

from flowscout.errors import FlowscoutError

LIMIT = 2
DELAYS_S = [1.0, 5.0]


def may_retry(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether to try again: a database that is away, yes; what Flowscout itself refused, never."""
    return not isinstance(state.result(raise_on_failure=False), FlowscoutError)
