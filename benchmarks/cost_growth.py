"""Measure how the cost of each surrogate grows with the number of labels: fit, reward, joint draw, memory.

    python benchmarks/cost_growth.py
    python benchmarks/cost_growth.py --labels 300,2500 --lengths 14 --surrogates gp,linear --json rows.json

Objects are random sequences of four letters; their labels are the sum of one effect for each letter at each
place, a bonus where a motif stands anywhere, and noise. Each cell runs in a process of its own, so that its
memory is its own; one that takes longer than `--limit` seconds is ended and shown as such. A `reward` is one
`mean_sd` of 192 objects (the median of five), which training a sampler asks for at every step; a `draw` is 128
joint draws on a pool of 2,560, which choosing a batch of 128 asks for once. Seconds are of process time.
`fit ~ n^` and `reward ~ n^` are the powers by which they grew since the row above. Exact GPs are asked up to 5,000
labels, or as far as `--exact` says. What a whole round of a campaign takes is measured by `round_time.py`.
"""

import argparse
import json
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor

from flowscout.surrogates import (
    SVGP,
    AveragedGP,
    DeepEnsemble,
    ExactGP,
    PairwiseLinear,
    Surrogate,
    prior_weights,
)

LEVELS, BATCH, POOL, REWARDED = 4, 128, 2_560, 192
EXACT = ("averaged", "gp")
Row = dict[str, Any]

MAKERS: dict[str, Callable[[], Surrogate]] = {
    "averaged": lambda: AveragedGP(prior_weights(LEVELS), levels=LEVELS),
    "gp": lambda: ExactGP(levels=LEVELS),
    "linear": lambda: PairwiseLinear(levels=LEVELS),
    "ensemble": lambda: DeepEnsemble(levels=LEVELS),
    "svgp": lambda: SVGP(levels=LEVELS),
}


def landscape(n: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return codes `n x length` and noisy labels `n x 1` of the landscape that the module describes."""
    effects = torch.randn(length, LEVELS, generator=Generator().manual_seed(length), dtype=torch.float64)
    generator = Generator().manual_seed(seed)
    codes = torch.randint(LEVELS, (n, length), generator=generator)
    label = effects[torch.arange(length), codes].sum(1)
    label += 3.0 * ((codes[:, :-2] == 0) & (codes[:, 1:-1] == 1) & (codes[:, 2:] == 2)).any(1)
    label += 0.3 * torch.randn(n, generator=generator, dtype=torch.float64)
    return codes.double(), label.unsqueeze(-1)


def measure(name: str, n: int, length: int) -> Row:
    """Return the seconds that a surrogate of `n` labels takes, and the root mean square error on new objects."""
    X, Y = landscape(n, length, 0)
    pool, truth = landscape(POOL, length, 1)
    surrogate = MAKERS[name]()
    row: Row = {"surrogate": name, "labels": n, "length": length}
    row["fit_s"] = _seconds(lambda: surrogate.fit(X, Y))
    row["reward_s"] = statistics.median(_seconds(lambda: surrogate.mean_sd(pool[:REWARDED])) for _ in range(5))
    generator = Generator().manual_seed(0)
    row["draw_s"] = _seconds(lambda: surrogate.sample(pool, BATCH, generator=generator))
    row["rmse"] = (surrogate.mean_sd(pool)[0] - truth.squeeze(-1)).square().mean().sqrt().item()
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def measure_apart(name: str, n: int, length: int, limit_s: float) -> Row:
    """Measure in a process of its own; a row without figures where it took too long or failed."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_report, args=(queue, name, n, length))
    process.start()
    try:
        row: Row = queue.get(timeout=limit_s)
    except Empty:
        row = {"surrogate": name, "labels": n, "length": length, "note": f"over {limit_s:g} s"}
        process.terminate()
    process.join()
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments say, print a table, and write rows as JSON where asked."""
    options = _parser().parse_args(arguments)
    unknown = [name for name in options.surrogates if name not in MAKERS]
    if unknown:
        print(f"surrogate {unknown[0]!r} is unknown, expected some of {', '.join(MAKERS)}.", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    rows = []
    for length in options.lengths:
        for name in options.surrogates:
            for n in options.labels:
                if name in EXACT and n > options.exact:
                    continue
                rows.append(measure_apart(name, n, length, options.limit))
                if "note" in rows[-1]:
                    break  # more labels would take longer still
    add_powers(rows)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))
    Console(width=110).print(_table(rows))
    return 0


def _report(queue: Any, name: str, n: int, length: int) -> None:
    try:
        queue.put(measure(name, n, length))
    except Exception as error:  # noqa: BLE001 - a cell that fails is a row of the table
        queue.put({"surrogate": name, "labels": n, "length": length, "note": f"{type(error).__name__}: {error}"})


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def add_powers(rows: Sequence[Row]) -> None:
    """Add to each row by which power of the labels its seconds grew since the row before, of the same kind."""
    for before, row in pairwise(rows):
        if any(before[key] != row[key] for key in ("surrogate", "length")) or "note" in row:
            continue
        for name in ("fit", "reward"):
            growth = math.log(row[f"{name}_s"] / before[f"{name}_s"]) / math.log(row["labels"] / before["labels"])
            row[f"{name}_power"] = growth


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title=f"seconds on {torch.get_num_threads()} threads")
    shown = {"fit_power": "fit ~ n^", "reward_power": "reward ~ n^"}
    names = ("surrogate", "length", "labels", "fit_s", *shown, "reward_s", "draw_s", "peak_mb", "rmse", "note")
    for name in names:
        table.add_column(shown.get(name, name), justify="left" if name in ("surrogate", "note") else "right")
    digits = {
        "fit_s": ".2f",
        "fit_power": ".1f",
        "reward_power": ".1f",
        "reward_s": ".4f",
        "draw_s": ".2f",
        "rmse": ".3f",
    }
    for row in rows:
        table.add_row(*[format(row[n], digits.get(n, "")) if n in row else "" for n in names])
    return table


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="How the cost of surrogates grows with the number of labels.")
    parser.add_argument("--labels", type=_numbers, default=[100, 1_000, 5_000, 10_000, 100_000])
    parser.add_argument("--lengths", type=_numbers, default=[8])
    parser.add_argument("--surrogates", type=lambda text: text.split(","), default=list(MAKERS))
    parser.add_argument("--exact", type=int, default=5_000, help="the most labels that exact GPs are asked")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which a cell is ended")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    return parser


if __name__ == "__main__":
    sys.exit(main())
