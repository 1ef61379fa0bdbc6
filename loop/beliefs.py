"""What a round believes: its training set, its surrogate, and the problem that its proposer works on.

Everything is rebuilt from the history: the data cut-off, the artefact and the seeds are all there is to know.
"""

import logging
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flowscout.db import FitRecord, RoundRecord, SamplerRecord, TrainingSet
from flowscout.errors import ShapeError, StateError, WorkError
from flowscout.loop.gflownet import TrainerSettings
from flowscout.loop.proposers import (
    ExhaustiveProposer,
    GeneticProposer,
    GFlowNetProposer,
    LocalSearchProposer,
    MixtureProposer,
    Problem,
    Proposer,
    RandomProposer,
    uniform_states,
)
from flowscout.loop.rewards import FrozenReward, freeze_reward
from flowscout.loop.seeds import derive_seed
from flowscout.loop.spaces import CatalogueSpace, EditableSpace
from flowscout.loop.workbench import Workbench
from flowscout.surrogates import AveragedGP, ExactGP, Surrogate, numeric_surrogate, prior_weights, ucb

logger = logging.getLogger(__name__)

REFERENCE_SIZE = 2_000
"""How many uniform objects the reward is centred and scaled on."""


def training_set(bench: Workbench, *, upto_seq: int | None = None) -> TrainingSet:
    """Return what is known of the objective up to a cut-off (default: now)."""
    return bench.history.measurements.training_set(
        bench.campaign.id, bench.config.objective.name, upto_seq=upto_seq
    )


def tensors(bench: Workbench, data: TrainingSet) -> tuple[Tensor, Tensor]:
    """Return features and labels, `n x d` and `n x 1`, in the order of candidate keys; larger is better."""
    space: EditableSpace[Any] = bench.space
    X = space.features(space.parse([row.object for row in data.rows]))
    Y = torch.tensor([[bench.sign * row.value] for row in data.rows], dtype=torch.float64)
    return X, Y


def new_surrogate(bench: Workbench) -> Surrogate:
    """Return an unfitted surrogate for the campaign's space."""
    space, section = bench.space, bench.config.surrogate
    if isinstance(space, CatalogueSpace):
        return numeric_surrogate("tanimoto" if space.metric == "tanimoto" else "matern")
    levels, symmetry = len(space.rules.letters), space.symmetry
    if section.type == "gp":
        return ExactGP(kernel=section.kernel, levels=levels, symmetry=symmetry)
    return AveragedGP(prior_weights(levels), levels=levels, symmetry=symmetry)


def foretell(bench: Workbench, record: RoundRecord, surrogate: Surrogate, data: TrainingSet) -> FitRecord | None:
    """Let a surrogate learn from how well the previous round's foretold what has been measured since.

    Returns the fit that was asked, or None if there is none of this kind.
    """
    previous = bench.history.rounds.previous_fit(bench.campaign.id, record.number)
    if previous is None or previous.artefact is None or not isinstance(surrogate, AveragedGP):
        return None
    known = {row.key for row in training_set(bench, upto_seq=previous.data_upto_seq).rows}
    fresh = [row for row in data.rows if row.key not in known]
    if not fresh:
        return None
    try:
        earlier = load_surrogate(bench, previous)
    except (ShapeError, StateError, WorkError) as error:  # of another kind, or gone: the prior weights stay
        logger.warning("the surrogate of an earlier round cannot be asked: %s", error)
        return None
    assert isinstance(earlier, AveragedGP)
    surrogate.foretell(earlier, *tensors(bench, replace(data, rows=tuple(fresh))))
    return previous


def load_surrogate(bench: Workbench, fitted: FitRecord) -> Surrogate:
    """Return the surrogate as it was fitted, from its artefact and exactly its data."""
    assert fitted.artefact is not None
    data = training_set(bench, upto_seq=fitted.data_upto_seq)
    if data.sha256 != fitted.data_sha256:
        raise StateError(
            f"the measurements up to seq {fitted.data_upto_seq} are not those that fit {fitted.id} saw "
            f"({len(data.rows)} rows now, {fitted.data_count} then); the history was changed by other means. "
            "Restore it from a backup."
        )
    surrogate = new_surrogate(bench)
    surrogate.load_state_dict(bench.artefacts.get(fitted.artefact), *tensors(bench, data))
    return surrogate


def make_problem(
    bench: Workbench, record: RoundRecord, fitted: FitRecord, *, stored: SamplerRecord | None = None
) -> Problem:
    """Return what the proposer works on. With a `stored` run the reward is the one that it ended with."""
    space, device = bench.space, bench.device
    data = training_set(bench, upto_seq=fitted.data_upto_seq)
    ranked = sorted(data.rows, key=lambda row: (-bench.sign * row.value, row.key))
    labelled = space.parse([row.object for row in ranked], device)
    surrogate = load_surrogate(bench, fitted)
    acquisition = ucb(surrogate, bench.config.acquisition.kappa)

    def features(state: Any) -> Tensor:
        return space.features(state).cpu()  # the exact GP of a few hundred labels is fastest there

    def sd(state: Any) -> Tensor:
        return surrogate.mean_sd(features(state))[1]

    if stored is not None:
        kept = stored.reward
        reward = FrozenReward(acquisition, features, kept["exponent"], kept["centre"], kept["scale"])
    else:
        seed = derive_seed(record.seed, "reference")
        reward = freeze_reward(
            acquisition,
            features,
            reference=uniform_states(space, REFERENCE_SIZE, seed=seed, device=device),
            known=labelled,
            log_size=math.log(space.size),
            exponent=bench.config.proposer.exponent,
        )
    return Problem(space, reward, labelled, device, sd)


def make_proposer(bench: Workbench, kind: str) -> Proposer:
    """Return the proposer of this kind with the settings of the campaign file."""
    section = bench.config.proposer
    adjust = section.exponent is None
    if kind == "gflownet":
        settings = TrainerSettings(loss=section.loss)
        return GFlowNetProposer(section.steps, adjust=adjust, anchors=section.anchors, settings=settings)
    if kind == "mixture":
        assert section.shares is not None  # the campaign file was checked
        parts = tuple(make_proposer(bench, part) for part in section.shares)
        return MixtureProposer(parts, tuple(section.shares.values()), evaluations=section.evaluations)
    if kind == "local_search":
        return LocalSearchProposer(section.evaluations)
    if kind == "genetic":
        return GeneticProposer(section.evaluations)
    return ExhaustiveProposer(adjust) if kind == "exhaustive" else RandomProposer()
