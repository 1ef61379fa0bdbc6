"""AdaLead: rollouts of mutations from recombined leaders, as far as a model sees no loss.

Source: Sinai et al. 2020, arXiv:2010.02141, algorithm 1, from its description: the parents are all measured
objects within a share `THRESHOLD` of the best; parents are recombined; each is mutated again and again while
the model predicts no less than for the parent; the best predictions that were met are the batch.
Changed: the model is the posterior mean of the pair regression instead of three convolutional networks, which
a hundred labels cannot train; rollouts run side by side.
"""

import numpy as np
from rivals_base import Codes, mutate
from rivals_blr import PairModelled


class AdaLead(PairModelled):
    """Greedy evolution of the leaders against a model's mean."""

    THRESHOLD = 0.05
    P_SWITCH = 0.2
    N_ROOTS = 64
    N_QUERIES = 2_000

    def propose(self, n: int) -> list[str]:
        """Return the `n` new objects of the best prediction among all that the rollouts met."""
        problem, model = self.problem, self.fit()
        weights = model.mean_weights()
        leaders = problem.encode(self._leaders())
        predicted: dict[str, float] = {}
        spent = 0
        while spent < self.N_QUERIES:
            nodes = self._recombine(leaders)
            bound = model.values(weights, nodes)
            spent += len(nodes)
            predicted.update(zip(problem.decode(nodes), bound.tolist(), strict=True))
            while len(nodes) and spent < self.N_QUERIES:
                nodes = mutate(nodes, n_letters=len(problem.alphabet), rng=self.rng)
                values = model.values(weights, nodes)
                spent += len(nodes)
                predicted.update(zip(problem.decode(nodes), values.tolist(), strict=True))
                kept = values >= bound
                nodes, bound = nodes[kept], bound[kept]
        batch: dict[str, str] = {}
        for item in sorted(predicted, key=lambda item: (-predicted[item], item)):
            if len(batch) == n:
                break
            self.add(item, batch)
        return self.fill(batch, n)

    def _leaders(self) -> list[str]:
        """Return the measured objects within the threshold of the best, whatever its sign, sorted."""
        best = max(self.scores.values())
        return sorted(x for x, score in self.scores.items() if score >= best - self.THRESHOLD * abs(best))

    def _recombine(self, leaders: Codes) -> Codes:
        """Return roots: leaders, each read on in another one after a switch, with `P_SWITCH` at any place."""
        first, second = leaders[self.rng.integers(len(leaders), size=(2, self.N_ROOTS))]
        switches = self.rng.random(first.shape) < self.P_SWITCH
        return np.asarray(np.where(np.cumsum(switches, axis=1) % 2 == 1, second, first))
