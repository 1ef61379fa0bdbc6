"""What the methods under test have in common: the problem, the protocol, and a memory of what was measured.

The methods themselves live in `rivals.py`, `rivals_gp.py`, `rivals_blr.py`, `rivals_adalead.py` and
`flowscout_method.py`. None sees a score that it has not paid for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from flowscout.loop.metrics import Image, canonical

Codes = NDArray[np.int64]
"""Places in the alphabet, `n x l`."""


@dataclass(frozen=True)
class Problem:
    """What may be built: `sequences` where they can be listed, else every string of `length` letters.

    `image` is given where a method may know that an object and its image are one.
    """

    alphabet: str
    length: int
    image: Image | None = None
    sequences: Sequence[str] | None = None

    @cached_property
    def _members(self) -> frozenset[str] | None:
        return None if self.sequences is None else frozenset(self.sequences)

    def holds(self, item: str) -> bool:
        """Tell whether `item`, of the right letters, can be built."""
        return self._members is None or item in self._members

    def key(self, item: str) -> str:
        """Return the name that an object shares with its image."""
        return canonical(item, self.image)

    @cached_property
    def complement(self) -> Codes | None:
        """The code that pairs with each code, where there is an image: the reverse complement is the only one."""
        if self.image is None:
            return None
        return np.array([self.alphabet.index(self.image(letter)) for letter in self.alphabet], dtype=np.int64)

    def encode(self, items: Sequence[str]) -> Codes:
        """Return places in the alphabet, `n x l`."""
        place = {letter: index for index, letter in enumerate(self.alphabet)}
        return np.array([[place[letter] for letter in item] for item in items], dtype=np.int64)

    def decode(self, codes: Codes) -> list[str]:
        """Return the sequences of codes, `n x l`."""
        return ["".join(self.alphabet[code] for code in row) for row in codes]


class Method(Protocol):
    """A method under test. It is told the initial objects first, then asked and told in turn."""

    def propose(self, n: int) -> list[str]:
        """Return `n` objects to measure."""

    def observe(self, objects: Sequence[str], scores: Sequence[float]) -> None:
        """Take note of measured objects, in the order of the proposal."""

    def close(self) -> None:
        """Release what the method holds outside memory."""


@runtime_checkable
class HasFacts(Protocol):
    """A method that says more of a run than what it found: `from_NAME`, the share of calls of each origin."""

    def facts(self) -> dict[str, float]:
        """Return figures by name, for the rows of the table."""


Factory = Callable[[Problem, np.random.Generator], Method]


class Remembering:
    """Keeps what was measured and never proposes it again."""

    MAX_RANDOM_DRAWS = 100_000
    """How many random strings are tried to fill a batch where the objects cannot be listed."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self.problem = problem
        self.rng = rng
        self.scores: dict[str, float] = {}
        self.known: set[str] = set()

    def observe(self, objects: Sequence[str], scores: Sequence[float]) -> None:
        """Take note of measured objects."""
        self.scores.update(zip(objects, scores, strict=True))
        self.known.update(self.problem.key(item) for item in objects)

    def close(self) -> None:
        """Release nothing: all is in memory."""

    def add(self, item: str, batch: dict[str, str]) -> bool:
        """Put an object in `batch`, keyed by name, if it can be built, was not measured and is not there."""
        key = self.problem.key(item)
        if not self.problem.holds(item) or key in self.known or key in batch:
            return False
        batch[key] = item
        return True

    def fill(self, batch: dict[str, str], n: int) -> list[str]:
        """Return the batch's objects, topped up to `n` with random new ones (fewer if there are no more)."""
        listed = self.problem.sequences
        if listed is not None:
            for index in self.rng.permutation(len(listed)):
                if len(batch) >= n:
                    break
                self.add(listed[index], batch)
        else:
            drawn = 0
            while len(batch) < n and drawn < self.MAX_RANDOM_DRAWS:
                codes = self.rng.integers(len(self.problem.alphabet), size=(n, self.problem.length))
                for item in self.problem.decode(codes)[: n - len(batch)]:
                    self.add(item, batch)
                drawn += n
        return list(batch.values())[:n]

    def best(self, n: int) -> list[str]:
        """Return the best `n` measured objects, ties alphabetical."""
        return sorted(self.scores, key=lambda item: (-self.scores[item], item))[:n]

    def learning_set(self, n_best: int, n_other: int) -> list[str]:
        """Return measured objects to fit a model to, sorted: the best and a random share of the others.

        All of them where they are no more than `n_best + n_other`. Sorted, so that a fit does not depend on
        the order in which labels came.
        """
        if len(self.scores) <= n_best + n_other:
            return sorted(self.scores)
        ranked = self.best(len(self.scores))
        others = self.rng.choice(len(ranked) - n_best, size=n_other, replace=False)
        return sorted([*ranked[:n_best], *(ranked[n_best + i] for i in others)])


def make_children(
    parents: Codes, n: int, *, p_crossover: float, n_letters: int, rng: np.random.Generator
) -> Codes:
    """Return `n x l` codes: a parent, crossed uniformly with another at `p_crossover`, then mutated."""
    first, second = parents[rng.integers(len(parents), size=(2, n))]
    crossed = rng.random((n, 1)) < p_crossover
    children = np.where(crossed & (rng.random((n, parents.shape[1])) < 0.5), second, first)
    return mutate(children, n_letters=n_letters, rng=rng)


def mutate(codes: Codes, *, n_letters: int, rng: np.random.Generator) -> Codes:
    """Return codes, `n x l`, in which every letter changed to another one with probability 1/l.

    Where none did, one of them is made to.
    """
    n, length = codes.shape
    mutated = rng.random((n, length)) < 1.0 / length
    mutated[np.arange(n), rng.integers(length, size=n)] |= ~mutated.any(axis=1)
    shift = rng.integers(1, max(n_letters, 2), size=(n, length))
    return np.asarray(np.where(mutated, (codes + shift) % n_letters, codes))
