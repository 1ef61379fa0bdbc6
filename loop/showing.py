"""What people who watch a round are shown of it: tables, and pages of Markdown that hold their pictures.

Nothing is written; where a page is put belongs in `flowscout.flows`. The cost does not grow with the history but
for one pass over its values: pictures are of the latest rounds.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowscout.db import EvaluationState, HistoryFilter, ObjectiveRecord, StatusRecord
from flowscout.loop.drawing import (
    draw_best,
    draw_calibration,
    draw_losses,
    draw_predictions,
    picture_uri,
)
from flowscout.loop.objectives import objective_record
from flowscout.loop.workbench import Workbench

if TYPE_CHECKING:
    from flowscout.loop.prequential import Foretold

_SETTLED = (EvaluationState.DONE, EvaluationState.FAILED, EvaluationState.CANCELLED)

_SCORES = (
    ("loo_spearman", "rank correlation, leaving one label out"),
    ("loo_rmse", "root mean square error, leaving one label out"),
    ("loo_coverage90", "share in the 90% interval, leaving one label out"),
    ("foretold_spearman", "rank correlation on the round before, foretold"),
    ("foretold_coverage90", "share of the round before in the 90% interval, foretold"),
    ("pooled_coverage90", "share in the 90% interval, foretold, over the latest rounds"),
)
_HEALTH = (
    ("slope", "slope of log p on log R (1 is exact)"),
    ("spearman", "rank correlation of log p and log R"),
    ("unique_share", "share of different objects among samples"),
    ("exponent", "exponent of the reward"),
    ("loss", "loss at the end"),
    ("steps", "steps"),
    ("seconds", "seconds"),
)


def batch_table(bench: Workbench, number: int) -> list[dict[str, Any]]:
    """Return the batch of a round by rank, a row for each candidate."""
    record = bench.history.rounds.get(bench.campaign.id, number)
    names = ("rank", "candidate_id", "object", "mean", "sd", "acquisition", "origin")
    batch = bench.history.rounds.proposals(record.id, selected=True)
    return [{name: _rounded(getattr(one, name)) for name in names} for one in batch]


def surrogate_page(bench: Workbench, number: int) -> str:
    """Return what the surrogate of a round has learned from, its scores, and how well those before it foretold."""
    fit = bench.history.rounds.fit(bench.history.rounds.get(bench.campaign.id, number).id)
    if fit is None:
        return f"Round {number} has no surrogate yet.\n"
    said = f"fitted to {fit.data_count} candidates: all that was measured up to seq {fit.data_upto_seq}."
    lines = [f"**{fit.kind}**, {said}", "", *_table(fit.diagnostics, _SCORES)]
    values = _latest_foretold(bench, number)
    if values:
        pictures = draw_calibration(values), draw_predictions(values, _objective(bench))
        names = "calibration", "predicted and measured"
        lines += [_image(name, picture) for name, picture in zip(names, pictures, strict=True)]
    else:
        lines.append("Nothing was foretold before it was measured yet, so there is nothing to draw.")
    return _page(lines)


def sampler_page(bench: Workbench, number: int) -> str:
    """Return how the sampler of a round was trained, whether it may be trusted, and its loss."""
    run = bench.history.rounds.sampler(bench.history.rounds.get(bench.campaign.id, number).id)
    if run is None:
        return f"Round {number} has no sampler yet.\n"
    found = dict(run.diagnostics)
    parts = {name: one for name, one in found.items() if isinstance(one, Mapping) and "fallback" in one}
    lines = [f"**{run.kind}**, run {run.id} of the history."]
    curves = {}
    for name, part in (parts or {run.kind: found}).items():
        if part.get("fallback"):
            lines.append("\nIt failed its health check: the batch comes from local search on the same reward.")
        table = _table(part, _HEALTH) or ["Nothing is trained."]
        lines += ["", *([f"### {name}", ""] if parts else []), *table]
        if part.get("loss_curve"):
            curves[name] = part["loss_curve"]
    if curves:
        lines.append(_image("loss", draw_losses(curves)))
    return _page(lines)


def progress_page(bench: Workbench) -> str:
    """Return how far the campaign has come: its rounds, its money, and the best so far."""
    status, objective = _status(bench), _objective(bench)
    lines = [
        f"{len(status.rounds)} of at most {bench.config.budget.rounds} rounds, {status.candidates_measured} "
        f"candidates measured, {status.spent_minor / 100:.2f} spent.",
        "",
        "| round | state | measured | mean of the batch | best of the batch | best so far |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for row in reversed(status.rounds):
        cells = (row.number, row.state, row.measured, row.batch_mean, row.batch_best, row.best)
        lines.append(f"| {' | '.join(_cell(one) for one in cells)} |")
    if any(row.best is not None for row in status.rounds):
        lines[2:2] = [_image("best so far", draw_best(status.rounds, objective)), ""]
    return _page(lines)


def settled_percent(bench: Workbench, number: int) -> float:
    """Return the share of a round's wanted measurements that are over, in percent; 0 where there are none yet."""
    record = bench.history.rounds.get(bench.campaign.id, number)
    counts = bench.history.experiments.counts(bench.campaign.id, round_id=record.id)
    return 100.0 * sum(counts.get(state, 0) for state in _SETTLED) / max(1, sum(counts.values()))


def _latest_foretold(bench: Workbench, number: int) -> "list[Foretold]":
    """Return what the latest rounds before this one foretold and what was measured of it since."""
    from flowscout.loop.prequential import WINDOW, foretold  # loads torch

    prop, rounds = bench.config.objective.name, bench.history.rounds.all(bench.campaign.id)
    rows: list[Mapping[str, Any]] = []
    noise = {}
    for record in [one for one in rounds if one.number < number][-WINDOW:]:
        fit = bench.history.rounds.fit(record.id)
        noise[record.number] = 0.0 if fit is None else float(fit.diagnostics.get("noise_sd", 0.0))
        wanted = HistoryFilter(round=record.number, property=prop)
        rows += bench.history.queries.history(bench.campaign.name, wanted)
    return foretold(rows, noise, property=prop, scale=bench.scale)


def _status(bench: Workbench) -> StatusRecord:
    objective = _objective(bench)
    return bench.history.queries.status(bench.campaign.id, objective.property, direction=objective.direction)


def _objective(bench: Workbench) -> ObjectiveRecord:
    return objective_record(bench.config.objective)


def _table(found: Mapping[str, Any], wanted: Sequence[tuple[str, str]]) -> list[str]:
    rows = [f"| {said} | {_cell(found[name])} |" for name, said in wanted if found.get(name) is not None]
    return ["| | |", "|---|---:|", *rows, ""] if rows else []


def _image(name: str, figure: Any) -> str:
    return f"![{name}]({picture_uri(figure)})"


def _page(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rounded(value: Any) -> Any:
    """Return a number with five digits: more are noise, and the whole one stands in the history."""
    return float(f"{value:.5g}") if isinstance(value, float) else value
