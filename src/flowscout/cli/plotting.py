"""The command that draws a campaign: plot."""

from pathlib import Path
from typing import Annotated

import typer

from flowscout.cli.campaigns import AsJson, CampaignPath, Database, opened
from flowscout.cli.output import print_json, say
from flowscout.errors import ConfigError, StateError


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: flowscout plot campaign.yaml --out pictures")(plot)


def plot(
    campaign: CampaignPath,
    out: Annotated[
        Path | None, typer.Option(help="A folder for the pictures; default: NAME-pictures beside the file.")
    ] = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Draw how a campaign goes: its batches, how well each was foretold, and the surrogate's scores."""
    with opened(campaign, db) as (history, record, objective):
        rows = history.queries.history(record.name)
        found = history.queries.status(record.id, objective.property, direction=objective.direction)
    if not any(row["property"] == objective.property and row["value"] is not None for row in rows):
        raise StateError(
            f"campaign {record.name!r} has no value of {objective.property!r} yet, expected at least one to draw. "
            "Run a round, or tell what is measured."
        )
    from flowscout.loop.drawing import draw_predictions, draw_progress, draw_scores
    from flowscout.loop.prequential import foretold, scores_by_round, scores_of
    from flowscout.loop.scales import scale_of

    noise = {row.number: float(row.surrogate.get("noise_sd", 0.0)) for row in found.rounds}
    values = foretold(rows, noise, property=objective.property, scale=scale_of(objective))
    figures = {"progress.png": draw_progress(rows, objective)}
    if values:
        figures["predictions.png"] = draw_predictions(values, objective)
    if any("loo_rmse" in row.surrogate for row in found.rounds):
        figures["scores.png"] = draw_scores(found.rounds, scores_by_round(values))
    folder = out or campaign.parent / f"{record.name}-pictures"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=150)
    except OSError as error:
        raise ConfigError(f"{str(folder)!r} cannot be written to ({error.strerror}); name another.") from error
    pooled = scores_of(values)
    paths = [str(folder / name) for name in figures]
    if as_json:
        foretelling = None if pooled is None else {"n": pooled.n, **pooled.as_dict()}
        print_json({"campaign": record.name, "pictures": paths, "foretold": foretelling})
        return
    for path in paths:
        say(f"wrote {path}")
    if pooled is None:
        say(
            "nothing was foretold yet: the first batch of a campaign without labels is drawn at random",
            style="dim",
        )
        return
    order = "" if pooled.spearman is None else f", rank correlation {pooled.spearman:.2f}"
    say(
        f"{pooled.n} values foretold before they were measured: {pooled.coverage90:.0%} in their 90% interval, "
        f"root mean square error {pooled.rmse:.3g}{order}"
    )
