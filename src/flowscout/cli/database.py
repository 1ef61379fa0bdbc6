"""Commands that take a history out of a database and into one."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flowscout.cli.campaigns import AsJson, CampaignPath, Database, opened
from flowscout.cli.output import print_json, say
from flowscout.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(epilog="Example: flowscout export campaign.yaml --to results.csv")(export)
    app.command(epilog="Example: flowscout replay campaign.yaml --round 3")(replay)
    app.command("import", epilog="Example: flowscout import campaign.yaml legacy.csv --source eln-2024")(import_)


def export(
    campaign: CampaignPath,
    to: Annotated[
        Path, typer.Option("--to", help="A .csv, .jsonl or .parquet file, or a new folder for everything.")
    ],
    form: Annotated[str, typer.Option("--format", help="Of a folder's tables: jsonl or parquet.")] = "jsonl",
    plate: Annotated[
        int | None, typer.Option(help="Write a plate map of what waits instead: 96 or 384 wells, .csv or .xlsx.")
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=OBJECT:WELLS", help="Of a plate: a control, as positive=ACGT:A1-H1."),
    ] = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Write the measurements to a file, one row each, the whole history to a new folder, or a plate map."""
    from flowscout.loop.moving import export_whole

    if form not in ("jsonl", "parquet"):
        raise ConfigError(f"--format is {form!r}, expected jsonl or parquet.")
    if control and plate is None:
        raise ConfigError("--control came without --plate, expected one with it; add --plate 96 or 384.")
    if plate is not None:
        _export_plate(campaign, to, plate, control or [], db=db, as_json=as_json)
        return
    with opened(campaign, db) as (history, record, _):
        if to.suffix:
            count = history.export.measurements(record.name, to)
            found = {"to": str(to), "rows": count}
            line = f"{to}: {count:,} measurements"
        else:
            done = export_whole(history, record.name, to, form=form)
            found = {"to": str(to), **asdict(done)}
            line = f"{to}: {sum(done.rows.values()):,} rows of {len(done.rows)} tables, {done.artefacts} artefacts"
    if as_json:
        print_json(found)
    else:
        say(line)


def import_(
    origin: Annotated[Path, typer.Argument(metavar="CAMPAIGN|FOLDER", help="A campaign file, or a folder.")],
    table: Annotated[
        Path | None, typer.Argument(help="With a campaign file: results as .csv, .jsonl or .parquet.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Where the results come from; default: its name.")] = None,
    actor: Annotated[str | None, typer.Option(help="Who imports; default: you.")] = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Import results of earlier years into a campaign, or a whole history into another database."""
    if origin.is_dir():
        if table is not None or source is not None or actor is not None:
            raise ConfigError(f"{str(origin)!r} is a folder with a whole history; it takes --db and nothing else.")
        _import_folder(origin, db, as_json=as_json)
        return
    if table is None:
        raise ConfigError(
            f"{str(origin)!r} came without a table, expected a campaign file and a table, or the folder of a "
            "whole history."
        )
    from flowscout.loop.campaign import Campaign

    with Campaign.from_yaml(origin, db=db, actor=actor) as found:
        done = found.import_table(table, source=source, actor=actor)
    if as_json:
        print_json(asdict(done))
    else:
        say(f"{table}: {done.added:,} values added, {done.unchanged:,} known already")


def replay(
    campaign: CampaignPath,
    number: Annotated[int, typer.Option("--round", min=1, help="The round to compute again.")],
    tolerance: Annotated[float, typer.Option(min=0, help="How far apart numbers may be.")] = 0.0,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Compute a past round again from its data cut-off and seeds; exit code 1 if anything differs."""
    from flowscout.loop.replay import replay as compute_again
    from flowscout.loop.workbench import lay_out

    with opened(campaign, db) as (history, record, _):
        done = compute_again(lay_out(history, record.id), number, tolerance=tolerance)
    if as_json:
        print_json(asdict(done) | {"same": done.same})
    else:
        for one in done.versions:
            say(f"{one.what}: {one.stored} then, {one.replayed} now", style="yellow")
        for one in done.differences:
            apart = "" if one.distance is None else f" ({one.distance:.3g} apart)"
            say(f"{one.what}: {one.stored} is stored, {one.replayed} came{apart}", style="red")
        if done.same:
            say(f"round {number}: the same ({', '.join(done.compared)})", style="green")
    if not done.same:
        raise typer.Exit(1)


def _export_plate(
    campaign: Path, to: Path, size: int, controls: list[str], *, db: str | None, as_json: bool
) -> None:
    from flowscout.loop.tables.plate_maps import plate_rows, write_plate
    from flowscout.loop.workbench import lay_out

    with opened(campaign, db) as (history, record, _):
        columns, rows = plate_rows(lay_out(history, record.id), size=size, controls=controls)
        write_plate(to, columns, rows)
    names = sorted({row["plate"] for row in rows})
    held = sum("control" in row for row in rows)
    if as_json:
        print_json({"to": str(to), "plates": names, "samples": len(rows) - held, "controls": held})
        return
    say(f"{to}: {len(rows) - held} samples and {held} controls on {', '.join(names)}")
    say(f"fill the last columns, and tell them: flowscout tell {campaign} {to}")


def _import_folder(folder: Path, db: str | None, *, as_json: bool) -> None:
    from flowscout.db import History
    from flowscout.loop.moving import import_whole

    if db is None:
        raise ConfigError("a folder with a whole history came without --db, expected the database to write to.")
    with History(db) as history:
        done, files = import_whole(history, folder)
    if as_json:
        print_json(asdict(done) | {"artefacts_at": str(files)})
    else:
        rows = f"{sum(done.rows.values()):,} rows of {len(done.rows)} tables"
        say(f"{done.campaign}: {rows}, {done.artefacts} artefacts")
        say(f"go on with: flowscout status FILE --db {db}")
