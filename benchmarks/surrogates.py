"""Measure how well surrogates predict a measured landscape, and how fast an ensemble trains as one network.

    python benchmarks/surrogates.py
    python benchmarks/surrogates.py --sizes 96,1000 --surrogates gp,linear,forest --seeds 10 --json rows.json
    python benchmarks/surrogates.py --sizes "" --members 16

Landscape: SIX6, all 8-mers. It was measured on double-stranded DNA, where a sequence and its reverse complement
have one score: only the alphabetically smaller of the two takes part, so that no label is met again in the test
under another name. Each seed draws the labels at random, and 5,000 test sequences from the rest. NLPD and coverage
are of new measurements, noise included. Exact GPs are asked up to 5,000 labels.

The random forest needs scikit-learn, which Flowscout itself does not: pip install scikit-learn
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from botorch.models import MixedSingleTaskGP, SingleTaskGP
from botorch.models.model import Model
from landscape import Landscape, load_six6
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from flowscout.errors import ConfigError, InputError
from flowscout.surrogates import ExactGP, PredictionScores, Surrogate, score_predictions
from flowscout.surrogates.botorch_model import BotorchSurrogate
from flowscout.surrogates.ensemble import DeepEnsemble, TrainingOptions, bootstrap, forward, train_members
from flowscout.surrogates.linear import PairwiseLinear
from flowscout.surrogates.svgp import SVGP

N_TEST = 5_000
MAX_EXACT = 5_000
LEVELS = 4
Row = dict[str, str | int | float | None]
Predictor = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps `X`, `Y` and new `X` to the mean and the sd of new measurements, `n` and `n`."""


@dataclass(frozen=True)
class Entry:
    """A surrogate under test; `max_labels` bounds what is asked of it."""

    predict: Predictor
    max_labels: int | None = None


def by_surrogate(make: Callable[[], Surrogate]) -> Predictor:
    """Return the predictor of a Flowscout surrogate, its noise taken from its diagnostics."""

    def predict(X: Tensor, Y: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        surrogate = make()
        surrogate.fit(X, Y)
        mean, sd = surrogate.mean_sd(new)
        return mean, (sd.square() + surrogate.diagnostics()["noise_sd"] ** 2).sqrt()

    return predict


def single_task_gp(X: Tensor, Y: Tensor) -> Model:
    """Return BoTorch's default GP on indicators of letters, as numbers in the unit cube."""
    return SingleTaskGP(X, Y)


def mixed_single_task_gp(X: Tensor, Y: Tensor) -> Model:
    """Return BoTorch's GP of categories on codes."""
    return MixedSingleTaskGP(X, Y, cat_dims=list(range(X.shape[-1])))


def on_indicators(predict: Predictor) -> Predictor:
    """Return a predictor that is given indicators of letters in place of codes."""

    def indicators(X: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(X.long(), LEVELS).flatten(1).double()

    return lambda X, Y, new: predict(indicators(X), Y, indicators(new))


def random_forest(X: Tensor, Y: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Predict by scikit-learn's forest: mean and spread of its trees, and what out-of-bag errors exceed it by."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(n_estimators=200, oob_score=True, random_state=0, n_jobs=1)
    forest.fit(X.numpy(), Y.squeeze(-1).numpy())

    def trees(points: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(tree.predict(points.numpy())) for tree in forest.estimators_])

    spread = trees(new)
    errors = Y.squeeze(-1) - torch.from_numpy(forest.oob_prediction_)
    noise = (errors.square().mean() - spread.var(0).mean()).clamp_min(1e-4 * Y.var())
    return spread.mean(0), (spread.var(0) + noise).sqrt()


def reverse_complement(X: Tensor) -> Tensor:
    """Return the codes of the other strand."""
    return (LEVELS - 1) - X.flip(-1)


SURROGATES: dict[str, Entry] = {
    "gp": Entry(by_surrogate(ExactGP), MAX_EXACT),
    "gp-two-strands": Entry(by_surrogate(lambda: ExactGP(symmetry=reverse_complement)), MAX_EXACT),
    "svgp": Entry(by_surrogate(lambda: SVGP(levels=LEVELS))),
    "ensemble": Entry(by_surrogate(lambda: DeepEnsemble(levels=LEVELS))),
    "linear": Entry(by_surrogate(lambda: PairwiseLinear(levels=LEVELS))),
    "botorch-single": Entry(on_indicators(by_surrogate(lambda: BotorchSurrogate(single_task_gp))), MAX_EXACT),
    "botorch-mixed": Entry(by_surrogate(lambda: BotorchSurrogate(mixed_single_task_gp)), MAX_EXACT),
    "forest": Entry(on_indicators(random_forest)),
}
"""What `--surrogates` chooses from; a new surrogate is one more line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    console, errors = Console(), Console(stderr=True)
    rows: list[Row] = []
    try:
        names = chosen(options.surrogates)
        if options.json is not None and not options.json.parent.is_dir():
            raise ConfigError(
                f"--json is {options.json}, expected a file in an existing folder. "
                f"Make {options.json.parent} first."
            )
        X, Y = tensors(load_six6())
        check_sizes(options.sizes, len(X))
    except InputError as err:
        errors.print(f"error: {err}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    for n in options.sizes:
        found = [row for name in names for row in measure(name, X, Y, n, options.seeds, errors)]
        console.print(accuracy_table(n, found))
        rows += found
    if options.members:
        found = ensemble_rows(X, Y, options.members, options.ensemble_labels, options.windows)
        console.print(speed_table(options.members, found))
        rows += found
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def tensors(landscape: Landscape) -> tuple[Tensor, Tensor]:
    """Return codes, `n x d`, and scores, `n x 1`, of each sequence that is the smaller of its two strands."""
    image = landscape.image or (lambda item: item)
    kept = [item for item in landscape.sequences if item <= image(item)]
    codes = [[landscape.alphabet.index(letter) for letter in item] for item in kept]
    scores = [[landscape.scores[item]] for item in kept]
    return torch.tensor(codes, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64)


def measure(name: str, X: Tensor, Y: Tensor, n: int, seeds: int, errors: Console) -> list[Row]:
    """Return a row for each seed: scores on test sequences of a fit to `n` labels; none beyond its limit."""
    entry = SURROGATES[name]
    rows: list[Row] = []
    if entry.max_labels is not None and n > entry.max_labels:
        return rows
    for seed in range(seeds):
        order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
        labelled, test = order[:n], order[n : n + N_TEST]
        errors.print(f"{name}, {n} labels, seed {seed} ...", style="dim", highlight=False)
        start = time.perf_counter()
        mean, sd = entry.predict(X[labelled], Y[labelled], X[test])
        seconds = time.perf_counter() - start
        scores = score_predictions(mean, sd, Y[test].squeeze(-1))
        rows.append({"surrogate": name, "labels": n, "seed": seed, **figures(scores), "seconds": seconds})
    return rows


def figures(scores: PredictionScores) -> Row:
    """Return the scores that a row has."""
    return {
        "rmse": scores.rmse,
        "spearman": scores.spearman,
        "nlpd": scores.nlpd,
        "coverage90": scores.coverage90,
    }


def accuracy_table(n: int, rows: Sequence[Row]) -> Table:
    """Return the medians over the seeds, a line for each surrogate."""
    seeds = len({row["seed"] for row in rows})
    table = Table(title=f"SIX6, {n:,} labels, {N_TEST:,} test sequences, medians of {seeds} splits")
    for column in ("surrogate", "RMSE", "Spearman", "NLPD", "coverage of 90%", "seconds"):
        table.add_column(column, justify="left" if column == "surrogate" else "right", no_wrap=True)
    for name in dict.fromkeys(str(row["surrogate"]) for row in rows):
        mine = [row for row in rows if row["surrogate"] == name]
        cells = [(key, digits) for key, digits in FIGURES if any(row[key] is not None for row in mine)]
        medians = {key: f"{statistics.median(float(row[key] or 0.0) for row in mine):.{d}f}" for key, d in cells}
        table.add_row(name, *[medians.get(key, "-") for key, _ in FIGURES])
    return table


FIGURES = (("rmse", 4), ("spearman", 3), ("nlpd", 3), ("coverage90", 3), ("seconds", 1))


def ensemble_rows(X: Tensor, Y: Tensor, members: int, n: int, windows: int) -> list[Row]:
    """Time the same members trained together, by `vmap`, one by one, and as plain modules one by one.

    All take as many steps on as large minibatches. Process CPU time, median of windows that take turns, after a
    short training of each.
    """
    rows = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))[:n]
    inputs = torch.nn.functional.one_hot(X[rows].long(), LEVELS).flatten(1).float()
    labels = ((Y[rows] - Y[rows].mean()) / Y[rows].std()).squeeze(-1).float()
    samples = bootstrap(n, members, 0)
    ways = {
        "one batched network": together,
        "vmap of modules": by_vmap,
        "one by one": apart,
        "plain modules": plain,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for window in range(windows + 1):
        steps = 200 if window else 20
        options = TrainingOptions(max_steps=steps, patience=10**6)
        for name, way in ways.items():
            start = time.process_time()
            way(inputs, labels, samples, options)
            if window:
                seconds[name].append(time.process_time() - start)
    base = statistics.median(seconds["one batched network"])
    # Whether the members are the same shows in float64: float32 rounding, grown by Adam, moves where they stop.
    options = TrainingOptions(max_steps=200)
    double = together(inputs.double(), labels.double(), samples, options)
    difference = apart(inputs.double(), labels.double(), samples, options) - double
    return [
        {
            "training": name,
            "members": members,
            "labels": n,
            "seconds": statistics.median(seconds[name]),
            "ratio": statistics.median(seconds[name]) / base,
            "difference": float(difference.abs().max()) if name == "one by one" else None,
        }
        for name in ways
    ]


def together(X: Tensor, labels: Tensor, rows: Tensor, options: TrainingOptions) -> Tensor:
    """Train the members as Flowscout does; return their outputs, `k x n`."""
    return forward(train_members(X, labels, rows, options=options, seed=0), X)


def apart(X: Tensor, labels: Tensor, rows: Tensor, options: TrainingOptions) -> Tensor:
    """Train each member by the same code, alone."""
    parts = [train_members(X, labels, rows[k : k + 1], options=options, seed=0, first=k) for k in range(len(rows))]
    return torch.cat([forward(weights, X) for weights in parts])


def plain(X: Tensor, labels: Tensor, rows: Tensor, options: TrainingOptions) -> Tensor:
    """Train each member as an `nn.Sequential` by Adam, without looking at what was left out."""
    outputs = []
    for row in rows:
        torch.manual_seed(0)
        network = module(X.shape[1], options)
        optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, fused=True)
        for batch in minibatches(row.unsqueeze(0), options):
            optimiser.zero_grad()
            (network(X[batch[0]]).squeeze(-1) - labels[batch[0]]).square().mean().backward()
            optimiser.step()
        with torch.no_grad():
            outputs.append(network(X).squeeze(-1))
    return torch.stack(outputs)


def by_vmap(X: Tensor, labels: Tensor, rows: Tensor, options: TrainingOptions) -> Tensor:
    """Train stacked modules under `torch.func.vmap`, without looking at what was left out."""
    torch.manual_seed(0)
    base = module(X.shape[1], options)
    parameters, _ = stack_module_state([base for _ in rows])
    stacked = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
    optimiser = torch.optim.AdamW(stacked.values(), lr=options.learning_rate, fused=True)
    run = vmap(lambda state, inputs: functional_call(base, state, (inputs,)))
    for batch in minibatches(rows, options):
        optimiser.zero_grad()
        (run(stacked, X[batch]).squeeze(-1) - labels[batch]).square().mean(1).sum().backward()
        optimiser.step()
    with torch.no_grad():
        return run(stacked, X.expand(len(rows), *X.shape)).squeeze(-1)


def module(n_inputs: int, options: TrainingOptions) -> torch.nn.Module:
    """Return one network of the shape that `options` has."""
    return torch.nn.Sequential(
        torch.nn.Linear(n_inputs, options.width),
        torch.nn.SiLU(),
        torch.nn.Linear(options.width, options.width),
        torch.nn.SiLU(),
        torch.nn.Linear(options.width, 1),
    )


def minibatches(rows: Tensor, options: TrainingOptions) -> Iterator[Tensor]:
    """Yield the rows of each step, `k x b`."""
    size = min(options.batch_size, rows.shape[1])
    for _ in range(options.max_steps):
        yield rows if size == rows.shape[1] else rows[:, torch.randint(rows.shape[1], (size,))]


def speed_table(members: int, rows: Sequence[Row]) -> Table:
    """Return a line for each way of training."""
    table = Table(title=f"200 steps of {members} members on {rows[0]['labels']} labels")
    for column in ("training", "CPU seconds", "times the first", "difference of outputs"):
        table.add_column(column, justify="left" if column == "training" else "right", no_wrap=True)
    for row in rows:
        difference = "-" if row["difference"] is None else f"{row['difference']:.1e}"
        table.add_row(str(row["training"]), f"{row['seconds']:.2f}", f"{row['ratio']:.2f}", difference)
    return table


def chosen(text: str) -> list[str]:
    """Return the surrogates of a comma-separated option, each once.

    Raises: ConfigError for one that is not known, or the forest where scikit-learn is missing.
    """
    names = list(SURROGATES) if text == "all" else [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in SURROGATES]
    if unknown:
        raise ConfigError(
            f"--surrogates is {text!r}, expected all or some of {', '.join(SURROGATES)}. "
            f"Remove {', '.join(unknown)}."
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
    parser.add_argument("--surrogates", default="all", help=f"all, or some of {', '.join(SURROGATES)}")
    parser.add_argument(
        "--sizes", type=_numbers, default=[96, 1000, 10_000], help="numbers of labels; '' for none"
    )
    parser.add_argument("--seeds", type=int, default=3, help="random splits of each size")
    parser.add_argument("--members", type=int, default=16, help="of the timed ensemble; 0 for no timing")
    parser.add_argument("--ensemble-labels", type=int, default=128, help="that the timed ensemble is trained on")
    parser.add_argument("--windows", type=int, default=3, help="of the timing, each way in turn")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
