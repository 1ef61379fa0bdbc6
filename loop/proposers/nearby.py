"""A GFlowNet for long sequences: its trajectories edit the best labelled ones.

Letter by letter a policy would first have to learn what a good sequence is, and fails: nearly all that it draws is
as bad as any other. Here it learns which few letters of a good one to change. How a sequence is edited belongs in
`spaces.neighbourhood`.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from flowscout.loop.gflownet import Trainer, TrainerSettings, log_prob
from flowscout.loop.gflownet import draw as draw_from
from flowscout.loop.gflownet.policy import Policy
from flowscout.loop.gflownet.trainer import make_policy
from flowscout.loop.proposers.anchors import key_codes
from flowscout.loop.proposers.gflownet import GFlowNetProposer, diagnostics_of, health_of, is_healthy, unique_share
from flowscout.loop.proposers.local_search import LONG
from flowscout.loop.proposers.protocol import Problem, Samples, Trained
from flowscout.loop.spaces import NeighbourhoodSpace, NeighbourState, SequenceSpace, SequenceState

CENTRES = 64
"""How many of the best labelled objects are edited."""

RADIUS = 8
"""The most letters of one that are changed."""

SHARPNESS = 3.0
"""How far the best known objects stand out in log-reward, in units of what it would be for a space as large as the
neighbourhood (`rewards.TEMPERING`). At 2 half of the samples are believed to be poor, at 4 a policy learns the
reward worse, and its samples are near copies."""

PATIENCE = 3
"""How many times `steps` a policy is trained at most, until it passes its health check."""

_CENTRES = "centres"


@dataclass(frozen=True)
class NearbyGFlowNetProposer:
    """Samples sequences near the best labelled ones in proportion to the reward, by a policy trained for it.

    With `sharpen` the reward's exponent is set by the size of the neighbourhood; else it is the reward's own.
    """

    steps: int = 300
    sharpen: bool = True
    settings: TrainerSettings = field(default_factory=TrainerSettings)
    kind: str = "gflownet"

    def train(
        self,
        problem: Problem,
        *,
        seed: int,
        warm_start: Mapping[str, Tensor] | None = None,  # noqa: ARG002 - its centres are others
    ) -> Trained:
        """Train a policy on the reward; judge it on what it draws and on random neighbours."""
        params: dict[str, Any] = asdict(self.settings) | {"steps": self.steps, "warm_start": False}
        if len(problem.labelled) == 0:
            return Trained({}, problem.reward, params, {"unique_share": 0.0}, healthy=False)
        codes = problem.space.features(problem.labelled[:CENTRES]).long()
        near = _neighbourhood(problem, codes)
        reward = problem.reward.with_exponent(self._exponent(problem, near))

        def log_reward(state: NeighbourState) -> Tensor:
            return reward(near.objects(state))

        trainer = Trainer(near, log_reward, seed=seed, settings=self.settings, device=problem.device)
        for _ in range(PATIENCE):
            record = trainer.fit(self.steps)
            health = health_of(near, log_reward, trainer, seed)
            if is_healthy(health):
                break
        labelled = key_codes(problem.space, problem.labelled)
        health["unique_share"] = unique_share(trainer, labelled, seed)
        about = {"n_centres": len(codes), "radius": near.radius, "exponent": reward.exponent}
        about |= {"all_steps": trainer.steps}
        return Trained(
            tensors=dict(trainer.policy.state_dict()) | {_CENTRES: codes.cpu()},
            reward=problem.reward,
            params=params,
            diagnostics=diagnostics_of(record) | health | about,
            healthy=is_healthy(health),
        )

    def draw(self, problem: Problem, tensors: Mapping[str, Tensor], n: int, *, seed: int) -> Samples:
        """Draw from the trained policy; one of an earlier version, which has no centres, draws as it did."""
        if _CENTRES not in tensors:
            return GFlowNetProposer(settings=self.settings).draw(problem, tensors, n, seed=seed)
        near = _neighbourhood(problem, tensors[_CENTRES].to(problem.device))
        policy = make_policy(near, self.settings, Generator().manual_seed(0))
        policy.load_state_dict({name: tensor for name, tensor in tensors.items() if name != _CENTRES})
        policy.to(problem.device)
        found = draw_from(near, policy, n, generator=Generator(problem.device).manual_seed(seed))
        objects = near.objects(found.states)
        drawn: Any = objects.tokens
        tokens, place = drawn.unique(dim=0, return_inverse=True)  # one drawn often is asked for once
        return Samples(objects, key_log_prob(near, policy, near.sequences.of_codes(tokens))[place])

    def _exponent(self, problem: Problem, near: NeighbourhoodSpace) -> float:
        if not self.sharpen:
            return problem.reward.exponent
        share = math.log(near.n_states) / math.log(near.sequences.size)
        return problem.reward.exponent * SHARPNESS * share


def is_edited(space: Any) -> bool:
    """Return whether objects of a space are long sequences that may be edited anywhere."""
    if not isinstance(space, SequenceSpace) or not space.fixed_length or space.rules.ruled:
        return False
    return space.rules.length >= LONG


def key_log_prob(near: NeighbourhoodSpace, policy: Policy, objects: SequenceState) -> Tensor:
    """Return the log-probability of each object, float32 `n`: the sum over its states, of both strands."""
    log_p = torch.full((len(objects),), -torch.inf, device=objects.device)
    sequences = near.sequences
    strands = [objects]
    if sequences.symmetry is not None:
        strands.append(sequences.image(objects))
    for strand in strands:
        states, row = near.states(strand)
        if strand is not objects:
            other = (strand.tokens != objects.tokens).any(dim=1)[row]
            states, row = states[other], row[other]
        found = log_prob(near, policy, states)
        # A sum of few terms for each row: the largest is taken out first, so that none underflows.
        top = torch.full_like(log_p, -torch.inf).scatter_reduce(0, row, found, "amax")
        total = torch.zeros_like(log_p).index_add(0, row, (found - top[row]).exp())
        log_p = torch.logaddexp(log_p, torch.where(total > 0, top + total.log(), -torch.inf))
    return log_p


def _neighbourhood(problem: Problem, codes: Tensor) -> NeighbourhoodSpace:
    space = problem.space
    assert isinstance(space, SequenceSpace)
    return NeighbourhoodSpace(space, space.decode(space.of_codes(codes)), min(RADIUS, space.rules.length))
