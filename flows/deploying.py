"""Deployments: which flows a Prefect server may start, on which queue, when, with which parameters.

`python -m flowscout.flows.deploying` makes those that every campaign shares, as prefect.yaml says them; `deploy`
makes the one of a scheduled campaign. When a round may really start, the history says (`loop.gates`).
"""

import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import SCHEDULE_TYPES, CronSchedule, IntervalSchedule
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flowscout.errors import ConfigError, WorkError
from flowscout.flows.pool import CPU, GPU, POOL
from flowscout.loop.announcing import PREFIX, ROUND_DUE, resource_of

logger = logging.getLogger(__name__)

ROUND = "flowscout.flows.round.discovery_round"
TAG = "flowscout"

NOTABLE = (
    "round_awaiting_approval",
    "round_failed",
    "campaign_finished",
    "unknown_attempt",
    "conflict",
    "budget_80",
    "budget_exhausted",
    "overspent",
    "run_abandoned",
)
"""What a person is told of by `flowscout schedule --notify`, beside flow runs that fail."""


@dataclass(frozen=True)
class Shared:
    """A deployment that every campaign shares. Each says by its parameters which campaign it is for."""

    entrypoint: str
    name: str
    description: str
    queue: str = CPU
    parameters: Mapping[str, Any] = field(default_factory=dict)
    every_s: int | None = None


SHARED = (
    Shared(ROUND, "round", "Run the discovery round that is due of one registered campaign."),
    Shared(
        "flowscout.flows.train.train_sampler",
        "gpu",
        "Train the sampler of a round on a GPU worker, then let the round go on.",
        queue=GPU,
    ),
    Shared(
        "flowscout.flows.collecting.collect_results",
        "collect",
        "Take in results that have arrived, and complete rounds for which nothing is awaited any more.",
    ),
    Shared(
        "flowscout.flows.until_done.campaign_until_done",
        "simulate",
        "Run rounds of a campaign whose oracle answers by itself, until its budget is used up.",
    ),
    Shared(
        "flowscout.flows.takeover.takeover",
        "sweep",
        "Look for expired leases, abandoned runs and rounds that nobody is at, and start them again.",
        every_s=60,
    ),
)


@contextmanager
def connected() -> Iterator[SyncPrefectClient]:
    """Yield a client of the server that the environment names.

    Raises:
        WorkError: it refuses what is asked.
    """
    try:
        with get_client(sync_client=True) as client:
            yield client
    except PrefectHTTPStatusError as error:
        raise WorkError(
            f"the Prefect server refused {error.request.method} {error.request.url.path} with "
            f"{error.response.status_code}: {error.response.text[:300]}"
        ) from error


def make_shared(client: SyncPrefectClient) -> dict[str, UUID]:
    """Make the work pool, its queues and the shared deployments, or bring them up to date; return their ids."""
    make_pool(client)
    return {_full_name(one.entrypoint, one.name): _create(client, one) for one in SHARED}


def make_pool(client: SyncPrefectClient) -> None:
    """Make the work pool, unless it is there. Its queues come with the deployments that name them."""
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    except ObjectAlreadyExists:
        logger.debug("work pool %s is there", POOL)


def deploy(
    client: SyncPrefectClient,
    *,
    campaign: str,
    uuid: str,
    when: SCHEDULE_TYPES,
    paused: bool = False,
    notify: str | None = None,
) -> UUID:
    """Make the deployment of one campaign, `discovery-round/CAMPAIGN`, or change it; return its id.

    A run starts at the times of the schedule, and when an event says that a round is due. With `notify`, the
    `TYPE/NAME` of one of Prefect's blocks, people are told what is notable.

    Raises:
        ConfigError: another campaign has a deployment of this name there, or there is no such block.
    """
    if campaign in {one.name for one in SHARED}:
        raise ConfigError(
            f"a campaign called {campaign!r} cannot be scheduled: a shared deployment has this name, expected "
            "another; give the campaign another name."
        )
    block = None if notify is None else _block(client, notify)
    existing = _find(client, f"discovery-round/{campaign}")
    if existing is not None and existing.parameters.get("campaign") != uuid:
        raise ConfigError(
            f"the Prefect server has a deployment discovery-round/{campaign} of another campaign, "
            f"{existing.parameters.get('campaign')!r}, expected {uuid!r}; unschedule that one, or use "
            "another server."
        )
    make_pool(client)
    described = f"Rounds of campaign {campaign} ({uuid}). `flowscout unschedule` takes it away."
    wanted = Shared(ROUND, campaign, described, parameters={"campaign": uuid})
    number = _create(client, wanted, when=when, paused=paused, tags=[TAG, f"campaign:{campaign}"])
    client.delete_resource_owned_automations(f"prefect.deployment.{number}")
    trigger = DeploymentEventTrigger(
        name=f"{campaign}: a round is due",
        description="Results came, a batch was approved, or the campaign was resumed.",
        posture=Posture.Reactive,
        expect={ROUND_DUE},
        match={"prefect.resource.id": resource_of(uuid)},
        threshold=1,
    )
    trigger.set_deployment_id(number)
    client.create_automation(trigger.as_automation())
    if block is not None:
        for automation in _notices(campaign, uuid, number, block):
            client.create_automation(automation)
    return number


def remove(client: SyncPrefectClient, deployment_id: UUID) -> bool:
    """Remove a campaign's deployment with its automations and the runs it has planned; False if it was gone."""
    client.delete_resource_owned_automations(f"prefect.deployment.{deployment_id}")
    try:
        client.delete_deployment(deployment_id)
    except ObjectNotFound:
        return False
    return True


def times(*, cron: str | None, every_s: float | None, timezone: str | None) -> SCHEDULE_TYPES:
    """Return when runs are to start: at the times of a cron line, or every so many seconds from now on.

    Raises:
        ConfigError: the line or the time zone cannot be read.
    """
    unread = (
        f"cron is {cron!r}, expected five fields such as '0 8 * * MON' (minute, hour, day of the month, month, "
        "day of the week); correct it."
    )
    if cron is not None and not cron.startswith("@") and len(cron.split()) != 5:
        raise ConfigError(unread)  # Prefect takes a sixth for seconds, a seventh for years
    try:
        if cron is not None:
            return CronSchedule(cron=cron, timezone=timezone or "UTC")
        assert every_s is not None
        return IntervalSchedule(interval=timedelta(seconds=every_s), timezone=timezone or "UTC")
    except ValidationError as error:
        if error.errors()[0]["loc"] == ("cron",):
            raise ConfigError(unread) from error
        raise ConfigError(
            f"time zone {timezone!r} is not known, expected one such as Europe/Zurich or UTC; correct it."
        ) from error


def _create(
    client: SyncPrefectClient,
    wanted: Shared,
    *,
    when: SCHEDULE_TYPES | None = None,
    paused: bool = False,
    tags: list[str] | None = None,
) -> UUID:
    """Make a deployment, or bring it up to date. No limit on its runs: what died would hold its place.

    Who may run a round is decided by the campaign's lease in the history; a run too many ends at once.
    """
    flow = _flow(wanted.entrypoint)
    if when is None and wanted.every_s is not None:
        when = IntervalSchedule(interval=timedelta(seconds=wanted.every_s))
    return client.create_deployment(
        client.create_flow_from_name(flow.name),
        wanted.name,
        description=wanted.description,
        entrypoint=wanted.entrypoint,
        tags=tags or [TAG],
        parameters=dict(wanted.parameters),
        parameter_openapi_schema=parameter_schema(flow).model_dump(exclude_unset=True),
        enforce_parameter_schema=True,
        work_pool_name=POOL,
        work_queue_name=wanted.queue,
        pull_steps=[],
        paused=paused,
        schedules=[] if when is None else [DeploymentScheduleCreate(schedule=when, active=True)],
    )


def _notices(campaign: str, uuid: str, number: UUID, block: UUID) -> Iterator[AutomationCore]:
    owner = f"prefect.deployment.{number}"
    yield AutomationCore(
        name=f"{campaign}: tell people",
        description="Tells people what is notable in the log of the campaign.",
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect={f"{PREFIX}{kind}" for kind in NOTABLE},
            match={"prefect.resource.id": resource_of(uuid)},
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject=f"{campaign}: {{{{ event.payload.kind }}}}",
                body=f"{campaign}, round {{{{ event.payload.round }}}}: {{{{ event.payload.meaning }}}} "
                "{{ event.payload.detail | tojson }}",
            )
        ],
        owner_resource=owner,
    )
    yield AutomationCore(
        name=f"{campaign}: tell of failed runs",
        description="Tells people when a run of the campaign fails.",
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "deployment", "prefect.resource.id": owner},
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject=f"{campaign}: a run has failed",
                body="{{ flow_run.name }}: {{ flow_run.state.message }}",
            )
        ],
        owner_resource=owner,
    )


def _block(client: SyncPrefectClient, name: str) -> UUID:
    kind, slash, called = name.partition("/")
    if slash and kind and called:
        try:
            return client.read_block_document_by_name(called, kind).id
        except ObjectNotFound:
            pass
    raise ConfigError(
        f"--notify is {name!r}, expected TYPE/NAME of a block that the Prefect server has, such as "
        "slack-webhook/lab; make one on Prefect's page, or list them with: prefect block ls"
    )


def _find(client: SyncPrefectClient, name: str) -> Any:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _flow(entrypoint: str) -> Flow[..., Any]:
    module, _, name = entrypoint.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Flow), entrypoint
    return found


def _full_name(entrypoint: str, name: str) -> str:
    return f"{_flow(entrypoint).name}/{name}"


def main() -> None:
    """Make what every campaign shares, on the server that the environment names."""
    try:
        with connected() as client:
            make_shared(client)
    except (WorkError, ConfigError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
