"""Pictures of how a campaign goes and of how far its surrogate and its sampler can be trusted.

They return figures; where these are saved or shown is the caller's business. The demonstration's picture belongs
to the command line.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flowscout.db import ObjectiveRecord, RoundRow
    from flowscout.loop.prequential import Foretold

_INK, _MUTED, _ACCENT, _ALARM, _FAINT = "#1f2933", "#9aa5b1", "#0b7285", "#c92a2a", "#ced4da"

INTERVAL_90 = 1.6448536269514722
"""Half the width of a central 90% interval, in standard deviations of a normal."""

MAX_JITTER = 0.3
"""How far from its round's place a point may stand, so that points do not hide each other."""

_SCORES = (
    ("rmse", "root mean square error"),
    ("spearman", "rank correlation"),
    ("nlpd", "negative log density"),
    ("coverage90", "share in the 90% interval"),
)


def draw_progress(history: Sequence[Mapping[str, Any]], objective: "ObjectiveRecord") -> "Figure":
    """Return the values of each batch over rounds, and the best so far; round 0 is what was told before."""
    import numpy as np

    batches: dict[int, list[float]] = {}
    for row in history:
        counts = row["property"] == objective.property and row["qualifier"] == "=" and not row["superseded"]
        if counts and row["value"] is not None:
            batches.setdefault(row["round"] or 0, []).append(row["value"])
    numbers = sorted(batches)
    better = max if objective.direction == "maximize" else min
    best: list[float] = []
    for number in numbers:
        best.append(better([*best[-1:], *batches[number]]))

    figure = _figure(7.2, 3.8)
    axes = figure.subplots()
    for number in numbers:
        values = np.array(batches[number])
        axes.scatter(number + _spread(values), values, s=14, color=_MUTED, alpha=0.7, linewidths=0, zorder=2)
        axes.hlines(
            np.median(values), number - MAX_JITTER, number + MAX_JITTER, color=_INK, linewidth=1.4, zorder=3
        )
    axes.scatter([], [], s=14, color=_MUTED, label="measured")
    axes.plot([], [], color=_INK, linewidth=1.4, label="median of the batch")
    # Level over the batch that brought it: a slope between rounds would tell of values that nobody measured.
    edges = [numbers[0] - 0.5, *numbers, numbers[-1] + 0.5]
    levels = [best[0], *best, best[-1]]
    axes.plot(edges, levels, drawstyle="steps-mid", color=_ACCENT, linewidth=2, zorder=1, label="best so far")
    axes.set_xticks(_few(numbers), ["told" if number == 0 else str(number) for number in _few(numbers)])
    axes.set(xlabel="round", ylabel=_with_unit(objective))
    wanted = "largest" if objective.direction == "maximize" else "smallest"
    axes.set_title(f"{wanted} {objective.property} so far: {best[-1]:.4g}", loc="left", fontsize=10)
    axes.legend(loc="best", frameon=False, fontsize=8)
    _tidy(axes)
    return figure


def draw_predictions(values: "Sequence[Foretold]", objective: "ObjectiveRecord") -> "Figure":
    """Return what was predicted against what was measured, each with its 90% interval.

    An interval that misses its value does not cross the diagonal; it is drawn in red.
    """
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm, ListedColormap

    measured, mean, half, when = (
        np.array([one.value for one in values]),
        np.array([one.mean for one in values]),
        INTERVAL_90 * np.array([one.sd for one in values]),
        np.array([one.round for one in values]),
    )
    inside = np.abs(measured - mean) <= half
    figure = _figure(5.6, 4.8)
    axes = figure.subplots()
    for chosen, colour in ((inside, _FAINT), (~inside, _ALARM)):
        axes.vlines(
            measured[chosen],
            (mean - half)[chosen],
            (mean + half)[chosen],
            color=colour,
            linewidth=1.0 if len(values) <= 60 else 0.6,
            alpha=1.0 if colour == _FAINT else 0.45,
            zorder=1,
        )
    rounds = sorted(set(when.tolist()))
    # One colour for each round, a step apart; the lightest yellow is hard to see on white and is left out.
    colours = ListedColormap(colormaps["viridis"](np.linspace(0, 0.9, len(rounds))))
    edges = BoundaryNorm([*(number - 0.5 for number in rounds), rounds[-1] + 0.5], len(rounds))
    points = axes.scatter(measured, mean, c=when, s=18, cmap=colours, norm=edges, linewidths=0, zorder=3)
    if len(rounds) > 1:
        bar = figure.colorbar(
            points, ax=axes, ticks=_few(rounds), spacing="uniform", shrink=0.6, pad=0.02, drawedges=False
        )
        bar.ax.minorticks_off()
        bar.ax.tick_params(labelsize=8, length=0)
        bar.ax.set_title("round", fontsize=9)
        bar.outline.set_visible(False)
    # One scale for both: limits of the points alone, lest one wide interval squeezes all of them.
    low, high = min(measured.min(), mean.min()), max(measured.max(), mean.max())
    margin = 0.08 * (high - low) or 0.5
    axes.axline((low, low), slope=1, color=_INK, linewidth=0.8, linestyle=":", zorder=2)
    axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
    axes.set(xlabel=f"measured {_learned(objective)}", ylabel="predicted before, with 90% interval")
    axes.set_title(f"{inside.mean():.0%} of {len(values)} values in their 90% interval", loc="left", fontsize=10)
    _tidy(axes)
    return figure


def draw_scores(rounds: "Sequence[RoundRow]", by_round: Mapping[int, Any]) -> "Figure":
    """Return the surrogate's scores by round: leaving one label out, and on the batch before it was measured.

    `by_round` holds `PredictionScores` by the number of the round.
    """
    from matplotlib.ticker import PercentFormatter

    figure = _figure(8.4, 5.0)
    for axes, (name, label) in zip(figure.subplots(2, 2).flat, _SCORES, strict=True):
        left_out = {row.number: row.surrogate[f"loo_{name}"] for row in rounds if f"loo_{name}" in row.surrogate}
        batch = {number: getattr(scores, name) for number, scores in by_round.items()}
        batch = {number: value for number, value in batch.items() if value is not None}
        for found, colour, marker, said in (
            (left_out, _ACCENT, "o", "leaving one label out"),
            (batch, _ALARM, "s", "the round's batch, foretold"),
        ):
            if found:
                axes.plot([*found], [*found.values()], color=colour, marker=marker, markersize=4, label=said)
        if name == "coverage90":
            axes.axhline(0.9, color=_INK, linewidth=0.8, linestyle=":")
            axes.set_ylim(0, 1.05)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_title(label, loc="left", fontsize=10)
        axes.set_xticks(_few(sorted({*left_out, *batch})))
        _tidy(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", frameon=False, fontsize=8, ncols=2)
    figure.supxlabel("round", fontsize=9, color=_INK)
    return figure


def draw_calibration(values: "Sequence[Foretold]") -> "Figure":
    """Return how many of the values lay in the central intervals that should have held each share of them.

    Below the diagonal the surrogate was too sure of itself, above it too careful.
    """
    import numpy as np

    off = np.array([abs(one.value - one.mean) / one.sd for one in values])
    # The narrowest central interval of a normal that holds a value `off` standard deviations away.
    share = np.sort([math.erf(z / math.sqrt(2)) for z in off])
    held = np.arange(1, len(share) + 1) / len(share)

    figure = _figure(4.0, 4.0)
    axes = figure.subplots()
    axes.axline((0, 0), slope=1, color=_INK, linewidth=0.8, linestyle=":")
    axes.plot([0, *share, 1], [0, *held, 1], drawstyle="steps-post", color=_ACCENT, linewidth=1.6)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="interval", ylabel="share of values in it")
    axes.set_title(f"calibration on {len(share)} values", loc="left", fontsize=10)
    _tidy(axes)
    return figure


def draw_losses(curves: Mapping[str, Sequence[float]]) -> "Figure":
    """Return the loss of each sampler over its training, from its first step to its last."""
    figure = _figure(5.6, 3.2)
    axes = figure.subplots()
    for (name, losses), colour in zip(curves.items(), (_ACCENT, _ALARM, _INK, _MUTED), strict=False):
        axes.plot(range(1, len(losses) + 1), losses, color=colour, linewidth=1.4, label=name)
    if all(loss > 0 for losses in curves.values() for loss in losses):
        axes.set_yscale("log")
    axes.set(xlabel="training, in equal parts", ylabel="mean loss of each part")
    axes.set_title("loss of the sampler", loc="left", fontsize=10)
    if len(curves) > 1:
        axes.legend(loc="best", frameon=False, fontsize=8)
    _tidy(axes)
    return figure


def draw_best(rounds: "Sequence[RoundRow]", objective: "ObjectiveRecord") -> "Figure":
    """Return the best so far and the mean of each batch, by round; at least one must have a value."""
    best = {row.number: row.best for row in rounds if row.best is not None}
    figure = _figure(5.6, 3.2)
    axes = figure.subplots()
    levels = [*best.values()]
    axes.step(
        [*best], levels, where="post", marker="o", markersize=4, linewidth=2, color=_ACCENT, label="best so far"
    )
    for name, mark, said in (("batch_best", "^", "best of the batch"), ("batch_mean", "_", "mean of the batch")):
        found = {row.number: getattr(row, name) for row in rounds if getattr(row, name) is not None}
        axes.scatter([*found], [*found.values()], s=24, color=_MUTED, marker=mark, label=said, zorder=3)
    axes.set_xticks(_few([*best]))
    axes.set(xlabel="round", ylabel=_with_unit(objective))
    wanted = "largest" if objective.direction == "maximize" else "smallest"
    axes.set_title(f"{wanted} {objective.property} so far: {levels[-1]:.4g}", loc="left", fontsize=10)
    axes.legend(loc="best", frameon=False, fontsize=8)
    _tidy(axes)
    return figure


def picture_uri(figure: "Figure") -> str:
    """Return a figure as an image that stands in a page itself: a `data:` address that nothing is fetched from."""
    import base64
    from io import BytesIO

    import numpy as np
    from PIL import Image

    canvas: Any = figure.canvas
    canvas.draw()  # once: to be saved it would be laid out and drawn twice
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    few = BytesIO()  # 64 colours: a quarter of the bytes, and nobody sees it
    drawn.convert("RGB").quantize(64).save(few, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(few.getvalue()).decode()}"


def _figure(width: float, height: float) -> "Figure":
    """Return an empty figure that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def _tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_MUTED)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)


def _spread(values: Any) -> Any:
    """Return offsets that keep values apart, the same each time: ranks in an order that jumps to and fro."""
    import numpy as np

    golden = 0.6180339887498949  # steps of it fill an interval evenly, whatever their number
    places = (np.argsort(np.argsort(values, kind="stable")) * golden) % 1.0
    return MAX_JITTER * (2 * places - 1) if len(values) > 1 else np.zeros(1)


def _few(numbers: Sequence[int]) -> list[int]:
    """Return at most some twelve of the numbers, evenly spaced."""
    step = -(-len(numbers) // 12) or 1
    return list(numbers)[::step]


def _learned(objective: "ObjectiveRecord") -> str:
    """Return what is predicted: the value, or its logarithm."""
    named = _with_unit(objective)
    return named if objective.transform is None else f"{objective.transform}({named})"


def _with_unit(objective: "ObjectiveRecord") -> str:
    return objective.property if objective.unit is None else f"{objective.property} ({objective.unit})"
