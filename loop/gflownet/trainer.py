"""Train a policy until it samples finished objects in proportion to a reward.

What the reward means belongs in `rewards`; whether the result may be trusted belongs to whoever asks.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Generic, Literal, get_args

import torch
from torch import Tensor

from flowscout.errors import ConfigError, NonFiniteError, ShapeError
from flowscout.loop.gflownet.losses import log_partition_variance, log_z_samples, trajectory_balance
from flowscout.loop.gflownet.policy import Policy
from flowscout.loop.gflownet.sampler import Draw, Trajectories, draw, log_prob, rollout
from flowscout.loop.gflownet.threads import one_thread
from flowscout.loop.spaces.protocol import S, Space

Loss = Literal["trajectory_balance", "log_partition_variance"]

UNIQUE_WINDOW = 10
"""Batches over which the share of unique objects is counted: 1,920 objects by default, because the share
depends on how many are drawn."""


@dataclass(frozen=True)
class TrainerSettings:
    """How a policy is trained; every field is stored with a sampler run.

    `batch_size` trajectories a step; a step takes a uniform action with probability `epsilon`; gradients are
    clipped to the norm `clip_norm`; `width` and `depth` are those of the policy's trunk.

    Raises:
        ConfigError: A value cannot be.
    """

    loss: Loss = "trajectory_balance"
    batch_size: int = 192
    learning_rate: float = 1e-2
    log_z_learning_rate: float = 0.1
    epsilon: float = 0.02
    clip_norm: float = 10.0
    width: int = 128
    depth: int = 2

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise ConfigError(
                f"The loss is {self.loss!r}, expected one of {', '.join(get_args(Loss))}. Choose one."
            )
        least = {"batch_size": 2, "width": 1, "depth": 1, "learning_rate": 0, "log_z_learning_rate": 0}
        for name, low in least.items():
            if not getattr(self, name) >= low:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, expected at least {low}. Omit it for the default."
                )
        if not 0 <= self.epsilon <= 1:
            raise ConfigError(f"epsilon is {self.epsilon!r}, expected a probability. Choose a value like 0.02.")
        if not self.clip_norm > 0:
            raise ConfigError(f"clip_norm is {self.clip_norm!r}, expected a positive norm. Leave it at 10.")


@dataclass(frozen=True)
class TrainingRecord:
    """What one call of `fit` did.

    `loss` is the mean loss of each step; `log_z` the policy's estimate at the end; `unique_share` the number
    of different keys over the number of objects in the last `UNIQUE_WINDOW` batches, explored ones included;
    `seconds` the wall time with the reward's, and `reward_seconds` the reward's alone.
    """

    steps: int
    loss: tuple[float, ...]
    log_z: float
    unique_share: float
    seconds: float
    reward_seconds: float


class Trainer(Generic[S]):
    """Hold a policy, its optimiser and its random numbers, and train it on one space and one reward.

    `log_reward` maps `b` finished states to their log-rewards, `b`, float32 or float64, all finite; what it
    returns is detached. `space.log_symmetry` is subtracted from it, so that keys are sampled in proportion to
    R. `policy_state` warm-starts the policy from another trainer's `policy.state_dict()`; the optimiser
    starts fresh, and so does `log_z`, which the first step sets from its batch: the reward may have changed.

    The same arguments on the same machine give the same policy to the last bit; the global random numbers are
    neither read nor moved. The policy runs on one CPU thread, the reward on as many as the caller has set.
    """

    def __init__(
        self,
        space: Space[S],
        log_reward: Callable[[S], Tensor],
        *,
        seed: int = 0,
        settings: TrainerSettings | None = None,
        policy_state: Mapping[str, Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.space = space
        self.log_reward = log_reward
        self.settings = TrainerSettings() if settings is None else settings
        self.generator = torch.Generator(device).manual_seed(seed)
        on_cpu = self.generator.device.type == "cpu"
        self.policy = Policy(
            space.encoding_dim,
            space.n_actions,
            # One stream for weights and samples where that can be: two of one seed would be correlated.
            generator=self.generator if on_cpu else torch.Generator().manual_seed(seed),
            width=self.settings.width,
            depth=self.settings.depth,
        ).to(device)
        if policy_state is not None:
            _load_policy(self.policy, policy_state)
        self._network = [p for name, p in self.policy.named_parameters() if name != "log_z"]
        self._optimiser = torch.optim.Adam(
            [
                {"params": self._network, "lr": self.settings.learning_rate},
                {"params": [self.policy.log_z], "lr": self.settings.log_z_learning_rate},
            ],
            fused=True,
        )
        self._steps = 0
        self._reward_seconds = 0.0

    def fit(self, steps: int, *, progress: Callable[[int], None] | None = None) -> TrainingRecord:
        """Take `steps` training steps and return their record; `progress` gets 1, 2, ... after each.

        Raises:
            NonFiniteError: A log-reward, loss or gradient is not finite; the message names the term and the
                object. The weights are those before the failing step.
            ShapeError: The reward did not return one value per object.
        """
        started, self._reward_seconds = time.perf_counter(), 0.0
        losses: list[Tensor] = []
        recent: deque[S] = deque(maxlen=UNIQUE_WINDOW)
        for step in range(1, steps + 1):
            trajectories = self._sample()
            losses.append(self._update(trajectories, self._target(trajectories.terminal)))
            recent.append(trajectories.terminal)
            if progress is not None:
                progress(step)
        return TrainingRecord(
            steps=steps,
            loss=tuple(torch.stack(losses).tolist()) if losses else (),
            log_z=float(self.policy.log_z.detach()),
            unique_share=self._unique_share(recent),
            seconds=time.perf_counter() - started,
            reward_seconds=self._reward_seconds,
        )

    @one_thread()
    def draw(self, n: int, *, generator: torch.Generator) -> Draw[S]:
        """Return `n` finished objects of the policy; training's own random numbers are not touched."""
        return draw(self.space, self.policy, n, generator=generator)

    @one_thread()
    def log_prob(self, terminal: S) -> Tensor:
        """Return the exact log-probability of each finished object of a tree, float32 `b`."""
        return log_prob(self.space, self.policy, terminal)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that training needs to go on to the last bit: tensors and numbers only."""
        return deepcopy(
            {
                "policy": self.policy.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "generator": self.generator.get_state(),
                "steps": self._steps,
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, on a trainer made with the same arguments.

        Raises:
            ShapeError: The state belongs to a policy of another shape.
        """
        _load_policy(self.policy, state["policy"])
        self._optimiser.load_state_dict(deepcopy(state["optimiser"]))
        self.generator.set_state(state["generator"].cpu())
        self._steps = int(state["steps"])

    @one_thread()
    def _sample(self) -> Trajectories[S]:
        settings = self.settings
        return rollout(
            self.space, self.policy, settings.batch_size, generator=self.generator, epsilon=settings.epsilon
        )

    def _target(self, terminal: S) -> Tensor:
        """Return log R of each state, its symmetry counted, float32 `b`."""
        started = time.perf_counter()
        log_r = self.log_reward(terminal).detach()
        self._reward_seconds += time.perf_counter() - started
        if log_r.shape != (len(terminal),):
            raise ShapeError(
                f"log_reward has shape {tuple(log_r.shape)}, expected ({len(terminal)},): one value per "
                "trajectory. If your reward returns a column, squeeze it: reward(x).squeeze(-1)."
            )
        self._require_finite("log_reward", log_r, terminal)
        return (log_r.to(terminal.device) - self.space.log_symmetry(terminal)).float()

    @one_thread()
    def _update(self, trajectories: Trajectories[S], log_target: Tensor) -> Tensor:
        log_pf, log_pb = trajectories.log_pf(self.policy), trajectories.log_pb.float().T
        by_batch = self.settings.loss == "log_partition_variance"
        if by_batch or self._steps == 0:
            with torch.no_grad():
                self.policy.log_z.copy_(log_z_samples(log_pf, log_pb, log_target).mean())
        if by_batch:
            losses = log_partition_variance(log_pf, log_pb, log_target)
        else:
            losses = trajectory_balance(log_pf, log_pb, log_target, self.policy.log_z)
        loss = losses.mean()
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._network, self.settings.clip_norm)
        if not bool(torch.isfinite(loss + norm)):
            self._explain(trajectories.terminal, log_pf, losses)
        self._optimiser.step()
        self._steps += 1
        return loss.detach()

    def _explain(self, terminal: S, log_pf: Tensor, losses: Tensor) -> None:
        self._require_finite("log_pf", log_pf.sum(dim=1), terminal)
        self._require_finite("loss", losses, terminal)
        raise NonFiniteError(
            "The norm of the gradient is not finite, expected a number. Lower the learning rate or the "
            f"exponent of the reward; the largest loss of the batch is {float(losses.detach().max()):.3g}."
        )

    def _require_finite(self, term: str, values: Tensor, terminal: S) -> None:
        finite = torch.isfinite(values)
        if bool(finite.all()):
            return
        bad = (~finite).nonzero().squeeze(1)
        name = self.space.decode(terminal[bad[:1].to(terminal.device)])[0]
        advice = (
            "Give impossible objects a low but finite log-reward."
            if term == "log_reward"
            else "Lower the learning rate, or check that the warm start's weights are finite."
        )
        value = float(values[bad[0]].detach())
        raise NonFiniteError(
            f"{term} is {value} for the object {name!r} ({len(bad)} of {len(values)} in the batch), "
            f"expected a finite number. {advice}"
        )

    def _unique_share(self, batches: deque[S]) -> float:
        keys = [self.space.key(text) for batch in batches for text in self.space.decode(batch)]
        return len(set(keys)) / len(keys) if keys else float("nan")


def _load_policy(policy: Policy, state: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(value.shape) for name, value in policy.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    if shapes != given:
        raise ShapeError(
            f"The policy's state has the shapes {given}, expected {shapes}. Warm-start only from a policy of "
            "the same space, width and depth, or start fresh."
        )
    policy.load_state_dict(dict(state))
