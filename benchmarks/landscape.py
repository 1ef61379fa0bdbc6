"""A fully measured landscape: what a discovery benchmark asks for labels.

Reads and checks tables; protocols and methods belong in `discovery.py` and `rivals.py`.
"""

from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from flowscout.errors import LabelError
from flowscout.loop.metrics import Image, reverse_complement
from flowscout.loop.oracles import read_table


@dataclass(frozen=True)
class Landscape:
    """Scores of fixed-length sequences; `image` is the reverse complement if both strands score alike."""

    name: str
    scores: dict[str, float]
    alphabet: str
    length: int
    image: Image | None

    @cached_property
    def sequences(self) -> list[str]:
        """Every sequence, in alphabetical order."""
        return sorted(self.scores)

    @cached_property
    def minimum(self) -> float:
        """The least score."""
        return min(self.scores.values())

    def start(self, rng: np.random.Generator, n: int) -> list[str]:
        """Return `n` different sequences drawn at random from those that score below the median.

        Raises: LabelError if there are fewer.
        """
        median = float(np.median(list(self.scores.values())))
        lower = [item for item in self.sequences if self.scores[item] < median]
        if len(lower) < n:
            raise LabelError(
                f"{self.name} has {len(lower)} sequences below its median, expected at least {n} to start "
                "from. Use a larger table."
            )
        return [lower[i] for i in rng.choice(len(lower), size=n, replace=False)]


def load_six6() -> Landscape:
    """Return the SIX6 landscape of the package data: all 65,536 DNA 8-mers."""
    with resources.as_file(resources.files("flowscout.data") / "tfbind8_six6.csv.gz") as path:
        return load_table(path, name="six6")


def load_table(path: Path, *, name: str) -> Landscape:
    """Read a table of columns `sequence,score`, of any one length and any alphabet.

    Raises: LabelError, in one line, for a file that cannot be read, missing columns, scores that are not
    finite numbers, unequal lengths or repeated sequences.
    """
    table = read_table(path)
    missing = [column for column in ("sequence", "score") if column not in table.columns]
    if missing:
        raise LabelError(
            f"{path} has columns {', '.join(table.columns)}, expected sequence and score. "
            f"Add or rename: {', '.join(missing)}."
        )
    sequences, scores = table["sequence"].tolist(), _scores(path, table["score"])
    _check_sequences(path, sequences)
    by_sequence = dict(zip(sequences, scores, strict=True))
    alphabet = "".join(sorted(set().union(*sequences)))
    return Landscape(
        name=name,
        scores=by_sequence,
        alphabet=alphabet,
        length=len(sequences[0]),
        image=reverse_complement if _is_double_stranded(alphabet, by_sequence) else None,
    )


def _scores(path: Path, column: "pd.Series[str]") -> list[float]:
    scores = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        row = int(bad[0])
        raise LabelError(
            f"{path} has score {column.iloc[row]!r} in line {row + 2}, expected a finite number in every "
            "row. Remove rows without a measurement."
        )
    return [float(score) for score in scores]


def _check_sequences(path: Path, sequences: list[str]) -> None:
    if not sequences:
        raise LabelError(f"{path} has no rows, expected one per sequence. Check how it was written.")
    seen: set[str] = set()
    for line, item in enumerate(sequences, start=2):
        if len(item) != len(sequences[0]) or not item:
            raise LabelError(
                f"{path} has sequence {item!r} of length {len(item)} in line {line}, expected every one of "
                f"length {len(sequences[0])}, at least 1. Split the table by length."
            )
        if item in seen:
            raise LabelError(
                f"{path} has sequence {item!r} twice (again in line {line}), expected each once. "
                "Average or remove replicates."
            )
        seen.add(item)


def _is_double_stranded(alphabet: str, scores: dict[str, float]) -> bool:
    """Tell whether a DNA table scores every sequence like its reverse complement, as binding arrays do."""
    if not set(alphabet) <= set("ACGT"):
        return False
    pairs = ((score, scores.get(reverse_complement(item))) for item, score in scores.items())
    return all(other is None or abs(score - other) <= 1e-6 for score, other in pairs)
