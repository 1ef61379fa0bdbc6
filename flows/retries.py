"""How the stages of a round are made tasks, and which failures of one a second try may mend."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from flowscout.errors import FlowscoutError

LIMIT = 2
DELAYS_S = [1.0, 5.0]

P = ParamSpec("P")
R = TypeVar("R")


def stage(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Return what makes a function the task of a stage. Its result is kept by nobody: the history has it.

    It has no tags: for each of them Prefect asks its server for a slot before every task, and that takes longer
    than all else about it. Its name says the stage.
    """
    return task(
        name=name,
        retries=LIMIT,
        retry_delay_seconds=DELAYS_S,
        retry_condition_fn=may_retry,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


def may_retry(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether to try again: a database that is away, yes; what Flowscout itself refused, never."""
    return not isinstance(state.result(raise_on_failure=False), FlowscoutError)
