"""What is shown of discovery runs: the table, paired comparisons, and curves over calls.

Rows come from `discovery.py`; what their figures mean is told in `metrics.py`.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from metrics import ceiling
from rich.table import Table
from tasks import Task

from flowscout.errors import ConfigError

Row = dict[str, Any]
"""A run: one value for each key, and lists for the curves."""

SHOWN = {
    "best": 3,
    "max": 3,
    "mean_top128": 3,
    "top10": 3,
    "auc_top10": 3,
    "distinct_hits": 0,
    "distinct_hits_shifted": 0,
    "diversity": 2,
    "novelty": 2,
    "duplicates": 0,
    "true_top100_found": 0,
    "from_gflownet": 2,
    "from_anchor": 2,
    "from_local_search": 2,
    "from_explore": 2,
    "from_drift": 2,
    "training_evaluations": 0,
    "seconds": 1,
    "seconds_round_max": 1,
}
PAIRED = {"mean_top128": 4, "distinct_hits": 1, "best": 4, "auc_top10": 4}
N_BOOTSTRAP = 10_000


def results_table(task: Task, rows: Sequence[Row], *, strand: str) -> Table:
    """Return the printed table: per method the median and the range over seeds."""
    distances = "over both strands" if task.landscape.image else "as read"
    best = ceiling(task.landscape, image=task.landscape.image if strand == "double" else None)
    known = "" if best is None else f"ceiling of mean_top128 {best:.4f}; "
    table = Table(
        title=f"{task.name}: {task.n_initial} labels, then {task.n_calls} calls in {task.n_rounds} rounds",
        caption=f"median (range) over seeds; {known}distances {distances}; hits: {task.hit.threshold} or more, "
        f"{task.hit.distance} letters apart; methods told: {strand} strand",
    )
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    table.add_column("", no_wrap=True)
    for method in methods:
        table.add_column(method.replace("[", "\\["), justify="right")
    for name, digits in SHOWN.items():
        if any(name in row for row in rows):
            values = ([float(r[name]) for r in rows if r["method"] == m and name in r] for m in methods)
            table.add_row(name, *[_cell(mine, digits) for mine in values])
    table.add_row("calls, seeds", *[_calls_and_seeds(rows, method) for method in methods])
    return table


def paired_table(rows: Sequence[Row], first: str, second: str) -> Table:
    """Return what `first` has more than `second`, seed by seed, with bootstrap intervals over the seeds.

    Raises: ConfigError if a method did not run, or fewer than two seeds are common to both.
    """
    by_method = {name: {r["seed"]: r for r in rows if r["method"] == name} for name in (first, second)}
    seeds = sorted(set(by_method[first]) & set(by_method[second]))
    if len(seeds) < 2:
        raise ConfigError(
            f"a paired comparison of {first} and {second} came with {len(seeds)} common seeds, expected two "
            f"methods that ran, on two seeds or more; they are "
            f"{', '.join(dict.fromkeys(str(r['method']) for r in rows))}. Raise --seeds or correct the names."
        )
    table = Table(
        title=f"{first} less {second}, paired over {len(seeds)} seeds".replace("[", "\\["),
        caption=f"means; 95% percentile intervals of {N_BOOTSTRAP} bootstrap resamples of the seeds",
    )
    for column in ("", "first", "second", "difference", "95% interval", "ratio", "95% interval"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, digits in PAIRED.items():
        a, b = (np.array([float(by_method[m][s][name]) for s in seeds]) for m in (first, second))
        difference, ratio = paired_bootstrap(a, b)
        table.add_row(
            name,
            f"{a.mean():.{digits}f}",
            f"{b.mean():.{digits}f}",
            f"{(a - b).mean():+.{digits}f}",
            f"{difference[0]:+.{digits}f} to {difference[1]:+.{digits}f}",
            f"{_ratio(a.mean(), b.mean()):.2f}",
            f"{ratio[0]:.2f} to {ratio[1]:.2f}",
        )
    return table


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, *, level: float = 0.95, seed: int = 0
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return percentile intervals of mean(a - b) and of mean(a) / mean(b), `a` and `b` paired, `n` each.

    A ratio to zero is infinite, that of two zeros 1.
    Source: Efron & Tibshirani 1993, chapter 13 (percentile intervals), pairs resampled together.
    """
    places = np.random.default_rng(seed).integers(len(a), size=(N_BOOTSTRAP, len(a)))
    mean_a, mean_b = a[places].mean(axis=1), b[places].mean(axis=1)
    ratios = np.array([_ratio(x, y) for x, y in zip(mean_a, mean_b, strict=True)])
    tails = [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
    difference = np.quantile(mean_a - mean_b, tails)
    # "lower" and "higher": between a finite and an infinite ratio there is nothing to interpolate.
    ratio = np.quantile(ratios, tails[0], method="lower"), np.quantile(ratios, tails[1], method="higher")
    return (float(difference[0]), float(difference[1])), (float(ratio[0]), float(ratio[1]))


def plot(task: Task, rows: Sequence[Row], path: Path) -> None:
    """Draw the best, the mean of the best 128 and the distinct hits over calls: medians, ranges shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = {"curve_best": "best so far", "curve_top128": "mean of the best 128", "curve_hits": "distinct hits"}
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    for axes, (key, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for index, method in enumerate(methods):
            runs = [row for row in rows if row["method"] == method]
            curves, calls = (np.array([run[k] for run in runs], dtype=float) for k in (key, "curve_calls"))
            x = np.median(calls, axis=0)
            axes.plot(x, np.median(curves, axis=0), color=f"C{index}", label=method, marker="o", markersize=3)
            axes.fill_between(x, curves.min(axis=0), curves.max(axis=0), color=f"C{index}", alpha=0.15, lw=0)
        axes.set(xlabel="calls", title=title, xlim=(0, None))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(f"{task.name}: medians over seeds, ranges shaded")
    figure.savefig(path, dpi=130)


def _ratio(x: float, y: float) -> float:
    if y != 0.0:
        return float(x / y)
    return 1.0 if x == 0.0 else float("inf")


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _calls_and_seeds(rows: Sequence[Row], method: str) -> str:
    mine = [row for row in rows if row["method"] == method]
    return f"{'/'.join(sorted({str(row['calls']) for row in mine}))}, {len(mine)}"
