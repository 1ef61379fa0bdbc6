"""From an acquisition to a log-reward: affine or a multiple, frozen for the round, the same for the same object.

Never ranked and never clamped at the top: either would break "in proportion to the reward".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from flowscout.errors import NonFiniteError
from flowscout.surrogates import FrozenAcquisition

TEMPERING = 1.05
"""How far the best known objects stand out in log-reward, in units of log(size of the space).

Near 1 a handful of objects weighs as much as all the others together; much less is near-uniform sampling,
much more finds the same few objects again and again.
"""

LEAST_HEIGHT = 0.5
"""Nats by which the best stand out at least, in an acquisition that is a logarithm: below that it is flat, and no
exponent should make much of it."""

N_BEST = 32
"""How many of the best known objects the exponent is scaled by, but no more than a quarter of them."""


LogProbability = Callable[[Tensor], Tensor]
"""Maps features, `b x d`, to log-probabilities, `b`."""


@dataclass
class Count:
    """How many objects a surrogate was asked about."""

    n: int = 0


@dataclass(frozen=True)
class FrozenReward:
    """`log R = exponent x (acquisition - centre) / scale` of a batch of states, plus `log_feasible` where given.

    `features` maps `b` states to the `b x d` matrix that the acquisition reads. An acquisition that is a
    logarithm already is multiplied by the exponent alone (centre 0, scale 1); below `floor` it falls no further
    than its logarithm does (`soft_floor`), and `floor_share` is the share of the reference that lies there.
    `X_pending`, `p x d`, is what the acquisition was conditioned on, `conditions` all that it hangs on beside the
    fit, as objects by name.
    """

    acquisition: FrozenAcquisition
    features: Callable[[Any], Tensor]
    exponent: float
    centre: float
    scale: float
    floor: float | None = None
    floor_share: float | None = None
    log_feasible: LogProbability | None = None
    X_pending: Tensor | None = None
    conditions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __call__(self, state: Any) -> Tensor:
        """Return the log-reward of each state, `b`."""
        X = self.features(state)
        return self.of_values(self.acquisition(X), X)

    def values(self, state: Any) -> Tensor:
        """Return the acquisition of each state, `b`."""
        return self.acquisition(self.features(state))

    def of_values(self, values: Tensor, X: Tensor | None = None) -> Tensor:
        """Return the log-reward of acquisition values, `b`, at features `X`, `b x d`.

        Without `X` it is that of objects that can be measured for sure.
        """
        if self.floor is not None:
            values = soft_floor(values, self.floor)
        log_reward = self.exponent * (values - self.centre) / self.scale
        if self.log_feasible is None or X is None:
            return log_reward
        return log_reward + self.log_feasible(X)

    def with_exponent(self, exponent: float) -> "FrozenReward":
        """Return the same reward, sharper or flatter."""
        return replace(self, exponent=exponent)

    def counted(self, count: "Count") -> "FrozenReward":
        """Return the same reward, whose evaluations `count` counts."""

        def evaluate(X: Tensor) -> Tensor:
            count.n += len(X)
            return self.acquisition.evaluate(X)

        return replace(self, acquisition=replace(self.acquisition, evaluate=evaluate))

    def as_dict(self) -> dict[str, Any]:
        """Return what is stored with a sampler run."""
        found = {
            "acquisition": self.acquisition.name,
            "exponent": self.exponent,
            "centre": self.centre,
            "scale": self.scale,
        }
        if self.floor is not None:
            found |= {"floor": self.floor, "floor_share": self.floor_share}
        return found | {name: list(objects) for name, objects in self.conditions.items()}


def stored_reward(
    acquisition: FrozenAcquisition, features: Callable[[Any], Tensor], kept: Mapping[str, Any]
) -> FrozenReward:
    """Return the reward that `as_dict` gave `kept` of."""
    return FrozenReward(
        acquisition,
        features,
        exponent=kept["exponent"],
        centre=kept["centre"],
        scale=kept["scale"],
        floor=kept.get("floor"),
        floor_share=kept.get("floor_share"),
    )


def soft_floor(values: Tensor, floor: float) -> Tensor:
    """Return `values` as they are down to `floor`, and below it `floor - log(1 + (floor - value))`.

    One object may then not fall hundreds of nats below the others, which nobody would ever draw and a policy
    could only chase; the order of objects is kept, and there is no kink.
    """
    return torch.where(values >= floor, values, floor - torch.log1p((floor - values).clamp_min(0.0)))


def freeze_reward(
    acquisition: FrozenAcquisition,
    features: Callable[[Any], Tensor],
    *,
    reference: Any,
    known: Any,
    log_size: float,
    exponent: float | None = None,
) -> FrozenReward:
    """Return the reward of a round, centred and scaled on `reference`, a set of states drawn uniformly.

    Without an `exponent`, the mean log-reward of the best `known` states (or of the best of the reference,
    if those are better) stands `TEMPERING x log_size` above
    the reference's median, `log_size` being the log of the number of objects in the space. The floor of a
    logarithm lies as far below that median: a whole space of such objects weighs less than one median object.

    Raises:
        NonFiniteError: the acquisition of the reference is not finite.
    """
    values = acquisition(features(reference))
    centre, scale = values.median().item(), values.std().item()
    if not (abs(centre) < float("inf") and scale < float("inf")):
        raise NonFiniteError(
            f"acquisition {acquisition.name!r} has median {centre} and sd {scale} over {len(values)} random "
            "objects, expected finite numbers; look at the surrogate's diagnostics of this round."
        )
    scale = scale if scale > 0 else 1.0
    if exponent is not None and not acquisition.is_log:
        return FrozenReward(acquisition, features, exponent, centre, scale)
    n_best = max(1, min(N_BEST, len(known) // 4))
    best = acquisition(features(known)).sort(descending=True).values[:n_best].mean()
    # Early on the best known objects may be poor ones: then the best of the reference are the measure.
    top = torch.maximum(best, values.quantile(0.995))
    if acquisition.is_log:
        # Its own spread is no measure: a far tail of hundreds of nats would flatten everything else.
        height = max((top - centre).item(), LEAST_HEIGHT)
        floor = centre - height
        share = (values < floor).double().mean().item()
        exponent = TEMPERING * log_size / height if exponent is None else exponent
        return FrozenReward(acquisition, features, exponent, 0.0, 1.0, floor=floor, floor_share=share)
    exponent = TEMPERING * log_size * scale / max((top - centre).item(), 0.5 * scale)
    return FrozenReward(acquisition, features, exponent, centre, scale)
