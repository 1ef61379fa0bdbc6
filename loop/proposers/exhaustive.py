"""Exhaustive search: every object of a small space is scored, so that what is drawn follows the reward exactly.

It is the bound for any proposer; spaces too large to enumerate do not belong here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowscout.errors import ConfigError
from flowscout.loop.config import EXHAUSTIVE_LIMIT
from flowscout.loop.proposers.anchors import key_codes
from flowscout.loop.proposers.evolution import gumbel_top
from flowscout.loop.proposers.protocol import TEST_DRAWS, UNIQUE_RANGE, Problem, Samples, Trained, holds_test_draws
from flowscout.loop.rewards import FrozenReward
from flowscout.loop.spaces.protocol import EditableSpace

_CHUNK = 8_192
_BISECTIONS = 40


@dataclass(frozen=True)
class ExhaustiveProposer:
    """Scores the whole space and draws without replacement in proportion to the reward.

    With `adjust`, the exponent is the one at which as many of the samples of the law are unique as a trained
    policy is asked for: the middle of `UNIQUE_RANGE`, in closed form.
    """

    adjust: bool = True
    kind: str = "exhaustive"

    def train(
        self,
        problem: Problem,
        *,
        seed: int,
        warm_start: Mapping[str, Tensor] | None = None,  # noqa: ARG002 - there is nothing to learn
    ) -> Trained:
        """Score every object.

        Raises:
            ConfigError: The space is too large, or of unknown size.
        """
        del seed
        states = _everything(problem.space, problem.device)
        values = torch.cat(
            [problem.reward.values(states[i : i + _CHUNK]).double().cpu() for i in range(0, len(states), _CHUNK)]
        )
        feasible, symmetry = _log_feasible(problem, states), problem.space.log_symmetry(states).cpu()
        labelled = key_codes(problem.space, problem.labelled)
        fresh = ~torch.isin(key_codes(problem.space, states), labelled)
        reward = problem.reward
        if self.adjust and holds_test_draws(problem.space):
            reward = _adjusted(reward, values[fresh], feasible[fresh], symmetry[fresh])
        return Trained(
            tensors={"values": values, "log_feasible": feasible},
            reward=reward,
            params={"adjust": self.adjust},
            diagnostics={
                "evaluations": len(states),
                "unique_share": _unique_share(reward.of_values(values[fresh]) + feasible[fresh], symmetry[fresh]),
            },
        )

    def draw(self, problem: Problem, tensors: Mapping[str, Tensor], n: int, *, seed: int) -> Samples:
        """Return `n` different objects, or all there are, and the log-probability of each in a single draw."""
        space, states = problem.space, _everything(problem.space, problem.device)
        symmetry = space.log_symmetry(states).cpu()
        log_reward = problem.reward.of_values(tensors["values"]) + tensors["log_feasible"]
        # Gumbel noise on every state: the first of a key's states is the draw of the key, by max-stability.
        order = gumbel_top(log_reward - symmetry, n * int(symmetry.exp().max().round()), seed=seed)
        first = {key: row for row, key in reversed(list(enumerate(space.keys(states[order]))))}
        chosen = order[torch.tensor(sorted(first.values())[:n])]
        log_z = (log_reward - symmetry).logsumexp(0)
        return Samples(states[chosen.to(problem.device)], log_reward[chosen] - log_z)


def require_exhaustible(size: int | None, *, space: object) -> None:
    """Refuse a space that cannot be scored whole.

    Raises:
        ConfigError: It has more than `EXHAUSTIVE_LIMIT` objects, or nobody knows how many.
    """
    if size is None or size > EXHAUSTIVE_LIMIT:
        count = "an unknown number of" if size is None else f"{size:,}"
        raise ConfigError(
            f"an exhaustive search of {space!r} was asked for, which has {count} objects, expected at most "
            f"{EXHAUSTIVE_LIMIT:,}. Choose gflownet, local_search or genetic."
        )


def _everything(space: EditableSpace[Any], device: torch.device) -> Any:
    require_exhaustible(space.size, space=space)
    return space.enumerate(device)


def _log_feasible(problem: Problem, states: Any) -> Tensor:
    """Return what is believed of whether each object can be measured, float64 `n` on the CPU: 0 where it can."""
    reward = problem.reward
    if reward.log_feasible is None:
        return torch.zeros(len(states), dtype=torch.float64)
    chunks = [states[i : i + _CHUNK] for i in range(0, len(states), _CHUNK)]
    return torch.cat([reward.log_feasible(reward.features(some)).double().cpu() for some in chunks])


def _adjusted(reward: FrozenReward, values: Tensor, feasible: Tensor, symmetry: Tensor) -> FrozenReward:
    """Return the reward at the exponent wanted; as it came where no exponent has that share."""
    wanted, low, high = sum(UNIQUE_RANGE) / 2, reward.exponent * 1e-3, reward.exponent * 1e3

    def share(exponent: float) -> float:
        return _unique_share(reward.with_exponent(exponent).of_values(values) + feasible, symmetry)

    if not share(high) <= wanted <= share(low):
        return reward
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if share(middle) > wanted else (low, middle)
    return reward.with_exponent((low * high) ** 0.5)


def _unique_share(log_reward: Tensor, symmetry: Tensor) -> float:
    """Return the expected share of different keys among `TEST_DRAWS` draws with replacement."""
    log_p = (log_reward - (log_reward - symmetry).logsumexp(0)).clamp_max(0.0)  # of the key that a state has
    met = -torch.expm1(TEST_DRAWS * torch.log1p(-log_p.exp()))
    return float((met * (-symmetry).exp()).sum()) / TEST_DRAWS
