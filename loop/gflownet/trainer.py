"""Train a policy until it samples finished objects in proportion to a reward.

What the reward means belongs in `rewards`; whether the result may be trusted belongs to whoever asks.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from typing import Any, Generic

import torch
from torch import Tensor, nn

from flowscout.errors import ConfigError, NonFiniteError
from flowscout.loop.gflownet.behaviour import Behaviour, Explorer
from flowscout.loop.gflownet.by_hand import balance_by_hand, can_balance_by_hand
from flowscout.loop.gflownet.checkpoints import pack, unpack
from flowscout.loop.gflownet.conditions import Condition
from flowscout.loop.gflownet.objectives import Batch, Objective, Outcome
from flowscout.loop.gflownet.optimiser import FlatAdam
from flowscout.loop.gflownet.policy import Policy, load_policy
from flowscout.loop.gflownet.sampler import Draw, draw, log_prob
from flowscout.loop.gflownet.settings import TrainerSettings, TrainingRecord
from flowscout.loop.gflownet.targets import Target, TimedTarget, require_finite
from flowscout.loop.gflownet.threads import one_thread
from flowscout.loop.spaces.protocol import S, Space

LOSS_WINDOW = 50
"""Steps whose mean loss is compared with a target."""

CUDA_LOOK = 16
"""Steps between two looks at whether one has failed, where a look waits for the device."""

LOG_Z_RATE = 0.1
"""How far a log Z that no loss trains moves towards the estimate of each batch."""


class Trainer(Generic[S]):
    """Hold a policy, its optimiser and its random numbers, and train it on one space and one reward.

    `log_reward` maps `b` finished states to their log-rewards, `b`, float32 or float64, all finite; what it
    returns is detached. `space.log_symmetry` is subtracted from it, so that keys are sampled in proportion to
    R. `partial_log_reward` says the same of unfinished states, for the forward-looking loss. With a `condition`,
    one policy learns a family of targets. `data` are finished states that the behaviour may draw from. `trunk`
    takes the place of the policy's MLP.

    `policy_state` warm-starts the policy from another trainer's `policy.state_dict()`; the optimiser
    starts fresh, and so does `log_z`, which the first step sets from its batch: the reward may have changed.

    The same arguments on the same machine give the same policy to the last bit; the global random numbers are
    neither read nor moved. The policy runs on one CPU thread, the reward on as many as the caller has set.

    Raises:
        ConfigError: The loss cannot be used on the space, or with what else is given; the message says why.
    """

    def __init__(
        self,
        space: Space[S],
        log_reward: Callable[[S], Tensor],
        *,
        partial_log_reward: Callable[[S], Tensor] | None = None,
        condition: Condition | None = None,
        data: S | None = None,
        seed: int = 0,
        settings: TrainerSettings | None = None,
        policy_state: Mapping[str, Tensor] | None = None,
        trunk: nn.Module | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.space = space
        self.settings = TrainerSettings() if settings is None else settings
        self.objective = self.settings.objective
        _require_legal(self.objective, self.settings.behaviour, space, partial_log_reward, data)
        self.generator = torch.Generator(device).manual_seed(seed)
        self._target = TimedTarget(space, log_reward, partial_log_reward=partial_log_reward, condition=condition)
        # One stream for weights and samples where that can be: two of one seed would be correlated.
        on_cpu = self.generator.device.type == "cpu"
        weights = self.generator if on_cpu else torch.Generator().manual_seed(seed)
        self.policy = make_policy(space, self.settings, weights, condition=condition, trunk=trunk).to(device)
        if policy_state is not None:
            load_policy(self.policy, policy_state)
        self._explorer = Explorer(
            self._target,
            self.policy,
            self.objective,
            self.settings.behaviour,
            size=self.settings.batch_size,
            groups=self._groups(),
            generator=self.generator,
            data=data,
        )
        rate, log_z_rate = self.settings.learning_rate, self.settings.log_z_learning_rate
        self._adam = FlatAdam(
            self.policy.network_parameters(), learning_rate=rate, clip_norm=self.settings.clip_norm
        )
        self._log_z_adam = FlatAdam(self.policy.log_z_parameters(), learning_rate=log_z_rate, clip_norm=None)
        self._by_hand = can_balance_by_hand(self.objective, self.policy)
        self._queue: deque[Batch[S]] = deque()
        self._unseen: list[tuple[Tensor, Batch[S], Outcome]] = []
        self._steps = 0
        self._warm_start = policy_state is not None

    @property
    def log_reward(self) -> Callable[[S], Tensor]:
        """The reward. Setting another drops what was sampled ahead and scores again what is remembered.

        If the other fails there, the first one stays, with all that it has scored.
        """
        return self._target.log_reward

    @log_reward.setter
    def log_reward(self, log_reward: Callable[[S], Tensor]) -> None:
        before, self._target.log_reward = self._target.log_reward, log_reward
        try:
            self._explorer.rescore()
        except BaseException:
            self._target.log_reward = before
            raise
        self._queue.clear()

    @property
    def target(self) -> Target[S]:
        """The reward that training uses: checked, with symmetry and condition counted in."""
        return self._target

    @property
    def steps(self) -> int:
        """The number of training steps taken."""
        return self._steps

    def fit(
        self,
        steps: int | None = None,
        *,
        seconds: float | None = None,
        target_loss: float | None = None,
        until: Callable[["Trainer[S]"], bool] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> TrainingRecord:
        """Take training steps until the first limit is reached and return their record.

        The limits are a number of `steps`, of `seconds`, a mean loss of the last `LOSS_WINDOW` steps, and a
        function `until` of the trainer, asked every `LOSS_WINDOW` steps. `progress` gets 1, 2, ... after each
        step.

        Raises:
            ConfigError: There is no limit.
            NonFiniteError: A log-reward, loss or gradient is not finite; the message names the term and the
                object. The weights are those before the failing step.
            ShapeError: The reward did not return one value per object.
        """
        if steps is None and seconds is None and target_loss is None and until is None:
            raise ConfigError("fit() came without a limit, expected steps, seconds, target_loss or until.")
        started, first = time.perf_counter(), self._steps
        losses: list[Tensor] = []
        stopped_by = "steps"
        with self._target.timed(torch.get_num_threads()), one_thread():
            while steps is None or len(losses) < steps:
                losses.append(self._learn(self._next()))
                if progress is not None:
                    progress(len(losses))
                if seconds is not None and time.perf_counter() - started >= seconds:
                    stopped_by = "seconds"
                    break
                if len(losses) % LOSS_WINDOW == 0:
                    if target_loss is not None and float(torch.stack(losses[-LOSS_WINDOW:]).mean()) <= target_loss:
                        stopped_by = "target_loss"
                        break
                    if until is not None and until(self):
                        stopped_by = "until"
                        break
            self._look()
        return TrainingRecord(
            steps=len(losses),
            loss=tuple(torch.stack(losses).tolist()) if losses else (),
            log_z=float(self.policy.log_z.detach()),
            seconds=time.perf_counter() - started,
            reward_seconds=self._target.seconds,
            first_step=first,
            warm_start=self._warm_start,
            stopped_by=stopped_by,
        )

    @one_thread()
    def draw(self, n: int, *, generator: torch.Generator, condition: Tensor | None = None) -> Draw[S]:
        """Return `n` finished objects of the policy; training's own random numbers are not touched.

        `condition` is encoded, `n x c`.
        """
        return draw(self.space, self.policy, n, generator=generator, condition=condition)

    @one_thread()
    def log_prob(self, terminal: S) -> Tensor:
        """Return the exact log-probability of each finished object of a tree, float32 `b`."""
        return log_prob(self.space, self.policy, terminal)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that training needs to go on to the last bit: tensors, numbers and text only."""
        return deepcopy(
            {
                "policy": self.policy.state_dict(),
                "optimiser": {"network": self._adam.state_dict(), "log_z": self._log_z_adam.state_dict()},
                "generator": self.generator.get_state(),
                "replay": self._explorer.replay.state_dict(),
                "ahead": pack(list(self._queue)),
                "steps": self._steps,
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, on a trainer made with the same arguments.

        Raises:
            ShapeError: The state belongs to a policy of another shape.
        """
        load_policy(self.policy, state["policy"])
        self._adam.load_state_dict(state["optimiser"]["network"])
        self._log_z_adam.load_state_dict(state["optimiser"]["log_z"])
        self.generator.set_state(state["generator"].cpu())
        self._explorer.replay.load_state_dict(state["replay"])
        self._queue = deque(unpack(self.space, state["ahead"], self.generator.device))
        self._steps = int(state["steps"])

    def _groups(self) -> int:
        # A variance needs two trajectories of each condition: that of one is 0, and teaches nothing.
        each = 2 if self.objective.loss == "log_partition_variance" else 1
        return min(self.settings.groups, self.settings.batch_size // each)

    def _next(self) -> Batch[S]:
        if not self._queue:
            before, replay = self.generator.get_state(), copy(self._explorer.replay)
            try:
                self._queue.extend(self._explorer.sample(self._steps))
            except BaseException:  # a reward may raise anything, and be interrupted
                # So that a reward that is mended meets the same objects.
                self.generator.set_state(before)
                self._explorer.replay = replay
                raise
        return self._queue.popleft()

    def _learn(self, batch: Batch[S]) -> Tensor:
        log_z = self.policy.log_z.detach().clone()
        try:
            return self._update(batch)
        except Exception:
            with torch.no_grad():
                self.policy.log_z.copy_(log_z)
            self._queue.appendleft(batch)
            raise

    def _update(self, batch: Batch[S]) -> Tensor:
        outcome = self._gradient(batch)
        loss = outcome.losses.detach().mean()
        total = loss if outcome.extra is None else loss + outcome.extra.detach()
        self._adam.learning_rate = self.settings.learning_rate_at(self._steps)
        if total.device.type == "cuda":
            failed = self._adam.step(total.isfinite().logical_not_())
            self._log_z_adam.step(failed)
            self._unseen.append((torch.as_tensor(failed), batch, outcome.detach()))
            if len(self._unseen) >= CUDA_LOOK:
                self._look()
        else:
            failed = self._adam.step(not math.isfinite(total.item()))
            if failed:
                self._explain(batch, outcome)
            self._log_z_adam.step()
        self._steps += 1
        return loss

    def _gradient(self, batch: Batch[S]) -> Outcome:
        """Return the outcome of a batch, and leave its gradient in the parameters."""
        set_log_z = self._steps == 0 or not self.objective.needs_log_z
        if self._by_hand and not set_log_z:
            return balance_by_hand(self.policy, batch)
        self._adam.zero_grad()
        self._log_z_adam.zero_grad()
        outcome = self.objective(self.space, self.policy, batch)
        if set_log_z:
            outcome = self._set_log_z(batch, outcome)
        loss = outcome.losses.mean()
        total = loss if outcome.extra is None else loss + outcome.extra
        total.backward()  # type: ignore[no-untyped-call]
        if self._steps == 0:
            # Log Z has just been set to the batch's mean: its gradient is rounding, and Adam heeds no size.
            self._log_z_adam.zero_grad()
        return outcome

    def _look(self) -> None:
        """Look whether a step has failed, which waits for the device; a failed step has changed no weight."""
        unseen, self._unseen = self._unseen, []
        for failed, batch, outcome in unseen:
            if bool(failed):
                self._explain(batch, outcome)

    def _set_log_z(self, batch: Batch[S], outcome: Outcome) -> Outcome:
        """Set log Z from the batch: at the first step, and, where no loss trains it, a little at every step.

        Under conditions a loss of its own trains it.
        """
        with torch.no_grad():
            estimate = outcome.log_z_samples.mean()
            if self._steps == 0:
                self.policy.log_z.copy_(estimate)
            elif batch.condition is None:
                self.policy.log_z.lerp_(estimate, LOG_Z_RATE)
        return self.objective(self.space, self.policy, batch) if self.objective.needs_log_z else outcome

    def _explain(self, batch: Batch[S], outcome: Outcome) -> None:
        """Say which term of a failed step is not finite."""
        paths = batch.trajectories
        stuck = (~paths.masks.any(1)).nonzero().squeeze(1)
        if len(stuck):
            row = paths.rows[stuck[:1]]
            name = self.space.decode(paths.terminal[row])[0]
            raise ConfigError(
                f"{self.space!r} has a state with no legal action on the way to {name!r}, expected one in every "
                "unfinished state. Correct its forward_mask: flowscout.testing.spaces.SpaceContract finds it."
            )
        require_finite(self.space, "log_pf", outcome.log_pf.sum(dim=1), paths.terminal)
        require_finite(self.space, "loss", outcome.losses, paths.terminal)
        raise NonFiniteError(
            "The norm of the gradient is not finite, expected a number. Lower the learning rate or the "
            f"exponent of the reward; the largest loss of the batch is {float(outcome.losses.detach().max()):.3g}."
        )


def _require_legal(
    objective: Objective, behaviour: Behaviour, space: Space[Any], partial: object, data: Any
) -> None:
    reason = objective.refusal(space, partial_reward=partial is not None)
    if reason is None and behaviour.data and data is None:
        reason = (
            f"The behaviour draws {behaviour.data:.0%} of each batch from data, but none came. Give data, "
            "finished "
            "states: space.parse([...])."
        )
    if reason is None and data is not None and not (len(data) > 0 and bool(space.done(data).all())):
        reason = (
            f"{int((~space.done(data)).sum())} of {len(data)} rows of data are unfinished, expected one or more "
            "finished states. Give space.parse([...])."
        )
    if reason is not None:
        raise ConfigError(reason)


def make_policy(
    space: Space[S],
    settings: TrainerSettings,
    generator: torch.Generator,
    *,
    condition: Condition | None = None,
    trunk: nn.Module | None = None,
) -> Policy:
    """Return an untrained policy with the heads that a training needs; `generator` is a CPU one."""
    return Policy(
        space.encoding_dim,
        space.n_actions,
        generator=generator,
        width=settings.width,
        depth=settings.depth,
        n_backward_actions=space.n_backward_actions if settings.objective.learns_backward else 0,
        log_flow=settings.objective.needs_log_flow,
        condition_dim=0 if condition is None else condition.dim,
        rounds=settings.precision == "bfloat16",
        trunk=trunk,
        prior=getattr(space, "has_prior", False),
    )
