"""Commands that put right what was told: take values back, settle conflicts."""

from typing import Annotated

import typer

from flowscout.cli.campaigns import AsJson, CampaignPath, Database, opened
from flowscout.cli.output import print_json, print_rows, say
from flowscout.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(epilog="Example: flowscout retract campaign.yaml ACGTACGT --reason 'wrong plate'")(retract)
    app.command(epilog="Example: flowscout conflicts campaign.yaml --settle 17 --keep came --reason 'rerun'")(
        conflicts
    )


def retract(
    campaign: CampaignPath,
    obj: Annotated[str | None, typer.Argument(metavar="[OBJECT]", help="All values of this object.")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "",
    source: Annotated[str | None, typer.Option(help="Of one row: where it came from.")] = None,
    row: Annotated[str | None, typer.Option(help="Of one row: its id.")] = None,
    actor: Annotated[str | None, typer.Option(help="Who takes it back; default: you.")] = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Take values back: of an object, or of one row. Nothing is deleted; nothing learns from them any more."""
    from flowscout.loop.campaign import Campaign

    if (source is None) != (row is None) or (obj is not None and source is not None):
        raise ConfigError(
            "expected either an object, all of whose values are taken back, or --source and --row together; "
            "nothing was retracted. Give one."
        )
    with Campaign.from_yaml(campaign, db=db, actor=actor) as found:
        count = found.retract(obj, source=source, row_id=row, reason=reason, actor=actor)
    if as_json:
        print_json({"retracted": count})
    else:
        say(f"{count} values taken back" if count else "nothing to take back: it was done before")


def conflicts(
    campaign: CampaignPath,
    settle: Annotated[int | None, typer.Option(metavar="ID", help="Settle this conflict.")] = None,
    keep: Annotated[str | None, typer.Option(help="Which counts: stored, came, or both as readings.")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "",
    actor: Annotated[str | None, typer.Option(help="Who decides; default: you.")] = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show rows that have two values, or say which of them counts."""
    if (settle is None) != (keep is None):
        raise ConfigError(
            "--settle ID and --keep stored|came|both go together; give both, or neither for the list."
        )
    if settle is not None and keep is not None:
        from flowscout.loop.campaign import Campaign

        with Campaign.from_yaml(campaign, db=db, actor=actor) as found:
            found.settle_conflict(settle, keep=keep, reason=reason, actor=actor)
    with opened(campaign, db) as (history, record, _):
        left = history.conflicts.open(record.id)
    rows = [vars(one) | {"stored": str(one.stored), "came": str(one.came)} for one in left]
    print_rows(rows, as_json=as_json, title=f"conflicts in {record.name}")
