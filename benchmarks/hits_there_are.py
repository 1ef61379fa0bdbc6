"""Say how many distinct hits SIX6 has, and how many stand among the best by a model that has seen half of it.

    python benchmarks/hits_there_are.py --calls 1280

It is what a campaign of so many calls may hope for: one that is guided by a model knows a hundredth of the labels
when it begins. Gradient-boosted trees on letters and on counts of 4-mers of both strands learn each half of the
landscape and rank the other; both strands of a site are on one side. It needs scikit-learn.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from landscape import load_six6
from metrics import HitRule
from scipy.stats import spearmanr

from flowscout.loop.metrics import distinct_hits, reverse_complement

WORD = 4


def features(sequences: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return one-hot letters beside the counts of words on both strands, `n x (4 L + 256)`."""
    codes = np.array([["ACGT".index(letter) for letter in text] for text in sequences])
    counts = np.zeros((len(codes), 4**WORD))
    for strand in (codes, 3 - codes[:, ::-1]):  # A pairs with T, C with G
        for start in range(codes.shape[1] - WORD + 1):
            word = strand[:, start : start + WORD] @ 4 ** np.arange(WORD)
            np.add.at(counts, (np.arange(len(codes)), word), 1.0)
    return np.hstack([np.eye(4)[codes].reshape(len(codes), -1), counts])


def foretold(sequences: Sequence[str], scores: np.ndarray[Any, Any], *, seed: int) -> np.ndarray[Any, Any]:
    """Return what is predicted of each sequence by a model that learned the half it is not in."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    pairs = [min(text, reverse_complement(text)) for text in sequences]
    _, pair = np.unique(pairs, return_inverse=True)
    side = np.random.default_rng(seed).integers(2, size=pair.max() + 1)[pair]
    X, found = features(sequences), np.empty(len(scores))
    for half in (0, 1):
        model = HistGradientBoostingRegressor(
            max_iter=600, learning_rate=0.08, max_leaf_nodes=63, random_state=seed
        )
        found[side == half] = model.fit(X[side != half], scores[side != half]).predict(X[side == half])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_280)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    landscape, rule = load_six6(), HitRule()
    sequences, scores = list(landscape.table), np.array(list(landscape.table.values()))

    def count(rows: np.ndarray[Any, Any]) -> int:
        chosen = {sequences[row]: scores[row] for row in rows}
        return len(distinct_hits(chosen, threshold=rule.threshold, distance=rule.distance, image=landscape.image))

    predicted = foretold(sequences, scores, seed=options.seed)
    print(
        f"rank correlation of the model on the half it has not seen: {spearmanr(predicted, scores).statistic:.3f}"
    )
    print(f"distinct hits of all {len(scores):,}: {count(np.arange(len(scores)))}")
    print(f"distinct hits of its best {options.calls:,}: {count(np.argsort(-predicted)[: options.calls])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
