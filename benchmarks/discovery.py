"""Measure discovery per oracle call: Flowscout and strong rivals on public landscapes, or on yours.

    python benchmarks/discovery.py --task six6-plate --methods gp-ts,blr-ts,adalead,ga,random --seeds 5
    python benchmarks/discovery.py --task rna-a-50 --methods flowscout,flowscout-nogfn --seeds 20 --json rows.json
    python benchmarks/discovery.py --methods "flowscout,flowscout[batch.explore=0.25]" --seeds 5 --plot curves.png
    python benchmarks/discovery.py --table my_landscape.csv.gz --methods all

The tasks, with what a method is given and may call:
    six6-plate   SIX6 binding, DNA 8-mers: 96 labels from the lower half, then 8 rounds of 24
    six6-hard    the 1,024 of the lower half nearest to the worst sequence, then 10 x 128
    six6-half    the whole lower half, then 10 x 128: a sanity row
    rna-a, -b, -c   RNA of 14 letters binding a target: 5,000 random labels of at most 0.13, then 10 x 128
    rna-a-50, -b-50, -c-50   RNA of 50 letters: 500 random labels, then 6 x 64
    ehrlich-V-L-c-k-q-INSTANCE   128 feasible labels, then 10 x 128; infeasible sequences score 0
    two-motifs-0 to -9   96 labels next to the weaker of two motifs, then 8 x 24 (see two_motifs.py)
`--table` runs the protocol of six6-plate on any table of `sequence,score`.

The methods: flowscout, flowscout-nogfn and exhaustive are the product with proposer.type auto,
local_search and exhaustive; gp-ts, blr-ts, adalead, ga and random are rivals. `--set key=value` changes the
campaign file of all of ours, NAME[key=value,...] of one.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from methods import NAMES, MethodSpec, read_methods
from metrics import follow, measure
from report import Row, paired_table, plot, results_table
from rich.console import Console
from rivals_base import HasFacts, Method, Problem
from tasks import NAMES as TASK_NAMES
from tasks import Task, find_task, table_task

from flowscout.errors import ConfigError, FlowscoutError, InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    console, errors = Console(), Console(stderr=True)
    # One thread: comparable seconds, the same rounding on any machine, and no spinning on a shared one.
    torch.set_num_threads(1)
    try:
        specs = read_methods(options.methods, options.set)
        task = find_task(options.task) if options.table is None else table_task(options.table)
        _check_options(options, task, specs)
        problem = _problem(task, strand=options.strand)
        specs = _able(specs, problem, console, leave_out=options.methods == "all")
        if not console.is_terminal:
            console.width = max(100, 30 + 28 * len(specs))  # a file has no width to wrap to
        _run(task, specs, options, console)
    except FlowscoutError as err:
        errors.print(f"error: {err}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2 if isinstance(err, InputError) else 1
    return 0


def _run(task: Task, specs: Sequence[MethodSpec], options: argparse.Namespace, console: Console) -> None:
    """Run every method on every seed and show the rows, also where a run ends before its time."""
    rows: list[Row] = []
    try:
        for spec in specs:
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                line = f"{task.name} {spec.label} seed {seed} ..."
                console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
                rows.append(run_once(task, spec, seed, strand=options.strand))
                if options.json is not None:
                    options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    finally:
        if rows:
            console.print(results_table(task, rows, strand=options.strand))
    for first, second in _pairs(options, specs):
        console.print(paired_table(rows, first, second))
    if options.plot is not None:
        plot(task, rows, options.plot)


def run_once(task: Task, spec: MethodSpec, seed: int, *, strand: str = "single") -> Row:
    """Spend the task's budget with one method; every method of a seed gets the same initial labels."""
    initial = task.start(np.random.default_rng([seed, 0]))
    began = time.perf_counter()
    method = spec.make(_problem(task, strand=strand), np.random.default_rng([seed, 1]))
    try:
        batches, slowest = _spend(task, method, initial)
        facts = method.facts() if isinstance(method, HasFacts) else {}
    finally:
        method.close()
    seconds = time.perf_counter() - began
    calls = [item for batch in batches for item in batch]
    figures = asdict(measure(task.landscape, initial, calls, hit=task.hit))
    return {
        "task": task.name,
        "method": spec.label,
        "seed": seed,
        **{name: value for name, value in figures.items() if value is not None},
        **facts,
        "seconds": round(seconds, 3),
        "seconds_round_max": round(slowest, 3),
        "strand": strand,
        "commit": _commit(),
        **asdict(follow(task.landscape, initial, batches, hit=task.hit)),
    }


def _spend(task: Task, method: Method, initial: Sequence[str]) -> tuple[list[list[str]], float]:
    """Return the calls of each round, in order, and the seconds of the slowest proposal.

    A round that asks for more than its share is cut.
    """
    landscape = task.landscape
    method.observe(initial, landscape.score(initial))
    batches: list[list[str]] = []
    slowest = 0.0
    for _ in range(task.n_rounds):
        began = time.perf_counter()
        batch = list(method.propose(task.batch_size))[: task.batch_size]
        slowest = max(slowest, time.perf_counter() - began)
        measured = [item for item in batch if landscape.holds(item)]
        method.observe(measured, landscape.score(measured))
        batches.append(batch)
    return batches, slowest


def _problem(task: Task, *, strand: str) -> Problem:
    landscape = task.landscape
    return Problem(
        alphabet=landscape.alphabet,
        length=landscape.length,
        image=landscape.image if strand == "double" else None,
        sequences=None if landscape.table is None else list(landscape.table),
    )


def _able(specs: Sequence[MethodSpec], problem: Problem, console: Console, *, leave_out: bool) -> list[MethodSpec]:
    """Return the methods that can run here; of those that were not named, the others are left out aloud."""
    able = []
    for spec in specs:
        try:
            spec.check(problem)
        except ConfigError as err:
            if not leave_out:
                raise
            console.print(f"{spec.label} is left out: {err}", highlight=False, markup=False, soft_wrap=True)
        else:
            able.append(spec)
    return able


def _check_options(options: argparse.Namespace, task: Task, specs: Sequence[MethodSpec]) -> None:
    """Refuse, before anything is spent, what would fail at the end."""
    if options.strand == "double" and task.landscape.image is None:
        raise ConfigError(
            f"--strand double came with {task.name}, expected a DNA table that scores reverse complements "
            "as their originals. Leave the option out."
        )
    for name in ("json", "plot"):
        path = getattr(options, name)
        if path is not None and not path.parent.is_dir():
            raise ConfigError(
                f"--{name} is {path}, expected a file in an existing folder. Make {path.parent} first."
            )
    labels = [spec.label for spec in specs]
    missing = [name for name in _pair_of(options) if name not in labels]
    if missing or (_pair_of(options) and options.seeds < 2):
        raise ConfigError(
            f"--paired is {options.paired!r} with {options.seeds} seeds, expected two of {', '.join(labels)}, "
            "separated by a comma, and two seeds or more. Correct the names, or run the methods too."
        )


def _pairs(options: argparse.Namespace, specs: Sequence[MethodSpec]) -> list[tuple[str, str]]:
    """Return the methods to compare: the pair that was named, else the first of ours with each other of ours."""
    if named := _pair_of(options):
        return [(named[0], named[1])]
    ours = [spec.label for spec in specs if spec.is_ours]
    return [(ours[0], other) for other in ours[1:]] if options.seeds > 1 else []


def _pair_of(options: argparse.Namespace) -> list[str]:
    """Return the labels that `--paired` names, none where it was not given."""
    if options.paired is None:
        return []
    labels = [spec.label for spec in read_methods(options.paired, options.set)]
    if len(labels) != 2:
        raise ConfigError(f"--paired is {options.paired!r}, expected two methods, A,B. Name two that differ.")
    return labels


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
    add = parser.add_argument
    add("--task", default="six6-plate", help=f"one of {TASK_NAMES}")
    add("--table", type=Path, help="run six6-plate's protocol on this landscape instead, columns sequence,score")
    add("--methods", default="all", help=f"some of {', '.join(NAMES)}, or all that can run")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change the campaign file of our methods")
    add("--seeds", type=_positive, default=5, help="how many seeds")
    add("--first-seed", type=int, default=0, help="the first of them")
    add("--paired", metavar="A,B", help="compare two methods seed by seed (default: ours with each other)")
    add(
        "--strand",
        choices=["single", "double"],
        default="single",
        help="double: every method is told that a sequence and its reverse complement are one object",
    )
    add("--json", type=Path, help="write the rows to this file too, after each run")
    add("--plot", type=Path, help="draw the best, the mean and the distinct hits over calls into this PNG")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} came, expected at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
