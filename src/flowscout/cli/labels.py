"""Commands for people who measure: ask for a batch, veto what must not be made, tell results."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flowscout.cli.campaigns import AsJson, CampaignPath, Database
from flowscout.cli.gating import CampaignName, registered
from flowscout.cli.output import print_json, print_rows, say
from flowscout.errors import ConfigError, TableError

WRONG_INPUT = 2
"""The exit code of what was told with mistakes."""


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(epilog="Example: flowscout tell campaign.yaml labels.csv --source eln-2024")(tell)
    app.command(epilog="Example: flowscout ask campaign.yaml -n 24 --json")(ask)
    app.command(epilog="Example: flowscout veto campaign.yaml ACGTACGT --reason 'not to be synthesised'")(veto)


def tell(
    campaign: CampaignPath,
    table: Annotated[
        Path, typer.Argument(help="CSV, Excel or JSON lines: column object (or sequence), and the objective's.")
    ],
    source: Annotated[str | None, typer.Option(help="Where the values come from; default: its name.")] = None,
    correct: Annotated[bool, typer.Option("--correct", help="Supersede rows stored with another value.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why values are corrected; kept in the history.")] = None,
    actor: Annotated[str | None, typer.Option(help="Who tells; default: you.")] = None,
    sheet: Annotated[str | None, typer.Option(help="Of a workbook with several.")] = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Record measured values, all of a table or none. Telling the same table again changes nothing."""
    from flowscout.loop.campaign import Campaign, check_campaign_file
    from flowscout.loop.tables.telling import read_labels

    file, _ = check_campaign_file(campaign)
    try:
        # Before a database is made for what cannot be told.
        read_labels(table, file.config, folder=file.folder, source=source, correct=correct, sheet=sheet)
    except TableError as error:
        if not as_json:
            raise
        print_json({"mistakes": [{"row": row, "message": message} for row, message in error.mistakes]})
        raise typer.Exit(WRONG_INPUT) from None
    with Campaign.from_yaml(campaign, db=db, actor=actor) as found:
        told = found.tell(table, source=source, actor=actor, correct=correct, reason=reason, sheet=sheet)
    if as_json:
        print_json(asdict(told))
        return
    corrected = f" ({told.corrected} of them corrections)" if told.corrected else ""
    say(f"{table}: {told.added} values added{corrected}, {told.unchanged} known already")
    if told.empty:
        say(f"{told.empty} rows without a value: they wait")
    if told.controls:
        say(f"{told.controls} wells of controls: no candidates, and no values of their own are kept")
    if told.conditions:
        say(f"columns kept as conditions: {', '.join(told.conditions)}")
    if told.unread:
        say(f"columns not read: {', '.join(told.unread)}", style="yellow")


def ask(
    campaign: CampaignPath,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Batch size; default: the file's.")] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="OBJECT", help="An object of your own that is to join the batch; once for each."),
    ] = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Say what to measure next. The oracle is not called: tell the results with `flowscout tell`."""
    from flowscout.loop.campaign import Campaign
    from flowscout.loop.objectives import label_of

    with Campaign.from_yaml(campaign, db=db) as found:
        batch = found.ask(n, include=include or [])
        name, objective = found.name, found.workbench.config.objective
    rows = [{str(key): value for key, value in row.items()} for row in batch.to_dict("records")]
    learned = "" if objective.transform == "none" else f" (mean and sd are of {label_of(objective)})"
    print_rows(rows, as_json=as_json, title=f"to be measured for {name}{learned}")


def veto(
    objects: Annotated[
        list[str],
        typer.Argument(
            metavar="CAMPAIGN OBJECT...", help="The campaign file, and objects of the batch that waits."
        ),
    ],
    reason: Annotated[str, typer.Option(help="Why they must not be measured; kept in the history.")],
    name: CampaignName = None,
    actor: Annotated[str | None, typer.Option(help="Who vetoes; default: you.")] = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Take objects out of the batch before they are measured; the next best take their places.

    With --campaign NAME and --db there is no campaign file before the objects.
    """
    path = None if name is not None else Path(objects[0])
    wanted = objects if name is not None else objects[1:]
    if not wanted:
        raise ConfigError(f"no object came after {objects[0]!r}, expected one or more; name what is vetoed.")
    with registered(path, name, db) as found:
        done = found.veto(wanted, reason=reason, actor=actor)
        name = found.name
    rows = [{str(key): value for key, value in row.items()} for row in done.to_dict("records")]
    print_rows(rows, as_json=as_json, title=f"vetoed in {name}")
