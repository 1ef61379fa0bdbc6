"""What a round believes: its training set, its surrogate, and the problem that its proposer works on.

Everything is rebuilt from the history: the data cut-off, the artefact and the seeds are all there is to know.
"""

import math
from typing import Any

import torch
from torch import Tensor

from flowscout.db import FitRecord, RoundRecord, SamplerRecord, TrainingSet
from flowscout.errors import StateError
from flowscout.loop.gflownet import TrainerSettings
from flowscout.loop.proposers import (
    GFlowNetProposer,
    LocalSearchProposer,
    Problem,
    Proposer,
    RandomProposer,
    uniform_states,
)
from flowscout.loop.rewards import FrozenReward, freeze_reward
from flowscout.loop.seeds import derive_seed
from flowscout.loop.workbench import Workbench
from flowscout.surrogates import ExactGP, ucb

REFERENCE_SIZE = 2_000
"""How many uniform objects the reward is centred and scaled on."""


def training_set(bench: Workbench, *, upto_seq: int | None = None) -> TrainingSet:
    """Return what is known of the objective up to a cut-off (default: now)."""
    return bench.history.measurements.training_set(
        bench.campaign.id, bench.config.objective.name, upto_seq=upto_seq
    )


def tensors(bench: Workbench, data: TrainingSet) -> tuple[Tensor, Tensor]:
    """Return features and labels, `n x d` and `n x 1`, in the order of candidate keys; larger is better."""
    X = bench.space.features(bench.space.parse([row.object for row in data.rows]))
    Y = torch.tensor([[bench.sign * row.value] for row in data.rows], dtype=torch.float64)
    return X, Y


def new_surrogate(bench: Workbench) -> ExactGP:
    """Return an unfitted surrogate for the campaign's space."""
    return ExactGP(symmetry=bench.space.symmetry)


def load_surrogate(bench: Workbench, fitted: FitRecord) -> ExactGP:
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
    acquisition = ucb(load_surrogate(bench, fitted), bench.config.acquisition.kappa)

    def features(state: Any) -> Tensor:
        return space.features(state).cpu()  # the exact GP of a few hundred labels is fastest there

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
    return Problem(space, reward, labelled, device)


def make_proposer(bench: Workbench, kind: str) -> Proposer:
    """Return the proposer of this kind with the settings of the campaign file."""
    section = bench.config.proposer
    if kind == "gflownet":
        settings = TrainerSettings(loss=section.loss)
        return GFlowNetProposer(steps=section.steps, adjust=section.exponent is None, settings=settings)
    return LocalSearchProposer() if kind == "local_search" else RandomProposer()
