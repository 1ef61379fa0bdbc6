"""A GFlowNet as a proposer: a policy trained for the round's reward, and the check that it may be trusted.

How a policy is trained belongs in `loop.gflownet`.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor

from flowscout.loop.gflownet import Draw, Trainer, TrainerSettings, TrainingRecord, log_prob
from flowscout.loop.gflownet import draw as draw_from
from flowscout.loop.gflownet.objectives import Loss
from flowscout.loop.gflownet.policy import Policy
from flowscout.loop.gflownet.trainer import make_policy
from flowscout.loop.proposers.anchors import key_codes, make_anchors
from flowscout.loop.proposers.protocol import (
    TEST_DRAWS,
    UNIQUE_RANGE,
    Problem,
    Samples,
    Trained,
    holds_test_draws,
    is_large,
)
from flowscout.loop.proposers.uniform import uniform_states
from flowscout.loop.rewards import FrozenReward
from flowscout.loop.spaces.protocol import EditableSpace, Space
from flowscout.surrogates import spearman

ANCHORS = 0.5
"""The share of anchors in a training batch where the proposer is not told another."""

SLOPE_RANGE = (0.7, 1.3)
"""Where the slope of log p on log R must lie for the sampler to be trusted: it is 1 for the exact one."""

LEAST_SPREAD = 0.5
"""Nats by which log R must vary among a policy's own samples: where it is flat there was nothing to learn from,
and any policy looks right."""

CURVE_POINTS = 60
"""How many points of the loss are kept of a training, for a picture of it."""

# Beside the policy's weights, whose names they must not be.
_ANCHORS = "anchors"
_EXPONENT = "exponent"
_START = 0.15
_EXPONENT_STEP = 1.8
_MAX_ADJUSTMENTS = 8
_PATIENCE = 3
_SMALL_LOSS = 1.0  # a residual of 1 nat


@dataclass(frozen=True)
class GFlowNetProposer:
    """Samples objects in proportion to the reward, by a policy trained for it.

    With `adjust`, the exponent is moved until the share of unique samples, those that are labelled already left
    out, lies in `UNIQUE_RANGE`; with a warm start it starts from where the earlier one ended. `anchors` is the
    share of each training batch whose trajectories end in good labelled objects, in conservative edits of them,
    and in children of them; None takes `ANCHORS` of it in spaces of `LARGE` and more, and none elsewhere. A
    sample that was an anchor has that for its origin. Where there are anchors the exponent stays: the samples of
    so large a space differ at any exponent that a policy can still learn. `loss` None takes the log-partition
    variance with anchors, whose far-off rewards throw a learned log Z about, and trajectory balance without.

    Raises:
        ConfigError: A share cannot be.
    """

    steps: int = 150
    adjust: bool = True
    anchors: float | None = None
    loss: Loss | None = None
    settings: TrainerSettings = field(default_factory=TrainerSettings)
    kind: str = "gflownet"

    def __post_init__(self) -> None:
        if self.anchors is not None:
            _ = self._anchored(self.anchors)  # which checks the share

    def train(self, problem: Problem, *, seed: int, warm_start: Mapping[str, Tensor] | None = None) -> Trained:
        """Train a policy on the reward; judge it on a held-out pool."""
        share = self._share(problem)
        anchors = make_anchors(problem, seed=seed) if share else None
        settings = self._anchored(share)
        trainer = Trainer(
            problem.space,
            problem.reward,
            data=anchors,
            seed=seed,
            settings=settings,
            policy_state=None if warm_start is None else _split(warm_start)[0],
            device=problem.device,
        )
        reward, adjustments = problem.reward, 0
        labelled = key_codes(problem.space, problem.labelled)
        if self.adjust and not share and holds_test_draws(problem.space):
            start = None if warm_start is None else warm_start.get(_EXPONENT)
            exponent = reward.exponent * _START if start is None else float(start)
            reward, adjustments = self._adjust_exponent(trainer, reward.with_exponent(exponent), labelled, seed)
        record = trainer.fit(self.steps)
        unique = unique_share(trainer, labelled, seed)
        health = health_of(problem.space, reward, trainer, seed)
        tensors = dict(trainer.policy.state_dict()) | {_EXPONENT: torch.tensor(reward.exponent)}
        counts = {"unique_share": unique, "adjustments": adjustments, "n_anchors": 0}
        if anchors is not None:
            tensors[_ANCHORS] = key_codes(problem.space, anchors)
            counts["n_anchors"] = len(anchors)
        started = {"steps": self.steps, "anchors": share, "warm_start": warm_start is not None}
        return Trained(
            tensors=tensors,
            reward=reward,
            params=asdict(settings) | started,
            diagnostics=diagnostics_of(record) | health | counts | {"all_steps": trainer.steps},
            healthy=is_healthy(health),
        )

    def _share(self, problem: Problem) -> float:
        """Return the share of anchors in a training batch; where nothing is labelled there are none."""
        if len(problem.labelled) == 0:
            return 0.0
        if self.anchors is not None:
            return self.anchors
        return ANCHORS if is_large(problem.space) else 0.0

    def _anchored(self, share: float) -> TrainerSettings:
        """Return the settings with that share of anchors in a batch, in the place of other given data."""
        loss = self.loss or ("log_partition_variance" if share else "trajectory_balance")
        return replace(self.settings, loss=loss, behaviour=replace(self.settings.behaviour, data=share))

    def _adjust_exponent(
        self, trainer: Trainer[Any], reward: FrozenReward, labelled: Tensor, seed: int
    ) -> tuple[FrozenReward, int]:
        """Return the reward at an exponent whose samples are unique in the share wanted, and the tries it took.

        It starts from the reward's own, which is flat for a new policy, and sharpens while the policy learns: one
        that has collapsed on a few objects hardly finds back. Between a flat and a sharp exponent it bisects.
        """
        exponent, flat, sharp = reward.exponent, 0.0, 0.0
        for tries in range(1, _MAX_ADJUSTMENTS + 1):
            reward = reward.with_exponent(exponent)
            trainer.log_reward = reward
            self._catch_up(trainer)
            unique = unique_share(trainer, labelled, seed)
            if _within(unique, UNIQUE_RANGE):
                return reward, tries
            if unique > UNIQUE_RANGE[1]:
                flat = exponent
            else:
                sharp = exponent
            if flat and sharp:
                exponent = (flat * sharp) ** 0.5
            else:
                exponent = exponent * _EXPONENT_STEP if flat else exponent / _EXPONENT_STEP
        return reward, tries

    def _catch_up(self, trainer: Trainer[Any]) -> None:
        """Train until the loss is small or patience ends: before that, its samples say nothing of the reward."""
        for _ in range(_PATIENCE):
            if _recent_loss(trainer.fit(max(1, self.steps // 3))) < _SMALL_LOSS:
                return

    def draw(self, problem: Problem, tensors: Mapping[str, Tensor], n: int, *, seed: int) -> Samples:
        """Draw from the trained policy."""
        space = problem.space
        policy = make_policy(space, self.settings, Generator().manual_seed(0))
        weights, anchors = _split(tensors)
        policy.load_state_dict(weights)
        policy.to(problem.device)
        found = draw_from(space, policy, n, generator=Generator(problem.device).manual_seed(seed))
        log_prob = _key_log_prob(space, policy, found)
        if anchors is None:
            return Samples(found.states, log_prob)
        known = torch.isin(key_codes(space, found.states), anchors.cpu())
        return Samples(found.states, log_prob, tuple("anchor" if one else self.kind for one in known.tolist()))


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the policy's weights, and the codes of the anchors it was trained on, if there were any."""
    weights = {name: tensor for name, tensor in tensors.items() if name not in (_ANCHORS, _EXPONENT)}
    return weights, tensors.get(_ANCHORS)


def _key_log_prob(space: EditableSpace[Any], policy: Policy, found: Draw[Any]) -> Tensor:
    """Return the log-probability of each drawn object, `n`: the sum over the states that share its key."""
    twins = space.log_symmetry(found.states) > 0
    if not bool(twins.any()):
        return found.log_pf
    other = log_prob(space, policy, space.image(found.states))
    return torch.where(twins, torch.logaddexp(found.log_pf, other), found.log_pf)


def unique_share(trainer: Trainer[Any], labelled: Tensor, seed: int) -> float:
    """Return the share of different objects among the samples that are not `labelled`, `n` codes of keys."""
    device = trainer.generator.device
    found = trainer.draw(TEST_DRAWS, generator=Generator(device).manual_seed(seed))
    codes = key_codes(trainer.space, found.states)
    fresh = codes[~torch.isin(codes, labelled)]
    return len(torch.unique(fresh)) / max(1, len(fresh))


def health_of(
    space: Space[Any], log_reward: Callable[[Any], Tensor], trainer: Trainer[Any], seed: int
) -> dict[str, float]:
    """Compare log p with log R on a held-out pool: half drawn by uniform steps, half from the policy itself."""
    device = trainer.generator.device
    drawn = trainer.draw(TEST_DRAWS, generator=Generator(device).manual_seed(seed + 1)).states
    found = []
    for states in (uniform_states(space, TEST_DRAWS, seed=seed, device=device), drawn):
        log_p = log_prob(space, trainer.policy, states).double().cpu()
        log_r = log_reward(states).double().cpu() - space.log_symmetry(states).cpu()  # no reward is on a GPU
        found.append((log_p, log_r))
    log_p, log_r = (torch.cat(part) for part in zip(*found, strict=True))
    centred_p, centred_r = log_p - log_p.mean(), log_r - log_r.mean()
    variance = (centred_r @ centred_r).item()
    slope = (centred_p @ centred_r).item() / variance if variance > 0 else 0.0
    spread = log_r[TEST_DRAWS:].std().item()
    return {"slope": slope, "spearman": spearman(log_p, log_r) or 0.0, "spread": spread}


def is_healthy(health: Mapping[str, float]) -> bool:
    """Return whether a policy may be trusted: it has learned something, and that is the reward."""
    learned = health["spread"] >= LEAST_SPREAD
    return learned and _within(health["slope"], SLOPE_RANGE) and health["spearman"] > 0.5


def diagnostics_of(record: TrainingRecord) -> dict[str, Any]:
    """Return what is stored of a training."""
    return {
        "steps": record.steps,
        "loss": _recent_loss(record),
        "loss_curve": _curve(record.loss),
        "log_z": record.log_z,
        "seconds": record.seconds,
        "reward_seconds": record.reward_seconds,
    }


def _recent_loss(record: TrainingRecord) -> float:
    recent = record.loss[-10:]
    return sum(recent) / len(recent)


def _curve(losses: Sequence[float]) -> list[float]:
    """Return the mean loss of each of at most `CURVE_POINTS` equal parts of the training, to five digits."""
    n, parts = len(losses), min(CURVE_POINTS, len(losses))
    edges = [n * part // parts for part in range(parts + 1)]
    means = [sum(losses[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
    return [float(f"{mean:.5g}") for mean in means]


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]
