"""The command that says where a campaign stands, and how every command opens one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowscout.cli.output import print_json, print_rows, say

if TYPE_CHECKING:
    from flowscout.db import EventRecord, ScheduleRecord, StatusRecord

CampaignPath = Annotated[Path, typer.Argument(metavar="CAMPAIGN", help="The campaign file.")]
Database = Annotated[
    str | None,
    typer.Option(
        "--db", envvar="FLOWSCOUT_DB", help="Database URL or SQLite file; default: NAME.db beside the file."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: flowscout status campaign.yaml --json")(status)


def status(campaign: CampaignPath, db: Database = None, as_json: AsJson = False) -> None:
    """Show where a campaign stands: its rounds, what waits, what was spent."""
    with opened(campaign, db) as (history_, record, objective):
        found = history_.queries.status(record.id, objective.property, direction=objective.direction)
        holder = history_.campaigns.lease_holder(record.id)
        conflicts = len(history_.conflicts.open(record.id))
        schedule = history_.schedules.get(record.id)
        finished = history_.events.read(record.id, kinds=["campaign_finished"])
    if as_json:
        scheduled = None if schedule is None else asdict(schedule)
        print_json(asdict(found) | {"running": holder, "conflicts": conflicts, "schedule": scheduled})
        return
    waiting = sum(n for state, n in found.evaluations.items() if state in ("queued", "running", "unknown"))
    say(
        f"{found.campaign}: {found.state}, {found.candidates_measured} candidates measured "
        f"({found.measurements} values), {waiting} waiting; seed {found.seed}"
    )
    say(f"running now: {holder}" if holder else "nobody runs it now")
    _say_gates(found, schedule, finished, path=campaign)
    unknown = found.evaluations.get("unknown", 0)
    if unknown:
        say(
            f"{unknown} unknown: the call was cut off, and nobody can say whether it happened; settle with "
            f"`flowscout reconcile {campaign}`",
            style="yellow",
        )
    if conflicts:
        say(f"{conflicts} open conflicts, two values for one row: flowscout conflicts {campaign}", style="yellow")
    if found.limit_minor is not None:
        say(
            f"spent {found.spent_minor / 100:.2f} of {found.limit_minor / 100:.2f} USD, "
            f"{found.reserved_minor / 100:.2f} reserved"
        )
    columns = ("number", "state", "measured", "batch_best", "batch_mean", "best", "seconds")
    print_rows([asdict(row) for row in found.rounds], as_json=False, title="rounds", columns=columns)
    for row in found.rounds:
        if row.message:
            say(f"round {row.number}: {row.message}")


def _say_gates(
    found: "StatusRecord", schedule: "ScheduleRecord | None", finished: "list[EventRecord]", *, path: Path
) -> None:
    """Say when rounds start by themselves, and what holds them up."""
    if schedule is not None:
        say(_scheduled(schedule))
    if found.state == "paused":
        say(f"paused: no round starts or goes on until `flowscout resume {path}`", style="yellow")
    if found.state == "finished" and finished and "why" in finished[-1].detail:
        say(f"finished: {finished[-1].detail['why']}")
    if found.state == "finished" and schedule is not None:
        say(f"its schedule still starts runs, which end at once: `flowscout unschedule {path}`", style="yellow")
    for row in found.rounds:
        if row.state == "awaiting_approval":
            say(f"the batch of round {row.number} waits for approval: `flowscout approve {path}`", style="yellow")


def _scheduled(schedule: "ScheduleRecord") -> str:
    """Return when rounds start by themselves, as a person would say it."""
    every = (
        f"by cron {schedule.cron!r} ({schedule.timezone})" if schedule.cron else f"every {schedule.interval_s:g} s"
    )
    gate = "" if schedule.gate is None else f", when {schedule.gate}"
    return f"rounds start {every}{gate}{', each batch approved' if schedule.approve else ''}"


@contextmanager
def opened(path: Path, db: str | None) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the history of a campaign file, which must have been started, its campaign and its objective."""
    from flowscout.db import History
    from flowscout.loop.config import database_url, read_campaign_file
    from flowscout.loop.objectives import objective_record

    file = read_campaign_file(path)
    wanted = file.config.objective
    with History(database_url(file, db), create=False) as found:
        record = found.campaigns.get(file.config.campaign)
        yield found, record, objective_record(wanted)
