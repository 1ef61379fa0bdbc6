"""Prefect's runs as the flows need them: named and tagged, started, looked for, marked.

Which of them are dead is decided by the history, in `loop.sweeping`.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment
from prefect.states import Crashed

from flowscout.db.timings import POLLED_S
from flowscout.flows.pool import POOL
from flowscout.loop.sweeping import Run

NAMES = ("discovery-round", "train-sampler", "collect-results", "campaign-until-done", "takeover")
"""Our flows."""

TRAINING = "train-sampler/gpu"
"""The deployment that trains on GPU workers."""

SOON_S = 60.0
"""A run that is scheduled within so long need not be started by hand."""

_ALIVE = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
_MOST = 200  # as many as Prefect returns at once


def this_run() -> str | None:
    """Return the id of the flow run that this is, None outside one."""
    context = FlowRunContext.get()
    return None if context is None or context.flow_run is None else str(context.flow_run.id)


def this_deployment() -> UUID | None:
    """Return the deployment whose run this is, None where a person called the flow."""
    found = deployment.id
    return None if found is None else UUID(found)


def deployment_name() -> str | None:
    """Return the name of the deployment whose run this is; this asks the server."""
    found: str | None = deployment.name
    return found


def rename(name: str, tags: list[str]) -> None:
    """Give the run that this is a name, and tags beside those that it has."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    kept = list(dict.fromkeys([*context.flow_run.tags, *tags]))
    with get_client(sync_client=True) as client:
        client.update_flow_run(context.flow_run.id, name=name, tags=kept)


def start(of: UUID | str, parameters: Mapping[str, Any], *, tags: list[str], key: str | None = None) -> UUID:
    """Have a deployment run as soon as a worker is free, and return the run's id; `key` twice is one run.

    `of` is the deployment's id, or `flow/deployment`.
    """
    with get_client(sync_client=True) as client:
        found = of if isinstance(of, UUID) else client.read_deployment_by_name(of).id
        run = client.create_flow_run_from_deployment(
            found, parameters=dict(parameters), tags=tags, idempotency_key=key
        )
    return run.id


def is_polled(queue: str, *, within_s: float = POLLED_S) -> bool:
    """Return whether a worker has asked a queue of our pool for work of late, by the server's clock."""
    with get_client(sync_client=True) as client:
        try:
            polled = client.read_work_queue_by_name(queue, work_pool_name=POOL).last_polled
        except ObjectNotFound:
            return False
        return polled is not None and clock_of(client) - polled <= timedelta(seconds=within_s)


def under_way() -> list[Run]:
    """Return the runs of our flows that Prefect takes for alive: pending, running, or being cancelled."""
    names = FlowFilter(name=FlowFilterName(any_=[*NAMES]))
    alive = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*_ALIVE])))
    with get_client(sync_client=True) as client:
        now = clock_of(client)
        flows = {one.id: one.name for one in client.read_flows(flow_filter=names, limit=_MOST)}
        found = client.read_flow_runs(flow_filter=names, flow_run_filter=alive, limit=_MOST)
    return [_run(one, flows[one.flow_id], now) for one in found if one.flow_id in flows]


def is_awaited(of: UUID) -> bool:
    """Return whether a run of a deployment is due and waits for a worker."""
    late = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[of]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
    )
    with get_client(sync_client=True) as client:
        soon = clock_of(client) + timedelta(seconds=SOON_S)
        found = client.read_flow_runs(flow_run_filter=late, limit=_MOST)
    return any(one.expected_start_time is not None and one.expected_start_time <= soon for one in found)


def mark_crashed(run_id: UUID, why: str) -> bool:
    """Have Prefect call a run crashed, so that it holds nothing any more; return whether that was new."""
    with get_client(sync_client=True) as client:
        answer: OrchestrationResult[None] = client.set_flow_run_state(run_id, Crashed(message=why))
    return answer.status is SetStateStatus.ACCEPT


def clock_of(client: SyncPrefectClient) -> datetime:
    """Return what time it is at the server: this machine's own clock may be wrong."""
    return parsedate_to_datetime(client.hello().headers["Date"])


def _run(found: FlowRun, flow: str, now: datetime) -> Run:
    campaign = (found.parameters or {}).get("campaign")
    since = found.created if found.state is None else found.state.timestamp
    assert since is not None  # both are the server's own
    return Run(
        id=str(found.id),
        flow=flow,
        campaign=None if campaign is None else str(campaign),
        deployment=None if found.deployment_id is None else str(found.deployment_id),
        age_s=(now - since).total_seconds(),
    )
