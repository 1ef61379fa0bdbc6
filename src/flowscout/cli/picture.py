"""Pictures of a campaign, drawn from its history."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_INK, _MUTED, _ACCENT = "#1f2933", "#9aa5b1", "#0b7285"


def draw_campaign(
    history: "pd.DataFrame",
    path: Path,
    *,
    value: str,
    start: float,
    ceiling: float | None = None,
    image: Callable[[str], str] | None = None,
) -> Path:
    """Draw the best value so far over measurements and the spread of each batch, and return `path`.

    `history` has one row a measurement, as `Campaign.history()` returns it; `start` is the best value known
    before the first round. Objects are sequences: the spread is their mean pairwise edit
    distance, over both strands where `image` gives the other one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from flowscout.loop.metrics import mean_pairwise_distance

    measured = history[history["round"].notna()].sort_values("seq")
    values = measured["value"].to_numpy()
    best = measured["value"].cummax().clip(lower=start).to_numpy()
    calls = range(1, len(values) + 1)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
    left.scatter(calls, values, s=9, color=_MUTED, label="measured", linewidths=0)
    left.step(calls, best, where="post", color=_ACCENT, linewidth=2, label="best so far")
    if ceiling is not None:
        left.axhline(ceiling, color=_INK, linewidth=0.8, linestyle=":", label="best there is")
    ends = measured.groupby("round").size().cumsum().to_numpy()
    for end in ends[:-1]:
        left.axvline(end + 0.5, color="#e4e7eb", linewidth=0.8, zorder=0)
    left.set(xlabel="measurements (rounds between the lines)", ylabel=value, title="best so far")
    left.legend(loc="lower right", frameon=False, fontsize=8)
    batches = measured.groupby("round")["object"].apply(
        lambda batch: mean_pairwise_distance(list(batch), image=image)
    )
    right.bar(batches.index.astype(int), batches.to_numpy(), color=_ACCENT, width=0.65)
    right.set(xlabel="round", ylabel="mean pairwise edit distance", title="diversity of each batch")
    right.set_xticks(batches.index.astype(int))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
    figure.savefig(path, dpi=130)
    return path
