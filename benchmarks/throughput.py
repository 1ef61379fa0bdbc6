"""Time 10,000 calls of a function that takes a millisecond: the whole path of a measurement, and nothing else.

    python benchmarks/throughput.py
    python -m venv optuna-env && optuna-env/bin/pip install optuna
    python -m venv ax-env && ax-env/bin/pip install ax-platform sqlalchemy tabulate
    python benchmarks/throughput.py --optuna-python optuna-env/bin/python --ax-python ax-env/bin/python

A campaign on a SQLite file proposes, queues, claims, calls and settles in rounds of `--batch`, every row of it as
in any campaign, with the cheapest proposer there is (random, without a surrogate, the first of the pool). A row
says how long a call takes, how long it would take without anything around it (a millisecond, shared by those that
run at the same time), and what is over: what picks the objects (`choosing`), and the path. `path cpu` is what the
process computed of the path, which other work on the machine does not lengthen. `bare loop` is the function called
again and again: what the clock of the machine makes of a millisecond.

The peers run their ask/tell loop on the same function in environments of their own, with random sampling, in
memory and on SQLite, the latter with whatever their storage does to keep a trial. Ax is asked for `--ask` trials
at once. What takes a peer longer than `--limit-s` is cut short there, and its row says after how many calls: fewer
than ours, which favours whoever grows slower with every trial. Each window is a process of its own on a storage of
its own; systems take turns, and the medians of the windows are printed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flowscout.errors import ConfigError, InputError

PEERS = Path(__file__).parent / "peers"
CALL_MS = 1.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One row of the table: who runs it, where it keeps what it did, and how many calls run at the same time."""

    python: str
    script: Path
    storage: str
    concurrency: int = 1
    arguments: tuple[str, ...] = ()


def entries(options: argparse.Namespace) -> list[Entry]:
    """Return what is timed."""
    own = Path(__file__).with_name("throughput_worker.py")
    rounds = ("--ask", str(options.batch))
    found = [Entry(sys.executable, own, "none", arguments=("--bare",))]
    for form, concurrency in options.forms:
        more = ("--form", form, "--concurrency", str(concurrency))
        found.append(Entry(sys.executable, own, "sqlite", concurrency, (*rounds, *more)))
    limit = ("--limit-s", str(options.limit_s), "--ask", str(options.ask))
    for python, script in ((options.optuna_python, "optuna_loop.py"), (options.ax_python, "ax_loop.py")):
        if python is not None:
            found += [Entry(python, PEERS / script, kind, 1, limit) for kind in ("memory", "sqlite")]
    return found


def time_window(entry: Entry, calls: int) -> Row:
    """Run a window and return its row.

    Raises:
        ConfigError: the worker failed.
    """
    with tempfile.TemporaryDirectory(prefix="flowscout-loop-") as folder:
        command = [entry.python, str(entry.script), "--calls", str(calls), *entry.arguments]
        if entry.storage == "sqlite":
            command += ["--url", f"sqlite:///{folder}/loop.db"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise ConfigError(
            f"`{' '.join(command)}` ended with code {done.returncode}:\n{said}\n"
            "Check what is installed in that environment, or leave that peer out."
        )
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def median_row(entry: Entry, windows: Sequence[Row]) -> Row:
    """Return the row of the table: the medians over the windows, in milliseconds a call."""
    per_call = [1000 * row["seconds"] / row["calls"] for row in windows]
    choosing = [1000 * row["choosing_s"] / row["calls"] for row in windows]
    ideal, median = CALL_MS / entry.concurrency, statistics.median(per_call)
    return {
        "system": windows[0]["system"],
        "storage": entry.storage,
        "at_once": entry.concurrency,
        "calls": round(statistics.median(row["calls"] for row in windows)),
        "seconds": statistics.median(row["seconds"] for row in windows),
        "ms_per_call": median,
        "ideal_ms": ideal,
        "over_ms": median - ideal,
        "choosing_ms": statistics.median(choosing),
        "path_ms": median - ideal - statistics.median(choosing),
        "path_cpu_ms": statistics.median(1000 * row["path_cpu_s"] / row["calls"] for row in windows),
        "least_ms": min(per_call),
        "most_ms": max(per_call),
    }


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the report."""
    table = Table(title="calls of a millisecond", title_justify="left")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if name in ("system", "storage") else "right")
    for row in rows:
        cells = [f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
                 for value in row.values()]  # fmt: skip
        table.add_row(*cells)
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time what is asked for, print it, and write it."""
    options = _parser().parse_args(arguments)
    if options.calls % options.batch:
        _parser().error(f"--calls {options.calls} are not whole rounds of --batch {options.batch}.")
    console = Console(highlight=False, width=140)
    wanted = entries(options)
    windows: list[list[Row]] = [[] for _ in wanted]
    try:
        for turn in range(options.windows):
            for entry, rows in zip(wanted, windows, strict=True):
                rows.append(time_window(entry, options.calls))
                print(f"window {turn + 1}: {rows[-1]}", file=sys.stderr, flush=True)
    except InputError as error:
        console.print(f"error: {error}", markup=False)
        return 2
    found = [median_row(entry, rows) for entry, rows in zip(wanted, windows, strict=True)]
    show(found, console)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def _form(text: str) -> tuple[str, int]:
    name, _, concurrency = text.partition(":")
    return name, int(concurrency or 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=2_500, help="measurements in a round of ours")
    parser.add_argument(
        "--forms",
        type=lambda text: [_form(part) for part in text.split(",")],
        default=[("list", 1), ("single", 1), ("single", 4)],
        help="how our function is called: list (all of a round), single or async, with :CALLS at the same time",
    )
    parser.add_argument("--optuna-python", metavar="PATH", help="the Python of an environment with Optuna")
    parser.add_argument("--ax-python", metavar="PATH", help="the Python of an environment with Ax")
    parser.add_argument("--ask", type=int, default=50, help="how many trials Ax is asked for at once")
    parser.add_argument("--limit-s", type=float, default=20.0, help="how long a window of a peer takes at most")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="PATH", help="where the rows go")
    return parser


if __name__ == "__main__":
    sys.exit(main())
