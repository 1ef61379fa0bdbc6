"""The command that says where a campaign stands, and how every command opens one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from flowscout.cli.output import print_json, print_rows, say

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
    if as_json:
        print_json(asdict(found) | {"running": holder, "conflicts": conflicts})
        return
    waiting = sum(n for state, n in found.evaluations.items() if state in ("queued", "running", "unknown"))
    say(
        f"{found.campaign}: {found.state}, {found.candidates_measured} candidates measured "
        f"({found.measurements} values), {waiting} waiting; seed {found.seed}"
    )
    say(f"running now: {holder}" if holder else "nobody runs it now")
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
