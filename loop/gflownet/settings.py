"""How a policy is trained, and what a training did: values that are stored with a sampler run.

Training itself belongs in `trainer`.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from flowscout.errors import ConfigError
from flowscout.loop.gflownet.behaviour import Behaviour
from flowscout.loop.gflownet.objectives import BackwardPolicy, Loss, Objective, ResidualName

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainerSettings:
    """How a policy is trained; every field is stored with a sampler run.

    `loss`, `backward_policy`, `residual` and `decay` (of sub-trajectory balance) are those of `Objective`;
    `behaviour` says what is sampled. `batch_size` trajectories a step, under `groups` different conditions where
    there are conditions. The learning rate falls in a straight line to `final_learning_rate`, if there is one,
    over `learning_rate_steps` steps; log Z has a rate of its own. Gradients are clipped to the norm `clip_norm`,
    or not with None; `width` and `depth` are those of the policy's trunk. In the `precision` bfloat16 training
    keeps activations and the factors of large matrix products so: faster where the processor has instructions
    for it, at a little cost to what it learns.

    Raises:
        ConfigError: A value cannot be.
    """

    loss: Loss = "trajectory_balance"
    backward_policy: BackwardPolicy = "uniform"
    residual: ResidualName = "squared"
    decay: float = 0.9
    behaviour: Behaviour = field(default_factory=Behaviour)
    batch_size: int = 192
    groups: int = 16
    learning_rate: float = 1e-2
    final_learning_rate: float | None = None
    learning_rate_steps: int = 1000
    log_z_learning_rate: float = 0.1
    clip_norm: float | None = 10.0
    width: int = 128
    depth: int = 2
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        _ = self.objective  # which checks its own values
        least = {
            "batch_size": 2,
            "groups": 1,
            "width": 1,
            "depth": 1,
            "learning_rate": 0,
            "learning_rate_steps": 1,
            "log_z_learning_rate": 0,
        }
        if self.final_learning_rate is not None:
            least["final_learning_rate"] = 0
        for name, low in least.items():
            if not getattr(self, name) >= low:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, expected at least {low}. Omit it for the default."
                )
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"precision is {self.precision!r}, expected one of {', '.join(get_args(Precision))}. Choose one."
            )
        if not self.decay > 0:
            raise ConfigError(f"decay is {self.decay!r}, expected a positive weight. Leave it at 0.9.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"clip_norm is {self.clip_norm!r}, expected a positive norm. Leave it at 10.")

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a training step, counted from 0."""
        if self.final_learning_rate is None:
            return self.learning_rate
        share = min(1.0, step / self.learning_rate_steps)
        return self.learning_rate + (self.final_learning_rate - self.learning_rate) * share

    @property
    def objective(self) -> Objective:
        """The loss with its backward policy and residual."""
        return Objective(self.loss, self.backward_policy, self.residual, self.decay)


@dataclass(frozen=True)
class TrainingRecord:
    """What one call of `fit` did.

    `steps` were taken, after `first_step` earlier ones; `loss` is the mean loss of each; `log_z` the policy's
    estimate at the end, without what of it depends on a condition; `seconds` the wall time with the reward's, and
    `reward_seconds` the reward's alone. `warm_start` says that training began from another policy's weights;
    `stopped_by` what ended it: steps, seconds, target_loss or until.
    """

    steps: int
    loss: tuple[float, ...]
    log_z: float
    seconds: float
    reward_seconds: float
    first_step: int = 0
    warm_start: bool = False
    stopped_by: str = "steps"
