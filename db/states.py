"""The states of everything that moves, and the only transitions that are legal.

SQL that changes a state goes through `sources_of`, so that an illegal change updates no row.
"""

from enum import StrEnum

from flowscout.errors import StateError


class CampaignState(StrEnum):
    """Whether a campaign may start another round."""

    ACTIVE = "active"
    PAUSED = "paused"
    FINISHED = "finished"


class RoundState(StrEnum):
    """How far a round has come."""

    PLANNED = "planned"
    FITTING = "fitting"
    TRAINING = "training"
    PROPOSED = "proposed"
    AWAITING_APPROVAL = "awaiting_approval"
    DISPATCHED = "dispatched"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EvaluationState(StrEnum):
    """Whether a wanted measurement was made. `unknown`: it was called, and nobody can say what came of it."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"


class AttemptState(StrEnum):
    """What came of one call of an oracle. `expired` means: its owner died or its lease ran out."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"


class FailureClass(StrEnum):
    """Why an attempt gave no number: try again, never will, or the object cannot exist."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    INFEASIBLE = "infeasible"


class Verdict(StrEnum):
    """What a person or a look-up says of an unknown evaluation."""

    DONE = "done"
    NEVER = "never"
    RETRY = "retry"


class Decision(StrEnum):
    """What became of a proposal."""

    SELECTED = "selected"
    OUTRANKED = "outranked"
    DUPLICATE = "duplicate"
    INFEASIBLE = "infeasible"
    DIVERSITY = "diversity"
    BUDGET = "budget"
    VETOED = "vetoed"


class Qualifier(StrEnum):
    """How a measured value is to be read."""

    EQUAL = "="
    BELOW = "<"
    ABOVE = ">"
    MISSING = "missing"
    INFEASIBLE = "infeasible"
    RETRACTED = "retracted"


class LedgerKind(StrEnum):
    """What a ledger row does to the balance."""

    RESERVE = "reserve"
    SPEND = "spend"
    RELEASE = "release"


class ApprovalDecision(StrEnum):
    """What a person said of a batch or of one candidate in it."""

    APPROVED = "approved"
    VETOED = "vetoed"


TRIES = {FailureClass.TRANSIENT: 3, FailureClass.PERMANENT: 1, FailureClass.INFEASIBLE: 1}
"""How often a call is made that fails in this way, until a person has it dispatched again."""

State = CampaignState | RoundState | EvaluationState | AttemptState

_C, _R, _E, _A = CampaignState, RoundState, EvaluationState, AttemptState
_STOPS = {_R.FAILED, _R.CANCELLED}

# One table for each kind of thing: members of two enums with the same text are equal, so that one dictionary
# of all states would let a later one overwrite an earlier one.
TRANSITIONS: dict[type[State], dict[State, set[State]]] = {
    CampaignState: {
        _C.ACTIVE: {_C.PAUSED, _C.FINISHED},
        _C.PAUSED: {_C.ACTIVE, _C.FINISHED},
        _C.FINISHED: {_C.ACTIVE},  # a raised budget reopens a campaign
    },
    RoundState: {
        _R.PLANNED: {_R.FITTING, *_STOPS},
        _R.FITTING: {_R.TRAINING, *_STOPS},
        _R.TRAINING: {_R.PROPOSED, *_STOPS},
        _R.PROPOSED: {_R.AWAITING_APPROVAL, _R.DISPATCHED, *_STOPS},
        _R.AWAITING_APPROVAL: {_R.DISPATCHED, *_STOPS},
        _R.DISPATCHED: {_R.COMPLETE, *_STOPS},
        _R.COMPLETE: set(),
        _R.FAILED: {_R.DISPATCHED, _R.CANCELLED},  # a failed dispatch may be taken up again
        _R.CANCELLED: set(),
    },
    EvaluationState: {
        _E.QUEUED: {_E.RUNNING, _E.DONE, _E.CANCELLED},  # done: a person told the result
        _E.RUNNING: {_E.DONE, _E.FAILED, _E.UNKNOWN, _E.QUEUED},
        _E.DONE: set(),
        _E.FAILED: {_E.QUEUED, _E.DONE},
        _E.UNKNOWN: {_E.QUEUED, _E.DONE, _E.FAILED},
        _E.CANCELLED: {_E.DONE, _E.QUEUED},  # a late result is always accepted; a later round may propose it again
    },
    AttemptState: {
        _A.RUNNING: {_A.SUCCEEDED, _A.FAILED, _A.EXPIRED},
        _A.SUCCEEDED: set(),
        _A.FAILED: set(),
        _A.EXPIRED: {_A.SUCCEEDED, _A.FAILED},
    },
}


def sources_of(target: State) -> list[State]:
    """Return the states from which `target` may be reached."""
    return [source for source, targets in TRANSITIONS[type(target)].items() if target in targets]


def check_transition(source: State, target: State, *, what: str) -> None:
    """Refuse a transition that is not in `TRANSITIONS`.

    Raises:
        StateError: `what` cannot go from `source` to `target`.
    """
    targets = TRANSITIONS[type(target)][source]
    if target not in targets:
        legal = ", ".join(sorted(targets)) or "nothing: it is final"
        raise StateError(f"{what} is {source}, so it cannot become {target}; it can become {legal}.")
