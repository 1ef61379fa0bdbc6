"""The tasks of the discovery benchmark, by name: a landscape, a start, and how many calls in how many rounds.

What a landscape is belongs in `landscape.py`, what is measured of a run in `metrics.py`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ehrlich import EhrlichLandscape
from landscape import Landscape, TableLandscape, load_six6, load_table
from metrics import HitRule
from rna import TARGETS, RNABinding
from two_motifs import N_INSTANCES, two_motifs

from flowscout.errors import ConfigError

NAMES = (
    "six6-plate, six6-hard, six6-half, rna-a, rna-b, rna-c, rna-a-50, rna-b-50, rna-c-50, "
    f"ehrlich-V-L-c-k-q-INSTANCE, two-motifs-0 to two-motifs-{N_INSTANCES - 1}"
)

Start = Callable[[np.random.Generator], list[str]]


@dataclass(frozen=True)
class Task:
    """A landscape and how it is spent: `start` draws the initial objects, `n_initial` of them."""

    name: str
    landscape: Landscape
    start: Start
    n_initial: int
    n_rounds: int
    batch_size: int
    hit: HitRule = field(default_factory=HitRule)

    @property
    def n_calls(self) -> int:
        """Oracle calls after the initial labels."""
        return self.n_rounds * self.batch_size


def find_task(name: str) -> Task:
    """Return the task of a name.

    Raises: ConfigError for an unknown name, or where a package that computes the landscape is missing.
    """
    kind, _, rest = name.partition("-")
    if kind == "six6" and rest in _SIX6:
        return _SIX6[rest](name)
    if kind == "rna" and rest.removesuffix("-50") in TARGETS:
        return _rna(name, target=rest[0], length=50 if rest.endswith("50") else 14)
    if match := re.fullmatch(r"ehrlich-(\d+)-(\d+)-(\d+)-(\d+)-(\d+)-(\d+)", name):
        return _ehrlich(name, *map(int, match.groups()))
    if match := re.fullmatch(r"two-motifs-(\d+)", name):
        made = two_motifs(int(match[1]))
        # 0.8: a whole motif of either height; the next score below is that of 5 letters of the stronger, 0.58.
        return Task(name, made.landscape, lambda rng: made.start(rng, 96), 96, 8, 24, HitRule(0.8, 3))
    raise ConfigError(f"--task is {name!r}, expected one of {NAMES}. Write one of them.")


def table_task(path: Path) -> Task:
    """Return the protocol of `six6-plate` on a table of the user's.

    Raises: LabelError for a table that cannot be read, ConfigError for one that is too small.
    """
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    task = _plate(f"{name}-plate", load_table(path, name=name))
    n_sequences = len(task.landscape.table or ())
    if n_sequences < task.n_initial + task.n_calls:
        raise ConfigError(
            f"{path} has {n_sequences} sequences, expected at least {task.n_initial + task.n_calls}: the labels "
            "and the calls. Use a larger table."
        )
    return task


def _plate(name: str, landscape: TableLandscape) -> Task:
    return Task(name, landscape, lambda rng: landscape.start(rng, 96), 96, 8, 24)


def _hard(name: str) -> Task:
    """Start from the 1,024 of the lower half nearest to the worst sequence: the same for every seed."""
    landscape = load_six6()
    scores = landscape.scores
    worst = min(scores, key=lambda item: (scores[item], item))

    def distance(item: str) -> int:
        return sum(a != b for a, b in zip(item, worst, strict=True))

    start = sorted(landscape.lower_half, key=lambda item: (distance(item), item))[:1024]
    return Task(name, landscape, lambda _: list(start), len(start), 10, 128)


def _half(name: str) -> Task:
    """Start from everything below the median: a sanity row."""
    landscape = load_six6()
    start = landscape.lower_half
    return Task(name, landscape, lambda _: list(start), len(start), 10, 128)


def _rna(name: str, *, target: str, length: int) -> Task:
    landscape = RNABinding(name, TARGETS[target], length)
    if length == 50:
        return Task(name, landscape, lambda rng: landscape.start(rng, 500), 500, 6, 64, HitRule(0.8, 5))
    start: Start = lambda rng: landscape.start(rng, 5_000, at_most=0.13)  # noqa: E731
    return Task(name, landscape, start, 5_000, 10, 128, HitRule(0.9, 4))


def _ehrlich(name: str, v: int, length: int, c: int, k: int, q: int, instance: int) -> Task:
    landscape = EhrlichLandscape(
        name, n_letters=v, length=length, n_motifs=c, motif_length=k, quantisation=q, instance=instance
    )
    # Hits: at least half of the optimum, so that good but incomplete ones count too; a third of the letters
    # apart, so that one set of motifs with other letters around it is one hit.
    hit = HitRule(0.5, max(length // 3, 1))
    return Task(name, landscape, lambda rng: landscape.start(rng, 128), 128, 10, 128, hit)


_SIX6: dict[str, Callable[[str], Task]] = {
    "plate": lambda name: _plate(name, load_six6()),
    "hard": _hard,
    "half": _half,
}
