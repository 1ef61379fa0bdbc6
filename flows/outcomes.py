"""What a run says when it ends: a small dictionary, and a state whose name says it in Prefect's lists."""

from typing import Literal, TypedDict, cast

from prefect.states import Completed

State = Literal[
    "complete",
    "waiting",
    "awaiting_approval",
    "training",
    "trained",
    "not_due",
    "paused",
    "finished",
    "busy",
]

_NAMES: dict[str, str] = {
    "waiting": "Waiting",
    "awaiting_approval": "AwaitingApproval",
    "training": "Training",
    "not_due": "NotDue",
    "paused": "Paused",
    "finished": "Finished",
    "busy": "Busy",
}

_CLOSED: dict[str, State] = {
    "approval": "awaiting_approval",
    "training": "training",
    "paused": "paused",
    "finished": "finished",
    "budget": "finished",
}


class RoundOutcome(TypedDict):
    """What came of a run: its round, how far that is, how many results it awaits, and why it went no further."""

    round: int | None
    state: State
    waiting: int
    why: str


def outcome(state: State, number: int | None = None, *, waiting: int = 0, why: str = "") -> RoundOutcome:
    """Return what came of a run."""
    return {"round": number, "state": state, "waiting": waiting, "why": why}


def closed(kind: str, *, scheduled: bool) -> State:
    """Return what a closed gate of a kind means for the run that came to it, by a schedule or by hand."""
    return _CLOSED.get(kind, "not_due" if scheduled else "waiting")


def ended(found: RoundOutcome) -> RoundOutcome:
    """Return what a flow is to return: the outcome, in a completed state that is named after it.

    A run that had nothing to do is no failure, and is told from one that worked by its name alone. Whoever calls
    the flow gets the outcome: Prefect takes it out of the state.
    """
    name = _NAMES.get(found["state"])
    return found if name is None else cast("RoundOutcome", Completed(name=name, message=found["why"], data=found))
