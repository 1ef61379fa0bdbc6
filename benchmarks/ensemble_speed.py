"""Time an ensemble trained as one batched network, by `vmap`, and one member after the other.

Part of `benchmarks/surrogates.py`, which prints the table.
"""

import statistics
import time
from collections.abc import Iterator, Sequence

import torch
from rich.table import Table
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from flowscout.surrogates.ensemble_training import TrainingOptions, bootstrap, forward, train_members

LEVELS = 4
Row = dict[str, str | int | float | None]


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
