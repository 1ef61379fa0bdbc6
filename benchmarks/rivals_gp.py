"""GP-TS: Thompson sampling with an exact Gaussian process and a genetic local search for its pool."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from rivals_base import Codes, Remembering, make_children
from torch import Tensor

from flowscout.surrogates import ExactGP, ucb


class GPThompson(Remembering):
    """Exact GP, a pool by local search on UCB, then one joint posterior draw of the pool per slot.

    A fit takes the cube of the labels at each step: beyond `N_FIT` labels the hyper-parameters are those of
    the best half as many and of as many others, and beyond `N_LABELS` the model knows no more than so chosen.
    """

    N_FIT = 500
    N_LABELS = 4_000
    N_PARENTS = 256
    N_CHILDREN = 512
    N_GENERATIONS = 12
    P_CROSSOVER = 0.3
    N_POOL = 500
    KAPPA = 1.0

    def propose(self, n: int) -> list[str]:
        """Return `n` new objects: each slot takes the best of its own draw that is still free."""
        surrogate = self._fit()
        pool = self._pool(surrogate)
        batch: dict[str, str] = {}
        if pool:
            codes = _as_tensor(self.problem.encode(pool))
            generator = torch.Generator().manual_seed(int(self.rng.integers(2**62)))
            for draw in surrogate.sample(codes, n, generator=generator).numpy():
                for index in np.argsort(-draw, kind="stable"):
                    if self.add(pool[index], batch):
                        break
        return self.fill(batch, n)

    def _fit(self) -> ExactGP:
        complement = self.problem.complement
        surrogate = ExactGP(symmetry=None if complement is None else _image_of_codes(complement))
        fitted = self.learning_set(self.N_FIT // 2, self.N_FIT // 2)
        surrogate.fit(*self._data(fitted))
        known = self.learning_set(self.N_LABELS // 2, self.N_LABELS // 2)
        if known != fitted:
            state = surrogate.state_dict() | {"n_labels": torch.tensor(len(known))}
            surrogate.load_state_dict(state, *self._data(known))
        return surrogate

    def _data(self, items: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return codes, `n x l`, and labels, `n x 1`, of measured objects."""
        labels = torch.tensor([[self.scores[item]] for item in items], dtype=torch.float64)
        return _as_tensor(self.problem.encode(items)), labels

    def _pool(self, surrogate: ExactGP) -> list[str]:
        """Return the best new objects by UCB that a genetic local search from the best known meets."""
        acquisition, problem = ucb(surrogate, self.KAPPA), self.problem
        values: dict[str, float] = {}
        visited = self.best(self.N_PARENTS)
        for generation in range(self.N_GENERATIONS + 1):
            fresh = sorted(set(visited) - values.keys())
            if fresh:
                codes = _as_tensor(problem.encode(fresh))
                values.update(zip(fresh, acquisition(codes).tolist(), strict=True))
            if generation < self.N_GENERATIONS:
                parents = problem.encode(_ranked(values)[: self.N_PARENTS])
                children = make_children(
                    parents,
                    self.N_CHILDREN,
                    p_crossover=self.P_CROSSOVER,
                    n_letters=len(problem.alphabet),
                    rng=self.rng,
                )
                visited = [item for item in problem.decode(children) if problem.holds(item)]
        pool: dict[str, str] = {}
        for item in _ranked(values):
            if len(pool) == self.N_POOL:
                break
            self.add(item, pool)
        return list(pool.values())


def _ranked(values: dict[str, float]) -> list[str]:
    return sorted(values, key=lambda item: (-values[item], item))


def _as_tensor(codes: Codes) -> Tensor:
    return torch.from_numpy(codes).to(torch.float64)


def _image_of_codes(complement: Codes) -> Callable[[Tensor], Tensor]:
    """Return the reverse complement on codes."""
    pairs = torch.from_numpy(complement).to(torch.float64)
    return lambda X: pairs[X.flip(-1).long()]
