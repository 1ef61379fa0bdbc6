"""Backlog: runs that were planned while no worker was there.

Prefect keeps every one of them, so that after a weekend without a worker the next one would run thousands, one
after another. Any one of them looks at everything there is to do: the latest of a deployment is enough.
"""

from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from flowscout.flows.pool import POOL
from flowscout.flows.runs import clock_of

LATE_S = 120.0
MOST = 200
"""So many runs are looked at a time: the next sweep goes on."""


def drop_late_runs(client: SyncPrefectClient, *, late_s: float = LATE_S) -> int:
    """Delete runs of our deployments that a schedule planned, are late, and have a later one behind them.

    Return how many. Runs that an event or a person asked for stay.
    """
    before = clock_of(client) - timedelta(seconds=late_s)
    late = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        next_scheduled_start_time=FlowRunFilterNextScheduledStartTime.model_validate({"before_": before}),
    )
    ours = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    runs = client.read_flow_runs(
        flow_run_filter=late, work_pool_filter=ours, sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC, limit=MOST
    )
    latest = {run.deployment_id: run.id for run in runs if run.auto_scheduled}
    dropped = 0
    for run in runs:
        if run.auto_scheduled and run.id != latest[run.deployment_id]:
            try:
                client.delete_flow_run(run.id)
            except ObjectNotFound:  # another sweep was faster
                continue
            dropped += 1
    return dropped
