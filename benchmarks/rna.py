"""RNA that binds given targets: landscapes computed by ViennaRNA's duplexfold.

ViennaRNA has a licence of its own: it is an optional extra (`bench`), imported here only.
"""

from collections.abc import Sequence

import numpy as np
from landscape import ComputedLandscape

from flowscout.errors import ConfigError

ALPHABET = "ACGU"
TARGETS = {
    "a": ("GAACGAGGCACAUUCCGGCUCGCCCGGCCCAUGUGAGCAUGGGCCGGACCCCGUCCGCGCGGGGCCCCCGCGCGGACGGGGGCGAGCCGGAAUGUGCCUC"),
    "b": ("GAGGCACAUUCCGGCUCGCCCCCGUCCGCGCGGGGGCCCCGCGCGGACGGGGUCCGGCCCGCGCGGGGCCCCCGCGCGGGAGCCGGAAUGUGCCUCGUUC"),
    "c": ("CCGGUGAUACUGUUAGUGGUCACGGUGCAUUUAUAGCGCUAAAGUACAGUCUUCCCCUGUUGAACGGCGCCAUUGCAUACAGGGCCAGCCGCGUAACGCC"),
}

_PAIRS = str.maketrans(ALPHABET, "UGCA")


class RNABinding(ComputedLandscape):
    """How well sequences bind a target: their duplex energy, relative to what so many letters could reach.

    `score(x) = energy(target, x) / (energy(reverse complement of the target, target) x len(x) / len(target))`.
    A segment of the reverse complement may score above 1: energies differ along the target. The floor is 0:
    no binding. Both strands are different objects.
    Source: the RNA binding landscapes of Sinai et al. 2020, arXiv:2010.02141.

    Raises: ConfigError if ViennaRNA is not installed.
    """

    def __init__(self, name: str, target: str, length: int) -> None:
        super().__init__(name, ALPHABET, length)
        try:
            import RNA
        except ImportError as error:
            raise ConfigError(
                f"{name} is computed by the package ViennaRNA, which cannot be imported here ({error}). "
                "Install it: pip install 'flowscout[bench]'"
            ) from error
        self._target, self._duplex = target, RNA.duplexfold
        whole = self._duplex(reverse_complement_rna(target), target).energy
        self._norm = whole * length / len(target)

    def compute(self, items: Sequence[str]) -> list[float]:
        """Return the scores of distinct `items`, order kept; about a millisecond each."""
        return [self._duplex(self._target, item).energy / self._norm for item in items]

    def start(self, rng: np.random.Generator, n: int, *, at_most: float | None = None) -> list[str]:
        """Return `n` different random sequences; with `at_most` only such as score no more."""
        found: dict[str, None] = {}
        while len(found) < n:
            for item, score in zip(drawn := self.random(rng, n), self.score(drawn), strict=True):
                if len(found) < n and (at_most is None or score <= at_most):
                    found[item] = None
        return list(found)


def reverse_complement_rna(sequence: str) -> str:
    """Return what pairs with an RNA sequence, read in its own direction."""
    return sequence.translate(_PAIRS)[::-1]
