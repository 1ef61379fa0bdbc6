"""Measure the acquisitions' errors beside BoTorch's, their seconds, and the sweeps that bounded labels need.

    python benchmarks/acquisitions.py

An error is the root mean square over eight seeds of 128 quasi-random draws, four objects pending, against the
value from 32,768 draws: the median over 200 objects, and over the quarter of them that are worth most. In the tail
BoTorch's qLogEI is smoothed by design, which bounds a logarithm that would fall with the square of the distance.
"""

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from botorch.acquisition import qLogExpectedImprovement, qUpperConfidenceBound
from botorch.models.model import Model
from botorch.sampling.normal import SobolQMCNormalSampler
from torch import Generator, Tensor

from flowscout.surrogates import (
    ExactGP,
    FeasibilityClassifier,
    FrozenAcquisition,
    from_botorch,
    greedy_batch,
    max_value_entropy,
    q_log_ei,
    q_ucb,
    ucb,
)
from flowscout.surrogates.censored import fit_sites

N_LABELS, N_POOL, N_PENDING, SEEDS = 300, 2_000, 22, 8


def codes(n: int, seed: int) -> Tensor:
    """Return `n` different random sequences of eight letters of four, `n x 8`."""
    generator = Generator().manual_seed(seed)
    distinct = torch.randint(4, (2 * n, 8), generator=generator).double().unique(dim=0)
    return distinct[torch.randperm(len(distinct), generator=generator)[:n]]


def fitted() -> ExactGP:
    """Return an exact GP of 300 labels."""
    X = codes(N_LABELS, 0)
    noise = 0.1 * torch.randn(N_LABELS, 1, generator=Generator().manual_seed(1), dtype=torch.float64)
    surrogate = ExactGP()
    surrogate.fit(X, X[:, :3].sum(-1, keepdim=True) + noise)
    return surrogate


def errors(make: Callable[[int], FrozenAcquisition], reference: FrozenAcquisition, X: Tensor) -> str:
    """Return the median error over all objects and over the best quarter, as text."""
    truth = reference(X)
    error = torch.stack([make(seed)(X) - truth for seed in range(SEEDS)]).square().mean(0).sqrt()
    best = truth >= truth.quantile(0.75)
    return f"{error.median():9.4f}   {error[best].median():9.4f}"


def print_errors(surrogate: ExactGP) -> None:
    """Print the errors of batch values, ours and BoTorch's."""
    X, pending = codes(200, 2), codes(4, 3)

    def sampler(seed: int) -> SobolQMCNormalSampler:
        return SobolQMCNormalSampler(torch.Size([128]), seed=seed)

    def our_ei(best: float, seed: int, n_draws: int = 128) -> FrozenAcquisition:
        return q_log_ei(surrogate, best, pending, incremental=False, seed=seed, n_draws=n_draws)

    def botorch_ei(best: float, seed: int) -> FrozenAcquisition:
        def make(model: Model) -> qLogExpectedImprovement:
            return qLogExpectedImprovement(model, best, sampler=sampler(seed), X_pending=pending)

        return from_botorch(make, surrogate, name="qLogEI", is_log=True)

    def botorch_ucb(seed: int) -> FrozenAcquisition:
        def make(model: Model) -> qUpperConfidenceBound:
            return qUpperConfidenceBound(model, 1.0, sampler=sampler(seed), X_pending=pending)

        return from_botorch(make, surrogate, name="qUCB", is_log=False)

    print("error of the batch's value         all   best quarter")
    for best in (5.0, 7.0, 8.0):
        truth = our_ei(best, 99, 2**15)
        print(f"q_log_ei over {best:.0f}           {errors(partial(our_ei, best), truth, X)}")
        print(f"BoTorch qLogEI over {best:.0f}     {errors(partial(botorch_ei, best), truth, X)}")
    truth = q_ucb(surrogate, 1.0, pending, seed=99, n_draws=2**15)
    print(f"q_ucb                     {errors(lambda seed: q_ucb(surrogate, 1.0, pending, seed=seed), truth, X)}")
    print(f"BoTorch qUCB              {errors(botorch_ucb, truth, X)}")


def seconds(call: Callable[[], object]) -> float:
    """Return the least of three times that a call takes."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def print_seconds(surrogate: ExactGP) -> None:
    """Print what valuing a pool takes, and choosing 24 of it."""
    pool = codes(N_POOL, 4)
    pending = pool[:N_PENDING]
    print(f"\nseconds for {N_POOL} objects, {N_LABELS} labels, {N_PENDING} pending")
    for acquisition in (
        ucb(surrogate, 1.0),
        q_ucb(surrogate, 1.0, pending),
        q_log_ei(surrogate, 7.0, pending),
        max_value_entropy(surrogate, pool, pending),
    ):
        print(f"{acquisition.name:18} {seconds(lambda a=acquisition: a(pool)):.3f}")

    def choose() -> list[int]:
        return greedy_batch(surrogate, pool, 24, X_pending=pending, generator=Generator().manual_seed(0))

    print(f"{'greedy_batch of 24':18} {seconds(choose):.3f}")
    classifier = FeasibilityClassifier()
    X = codes(N_LABELS, 5)
    print(f"{'feasibility fit':18} {seconds(lambda: classifier.fit(X, (X == 3).sum(-1) < 3)):.3f}")


def print_sweeps() -> None:
    """Print how soon 300 bounded labels of correlated objects settle."""
    print("\nnoise of a label   sweeps   seconds   settled")
    generator = Generator().manual_seed(0)
    x = torch.rand(300, 1, generator=generator, dtype=torch.float64)
    K = torch.exp(-0.5 * ((x - x.mT) / 0.3).square()) + 1e-6 * torch.eye(300, dtype=torch.float64)
    f = torch.linalg.cholesky(K) @ torch.randn(300, generator=generator, dtype=torch.float64)
    lower = torch.where(f > 0.3, 0.3, -math.inf).double()
    upper = torch.where(f > 0.3, math.inf, 0.3).double()
    for variance in (1.0, 1e-2, 1e-6, 0.0):
        start = time.perf_counter()
        sites = fit_sites(torch.zeros_like(f), K, torch.full_like(f, variance), lower, upper)
        taken = time.perf_counter() - start
        print(f"{variance:<18g} {sites.sweeps:6d}   {taken:7.2f}   {'yes' if sites.converged else 'no'}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    surrogate = fitted()
    print_errors(surrogate)
    print_seconds(surrogate)
    print_sweeps()
