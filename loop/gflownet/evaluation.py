"""What can be said of a trained policy where its space is too large to enumerate.

Everything here asks the very reward that trained the policy. Exact laws of small spaces belong in `exact`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias

import torch
from torch import Tensor

from flowscout.errors import ConfigError, ShapeError
from flowscout.loop.gflownet.objectives import Batch, Objective
from flowscout.loop.gflownet.sampler import CHUNK_ROWS, estimate_log_prob, rollout, walk_back
from flowscout.loop.gflownet.threads import one_thread
from flowscout.loop.gflownet.trainer import Trainer
from flowscout.loop.gflownet.trajectories import Walk, batches
from flowscout.loop.spaces.protocol import S, Space

ConditionValues: TypeAlias = Tensor | Sequence[float] | float
"""One value of a condition, or one for each row."""


@dataclass(frozen=True)
class Correlation:
    """How log p goes with log R over `n` finished states; an exact sampler has 1 in all three.

    `slope` is that of log p on log R, by least squares. All are nan where log R, or log p, does not vary.
    """

    spearman: float
    pearson: float
    slope: float
    n: int


@dataclass(frozen=True)
class Bound:
    """A bound of log Z: the mean over `n` trajectories and its standard error."""

    value: float
    error: float
    n: int


@dataclass(frozen=True)
class TopK(Generic[S]):
    """The best different objects, the best first: `objects`, their `states` and `log_reward`, each `k` or fewer.

    `mean_distance` is that of all pairs, nan for a single object.
    """

    objects: list[str]
    states: S
    log_reward: Tensor
    mean_log_reward: float
    mean_distance: float


def condition_rows(
    trainer: Trainer[S], condition: ConditionValues | None, n: int | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return a condition's values, `n x k`, and what the policy reads of them, `n x c`; None without a condition.

    One value stands for all rows; otherwise there is one for each. `n` is None for as many rows as there are.

    Raises:
        ConfigError: A value came without a condition, the other way round, or it is none of the condition.
        ShapeError: There are neither one nor `n` values.
    """
    family = trainer.target.condition
    if family is None:
        if condition is not None:
            raise ConfigError(
                f"The condition {condition!r} came, expected none: this policy was made without a condition. "
                "Omit it, or give condition= when the policy is made."
            )
        return None, None
    if condition is None:
        raise ConfigError(
            f"No value of {family!r} came, expected one: the policy samples another law under each. "
            "Give condition=, a value for all objects or one for each."
        )
    values = family.check(torch.as_tensor(condition)).to(trainer.generator.device)
    n = len(values) if n is None else n
    if len(values) not in (1, n):
        raise ShapeError(
            f"{len(values)} conditions came for {n} objects, expected 1 or {n}. Give one value for all objects, "
            "or one for each."
        )
    values = values.expand(n, -1)
    return values, family.encode(values)


def log_rewards(trainer: Trainer[S], states: S, *, condition: ConditionValues | None = None) -> Tensor:
    """Return log R of finished states as training saw it, float32 `n`: of keys, the log-symmetry not taken off."""
    values, _ = condition_rows(trainer, condition, len(states))
    return trainer.target.given(trainer.target.outcome(states), values).float()


def correlation(
    trainer: Trainer[S],
    states: S,
    *,
    samples: int = 64,
    seed: int = 0,
    condition: ConditionValues | None = None,
) -> Correlation:
    """Compare log p with log R, less the log-symmetry, over finished states that training did not choose.

    log p is exact in a tree; elsewhere it is estimated from `samples` backward trajectories of each state, and
    errs downwards, so the slope is a little off while the policy is far from its optimum.
    """
    log_target = _log_target(trainer, states, condition)
    _, encoded = condition_rows(trainer, condition, len(states))
    generator = torch.Generator(states.device).manual_seed(seed)
    samples = 1 if trainer.space.is_tree else samples
    with one_thread():
        log_p = estimate_log_prob(
            trainer.space, trainer.policy, states, samples=samples, generator=generator, condition=encoded
        )
    return correlate(log_p, log_target)


def correlate(log_p: Tensor, log_reward: Tensor) -> Correlation:
    """Return the correlations of two columns, `n` each, and the slope of the first on the second."""
    if log_p.shape != log_reward.shape or log_p.ndim != 1:
        raise ShapeError(
            f"log_p has shape {tuple(log_p.shape)} and log_reward {tuple(log_reward.shape)}, expected two columns "
            "of one length. Give one number of each for every object."
        )
    p, r = log_p.double(), log_reward.double()
    covariance, variance = float((p - p.mean()) @ (r - r.mean())), float((r - r.mean()).square().sum())
    slope = covariance / variance if variance > 0 else math.nan
    return Correlation(_pearson(_ranks(p), _ranks(r)), _pearson(p, r), slope, len(p))


def elbo(
    trainer: Trainer[S],
    n: int = 2048,
    *,
    seed: int = 0,
    condition: ConditionValues | None = None,
) -> Bound:
    """Return a lower bound of log Z from `n` trajectories of the policy itself.

    It is the mean of log R + log P_B - log P_F, and lies below log Z by KL(P_F || P_B R / Z), so it is tight for
    an exact policy. It is blind to what the policy never samples: `eubo` sees that. Flow matching trains against
    a backward policy of its own; here a uniform one stands for it, and both bounds stay loose.
    """

    def sample(rows: Tensor, generator: torch.Generator, encoded: Tensor | None) -> Walk[S]:
        return rollout(trainer.space, trainer.policy, len(rows), generator=generator, condition=encoded)

    return _bound(trainer, n, sample, seed, condition)


def eubo(
    trainer: Trainer[S],
    states: S,
    *,
    seed: int = 0,
    condition: ConditionValues | None = None,
) -> Bound:
    """Return an upper bound of log Z from finished states that were drawn from the target R / Z.

    It is the mean of log R + log P_B - log P_F over one backward trajectory from each, and lies above log Z by
    KL(P_B R / Z || P_F): mass that the policy misses makes it large. Where a key has several states, `states`
    must be drawn among those too. Source: Blessing et al. 2024, arXiv:2406.07423.
    """

    def sample(rows: Tensor, generator: torch.Generator, encoded: Tensor | None) -> Walk[S]:
        walk, _ = walk_back(trainer.space, trainer.policy, states[rows], generator=generator, condition=encoded)
        return walk

    return _bound(trainer, len(states), sample, seed, condition)


def modes_found(space: Space[S], states: S, modes: S) -> int:
    """Return how many of the given modes, finished states, are among the states; each key counts once."""
    return len(set(space.keys(states)) & set(space.keys(modes)))


def separate_modes(space: Space[S], states: S, log_reward: Tensor, *, threshold: float, distance: float) -> int:
    """Return how many objects reach a log-reward and lie at least `distance` from one another.

    They are counted greedily, the best first, so that a mode is its own best object. `log_reward` is `n`.
    """
    good = _different(space, states, log_reward)
    good = good[log_reward[good] >= threshold]
    kept: list[S] = []
    for place in range(len(good)):
        one = states[good[place : place + 1]]
        if not kept or float(space.distance(one, type(one).cat(kept)).min()) >= distance:
            kept.append(one)
    return len(kept)


def top_k(space: Space[S], states: S, log_reward: Tensor, k: int) -> TopK[S]:
    """Return the `k` best different objects, or as many as there are; `log_reward` is `n`."""
    best = _different(space, states, log_reward)[:k]
    chosen, values, count = states[best], log_reward[best], len(best)
    apart = math.nan
    if count > 1:
        apart = float(space.distance(chosen, chosen).sum() / (count * (count - 1)))
    return TopK(space.decode(chosen), chosen, values, float(values.double().mean()), apart)


def _log_target(trainer: Trainer[S], states: S, condition: ConditionValues | None) -> Tensor:
    """Return what training balanced, float32 `n`: log R less the log-symmetry."""
    values, _ = condition_rows(trainer, condition, len(states))
    return trainer.target.target(states, trainer.target.outcome(states), values)


def _bound(
    trainer: Trainer[S],
    n: int,
    sample: Callable[[Tensor, torch.Generator, Tensor | None], Walk[S]],
    seed: int,
    condition: ConditionValues | None,
) -> Bound:
    """Return the mean of log R + log P_B - log P_F over `n` trajectories, sampled by rows of the condition."""
    if n < 2:
        raise ConfigError(f"{n!r} trajectories came, expected at least 2 for a mean and its error. Ask for more.")
    space, policy, device = trainer.space, trainer.policy, trainer.generator.device
    generator = torch.Generator(device).manual_seed(seed)
    # Trajectory balance, whatever the loss was: it needs nothing but log P_F, log P_B and log R.
    balance = Objective(backward_policy=trainer.objective.backward_policy)
    values, encoded = condition_rows(trainer, condition, n)
    found = []
    for rows in _chunks(n, max(1, CHUNK_ROWS // space.max_steps), device):
        chunk = None if encoded is None else encoded[rows]
        with one_thread():
            walk = sample(rows, generator, chunk)
        log_target = _log_target(trainer, walk.terminal, None if values is None else values[rows])
        with one_thread(), torch.no_grad():
            (paths,) = batches(space, walk, len(rows))
            outcome = balance(space, policy, Batch(paths, log_target, condition=chunk))
        found.append(outcome.log_z_samples.double())
    log_z = torch.cat(found)
    return Bound(float(log_z.mean()), float(log_z.std() / math.sqrt(n)), n)


def _chunks(n: int, size: int, device: torch.device) -> list[Tensor]:
    return [torch.arange(start, min(n, start + size), device=device) for start in range(0, n, size)]


def _different(space: Space[S], states: S, log_reward: Tensor) -> Tensor:
    """Return one place for each key, int64, by descending log-reward."""
    if log_reward.shape != (len(states),):
        raise ShapeError(
            f"log_reward has shape {tuple(log_reward.shape)}, expected ({len(states)},): one value per object. "
            "If your reward returns a column, squeeze it: reward(x).squeeze(-1)."
        )
    first: dict[str, int] = {}
    keys = space.keys(states)
    for place in log_reward.argsort(descending=True, stable=True).tolist():
        first.setdefault(keys[place], place)
    return torch.tensor(list(first.values()), dtype=torch.int64, device=log_reward.device)


def _pearson(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 0 else math.nan


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each value, float64 `n`, equal values sharing the mean of theirs."""
    _, number, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0) - (counts - 1) / 2
    return ranks[number].double()
