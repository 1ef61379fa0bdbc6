"""The engine's face: one object that learns to sample a space in proportion to a reward, without a campaign.

How it learns belongs in `trainer`; what is proposed and measured does not belong here.
"""

import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, cast

import torch
from torch import Tensor, nn

from flowscout.errors import ConfigError, NotFoundError, ObjectError, ShapeError
from flowscout.loop.gflownet.conditions import Condition
from flowscout.loop.gflownet.evaluation import (
    Bound,
    ConditionValues,
    Correlation,
    TopK,
    condition_rows,
    correlation,
    elbo,
    eubo,
    log_rewards,
    top_k,
)
from flowscout.loop.gflownet.policy import Policy
from flowscout.loop.gflownet.sampler import estimate_log_prob
from flowscout.loop.gflownet.settings import TrainerSettings, TrainingRecord
from flowscout.loop.gflownet.threads import one_thread
from flowscout.loop.gflownet.trainer import Trainer
from flowscout.loop.spaces.protocol import EditableSpace, S, Space

FORMAT = 1
"""The version of the files that `save` writes."""


@dataclass(frozen=True)
class Sample(Generic[S]):
    """Objects that a sampler drew, repeats included: `objects` as text, `states`, and `log_prob`, float32 `n`.

    `log_prob` is that of each object, exact. It is None where the space is not a tree: ask
    `GFlowNet.log_prob` for estimates there.
    """

    objects: list[str]
    states: S
    log_prob: Tensor | None

    def __len__(self) -> int:
        return len(self.objects)


@dataclass(frozen=True)
class Evaluation(Generic[S]):
    """What `GFlowNet.evaluate` found.

    `correlation` is over the pool; `elbo` bounds log Z from below and `eubo`, None without samples of the
    target, from above; `top` are the best of `n` samples, of which `unique_share` had different keys.
    """

    correlation: Correlation
    elbo: Bound
    eubo: Bound | None
    top: TopK[S]
    unique_share: float


class GFlowNet(Generic[S]):
    """Learn to sample the objects of a space in proportion to a reward.

    `log_reward` maps `b` finished states to their log-rewards, a tensor of `b` finite floating-point numbers on
    the states' device. The other arguments are those of `Trainer`; `data` may be given as texts. `device` is a
    GPU where there is one unless given.

    The same arguments on the same machine give the same sampler and the same samples.

    Raises:
        ConfigError: The loss cannot be used on the space, or with what else is given; the message says why.
        ObjectError: An object of the data is not in the space.
    """

    def __init__(
        self,
        space: Space[S],
        log_reward: Callable[[S], Tensor],
        *,
        partial_log_reward: Callable[[S], Tensor] | None = None,
        condition: Condition | None = None,
        data: Sequence[str] | S | None = None,
        settings: TrainerSettings | None = None,
        trunk: nn.Module | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        self.space = space
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.trainer: Trainer[S] = Trainer(
            space,
            log_reward,
            partial_log_reward=partial_log_reward,
            condition=condition,
            data=None if data is None else self._states(data),
            seed=seed,
            settings=settings,
            trunk=trunk,
            device=self.device,
        )
        # Not the seed itself: samples would repeat the noise that training began with.
        self._generator = torch.Generator(self.device).manual_seed(_derived(seed))

    @property
    def policy(self) -> Policy:
        """The network that is trained."""
        return self.trainer.policy

    @property
    def log_z(self) -> float:
        """What the sampler believes log Z to be: the log of the sum of R over all objects; 0 before training.

        Raises:
            ConfigError: It depends on the condition: ask `log_z_at`.
        """
        if self.policy.log_z_head is not None:
            raise ConfigError(
                "log_z was asked of a sampler with a condition, expected log_z_at(values): each value has its own."
            )
        return float(self.policy.log_z.detach())

    def log_z_at(self, values: ConditionValues) -> Tensor:
        """Return what the sampler believes log Z to be under values of its condition, float32 `n`.

        Raises:
            ConfigError: There is no condition, or the loss learns no log Z for each value.
        """
        loss = self.trainer.settings.loss
        if self.policy.log_z_head is not None and not self.trainer.objective.needs_log_z:
            raise ConfigError(
                f"log_z_at was asked after the loss {loss!r}, expected one that learns log Z under each "
                "condition. Train with trajectory_balance, or ask evaluate() for bounds."
            )
        _, encoded = condition_rows(self.trainer, values, None)
        with torch.no_grad():
            return self.policy.log_partition(encoded)

    def fit(
        self,
        steps: int | None = None,
        *,
        seconds: float | None = None,
        target_loss: float | None = None,
        until: Callable[[Trainer[S]], bool] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> TrainingRecord:
        """Train until the first limit is reached; call it again to go on. The arguments are `Trainer.fit`'s."""
        return self.trainer.fit(steps, seconds=seconds, target_loss=target_loss, until=until, progress=progress)

    def sample(self, n: int, *, seed: int | None = None, condition: ConditionValues | None = None) -> Sample[S]:
        """Return `n` objects, each drawn anew from the policy.

        Every call gives new ones; with a `seed` it gives the same ones each time. `condition` is one value for
        all, or one for each.
        """
        if n < 0:
            raise ConfigError(f"{n!r} samples were asked for, expected at least 0. Ask for more.")
        generator = self._generator
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(_derived(seed))
        _, encoded = condition_rows(self.trainer, condition, n)
        found = self.trainer.draw(n, generator=generator, condition=encoded)
        log_prob = self._of_keys(found.states, found.log_pf, 1, 0, encoded) if self.space.is_tree else None
        return Sample(self.space.decode(found.states), found.states, log_prob)

    def log_prob(
        self,
        objects: Sequence[str] | S,
        *,
        samples: int = 64,
        seed: int = 0,
        condition: ConditionValues | None = None,
    ) -> Tensor:
        """Return the log-probability of drawing each object, given as text or finished state, float32 `n`.

        It is exact in a tree. Elsewhere many trajectories lead to one object: it is estimated from `samples` of
        them, and errs downwards, the less the more samples. Where several states are one object, such as a
        sequence and its reverse complement, it is that of drawing any of them.

        Raises:
            ObjectError: An object is not in the space, or not finished.
        """
        states = self._states(objects)
        _, encoded = condition_rows(self.trainer, condition, len(states))
        log_p = self._of_states(states, samples, seed, encoded)
        return self._of_keys(states, log_p, samples, seed + 1, encoded)

    def evaluate(
        self,
        pool: Sequence[str] | S,
        *,
        target_samples: Sequence[str] | S | None = None,
        n: int = 2048,
        k: int = 10,
        samples: int = 64,
        seed: int = 0,
        condition: ConditionValues | None = None,
    ) -> Evaluation[S]:
        """Say how well the sampler follows the reward, without enumerating: see `Evaluation`.

        `pool` are objects that training did not choose, such as uniform ones or known ones; `target_samples`
        are drawn from R / Z by other means. The condition, if there is one, is a single value.
        """
        trainer, given = self.trainer, condition
        found = self.sample(n, seed=seed, condition=given)
        log_reward = log_rewards(trainer, found.states, condition=given)
        keys = set(self.space.keys(found.states))
        upper = None
        if target_samples is not None:
            upper = eubo(trainer, self._states(target_samples), seed=seed, condition=given)
        return Evaluation(
            correlation=correlation(trainer, self._states(pool), samples=samples, seed=seed, condition=given),
            elbo=elbo(trainer, n, seed=seed, condition=given),
            eubo=upper,
            top=top_k(self.space, found.states, log_reward, k),
            unique_share=len(keys) / max(1, n),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that training and sampling need to go on: tensors, numbers and text only."""
        return {
            "format": FORMAT,
            "space": self._space_name,
            "trainer": self.trainer.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, on a sampler made with the same arguments.

        On the same kind of device it goes on to the last bit; on another the random numbers start anew.

        Raises:
            ConfigError: The state is none of ours, or belongs to another space.
            ShapeError: It belongs to a policy of another shape.
        """
        if state.get("format") != FORMAT:
            raise ConfigError(
                f"The state has the format {state.get('format')!r}, expected {FORMAT}. Give what this version's "
                "save() or state_dict() made."
            )
        if state["space"] != self._space_name:
            raise ConfigError(
                f"The state belongs to {state['space']}, expected {self._space_name}. Make the sampler with the "
                "space that it was saved with."
            )
        trainer, generator = dict(state["trainer"]), state["generator"].cpu()
        if generator.shape != self._generator.get_state().shape:  # that of another kind of device
            generator, trainer["generator"] = self._generator.get_state(), self.trainer.generator.get_state()
        self.trainer.load_state_dict(trainer)
        self._generator.set_state(generator)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file, whole or not at all. The reward is not in it."""
        target = Path(path)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            part = Path(file.name)
            try:
                torch.save(self.state_dict(), file)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                part.unlink()
                raise
        part.replace(target)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from a file that `save` wrote, on a sampler made with the same arguments.

        Nothing in the file is executed.

        Raises:
            NotFoundError: There is no such file.
            ConfigError: It is none of ours, or belongs to another space.
            ShapeError: It belongs to a policy of another shape.
        """
        if not Path(path).is_file():
            raise NotFoundError(f"There is no file {str(path)!r}, expected one that save() wrote. Check the path.")
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise ConfigError(
                f"The file {str(path)!r} cannot be read, expected one that save() wrote. Save it again: {error}"
            ) from error
        self.load_state_dict(state if isinstance(state, Mapping) else {})

    @property
    def _space_name(self) -> str:
        kind = type(self.space)
        return kind.__name__ if kind.__repr__ is object.__repr__ else repr(self.space)

    def _states(self, objects: Sequence[str] | S) -> S:
        if isinstance(objects, str | Sequence):
            return self.space.parse(objects, self.device)
        states = objects.to(self.device)
        unfinished = (~self.space.done(states)).nonzero().squeeze(1)
        if len(unfinished):
            raise ObjectError(
                f"The state of row {int(unfinished[0])} is not finished ({len(unfinished)} of {len(states)} are "
                "not), expected finished objects. Make them with space.parse([...])."
            )
        return states

    def _of_states(self, states: S, samples: int, seed: int, encoded: Tensor | None) -> Tensor:
        if samples < 1:
            raise ShapeError(f"{samples!r} trajectories came for each object, expected at least 1. Ask for more.")
        samples = 1 if self.space.is_tree else samples
        generator = torch.Generator(self.device).manual_seed(seed)
        with one_thread():
            return estimate_log_prob(
                self.space, self.policy, states, samples=samples, generator=generator, condition=encoded
            )

    def _of_keys(self, states: S, log_p: Tensor, samples: int, seed: int, encoded: Tensor | None) -> Tensor:
        """Return the log-probability of each object, given those of states: the sum over all of its states."""
        twins = self.space.log_symmetry(states) > 0
        if not bool(twins.any()):
            return log_p
        if not hasattr(self.space, "image"):
            raise ConfigError(
                f"{self.space!r} has several states for one object but no image(), expected one to sum over them. "
                "Give the space image(), as flowscout.loop.spaces.EditableSpace says."
            )
        images = cast("EditableSpace[S]", self.space).image(states)
        other = self._of_states(images, samples, seed, encoded)
        return torch.where(twins, torch.logaddexp(log_p, other), log_p)


def _derived(seed: int) -> int:
    """Return another seed that follows from one, for a stream that is not correlated with its own."""
    return int.from_bytes(hashlib.blake2b(f"samples {seed}".encode(), digest_size=7).digest())
