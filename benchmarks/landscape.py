"""What a discovery benchmark asks for labels: landscapes of fixed-length sequences, measured or computed.

Protocols (how many calls, from which start) belong in `tasks.py`, methods in `rivals*.py`. The computed
landscapes have files of their own: `rna.py`, `ehrlich.py`, `two_motifs.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from flowscout.errors import LabelError
from flowscout.loop.metrics import Image, reverse_complement
from flowscout.loop.oracles import read_table


class Landscape(Protocol):
    """Scores of sequences of one length.

    `image` is the reverse complement if both strands score alike. `floor` is what nothing scores below, as
    far as is known. `table` holds every score where the landscape can be enumerated, else it is None.
    """

    @property
    def name(self) -> str:
        """What tables and messages call it."""
        ...

    @property
    def alphabet(self) -> str:
        """The letters, each once."""
        ...

    @property
    def length(self) -> int:
        """The number of letters of every sequence."""
        ...

    @property
    def image(self) -> Image | None:
        """The reverse complement, where it is the same object."""
        ...

    @property
    def floor(self) -> float:
        """The score of a place that nothing was found for."""
        ...

    @property
    def table(self) -> Mapping[str, float] | None:
        """Every score, in alphabetical order of the sequences, or None."""
        ...

    def holds(self, item: str) -> bool:
        """Tell whether the landscape has a score for `item`."""
        ...

    def score(self, items: Sequence[str]) -> list[float]:
        """Return the scores of items that it holds, order kept. The same item has the same score."""
        ...


class ComputedLandscape(ABC):
    """A landscape too large for a table: every string of the right letters has a score, computed once."""

    table: Mapping[str, float] | None = None

    def __init__(self, name: str, alphabet: str, length: int, *, image: Image | None = None) -> None:
        self.name, self.alphabet, self.length, self.image = name, alphabet, length, image
        self.floor = 0.0
        self._known: dict[str, float] = {}

    def holds(self, item: str) -> bool:
        """Tell whether `item` has the length and letters of the landscape."""
        return len(item) == self.length and set(item) <= set(self.alphabet)

    def score(self, items: Sequence[str]) -> list[float]:
        """Return the scores of `items`, order kept; each is computed when it is first asked for."""
        fresh = [item for item in dict.fromkeys(items) if item not in self._known]
        if fresh:
            self._known.update(zip(fresh, self.compute(fresh), strict=True))
        return [self._known[item] for item in items]

    @abstractmethod
    def compute(self, items: Sequence[str]) -> list[float]:
        """Return the scores of distinct `items`, order kept."""

    def random(self, rng: np.random.Generator, n: int) -> list[str]:
        """Return `n` sequences drawn uniformly, repeats possible."""
        codes = rng.integers(len(self.alphabet), size=(n, self.length))
        return ["".join(self.alphabet[code] for code in row) for row in codes]


@dataclass(frozen=True)
class TableLandscape:
    """A fully measured landscape, or a part of one."""

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
    def table(self) -> dict[str, float]:
        """Every score, in alphabetical order of the sequences."""
        return {item: self.scores[item] for item in self.sequences}

    @cached_property
    def floor(self) -> float:
        """The least score."""
        return min(self.scores.values())

    @cached_property
    def lower_half(self) -> list[str]:
        """The sequences that score below the median, in alphabetical order."""
        median = float(np.median(list(self.scores.values())))
        return [item for item in self.sequences if self.scores[item] < median]

    def holds(self, item: str) -> bool:
        """Tell whether `item` was measured."""
        return item in self.scores

    def score(self, items: Sequence[str]) -> list[float]:
        """Return the measured scores of `items`, order kept."""
        return [self.scores[item] for item in items]

    def start(self, rng: np.random.Generator, n: int) -> list[str]:
        """Return `n` different sequences drawn at random from the lower half.

        Raises: LabelError if there are fewer.
        """
        lower = self.lower_half
        if len(lower) < n:
            raise LabelError(
                f"{self.name} has {len(lower)} sequences below its median, expected at least {n} to start "
                "from. Use a larger table."
            )
        return [lower[i] for i in rng.choice(len(lower), size=n, replace=False)]


def load_six6() -> TableLandscape:
    """Return the SIX6 landscape of the package data: all 65,536 DNA 8-mers."""
    with resources.as_file(resources.files("flowscout.data") / "tfbind8_six6.csv.gz") as path:
        return load_table(path, name="six6")


def load_table(path: Path, *, name: str) -> TableLandscape:
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
    return TableLandscape(
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
