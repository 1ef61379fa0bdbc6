"""Commands that look after a database: check, backup, upgrade."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flowscout.cli.campaigns import AsJson, CampaignPath, Database, opened
from flowscout.cli.output import print_json, say

commands = typer.Typer(no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    commands.command(epilog="Example: flowscout db check campaign.yaml")(check)
    commands.command(epilog="Example: flowscout db backup campaign.yaml --to monday.db")(backup)
    commands.command(epilog="Example: flowscout db upgrade campaign.yaml")(upgrade)
    app.add_typer(
        commands,
        name="db",
        help="Look after a database: check it, back it up, upgrade it.",
        epilog="Example: flowscout db check campaign.yaml",
    )


def check(campaign: CampaignPath, db: Database = None, as_json: AsJson = False) -> None:
    """Look for everything that can be wrong with a history; exit code 1 if anything is. Nothing is written."""
    from flowscout.db.checks import check_history
    from flowscout.loop.workbench import artefacts_of

    with opened(campaign, db) as (history, record, _):
        faults = check_history(history.database, record.id, artefacts=artefacts_of(history, record))
    if as_json:
        print_json([asdict(fault) for fault in faults])
    elif not faults:
        say(f"{record.name}: all is right", style="green")
    for fault in [] if as_json else faults:
        say(f"{fault.check}: {fault.found}", style="red")
        say(f"  mend: {fault.mend}")
    if faults:
        raise typer.Exit(1)


def backup(
    campaign: CampaignPath,
    to: Annotated[Path, typer.Option("--to", help="The file to write; artefacts go to NAME.files beside it.")],
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Copy a SQLite history and its artefacts while others work with it."""
    from flowscout.db.upkeep import backup as back_up
    from flowscout.loop.config import artefacts_url

    with opened(campaign, db) as (history, _, _):

        def in_a_store(number: int) -> bool:
            return any(artefacts_url(one.yaml) is not None for one in history.campaigns.configs(number))

        done = back_up(history.database, to, in_a_store=in_a_store)
    if as_json:
        print_json(asdict(done))
    else:
        say(f"{done.path}: {done.size_bytes:,} bytes, checked, and {done.artefacts} artefacts")


def upgrade(campaign: CampaignPath, db: Database = None, as_json: AsJson = False) -> None:
    """Bring the tables of an older version up to this one's; a SQLite file is copied first."""
    from flowscout.db.upkeep import upgrade as bring_up
    from flowscout.loop.config import database_url, read_campaign_file

    done = bring_up(database_url(read_campaign_file(campaign), db))
    if as_json:
        print_json(asdict(done))
    elif done.found == done.now:
        say(f"the tables are of schema {done.now} already")
    else:
        kept = f"; the file as it was is {done.backup}" if done.backup else ""
        say(f"schema {done.found} brought up to {done.now}{kept}")
