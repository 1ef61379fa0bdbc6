"""Commands for rounds that start by themselves: schedule, unschedule."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowscout.cli.campaigns import AsJson, Database
from flowscout.cli.gating import Actor, CampaignFileOrNone, CampaignName, registered
from flowscout.cli.output import print_json, say, warn
from flowscout.errors import ConfigError, WorkError

if TYPE_CHECKING:
    from flowscout.db import CampaignRecord, History, ScheduleRecord
    from flowscout.loop.campaign import Campaign


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(epilog="Example: flowscout schedule campaign.yaml --cron '0 8 * * MON' --when 'results >= 24'")(
        schedule
    )
    app.command(epilog="Example: flowscout unschedule campaign.yaml")(unschedule)


def schedule(
    campaign: CampaignFileOrNone = None,
    name: CampaignName = None,
    cron: Annotated[
        str | None, typer.Option(metavar="TEXT", help="When a round may start, such as '0 8 * * MON'.")
    ] = None,
    every: Annotated[
        float | None, typer.Option(min=5, max=366 * 86400, metavar="SECONDS", help="Or every so many seconds.")
    ] = None,
    when: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What it waits for: results >= N, hours >= H, joined by and, or."),
    ] = None,
    approve: Annotated[
        bool, typer.Option("--approve", help="A person approves each batch before it is handed out.")
    ] = False,
    timezone: Annotated[
        str, typer.Option(metavar="TZ", help="Of --cron, such as Europe/Zurich; default: UTC.")
    ] = "UTC",
    notify: Annotated[
        str | None,
        typer.Option(metavar="TYPE/BLOCK", help="A block of Prefect's by which people are told what is notable."),
    ] = None,
    actor: Actor = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Have a campaign's rounds start by themselves: at these times, and when results that came open the gate.

    The same command again changes the schedule. A Prefect server has to run: `flowscout serve` starts one.
    """
    from flowscout.loop.announcing import check, page_of, server_of

    if (cron is None) == (every is None):
        raise ConfigError(
            f"--cron {cron!r} and --every {every!r} came, expected one of both; give --cron '0 8 * * MON' or "
            "--every 3600."
        )
    if when is not None:
        from flowscout.loop.gates import parse_when

        parse_when(when)
    server = server_of(None)
    check(server)
    with _registered(campaign, name, db, actor=actor) as found:
        from flowscout.db import ScheduleRecord, shown_url
        from flowscout.flows import settings

        history, record = found.workbench.history, found.workbench.campaign
        _refuse_two_servers(history.schedules.get(record.id), server.url)
        settings.quiet()
        settings.name_server(server.url)
        wanted = ScheduleRecord(
            campaign_id=record.id,
            cron=cron,
            interval_s=every,
            timezone=timezone,
            gate=when,
            approve=approve,
            server_url=server.url,
        )
        stored = _deploy(history, record, wanted, notify=notify, actor=actor)
        known_as = shown_url(history.database.location)
    assert stored.deployment_id is not None
    page = page_of(server.url, stored.deployment_id)
    if as_json:
        print_json({"campaign": record.name, "uuid": record.uuid, "page": page} | _shown(stored))
        return
    times = f"at {cron!r} ({timezone})" if cron is not None else f"every {every:g} s"
    gate = "" if when is None else f", when {when}"
    say(f"{record.name}: rounds start {times}{gate}{', each batch to be approved' if approve else ''}")
    say(f"page: {page}")
    say(f"history: {known_as}; the workers must know the same (`flowscout serve --db`)")
    if not _polled(server):
        warn(
            "no worker of queue cpu is there yet: rounds wait for one. `flowscout serve` starts one, with --db or "
            "FLOWSCOUT_DB naming the history that this campaign is in."
        )


def unschedule(
    campaign: CampaignFileOrNone = None,
    name: CampaignName = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Though its Prefect server cannot be reached any more.")
    ] = False,
    actor: Actor = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Let a campaign's rounds no longer start by themselves. A round under way is finished by `flowscout run`."""
    from flowscout.loop.announcing import ServerAwayError, check, server_of
    from flowscout.loop.campaign_results import user_name

    with registered(campaign, name, db) as found:
        history, record = found.workbench.history, found.workbench.campaign
        stored = history.schedules.get(record.id)
        if stored is not None and stored.deployment_id is not None and not forget:
            server = server_of(stored.server_url)
            try:
                check(server)
            except ServerAwayError as error:
                raise WorkError(f"{error} If it is gone for good, give --forget.") from error
            from flowscout.flows import settings

            settings.quiet()
            settings.name_server(server.url)
            if not _remove(stored.deployment_id) and server.url != stored.server_url:
                raise ConfigError(
                    f"the Prefect server at {server.url} has no deployment of the campaign: {stored.server_url} "
                    "starts its rounds, and would go on; nothing was written. Set PREFECT_API_URL to that one, or "
                    "give --forget if it is gone for good."
                )
        removed = history.schedules.remove(record.id, actor=actor or user_name())
    if as_json:
        print_json({"campaign": record.name, "unscheduled": removed})
    else:
        say(f"{record.name}: {'no longer scheduled' if removed else 'was not scheduled'}")


def _deploy(
    history: "History",
    record: "CampaignRecord",
    wanted: "ScheduleRecord",
    *,
    notify: str | None,
    actor: str | None,
) -> "ScheduleRecord":
    """Make the deployment, then store the schedule: cut off between the two, the same command mends it."""
    from flowscout.db import CampaignState
    from flowscout.flows import deploying
    from flowscout.loop.announcing import hook_of
    from flowscout.loop.campaign_results import user_name

    times = deploying.times(cron=wanted.cron, every_s=wanted.interval_s, timezone=wanted.timezone)
    paused = record.state is CampaignState.PAUSED
    with deploying.connected() as client:
        found = deploying.deploy(
            client, campaign=record.name, uuid=record.uuid, when=times, paused=paused, notify=notify
        )
    history.deliveries.subscribe(record.id, [hook_of(str(found))])
    return history.schedules.set(replace(wanted, deployment_id=str(found)), actor=actor or user_name())


def _refuse_two_servers(stored: "ScheduleRecord | None", url: str) -> None:
    """Refuse that two servers start a campaign's rounds.

    Raises:
        ConfigError: another one does already.
    """
    if stored is None or stored.deployment_id is None or stored.server_url == url:
        return
    raise ConfigError(
        f"the Prefect server at {stored.server_url} starts the campaign's rounds already, expected one server to "
        "do so; `flowscout unschedule` there first, or with --forget if that server is gone for good."
    )


def _remove(deployment_id: str) -> bool:
    """Remove a campaign's deployment; return whether the server had it."""
    from uuid import UUID

    from flowscout.flows import deploying

    with deploying.connected() as client:
        return deploying.remove(client, UUID(deployment_id))


@contextmanager
def _registered(path: Path | None, name: str | None, db: str | None, *, actor: str | None) -> "Iterator[Campaign]":
    """Yield a campaign; a file is registered as its latest version."""
    from flowscout.loop.campaign import Campaign, check_campaign_file

    if path is None or name is not None:
        with registered(path, name, db) as found:
            yield found
        return
    check_campaign_file(path)
    with Campaign.from_yaml(path, db=db, actor=actor) as found:
        yield found


def _polled(server: Any) -> bool:
    """Return whether a worker has ever asked for work of queue cpu."""
    from flowscout.flows.pool import CPU, POOL
    from flowscout.loop.announcing import call

    try:
        return bool(call(server, "GET", f"work_pools/{POOL}/queues/{CPU}").get("last_polled"))
    except WorkError:
        return False


def _shown(stored: "ScheduleRecord") -> dict[str, Any]:
    return {key: value for key, value in asdict(stored).items() if key != "campaign_id"}
