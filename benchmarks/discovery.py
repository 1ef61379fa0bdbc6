"""Measure discovery per oracle call on a fully measured landscape, against strong rivals.

    python benchmarks/discovery.py --task six6-plate --methods gp-ts,ga,random --seeds 5
    python benchmarks/discovery.py --table my_landscape.csv.gz --methods all --json rows.json

Protocol `six6-plate`: 96 labelled sequences drawn at random from the lower half, then 8 rounds of 24.
`--table` runs the same protocol on any table of `sequence,score`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from landscape import Landscape, load_six6, load_table
from metrics import ceiling, measure
from rich.console import Console
from rich.table import Table
from rivals import RIVALS, Method, Problem

from flowscout.errors import ConfigError, InputError

METHODS = ("flowscout", *RIVALS)
SHOWN = {
    "mean_top128": 3,
    "max": 3,
    "top10": 3,
    "auc_top10": 3,
    "distinct_hits": 0,
    "distinct_hits_shifted": 0,
    "diversity": 2,
    "novelty": 2,
    "duplicates": 0,
    "true_top100_found": 0,
    "seconds": 1,
}
Row = dict[str, str | int | float]
Factory = Callable[[Problem, np.random.Generator], Method]


@dataclass(frozen=True)
class Task:
    """A landscape and how it is spent. `table` is what a campaign file calls the landscape."""

    name: str
    landscape: Landscape
    table: str
    n_initial: int = 96
    n_rounds: int = 8
    batch_size: int = 24

    @property
    def n_calls(self) -> int:
        """Oracle calls after the initial labels."""
        return self.n_rounds * self.batch_size


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    console, errors = Console(), Console(stderr=True)
    # One thread: comparable seconds, the same rounding on any machine, and no spinning on a shared one.
    torch.set_num_threads(1)
    try:
        methods = _methods(options.methods)
        if not console.is_terminal:
            console.width = 30 + 28 * len(methods)  # a file has no width to wrap to
        task = _task(options)
        _check_options(options, task)
        rows = []
        for name in methods:
            for seed in range(options.seeds):
                console.print(f"{task.name} {name} seed {seed} ...", style="dim", highlight=False)
                rows.append(run_once(task, name, seed, strand=options.strand))
    except InputError as err:
        errors.print(f"error: {err}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    console.print(_table(task, rows, strand=options.strand))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def run_once(task: Task, method_name: str, seed: int, *, strand: str = "single") -> Row:
    """Spend the task's budget with one method; every method of a seed gets the same initial labels."""
    landscape = task.landscape
    initial = landscape.start(np.random.default_rng([seed, 0]), task.n_initial)
    problem = Problem(
        alphabet=landscape.alphabet,
        sequences=landscape.sequences,
        members=frozenset(landscape.scores),
        image=landscape.image if strand == "double" else None,
    )
    began = time.perf_counter()
    method = _factory(method_name, task)(problem, np.random.default_rng([seed, 1]))
    try:
        calls = _spend(task, method, initial)
    finally:
        method.close()
    seconds = time.perf_counter() - began
    return {
        "task": task.name,
        "method": method_name,
        "seed": seed,
        **asdict(measure(landscape, initial, calls)),
        "seconds": round(seconds, 3),
        "strand": strand,
        "commit": _commit(),
    }


def _spend(task: Task, method: Method, initial: Sequence[str]) -> list[str]:
    """Return the calls of all rounds, in order; a round that asks for more than its share is cut."""
    scores = task.landscape.scores
    method.observe(initial, [scores[item] for item in initial])
    calls: list[str] = []
    for _ in range(task.n_rounds):
        batch = method.propose(task.batch_size)[: task.batch_size]
        measured = [item for item in batch if item in scores]
        method.observe(measured, [scores[item] for item in measured])
        calls += batch
    return calls


def _factory(name: str, task: Task) -> Factory:
    if name in RIVALS:
        return RIVALS[name]
    # Imported here: the rivals run where the product's scheduler and database are not installed.
    from flowscout_method import FlowscoutMethod

    return lambda problem, rng: FlowscoutMethod(problem, rng, table=task.table)


def _task(options: argparse.Namespace) -> Task:
    if options.table is None:
        return Task("six6-plate", load_six6(), "flowscout:tfbind8_six6")
    name = options.table.name.removesuffix(".gz").removesuffix(".csv")
    landscape = load_table(options.table, name=name)
    task = Task(f"{name}-plate", landscape, str(options.table.resolve()))
    if len(landscape.scores) < task.n_initial + task.n_calls:
        raise ConfigError(
            f"{options.table} has {len(landscape.scores)} sequences, expected at least "
            f"{task.n_initial + task.n_calls}: the labels and the calls. Use a larger table."
        )
    return task


def _methods(text: str) -> list[str]:
    if text == "all":
        return list(METHODS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise ConfigError(
            f"--methods is {text!r}, expected some of {', '.join(METHODS)}, or all. "
            f"Separate them by commas{'; remove ' + ', '.join(unknown) if unknown else ''}."
        )
    return list(dict.fromkeys(names))


def _check_options(options: argparse.Namespace, task: Task) -> None:
    """Refuse, before anything is spent, what would fail at the end."""
    if options.strand == "double" and task.landscape.image is None:
        raise ConfigError(
            f"--strand double came with {task.name}, expected a DNA table that scores reverse complements "
            "as their originals. Leave the option out."
        )
    if options.json is not None and not options.json.parent.is_dir():
        raise ConfigError(
            f"--json is {options.json}, expected a file in an existing folder. Make {options.json.parent} first."
        )


def _table(task: Task, rows: Sequence[Row], *, strand: str) -> Table:
    """Return the printed table: per method the median and the range over seeds."""
    distances = "over both strands" if task.landscape.image else "as read"
    best = ceiling(task.landscape, image=task.landscape.image if strand == "double" else None)
    table = Table(
        title=f"{task.name}: {task.n_initial} labels, then {task.n_calls} calls in {task.n_rounds} rounds",
        caption=f"median (range) over seeds; ceiling of mean_top128 {best:.4f}; "
        f"distances {distances}; methods told: {strand} strand",
    )
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    table.add_column("", no_wrap=True)
    for method in methods:
        table.add_column(method, justify="right")
    for name, digits in SHOWN.items():
        cells = [_cell([float(r[name]) for r in rows if r["method"] == method], digits) for method in methods]
        table.add_row(name, *cells)
    table.add_row("calls, seeds", *[_calls_and_seeds(rows, method) for method in methods])
    return table


def _cell(values: Sequence[float], digits: int) -> str:
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _calls_and_seeds(rows: Sequence[Row], method: str) -> str:
    mine = [row for row in rows if row["method"] == method]
    return f"{'/'.join(sorted({str(row['calls']) for row in mine}))}, {len(mine)}"


def _commit() -> str:
    """Return the commit of this checkout, "-dirty" if files differ from it, "unknown" outside git."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--task", choices=["six6-plate"], default="six6-plate", help="the named protocol")
    parser.add_argument("--table", type=Path, help="run it on this landscape instead, columns sequence,score")
    parser.add_argument("--methods", default="all", help=f"some of {', '.join(METHODS)}, or all")
    parser.add_argument("--seeds", type=_positive, default=5, help="how many seeds, from 0")
    parser.add_argument(
        "--strand",
        choices=["single", "double"],
        default="single",
        help="double: every method is told that a sequence and its reverse complement are one object",
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} came, expected at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
