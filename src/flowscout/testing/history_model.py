"""What the model beside a history knows of evaluations, attempts and values.

What happens to them belongs in `history_machine`.
"""

from dataclasses import dataclass, field

from flowscout.db import Claim, FailureClass, OracleRecord
from flowscout.db.states import EvaluationState

Row = tuple[str, str]
"""Source and row id."""

Reading = tuple[str, float | None]
"""Object and value; none where it was taken back."""


@dataclass
class ModelEvaluation:
    """What the model knows of an evaluation. `sure`: nobody but its oracle has said anything of it."""

    id: int
    object: str
    oracle: OracleRecord
    round_id: int
    key: str
    state: EvaluationState = EvaluationState.QUEUED
    generation: int = 1
    attempts: int = 0
    failures: dict[FailureClass, int] = field(default_factory=dict)
    failure_bills: int = 0
    sure: bool = True
    retried: bool = False


@dataclass
class ModelAttempt:
    """What the model knows of an attempt. `running` is its state in the history, `alive` its process."""

    claim: Claim
    evaluation: ModelEvaluation
    reserved: int
    running: bool = True
    alive: bool = True
    lease_over: bool = False
    acted: bool = False
