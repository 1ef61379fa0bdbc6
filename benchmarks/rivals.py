"""The methods Flowscout is measured against: random, a genetic algorithm and Thompson sampling with a GP.

Each is a small ask/tell object made by `RIVALS[name](problem, rng)`. They are meant to be strong: a random
or a genetic baseline alone proves nothing. None sees a score that it has not paid for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flowscout.loop.metrics import Image, canonical
from flowscout.surrogates import ExactGP, ucb


@dataclass(frozen=True)
class Problem:
    """What may be built. `image` is given where a method may know that an object and its image are one."""

    alphabet: str
    sequences: Sequence[str]
    members: frozenset[str]
    image: Image | None

    @property
    def length(self) -> int:
        """The number of letters of every sequence."""
        return len(self.sequences[0])

    def key(self, item: str) -> str:
        """Return the name that an object shares with its image."""
        return canonical(item, self.image)


class Method(Protocol):
    """A method under test. It is told the initial objects first, then asked and told in turn."""

    def propose(self, n: int) -> list[str]:
        """Return `n` objects to measure."""

    def observe(self, objects: Sequence[str], scores: Sequence[float]) -> None:
        """Take note of measured objects, in the order of the proposal."""

    def close(self) -> None:
        """Release what the method holds outside memory."""


class _Remembering:
    """Keeps what was measured and never proposes it again."""

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

    def new(self, item: str, batch: dict[str, str]) -> bool:
        """Tell whether an object can be built, was not measured and is not in `batch`, keyed by name."""
        key = self.problem.key(item)
        return item in self.problem.members and key not in self.known and key not in batch

    def fill(self, batch: dict[str, str], n: int) -> list[str]:
        """Return the batch's objects, topped up to `n` with random new ones (fewer if there are no more)."""
        for index in self.rng.permutation(len(self.problem.sequences)):
            if len(batch) >= n:
                break
            item = self.problem.sequences[index]
            if self.new(item, batch):
                batch[self.problem.key(item)] = item
        return list(batch.values())[:n]

    def best(self, n: int) -> list[str]:
        """Return the best `n` measured objects, ties alphabetical."""
        return sorted(self.scores, key=lambda item: (-self.scores[item], item))[:n]


class RandomSearch(_Remembering):
    """Uniform draws without replacement."""

    def propose(self, n: int) -> list[str]:
        """Return `n` new objects drawn uniformly."""
        return self.fill({}, n)


class Genetic(_Remembering):
    """Truncation selection over everything measured, uniform crossover, about one mutation a child."""

    N_PARENTS = 48
    P_CROSSOVER = 0.5

    def propose(self, n: int) -> list[str]:
        """Return `n` new children of the best measured objects."""
        parents = _encode(self.best(self.N_PARENTS), self.problem.alphabet)
        batch: dict[str, str] = {}
        for _ in range(50):
            children = _children(parents, 2 * n, self.P_CROSSOVER, len(self.problem.alphabet), self.rng)
            for child in _decode(children, self.problem.alphabet):
                if self.new(child, batch):
                    batch[self.problem.key(child)] = child
                if len(batch) == n:
                    return list(batch.values())
        return self.fill(batch, n)


class GPThompson(_Remembering):
    """Exact GP, a pool by local search on UCB, then one joint posterior draw of the pool per slot."""

    N_PARENTS = 256
    N_CHILDREN = 512
    N_GENERATIONS = 12
    P_CROSSOVER = 0.3
    N_POOL = 500
    KAPPA = 1.0

    def propose(self, n: int) -> list[str]:
        """Return `n` new objects: each slot takes the best of its own draw that is still free."""
        # Sorted, so that the fit does not depend on the order in which labels came.
        measured = sorted(self.scores)
        surrogate = ExactGP(symmetry=_code_symmetry(self.problem))
        surrogate.fit(
            torch.from_numpy(_encode(measured, self.problem.alphabet)).to(torch.float64),
            torch.tensor([[self.scores[item]] for item in measured], dtype=torch.float64),
        )
        pool = self._pool(surrogate)
        batch: dict[str, str] = {}
        if pool:
            codes = torch.from_numpy(_encode(pool, self.problem.alphabet)).to(torch.float64)
            generator = torch.Generator().manual_seed(int(self.rng.integers(2**62)))
            for draw in surrogate.sample(codes, n, generator=generator).numpy():
                for index in np.argsort(-draw, kind="stable"):
                    if self.new(pool[index], batch):
                        batch[self.problem.key(pool[index])] = pool[index]
                        break
        return self.fill(batch, n)

    def _pool(self, surrogate: ExactGP) -> list[str]:
        """Return the best new objects by UCB that a genetic local search from the best known meets."""
        acquisition = ucb(surrogate, self.KAPPA)
        alphabet = self.problem.alphabet
        values: dict[str, float] = {}
        visited = self.best(self.N_PARENTS)
        for generation in range(self.N_GENERATIONS + 1):
            fresh = sorted(set(visited) - values.keys())
            if fresh:
                codes = torch.from_numpy(_encode(fresh, alphabet)).to(torch.float64)
                values.update(zip(fresh, acquisition(codes).tolist(), strict=True))
            if generation < self.N_GENERATIONS:
                parents = sorted(values, key=lambda item: (-values[item], item))[: self.N_PARENTS]
                children = _children(
                    _encode(parents, alphabet), self.N_CHILDREN, self.P_CROSSOVER, len(alphabet), self.rng
                )
                visited = [item for item in _decode(children, alphabet) if item in self.problem.members]
        batch: dict[str, str] = {}
        for item in sorted(values, key=lambda item: (-values[item], item)):
            if self.new(item, batch):
                batch[self.problem.key(item)] = item
            if len(batch) == self.N_POOL:
                break
        return list(batch.values())


RIVALS: dict[str, Callable[[Problem, np.random.Generator], Method]] = {
    "gp-ts": GPThompson,
    "ga": Genetic,
    "random": RandomSearch,
}


def _children(
    parents: np.ndarray, n: int, p_crossover: float, n_letters: int, rng: np.random.Generator
) -> np.ndarray:
    """Return `n x l` codes: a parent, crossed uniformly with another at `p_crossover`, then mutated.

    Every letter changes to another one with probability 1/l; where none does, one of them is made to.
    """
    length = parents.shape[1]
    first, second = parents[rng.integers(len(parents), size=(2, n))]
    crossed = rng.random((n, 1)) < p_crossover
    children = np.where(crossed & (rng.random((n, length)) < 0.5), second, first)
    mutated = rng.random((n, length)) < 1.0 / length
    mutated[np.arange(n), rng.integers(length, size=n)] |= ~mutated.any(axis=1)
    shift = rng.integers(1, max(n_letters, 2), size=(n, length))
    return np.asarray(np.where(mutated, (children + shift) % n_letters, children))


def _code_symmetry(problem: Problem) -> Callable[[Tensor], Tensor] | None:
    """Return the problem's image on codes: the reverse complement is the only one there is."""
    if problem.image is None:
        return None
    complement = torch.tensor(
        [problem.alphabet.index(problem.image(letter)) for letter in problem.alphabet], dtype=torch.float64
    )
    return lambda X: complement[X.flip(-1).long()]


def _encode(items: Sequence[str], alphabet: str) -> np.ndarray:
    """Return places in the alphabet, `n x l`."""
    place = {letter: index for index, letter in enumerate(alphabet)}
    return np.array([[place[letter] for letter in item] for item in items], dtype=np.int64)


def _decode(codes: np.ndarray, alphabet: str) -> list[str]:
    return ["".join(alphabet[code] for code in row) for row in codes]
