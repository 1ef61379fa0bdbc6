"""From a trained proposer to proposals: draw a pool of unseen objects, and pick the batch from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from flowscout.db import Decision, ProposalRecord, RoundRecord, SamplerRecord
from flowscout.loop.beliefs import make_proposer
from flowscout.loop.config import MAX_BATCH
from flowscout.loop.drift import DRIFTED
from flowscout.loop.exploration import elsewhere, explore_share
from flowscout.loop.outside import inside
from flowscout.loop.proposers import LocalSearchProposer, Problem, uniform_states
from flowscout.loop.seeds import derive_seed
from flowscout.loop.selection import choose_batch
from flowscout.loop.spaces import SequenceState
from flowscout.loop.spaces.protocol import EditableSpace
from flowscout.loop.workbench import Workbench
from flowscout.surrogates import Surrogate

POOL_PER_SLOT = 20
"""The least number of unseen objects in the pool for each place of the batch."""

MAX_POOL = MAX_BATCH
"""No pool is larger: joint posterior draws take the cube of its size."""

LOOK_THROUGH = 2**17
"""The largest space that is looked through whole when random draws find too few unseen objects."""

_MAX_CHUNKS = 4

EXPLORED = "explore"
"""The origin of what was looked for outside the mode of the best."""

USER = "user"
"""The origin of a user's own candidates, which have the first places of the batch."""


@dataclass(frozen=True)
class Drawn:
    """One distinct object of the pool."""

    key: str
    text: str
    log_prob: float | None
    origin: str


@dataclass(frozen=True)
class Belief:
    """What is believed of one object of the pool."""

    acquisition: float
    log_reward: float
    mean: float
    sd: float


class Pool:
    """Distinct unseen objects as they are drawn, and those refused because they are known or were vetoed."""

    def __init__(self, space: EditableSpace[Any], known: set[str], vetoed: set[str] | None = None) -> None:
        self._space, self._known, self._vetoed = space, known, vetoed or set()
        self.drawn: dict[str, Drawn] = {}
        self.refused: dict[str, ProposalRecord] = {}

    def __len__(self) -> int:
        return len(self.drawn)

    def take(
        self,
        states: Any,
        *,
        origin: str,
        log_prob: Tensor | None = None,
        origins: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> None:
        """Take finished states into the pool; the first draw of an object counts.

        `origins` says of each who made it, where that is not one `origin` for all. The pool grows to `limit`
        objects, by default to `MAX_POOL`.
        """
        most = MAX_POOL if limit is None else limit
        log_probs = [math.nan] * len(states) if log_prob is None else log_prob.tolist()
        names = [origin] * len(states) if origins is None else origins
        texts = zip(self._space.keys(states), self._space.decode(states), strict=True)
        for (key, text), number, origin in zip(texts, log_probs, names, strict=True):
            value = None if math.isnan(number) else number
            if key not in self._known and len(self.drawn) < most:
                self.drawn.setdefault(key, Drawn(key, text, value, origin))
            elif key in self._known and key not in self.refused:
                self.refused[key] = self._refusal(key, text, origin, value)

    def _refusal(self, key: str, text: str, origin: str, log_prob: float | None) -> ProposalRecord:
        if key in self._vetoed:
            decision, reason = Decision.VETOED, "vetoed in an earlier round"
        else:
            decision, reason = Decision.DUPLICATE, "measured or awaited already"
        return ProposalRecord(key, text, origin, decision, log_prob=log_prob, reason=reason)


def draw_pool(
    bench: Workbench,
    record: RoundRecord,
    run: SamplerRecord,
    problem: Problem | None,
    *,
    known: set[str],
    include: Sequence[str] = (),
    drifted: SequenceState | None = None,
) -> Pool:
    """Return a pool of samples, topped up with uniform draws where the sampler leaves it too small.

    Without a `problem` nothing is known yet, and all of it is drawn uniformly. A user's own objects, `include`,
    stand first, then those that have `drifted` off a plateau. `known` are the keys of what is not to be proposed.
    """
    pool = Pool(bench.space, known, bench.history.vetoes.keys(bench.campaign.id))
    if include:
        pool.take(bench.space.parse(include, bench.device), origin=USER)
    if drifted is not None:
        pool.take(drifted, origin=DRIFTED)
    if problem is not None:
        _explore(bench, record, pool, problem)
    unseen = bench.space.size - len(inside(bench, known))
    wanted = min(POOL_PER_SLOT * bench.config.batch.size, unseen, MAX_POOL)
    target = min(len(pool) + wanted, unseen, MAX_POOL)
    if problem is not None:
        proposer = make_proposer(bench, run.kind)
        tensors = {} if run.artefact is None else bench.artefacts.get(run.artefact)
        for chunk in range(_MAX_CHUNKS):
            seed = derive_seed(record.seed, "pool", chunk)
            samples = proposer.draw(problem, tensors, 4 * wanted, seed=seed)
            pool.take(samples.states, origin=run.kind, log_prob=samples.log_prob, origins=samples.origins)
            if len(pool) >= target:
                return pool
    _top_up(bench, record, pool, target)
    return pool


def _explore(bench: Workbench, record: RoundRecord, pool: Pool, problem: Problem) -> None:
    """Take objects outside the mode of the best into the pool, found by local search on the same acquisition.

    They fill no more of the largest pool than their places fill of the batch: the rest is the sampler's.
    """
    n_far = n_elsewhere(bench, record)
    if n_far == 0 or len(problem.labelled) == 0:
        return
    reward = elsewhere(bench.space, problem.reward, problem.labelled)
    seed = derive_seed(record.seed, "explore")
    limit = len(pool) + (MAX_POOL - len(pool)) * n_far // bench.config.batch.size
    found = (
        LocalSearchProposer()
        .draw(replace(problem, reward=reward), {}, 2 * POOL_PER_SLOT * n_far, seed=seed)
        .states
    )
    pool.take(found[~reward.barred(found)], origin=EXPLORED, limit=limit)


def n_elsewhere(bench: Workbench, record: RoundRecord) -> int:
    """Return how many of the batch are chosen outside the mode of the best."""
    return round(explore_share(bench.config.batch.explore, record.number) * bench.config.batch.size)


def _top_up(bench: Workbench, record: RoundRecord, pool: Pool, target: int) -> None:
    """Fill the pool to `target` with uniform draws; where little is left to find, look at all there is."""
    space = bench.space
    for chunk in range(_MAX_CHUNKS):
        if len(pool) >= target:
            return
        seed = derive_seed(record.seed, "uniform", chunk)
        states = uniform_states(space, max(2 * target, 256), seed=seed, device=bench.device)
        pool.take(states, origin="uniform")
    if len(pool) < target and space.size <= LOOK_THROUGH:
        everything = space.enumerate(bench.device)
        generator = Generator().manual_seed(derive_seed(record.seed, "everything"))
        pool.take(everything[torch.randperm(len(everything), generator=generator)], origin="uniform")


def select_batch(
    bench: Workbench,
    record: RoundRecord,
    drawn: Sequence[Drawn],
    surrogate: Surrogate | None,
    problem: Problem | None,
) -> list[ProposalRecord]:
    """Return a proposal for every drawn object, the batch ranked from 1.

    A user's own objects come first, then those that drifted. Every other place takes the best of a posterior draw
    of its own, given what is pending and what was chosen so; the explored places take theirs among what was
    explored.
    """
    size = min(bench.config.batch.size, len(drawn))
    if surrogate is None or problem is None:
        return [_proposal(one, rank=i + 1 if i < size else None) for i, one in enumerate(drawn)]
    states = bench.space.parse([one.text for one in drawn], bench.device)
    X = problem.reward.features(states)
    generator = Generator().manual_seed(derive_seed(record.seed, "select"))
    own = [i for i, one in enumerate(drawn) if one.origin in (USER, DRIFTED)][:size]
    far = [i for i, one in enumerate(drawn) if one.origin == EXPLORED]
    near = [i for i, one in enumerate(drawn) if one.origin not in (USER, DRIFTED, EXPLORED)]
    left = size - len(own)
    # Where nearly all that is left was explored, the other places are taken there too.
    n_far = min(max(n_elsewhere(bench, record), left - len(near)), len(far), left)
    pending = problem.reward.X_pending
    X_pending = X[own] if pending is None else torch.cat([pending.to(X), X[own]])

    def some(rows: list[int]) -> Any:
        return states[torch.tensor(rows, dtype=torch.int64, device=bench.device)]

    chosen = own
    for rows, n in ((far, n_far), (near, left - n_far)):
        found = choose_batch(
            bench.config.batch,
            problem,
            surrogate,
            some(rows),
            n,
            generator=generator,
            X_pending=X_pending,
            taken=some(chosen),
        )
        chosen = [*chosen, *(rows[i] for i in found)]
    ranks = {index: rank for rank, index in enumerate(chosen, start=1)}
    values = problem.reward.values(states)
    log_rewards = problem.reward.of_values(values, X).tolist()
    mean, sd = surrogate.mean_sd(X)
    beliefs = map(Belief, values.tolist(), log_rewards, (bench.scale.sign * mean).tolist(), sd.tolist())
    return [
        _proposal(one, rank=ranks.get(i), beliefs=belief)
        for i, (one, belief) in enumerate(zip(drawn, beliefs, strict=True))
    ]


def _proposal(drawn: Drawn, *, rank: int | None, beliefs: Belief | None = None) -> ProposalRecord:
    record = ProposalRecord(
        key=drawn.key,
        object=drawn.text,
        origin=drawn.origin,
        decision=Decision.OUTRANKED if rank is None else Decision.SELECTED,
        rank=rank,
        log_prob=drawn.log_prob,
        reason="others ranked before it" if rank is None else None,
    )
    if beliefs is None:
        return record
    return replace(
        record,
        acquisition=beliefs.acquisition,
        log_reward=beliefs.log_reward,
        mean=beliefs.mean,
        sd=beliefs.sd,
    )
