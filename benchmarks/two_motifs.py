"""Landscapes where a campaign gets stuck: a weaker motif next to all starting labels, a stronger one afar.

    python benchmarks/two_motifs.py                      # what the ten instances are
    python benchmarks/two_motifs.py --instance 3 --out landscape.csv.gz

Each instance scores all 65,536 DNA 8-mers. Two motifs of 6 letters have the heights 0.85 and 1.0. A motif
gives a sequence its height times (letters matched at the best of the three offsets / 6) cubed; the score is
the larger of the two, plus Gaussian noise of sd 0.02 that belongs to the sequence: measured again, it is the
same. Motifs are drawn uniformly, and drawn again while at some shift of up to two places they agree in more
than two letters: then no sequence leads from one to the other.

The starting labels are drawn from the sequences that match more letters of the weaker motif. Since
0.85 k^3 > (k - 1)^3 for all k up to 6, no such sequence shows anything of the stronger motif in its score.
The generator was fixed before any method was tuned on it; its seed is `SEED`.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from landscape import TableLandscape
from numpy.typing import NDArray

from flowscout.errors import ConfigError

SEED = 20_261_122
N_INSTANCES = 10
ALPHABET = "ACGT"
LENGTH, MOTIF_LENGTH = 8, 6
HEIGHTS = (0.85, 1.0)
NOISE_SD = 0.02
MAX_AGREEMENT = 2

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class TwoMotifs:
    """One instance: its table, its motifs (the weaker first), and where a campaign starts from."""

    landscape: TableLandscape
    motifs: tuple[str, str]
    near_weaker: list[str]

    def start(self, rng: np.random.Generator, n: int) -> list[str]:
        """Return `n` different sequences drawn at random from those nearer to the weaker motif."""
        return [self.near_weaker[i] for i in rng.choice(len(self.near_weaker), size=n, replace=False)]


def two_motifs(instance: int) -> TwoMotifs:
    """Return an instance, 0 to 9.

    Raises: ConfigError for another number.
    """
    if instance not in range(N_INSTANCES):
        raise ConfigError(
            f"two-motifs-{instance} came, expected an instance from 0 to {N_INSTANCES - 1}. Take one."
        )
    rng = np.random.default_rng([SEED, instance])
    motifs = _draw_motifs(rng)
    codes = np.array(list(product(range(len(ALPHABET)), repeat=LENGTH)), dtype=np.int64)
    matched = np.stack([_matches(codes, motif) for motif in motifs])
    clean = (np.array(HEIGHTS)[:, None] * (matched / MOTIF_LENGTH) ** 3).max(axis=0)
    scores = clean + NOISE_SD * rng.standard_normal(len(codes))
    items = _texts(codes)
    landscape = TableLandscape(
        name=f"two-motifs-{instance}",
        scores=dict(zip(items, scores.tolist(), strict=True)),
        alphabet=ALPHABET,
        length=LENGTH,
        image=None,
    )
    near = [items[i] for i in np.flatnonzero(matched[0] > matched[1])]
    weaker, stronger = _texts(motifs)
    return TwoMotifs(landscape, (weaker, stronger), near)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the instances are, or write one as a table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--instance", type=int, choices=range(N_INSTANCES), help="one of them only")
    parser.add_argument("--out", type=Path, help="write its table here, columns sequence,score")
    options = parser.parse_args(arguments)
    if options.out is not None and options.instance is None:
        parser.error("--out needs --instance: one table is one instance")
    for instance in range(N_INSTANCES) if options.instance is None else [options.instance]:
        made = two_motifs(instance)
        scores = made.landscape.scores
        print(
            f"{made.landscape.name}: weaker {made.motifs[0]}, stronger {made.motifs[1]}, "
            f"{len(made.near_weaker)} sequences to start from, {sum(s > 0.95 for s in scores.values())} above 0.95"
        )
        if options.out is not None:
            pd.DataFrame({"sequence": list(scores), "score": list(scores.values())}).to_csv(
                options.out, index=False
            )
    return 0


def _draw_motifs(rng: np.random.Generator) -> Codes:
    """Return two motifs, `2 x 6`, that nowhere agree in many letters."""
    while True:
        motifs = rng.integers(len(ALPHABET), size=(2, MOTIF_LENGTH))
        if _agreement(motifs[0], motifs[1]) <= MAX_AGREEMENT:
            return np.asarray(motifs)


def _agreement(a: Codes, b: Codes) -> int:
    """Return the most letters in which two motifs agree when both stand in one sequence."""
    most = 0
    for shift in range(LENGTH - MOTIF_LENGTH + 1):
        overlap = MOTIF_LENGTH - shift
        most = max(most, int((a[shift:] == b[:overlap]).sum()), int((a[:overlap] == b[shift:]).sum()))
    return most


def _matches(codes: Codes, motif: Codes) -> Codes:
    """Return the letters of a motif that each row of codes, `n x l`, matches at the best offset."""
    offsets = range(LENGTH - MOTIF_LENGTH + 1)
    at_offsets = [(codes[:, o : o + MOTIF_LENGTH] == motif).sum(axis=1) for o in offsets]
    return np.asarray(np.max(at_offsets, axis=0))


def _texts(codes: Codes) -> list[str]:
    return ["".join(ALPHABET[code] for code in row) for row in codes]


if __name__ == "__main__":
    sys.exit(main())
