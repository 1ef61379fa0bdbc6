"""Ingesting: what came of a campaign while nobody ran it, before anything new is begun."""

from flowscout.loop.dispatching import Dispatcher
from flowscout.loop.gates import completable
from flowscout.loop.workbench import Workbench


def ingest(bench: Workbench) -> list[int]:
    """End the calls of the dead, ask oracles what came of unknown ones, complete every round that waits no more.

    Returns the numbers of the rounds that are complete now. Values that arrived are in the history already:
    whoever brought them recorded them.

    Raises:
        OracleError: every measurement of a round failed; the others are complete all the same.
    """
    Dispatcher(bench, owner=bench.held.owner, lease_s=bench.attempt_lease_s).recover()
    if not completable(bench):
        return []
    from flowscout.loop import stages  # loads torch

    return [progress.number for progress in stages.complete(bench) if progress.complete]
