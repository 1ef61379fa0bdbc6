"""Time whole rounds of a real campaign: labels are told, and one batch is asked for, split by stage.

    python benchmarks/round_time.py
    python benchmarks/round_time.py --rounds 100:128,1000:128,10000:128,100000:128 --length 8
    python benchmarks/round_time.py --rounds 300:24 --set proposer.type=local_search

Each `LABELS:BATCH` is a campaign of its own on the landscape of `cost_growth.py` (four letters; effects that add
up, a motif that may stand anywhere, noise), with the product's defaults but for `--set`. `ask_s` is what a user
waits for: fit, train and propose, and what the history takes. Seconds are of the wall; `cpu_s` of `ask_s` is what
the process computed. Each campaign runs in a process of its own, so that its memory is its own, after a small one
in their parent that imports what a round needs.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from cost_growth import landscape
from flowscout_method import PROPOSERS, FlowscoutMethod
from rich.console import Console
from rich.table import Table
from rivals_base import Problem

from flowscout.errors import InputError
from flowscout.loop import stages

LETTERS = "ACGT"
STAGES = ("fit", "train", "propose")
Row = dict[str, Any]


def measure(n_labels: int, batch: int, *, length: int, settings: dict[str, Any]) -> Row:
    """Return the seconds that `tell` of the labels and `ask` of a batch take."""
    codes, labels = landscape(n_labels, length, 0)
    values = {
        "".join(LETTERS[int(code)] for code in row): label
        for row, label in zip(codes.tolist(), labels.squeeze(-1).tolist(), strict=True)
    }
    problem = Problem(alphabet=LETTERS, length=length)
    rng = np.random.default_rng(0)
    method = FlowscoutMethod(problem, rng, proposer=PROPOSERS["flowscout"], settings=settings)
    row: Row = {"labels": len(values), "batch": batch, "length": length}
    try:
        start = time.perf_counter()
        method.observe(list(values), list(values.values()))
        row["tell_s"] = time.perf_counter() - start
        with timed_stages(row):
            start, cpu = time.perf_counter(), time.process_time()
            asked = method.propose(batch)
            row["ask_s"], row["cpu_s"] = time.perf_counter() - start, time.process_time() - cpu
        assert len(asked) == batch
    finally:
        method.close()
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def measure_apart(n_labels: int, batch: int, *, length: int, settings: dict[str, Any]) -> Row:
    """Measure in a process of its own."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        row: Row = pool.apply(measure, (n_labels, batch), {"length": length, "settings": settings})
    return row


@contextmanager
def timed_stages(row: Row) -> Iterator[None]:
    """Write the seconds of each stage into `row` while the context lasts."""

    def timed(name: str, stage: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return stage(*arguments, **options)
            finally:
                row[f"{name}_s"] = time.perf_counter() - start

        return run

    patches = [patch.object(stages, name, timed(name, getattr(stages, name))) for name in STAGES]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments say, print a table, and write rows as JSON where asked."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    settings = dict(options.set)
    try:
        measure(50, 4, length=options.length, settings=settings)
        rows = []
        for n, batch in options.rounds:
            rows.append(measure_apart(n, batch, length=options.length, settings=settings))
            print(json.dumps(rows[-1]), file=sys.stderr)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    table = Table(title="seconds of one round")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*[f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()])
    Console(width=110).print(table)
    return 0


def _round(text: str) -> tuple[int, int]:
    labels, _, batch = text.partition(":")
    return int(labels), int(batch)


def _setting(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE, expected for example proposer.type=random.")
    return key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--rounds",
        type=lambda text: [_round(part) for part in text.split(",")],
        default=[(300, 24), (6_000, 128)],
        help="LABELS:BATCH, separated by commas",
    )
    parser.add_argument("--length", type=int, default=14)
    parser.add_argument("--set", type=_setting, action="append", default=[], help="KEY=VALUE of the campaign file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    return parser


if __name__ == "__main__":
    sys.exit(main())
