"""What a round believes of its space: the problem that its proposer works on, and the proposer.

Everything is rebuilt from the history: the data cut-off, the artefact, what was pending and the seeds are all
there is to know. How the surrogate was fitted belongs in `loop.fitting`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flowscout.db import FitRecord, RoundRecord, SamplerRecord, TrainingSet
from flowscout.loop.acquisition_choice import make_acquisition
from flowscout.loop.fitting import labels_of, load_surrogate, training_set
from flowscout.loop.gflownet import TrainerSettings
from flowscout.loop.labels import features_of
from flowscout.loop.outside import codes_outside, inside
from flowscout.loop.proposers import (
    ExhaustiveProposer,
    GeneticProposer,
    GFlowNetProposer,
    LocalSearchProposer,
    MixtureProposer,
    NearbyGFlowNetProposer,
    Problem,
    Proposer,
    RandomProposer,
    is_edited,
    uniform_states,
)
from flowscout.loop.rewards import LogProbability, freeze_reward, stored_reward
from flowscout.loop.seeds import derive_seed
from flowscout.loop.spaces import CatalogueSpace, EditableSpace
from flowscout.loop.workbench import Workbench
from flowscout.surrogates import FeasibilityClassifier, canonical

REFERENCE_SIZE = 2_000
"""How many uniform objects the reward is centred and scaled on."""

MIN_FAILURES = 3
"""From how many objects that cannot be measured a classifier learns where they lie."""

MAX_OUTCOMES = 400
"""How many outcomes it learns from, evenly spaced: a reward asks it at every step."""


DEFAULT_SHARES = {"gflownet": 0.5, "local_search": 0.5}
"""Who draws how much of the pool by default: neither was better alone in every landscape that was tried."""


def make_problem(
    bench: Workbench, record: RoundRecord, fitted: FitRecord, *, stored: SamplerRecord | None = None
) -> Problem:
    """Return what the proposer works on. With a `stored` run the reward is the one that it ended with."""
    space: EditableSpace[Any] = bench.space
    device = bench.device
    data = training_set(bench, upto_seq=fitted.data_upto_seq)
    rows = bench.scale.learned(data).rows  # in the order of their keys
    values = bench.scale.sign * torch.tensor([row.value for row in rows], dtype=torch.float64)
    ranked = [rows[i].object for i in values.argsort(descending=True, stable=True).tolist()]
    labelled = space.parse(inside(bench, ranked), device)
    conditions = _conditions(bench) if stored is None else stored.reward
    pending, infeasible = (conditions.get(name, []) for name in ("pending", "infeasible"))

    reference_seed = derive_seed(record.seed, "reference")
    reference = uniform_states(space, REFERENCE_SIZE, seed=reference_seed, device=device)

    def features(state: Any) -> Tensor:
        return space.features(state).cpu()  # the exact GP of a few hundred labels is fastest there

    surrogate = load_surrogate(bench, fitted)

    def sd(state: Any) -> Tensor:
        return surrogate.mean_sd(features(state))[1]

    acquisition = make_acquisition(
        bench.config.acquisition,
        surrogate,
        labelled=features(labelled),
        best=labels_of(bench, data).Y.max().item(),
        pending=features_of(bench.space, pending),
        reference=features(reference),
        seed=derive_seed(record.seed, "acquisition"),
    )
    if stored is not None:
        reward = stored_reward(acquisition, features, stored.reward)
    else:
        reward = freeze_reward(
            acquisition,
            features,
            reference=reference,
            known=labelled if len(labelled) else reference,
            log_size=math.log(bench.space.size),
            exponent=bench.config.proposer.exponent,
        )
    reward = replace(
        reward,
        log_feasible=_log_feasible(bench, data, infeasible),
        X_pending=features_of(bench.space, pending),
        conditions={"pending": pending, "infeasible": infeasible},
    )
    return Problem(space, reward, labelled, device, sd)


def _conditions(bench: Workbench) -> dict[str, list[str]]:
    """Return the objects that are being measured, and those that cannot be measured."""
    history, campaign_id = bench.history, bench.campaign.id
    infeasible = history.measurements.infeasible(campaign_id)
    # What nobody can say became of it may wait for ever, and be in the catalogue no more.
    pending = inside(bench, history.queries.pending(campaign_id))
    return {"pending": sorted(set(pending)), "infeasible": infeasible}


def _log_feasible(bench: Workbench, data: TrainingSet, infeasible: Sequence[str]) -> LogProbability | None:
    """Return what is believed of whether objects can be measured; None where too few failed to say."""
    if len(infeasible) < MIN_FAILURES or isinstance(bench.space, CatalogueSpace):
        return None  # it compares letters, and a catalogue has numbers
    symmetry = bench.space.symmetry
    measured = [row.object for row in data.rows] + [row.object for row in data.bounded]
    asked = [*measured, *infeasible]
    X = canonical(features_of(bench.space, asked, outside=codes_outside(bench, asked)), symmetry)
    classifier = FeasibilityClassifier(max_rows=MAX_OUTCOMES)
    classifier.fit(X, torch.arange(len(X)) < len(measured))
    return lambda X: classifier.log_probability(canonical(X, symmetry))


def make_proposer(bench: Workbench, kind: str) -> Proposer:
    """Return the proposer of this kind with the settings of the campaign file."""
    section = bench.config.proposer
    adjust = section.exponent is None
    if kind == "auto":
        return make_proposer(bench, "mixture")
    if kind == "gflownet" and section.anchors is None and is_edited(bench.space):
        steps = section.steps if "steps" in section.model_fields_set else NearbyGFlowNetProposer.steps
        settings = TrainerSettings() if section.loss is None else TrainerSettings(loss=section.loss)
        return NearbyGFlowNetProposer(steps, sharpen=adjust, settings=settings)
    if kind == "gflownet":
        return GFlowNetProposer(section.steps, adjust=adjust, anchors=section.anchors, loss=section.loss)
    if kind == "mixture":
        shares = DEFAULT_SHARES if section.shares is None else section.shares
        parts = tuple(make_proposer(bench, part) for part in shares)
        return MixtureProposer(parts, tuple(shares.values()), evaluations=section.evaluations)
    if kind == "local_search":
        return LocalSearchProposer(section.evaluations)
    if kind == "genetic":
        return GeneticProposer(section.evaluations)
    return ExhaustiveProposer(adjust) if kind == "exhaustive" else RandomProposer()
