"""The methods Flowscout is measured against, by name; random search and a genetic algorithm.

Each is a small ask/tell object made by `RIVALS[name](problem, rng)`. They are meant to be strong: a random
or a genetic baseline alone proves nothing.
"""

from collections.abc import Mapping

from rivals_adalead import AdaLead
from rivals_base import Factory, Remembering, make_children
from rivals_blr import PairThompson
from rivals_gp import GPThompson


class RandomSearch(Remembering):
    """Uniform draws without replacement."""

    def propose(self, n: int) -> list[str]:
        """Return `n` new objects drawn uniformly."""
        return self.fill({}, n)


class Genetic(Remembering):
    """Truncation selection over everything measured, uniform crossover, about one mutation a child."""

    N_PARENTS = 48
    P_CROSSOVER = 0.5

    def propose(self, n: int) -> list[str]:
        """Return `n` new children of the best measured objects."""
        problem = self.problem
        parents = problem.encode(self.best(self.N_PARENTS))
        batch: dict[str, str] = {}
        for _ in range(50):
            children = make_children(
                parents, 2 * n, p_crossover=self.P_CROSSOVER, n_letters=len(problem.alphabet), rng=self.rng
            )
            for child in problem.decode(children):
                self.add(child, batch)
                if len(batch) == n:
                    return list(batch.values())
        return self.fill(batch, n)


RIVALS: Mapping[str, Factory] = {
    "gp-ts": GPThompson,
    "blr-ts": PairThompson,
    "adalead": AdaLead,
    "ga": Genetic,
    "random": RandomSearch,
}
