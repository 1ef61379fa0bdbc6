"""BLR-TS: Bayesian linear regression on letters and on all pairs of letters, Thompson draws, local search."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from rivals_base import Codes, Remembering, make_children

N_TOGETHER = 16
"""How many draws are made at once: bounds their memory at 130 MB for 32 places of 32 letters."""

Floats = NDArray[np.float64]

SHARES = (0.1, 0.3, 0.6, 0.9, 0.98)
"""Shares of the prior variance that single letters may have; the pairs have the rest."""

NOISE_RATIOS = np.geomspace(1e-4, 3.0, 14)
"""Noise variances that are tried, as multiples of the prior variance."""

N_EVIDENCE = 800
"""How many labels the hyper-parameters are chosen by: each trial takes the cube of it."""


class PairRegression:
    """Bayesian linear regression on the one-hot letters of codes `n x l` and on all pairs of them.

    `f(x) = b + sum_p w[p, x_p] + sum_{p<q} w[p, x_p, q, x_q]`, the weights independent and Gaussian, one
    variance for letters and one for pairs, chosen with the noise by the evidence on a grid. Two codes that
    agree in `a` places share `a` letters and `a (a - 1) / 2` pairs, so the kernel has a closed form, and
    weights are drawn by correcting a draw of the prior (Matheron's rule) whatever their number is. With
    `complement` the function is the mean of `f` over both strands.
    """

    def __init__(
        self, codes: Codes, labels: Floats, *, n_letters: int, complement: Codes | None, rng: np.random.Generator
    ) -> None:
        n, self._length = codes.shape
        self._complement, self._width = complement, codes.shape[1] * n_letters
        self._first, self._second = np.triu_indices(self._length)  # a letter is a pair of a place with itself
        self._mean, sd = labels.mean(), labels.std()
        self._sd = sd if sd > 0 else 1.0
        self._labels = (labels - self._mean) / self._sd
        chosen = rng.permutation(n)[:N_EVIDENCE]
        share, self._variance, self._noise = self._most_evident(codes[chosen], self._labels[chosen])
        self._features = self._feature_places(codes)
        kernel = self._variance * self._kernel(codes, share) + self._noise * np.eye(n)
        self._factor = torch.linalg.cholesky(torch.from_numpy(kernel))
        n_pairs = max(self._length * (self._length - 1) // 2, 1)
        self._pair_variance = self._variance * (1.0 - share) / n_pairs
        self._letter_variance = self._variance * share / self._length

    def draws(self, n: int, rng: np.random.Generator) -> Iterator[Floats]:
        """Yield weights of `n` draws from the posterior, each a vector to be given to `values`."""
        for first in range(0, n, N_TOGETHER):
            k = min(N_TOGETHER, n - first)
            prior = rng.standard_normal((k, self._width**2)) * np.sqrt(self._pair_variance)
            prior[:, :: self._width + 1] *= np.sqrt(self._letter_variance / self._pair_variance)
            noise = np.sqrt(self._noise) * rng.standard_normal((k, len(self._labels)))
            predicted = np.array([w[self._features].sum(axis=(1, 2)) for w in prior]) / self._n_strands
            for weights, alpha in zip(prior, self._solve(self._labels - predicted - noise), strict=True):
                yield weights + self._combine(alpha)

    def mean_weights(self) -> Floats:
        """Return the posterior mean of the weights."""
        return self._combine(self._solve(self._labels[None])[0])

    def values(self, weights: Floats, codes: Codes) -> Floats:
        """Return the function of `weights` at codes `m x l`, on the scale of the labels."""
        total = weights[self._feature_places(codes)].sum(axis=(1, 2)) / self._n_strands
        return np.asarray(self._mean + self._sd * total)

    @property
    def _n_strands(self) -> int:
        return 1 if self._complement is None else 2

    def _solve(self, residuals: Floats) -> Floats:
        """Return the labels' inverse covariance times residuals, `k x n`: several at once read it once."""
        columns = torch.from_numpy(residuals.T.copy())
        return np.asarray(torch.cholesky_solve(columns, self._factor).T.numpy())

    def _combine(self, alpha: Floats) -> Floats:
        """Return the labels' features, each label's `alpha` times, weighted by the prior variances."""
        spread = np.broadcast_to(alpha[:, None, None] / self._n_strands, self._features.shape).ravel()
        weights = self._pair_variance * np.bincount(self._features.ravel(), spread, minlength=self._width**2)
        weights[:: self._width + 1] *= self._letter_variance / self._pair_variance
        return np.asarray(weights)

    def _feature_places(self, codes: Codes) -> Codes:
        """Return where the weights of codes `n x l` stand, `n x strands x l (l + 1) / 2`."""
        letters = self._strands(codes) + np.arange(self._length) * (self._width // self._length)
        return np.asarray(letters[..., self._first] * self._width + letters[..., self._second])

    def _strands(self, codes: Codes) -> Codes:
        """Return codes, `n x strands x l`."""
        if self._complement is None:
            return codes[:, None]
        return np.stack([codes, self._complement[codes[:, ::-1]]], axis=1)

    def _kernel(self, codes: Codes, share: float) -> Floats:
        """Return the prior covariance of the function at codes, `n x n`, at unit variance."""
        strands = [np.eye(self._width // self._length)[codes].reshape(len(codes), -1)]
        if self._complement is not None:
            other = self._strands(codes)[:, 1]
            strands.append(np.eye(self._width // self._length)[other].reshape(len(codes), -1))
        total = np.zeros((len(codes), len(codes)))
        for a in strands:
            for b in strands:
                agree = a @ b.T
                pairs = agree * (agree - 1.0) / max(self._length * (self._length - 1), 1)
                total += share * agree / self._length + (1.0 - share) * pairs
        return total / len(strands) ** 2

    def _most_evident(self, codes: Codes, labels: Floats) -> tuple[float, float, float]:
        """Return the share, variance and noise variance of the greatest evidence on the grid."""
        best = (-np.inf, 0.5, 1.0, 1.0)
        for share in SHARES:
            spectrum, basis = np.linalg.eigh(self._kernel(codes, share))
            squares = (basis.T @ labels) ** 2
            for ratio in NOISE_RATIOS:
                total = np.maximum(spectrum, 0.0) + ratio
                variance = max(float(np.mean(squares / total)), 1e-8)  # the best one has a closed form
                evidence = -0.5 * (len(labels) * np.log(variance) + np.log(total).sum())
                best = max(best, (float(evidence), share, variance, variance * float(ratio)))
        return best[1:]


class PairModelled(Remembering):
    """Fits a pair regression to the best `N_BEST` labels and to `N_OTHER` of the others."""

    N_BEST = 2_500
    N_OTHER = 1_500

    def fit(self) -> PairRegression:
        """Return the regression of what was measured."""
        measured = self.learning_set(self.N_BEST, self.N_OTHER)
        return PairRegression(
            self.problem.encode(measured),
            np.array([self.scores[item] for item in measured]),
            n_letters=len(self.problem.alphabet),
            complement=self.problem.complement,
            rng=self.rng,
        )


class PairThompson(PairModelled):
    """One posterior draw of the pair regression per slot, climbed by a genetic local search of its own."""

    N_START = 64
    N_PARENTS = 32
    N_CHILDREN = 128
    N_GENERATIONS = 12
    P_CROSSOVER = 0.5

    def propose(self, n: int) -> list[str]:
        """Return `n` new objects: for each slot the best that is found on its own draw."""
        problem, model = self.problem, self.fit()
        start = problem.encode(self.best(self.N_START))
        batch: dict[str, str] = {}
        for weights in model.draws(n, self.rng):
            codes = self._climb(model, weights, start)
            any(self.add(problem.decode(row[None])[0], batch) for row in codes)
        return self.fill(batch, n)

    def _climb(self, model: PairRegression, weights: Floats, start: Codes) -> Codes:
        """Return all codes that a local search on one draw meets, the best first."""
        codes, values = start, model.values(weights, start)
        for _ in range(self.N_GENERATIONS):
            parents = codes[np.argsort(-values, kind="stable")[: self.N_PARENTS]]
            children = make_children(
                parents,
                self.N_CHILDREN,
                p_crossover=self.P_CROSSOVER,
                n_letters=len(self.problem.alphabet),
                rng=self.rng,
            )
            codes = np.concatenate([codes, children])
            values = np.concatenate([values, model.values(weights, children)])
        return codes[np.argsort(-values, kind="stable")]
