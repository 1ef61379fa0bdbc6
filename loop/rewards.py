"""From an acquisition to a log-reward: affine, frozen for the round, the same for the same object.

Never ranked and never clamped at the top: either would break "in proportion to the reward".
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
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

N_BEST = 32
"""How many of the best known objects the exponent is scaled by, but no more than a quarter of them."""


@dataclass(frozen=True)
class FrozenReward:
    """`log R = exponent x (acquisition - centre) / scale` of a batch of states.

    `features` maps `b` states to the `b x d` matrix that the acquisition reads.
    """

    acquisition: FrozenAcquisition
    features: Callable[[Any], Tensor]
    exponent: float
    centre: float
    scale: float

    def __call__(self, state: Any) -> Tensor:
        """Return the log-reward of each state, `b`."""
        return self.of_values(self.values(state))

    def values(self, state: Any) -> Tensor:
        """Return the acquisition of each state, `b`."""
        return self.acquisition(self.features(state))

    def of_values(self, values: Tensor) -> Tensor:
        """Return the log-reward of acquisition values."""
        return self.exponent * (values - self.centre) / self.scale

    def with_exponent(self, exponent: float) -> "FrozenReward":
        """Return the same reward, sharper or flatter."""
        return replace(self, exponent=exponent)

    def as_dict(self) -> dict[str, Any]:
        """Return what is stored with a sampler run."""
        return {
            "acquisition": self.acquisition.name,
            "exponent": self.exponent,
            "centre": self.centre,
            "scale": self.scale,
        }


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
    the reference's median, `log_size` being the log of the number of objects in the space.

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
    if exponent is None:
        n_best = max(1, min(N_BEST, len(known) // 4))
        best = acquisition(features(known)).sort(descending=True).values[:n_best].mean()
        # Early on the best known objects may be poor ones: then the best of the reference are the measure.
        top = torch.maximum(best, values.quantile(0.995))
        exponent = TEMPERING * log_size * scale / max((top - centre).item(), 0.5 * scale)
    return FrozenReward(acquisition, features, exponent, centre, scale)
