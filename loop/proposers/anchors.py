"""Anchors: objects near the data that a policy is trained on where its own samples would teach it nothing.

How they enter a training batch belongs to `gflownet`; what they are worth is asked of the round's own reward.
"""

import hashlib
from typing import Any

import torch
from torch import Generator, Tensor

from flowscout.loop.proposers.evolution import Evolution, edit
from flowscout.loop.proposers.protocol import Problem
from flowscout.loop.spaces.protocol import Space

N_ELITES = 64
"""How many of the best labelled objects are anchors."""

EDITS_PER_ELITE = 8
EDITED_SHARE = 0.15
"""The most of an object's steps that are edited: of one the surrogate knows as well as any elite."""

N_CHILDREN = 512
"""How many children there are, drawn in proportion to the reward from what an evolution has met."""

CHILDREN = Evolution(evaluations=4_096, parents=64, children=256, crossover=0.5)


def make_anchors(problem: Problem, *, seed: int) -> Any:
    """Return different finished states: elites by label, conservative edits of them, and children of them.

    An elite of which the surrogate is sure is edited in up to `EDITED_SHARE` of its steps, one of which it is
    not in a single one. Source: delta-conservative search, Kim et al. 2024, arXiv:2410.04461, section 4; changed:
    positions are edited by the space's own mutations instead of being sampled anew by the policy, and the
    children of an evolution under the same reward are anchors too (Kim et al. 2024, arXiv:2402.05961).
    """
    space, generator = problem.space, Generator(problem.device).manual_seed(seed)
    elites = problem.labelled[:N_ELITES]
    parents = elites[torch.arange(len(elites), device=problem.device).repeat_interleave(EDITS_PER_ELITE)]
    most = most_edits(problem, elites).repeat_interleave(EDITS_PER_ELITE)
    share = torch.rand(len(parents), generator=generator, device=problem.device)
    edits = edit(space, parents, 1 + (share * most).long(), generator)
    children = CHILDREN.run(problem, seed=seed).draw(N_CHILDREN, seed=seed)
    found = type(elites).cat([elites, edits, children])
    rows = {key: row for row, key in reversed(list(enumerate(space.keys(found))))}
    return found[torch.tensor(sorted(rows.values()), device=problem.device)]


def most_edits(problem: Problem, elites: Any) -> Tensor:
    """Return the most edits of each elite, int64 `n`: fewer the less sure the surrogate is of it.

    It falls in a straight line of the sd, from that of the surest elite to twice as much.
    """
    most = max(1, round(EDITED_SHARE * problem.space.max_steps))
    sure = torch.ones(len(elites), dtype=torch.float64, device=problem.device)
    if problem.sd is not None and len(elites):
        sd = problem.sd(elites).to(sure)
        least = sd.min()
        sure = (2 - sd / least).clamp(0, 1) if least > 0 else sure
    return (1 + (most - 1) * sure).round().long()


def key_codes(space: Space[Any], states: Any) -> Tensor:
    """Return a number for each row's key, int64 `n` on the CPU; two keys share one by a chance of 2^-64."""
    codes = [
        int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big", signed=True)
        for key in space.keys(states)
    ]
    return torch.tensor(codes, dtype=torch.int64)
