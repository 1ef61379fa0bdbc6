"""Commands that hold rounds up and let them go on: approve a batch, pause and resume a campaign.

They work from any machine that reaches the history: neither the campaign file nor its oracle need to be there.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowscout.cli.campaigns import AsJson, Database
from flowscout.cli.output import print_json, print_rows, say
from flowscout.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from flowscout.loop.campaign import Campaign

CampaignFileOrNone = Annotated[Path | None, typer.Argument(metavar="[CAMPAIGN]", help="The campaign file.")]
CampaignName = Annotated[
    str | None, typer.Option("--campaign", metavar="NAME", help="A registered campaign, with --db.")
]
Actor = Annotated[str | None, typer.Option(help="Who says so; default: you.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(epilog="Example: flowscout approve campaign.yaml --actor ada")(approve)
    app.command(epilog="Example: flowscout pause campaign.yaml")(pause)
    app.command(epilog="Example: flowscout resume campaign.yaml")(resume)


def approve(
    campaign: CampaignFileOrNone = None,
    name: CampaignName = None,
    round_number: Annotated[int | None, typer.Option("--round", min=1, help="Only if it is this round.")] = None,
    seen: Annotated[str | None, typer.Option("--batch", metavar="CODE", help="Only if it is this batch.")] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Show the batch and its code, and approve nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    actor: Actor = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Let the batch that waits for approval be handed out; on a terminal it is shown, and you are asked.

    Exactly what was shown is approved: a veto in between refuses the approval.
    """
    with registered(campaign, name, db) as found:
        waiting = found.awaiting()
        if show or (waiting is not None and not as_json):
            rows = [] if waiting is None else _rows(waiting.batch)
            if show and as_json:
                about = (
                    {} if waiting is None else {"round": waiting.round, "why": waiting.why, "code": waiting.code}
                )
                print_json({"campaign": found.name, **about, "batch": rows})
                return
            title = "batches that wait for approval" if waiting is None else f"batch {waiting.code}: {waiting.why}"
            print_rows(rows, as_json=False, title=title)
            if show:
                return
        if waiting is not None and seen is None:
            seen = waiting.code
            if not (yes or as_json) and sys.stdin.isatty() and sys.stdout.isatty():
                typer.confirm(f"Approve these {len(waiting.batch)} of round {waiting.round}?", abort=True)
        approved = found.approve(round_number, seen=seen, actor=actor)
        name = found.name
    if as_json:
        print_json({"campaign": name, "batch": _rows(approved)})
    else:
        say(f"{name}: {len(approved)} approved, they may be measured now")


def pause(
    campaign: CampaignFileOrNone = None,
    name: CampaignName = None,
    actor: Actor = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Let no round of a campaign start or go on until it is resumed. Results are still taken."""
    with registered(campaign, name, db) as found:
        changed = found.pause(actor=actor)
        _say_state(found, changed=changed, word="paused", as_json=as_json)


def resume(
    campaign: CampaignFileOrNone = None,
    name: CampaignName = None,
    actor: Actor = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Let the rounds of a paused campaign go on."""
    with registered(campaign, name, db) as found:
        changed = found.resume(actor=actor)
        _say_state(found, changed=changed, word="active", as_json=as_json)


@contextmanager
def registered(path: Path | None, name: str | None, db: str | None) -> Iterator["Campaign"]:
    """Yield a campaign as its history holds it, by its file or by its name."""
    from flowscout.loop.campaign import Campaign

    name, url = which(path, name, db)
    with Campaign.open(url, name) as found:
        yield found


def which(path: Path | None, name: str | None, db: str | None) -> tuple[str, str]:
    """Return the name of a campaign and where its history is."""
    from flowscout.loop.config import database_url, read_campaign_file

    if (path is None) == (name is None):
        raise ConfigError(
            "expected a campaign file, or --campaign NAME with --db, and not both; give one of them."
        )
    if path is not None:
        file = read_campaign_file(path)
        return file.config.campaign, database_url(file, db)
    if db is None:
        raise ConfigError(f"--campaign {name} came without --db, expected the database it is in; give --db.")
    assert name is not None
    return name, db


def _say_state(found: "Campaign", *, changed: bool, word: str, as_json: bool) -> None:
    if as_json:
        print_json({"campaign": found.name, "state": word, "changed": changed})
    else:
        say(f"{found.name}: {word}{'' if changed else ' already'}")


def _rows(frame: "pd.DataFrame") -> list[dict[str, object]]:
    """Return the rows of a table, None for what is missing."""
    return [
        {str(key): None if value != value else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]
