"""What a round computes: its sampler and its proposals, from the history alone. Nothing is recorded here.

When it is done, and what is stored of it, belongs in `loop.stages`; doing it once more, in `loop.replay`.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from flowscout.db import ArtefactRecord, FitRecord, ProposalRecord, RoundRecord, SamplerRecord
from flowscout.errors import ShapeError, WorkError
from flowscout.loop.beliefs import make_problem, make_proposer
from flowscout.loop.drift import drift
from flowscout.loop.fitting import load_surrogate
from flowscout.loop.pools import draw_pool, select_batch
from flowscout.loop.proposers import Trained
from flowscout.loop.rewards import Count
from flowscout.loop.seeds import derive_seed
from flowscout.loop.workbench import Workbench

logger = logging.getLogger(__name__)


def train_sampler(bench: Workbench, record: RoundRecord, fitted: FitRecord) -> SamplerRecord:
    """Freeze the acquisition as a reward and train the proposer on it; return what is to be stored.

    A sampler that fails its health check is not used: the round falls back to local search on the same reward.
    """
    seed = derive_seed(record.seed, "train")
    if fitted.kind == "none":
        return SamplerRecord(kind="random", seed=seed, model_fit_id=_id(fitted))
    proposer = make_proposer(bench, bench.config.proposer.type)
    parent = bench.history.rounds.previous_sampler(bench.campaign.id, record.number, kind=proposer.kind)
    warm_start = _warm_start(bench, parent) if bench.config.proposer.warm_start else None
    parent = None if warm_start is None else parent
    problem, count = make_problem(bench, record, fitted), Count()
    problem = replace(problem, reward=problem.reward.counted(count))
    trained = None
    try:
        trained = proposer.train(problem, seed=seed, warm_start=warm_start)
    except ShapeError as error:  # a catalogue that grew since has another tree
        if warm_start is None:
            raise
        logger.warning("no warm start: %s", error)
    if trained is not None and trained.params.get("warm_start") is False:  # it could not start from these
        warm_start, parent = None, None
    if trained is None or (not trained.healthy and warm_start is not None):  # a stale start may be worse than none
        warm_start, parent = None, None
        trained = proposer.train(problem, seed=seed, warm_start=None)
    kind = proposer.kind if trained.healthy else "local_search"
    return SamplerRecord(
        kind=kind,
        seed=seed,
        model_fit_id=_id(fitted),
        params=trained.params,
        reward=trained.reward.as_dict(),
        diagnostics=_diagnostics(trained) | {"evaluations": count.n},
        parent_id=None if parent is None else parent.id,
        artefact=_store(bench, trained),
    )


def propose_batch(
    bench: Workbench, record: RoundRecord, fitted: FitRecord, run: SamplerRecord, *, include: Sequence[str] = ()
) -> list[ProposalRecord]:
    """Draw a pool of unique unseen objects and pick the batch; return all that was considered.

    A user's own objects, `include`, which `check_included` has passed, have the first places.
    """
    problem = None if fitted.kind == "none" else make_problem(bench, record, fitted, stored=run)
    known = bench.history.measurements.known_keys(bench.campaign.id)
    surrogate = None if problem is None else load_surrogate(bench, fitted)
    drifted = None if surrogate is None else drift(bench, record, fitted, surrogate, known)
    pool = draw_pool(bench, record, run, problem, known=known, include=include, drifted=drifted)
    proposals = select_batch(bench, record, list(pool.drawn.values()), surrogate, problem)
    return [*proposals, *pool.refused.values()]


def _id(record: FitRecord) -> int:
    assert record.id is not None  # it came from the history
    return record.id


def _warm_start(bench: Workbench, parent: SamplerRecord | None) -> dict[str, Tensor] | None:
    """Return the weights of an earlier sampler; None if there is none, or if its file is gone."""
    if parent is None or parent.artefact is None:
        return None
    try:
        return bench.artefacts.get(parent.artefact)
    except WorkError as error:  # a head start only: the sampler is trained from nothing instead
        logger.warning("no warm start: %s", error)
        return None


def _diagnostics(trained: Trained) -> dict[str, Any]:
    found = dict(trained.diagnostics) | {"fallback": not trained.healthy}
    share = trained.reward.floor_share
    return found if share is None else found | {"floor_share": share}


def _store(bench: Workbench, trained: Trained) -> ArtefactRecord | None:
    if not trained.tensors or not trained.healthy:
        return None
    return bench.artefacts.put(trained.tensors, kind="sampler")
