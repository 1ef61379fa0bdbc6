"""Proposers sample in proportion to the reward, say when they do not, and follow from their seeds alone."""

import math
from dataclasses import replace

import pytest
import torch

from flowscout.loop.gflownet import TrainerSettings
from flowscout.loop.proposers import (
    UNIQUE_RANGE,
    GFlowNetProposer,
    LocalSearchProposer,
    Problem,
    Proposer,
    RandomProposer,
    uniform_states,
)
from flowscout.loop.rewards import FrozenReward
from flowscout.loop.spaces import SequenceSpace
from flowscout.surrogates import FrozenAcquisition

SPACE = SequenceSpace("dna", 8)
CPU = torch.device("cpu")


def problem(exponent: float = 1.0) -> Problem:
    """Reward the number of G, with the best of a few random objects labelled."""
    count = FrozenAcquisition("count", False, lambda X: (X == 2).sum(dim=1).double())
    states = uniform_states(SPACE, 40, seed=0, device=CPU)
    order = (SPACE.features(states) == 2).sum(dim=1).argsort(descending=True)
    return Problem(SPACE, FrozenReward(count, SPACE.features, exponent, 2.0, 1.2), states[order], CPU)


@pytest.mark.parametrize("proposer", [GFlowNetProposer(steps=20), LocalSearchProposer(), RandomProposer()])
def test_the_same_seeds_give_the_same_samples(proposer: Proposer) -> None:
    texts = []
    for _ in range(2):
        trained = proposer.train(problem(), seed=3)
        texts.append(SPACE.decode(proposer.draw(problem(), trained.tensors, 50, seed=4).states))
    assert texts[0] == texts[1]


def test_the_exponent_is_moved_until_samples_are_unique_in_the_share_wanted() -> None:
    trained = GFlowNetProposer(steps=60).train(problem(exponent=40.0), seed=0)
    assert trained.reward.exponent < 40.0
    # 0.05: training goes on after the share was met.
    assert UNIQUE_RANGE[0] - 0.05 <= trained.diagnostics["unique_share"] <= UNIQUE_RANGE[1] + 0.05
    assert trained.healthy


def test_an_exponent_that_the_user_set_is_kept() -> None:
    trained = GFlowNetProposer(steps=5, adjust=False).train(problem(exponent=3.0), seed=0)
    assert trained.reward.exponent == 3.0
    assert trained.diagnostics["adjustments"] == 0


def test_an_unfitted_sampler_is_not_called_healthy() -> None:
    lazy = TrainerSettings(learning_rate=1e-9, log_z_learning_rate=1e-9)
    trained = GFlowNetProposer(steps=1, adjust=False, settings=lazy).train(problem(exponent=3.0), seed=0)
    assert not trained.healthy


def test_a_flat_reward_makes_no_policy_healthy() -> None:
    made = problem(exponent=1e-3)  # a policy that learned nothing is right to a thousandth of a nat
    trained = GFlowNetProposer(steps=60, adjust=False).train(made, seed=0)
    assert trained.diagnostics["spread"] < 0.01
    assert not trained.healthy


def test_samples_of_a_trained_policy_are_better_than_random_ones() -> None:
    proposer = GFlowNetProposer(steps=60)
    made = problem()
    trained = proposer.train(made, seed=0)
    drawn = proposer.draw(made, trained.tensors, 500, seed=1).states
    n_g = (SPACE.features(drawn) == 2).sum(dim=1).double().mean().item()
    assert n_g > 3.0  # a uniform sequence of 8 has 2


def test_local_search_finds_the_optimum_of_a_smooth_reward() -> None:
    proposer, made = LocalSearchProposer(), problem(exponent=5.0)
    trained = proposer.train(made, seed=0)
    assert "GGGGGGGG" in SPACE.decode(proposer.draw(made, trained.tensors, 20, seed=0).states)


def test_a_warm_start_is_recorded() -> None:
    proposer = GFlowNetProposer(steps=5)
    first = proposer.train(problem(), seed=0)
    second = proposer.train(replace(problem()), seed=1, warm_start=first.tensors)
    assert (first.params["warm_start"], second.params["warm_start"]) == (False, True)


def test_the_exponent_starts_from_where_a_warm_start_ended() -> None:
    proposer = GFlowNetProposer(steps=60)
    first = proposer.train(problem(exponent=40.0), seed=0)
    second = proposer.train(problem(exponent=40.0), seed=1, warm_start=first.tensors)
    assert second.diagnostics["adjustments"] < first.diagnostics["adjustments"]
    assert UNIQUE_RANGE[0] - 0.05 <= second.diagnostics["unique_share"] <= UNIQUE_RANGE[1] + 0.05


def test_labelled_objects_do_not_count_as_repeats() -> None:
    made = problem(exponent=40.0)
    best = SPACE.enumerate()[made.reward(SPACE.enumerate()).argsort(descending=True)[:3000]]
    without, trained = (
        GFlowNetProposer(steps=60).train(one, seed=0) for one in (made, replace(made, labelled=best))
    )
    # The best are known: what is left is flatter, so that a sharper reward still gives different samples.
    assert trained.reward.exponent > without.reward.exponent


def test_uniform_states_are_uniform() -> None:
    states = uniform_states(SequenceSpace("dna", 2), 16_000, seed=0, device=CPU)
    counts = torch.bincount(states.tokens[:, 0] * 4 + states.tokens[:, 1], minlength=16)
    assert (counts - 1000).abs().max() < 5 * 31  # five standard deviations of a count of 1,000


def test_the_log_probability_of_an_object_counts_both_of_its_strands() -> None:
    space = SequenceSpace("dna", 4, strand="double")
    count = FrozenAcquisition("count", False, lambda X: (X == 2).sum(dim=1).double())
    states = space.enumerate()[torch.arange(20)]
    made = Problem(space, FrozenReward(count, space.features, 1.0, 1.0, 1.0), states, CPU)
    proposer = GFlowNetProposer(steps=20)
    trained = proposer.train(made, seed=0)
    drawn = proposer.draw(made, trained.tensors, 4_000, seed=0)
    assert drawn.log_prob is not None
    found = {space.key(t): p for t, p in zip(space.decode(drawn.states), drawn.log_prob.tolist(), strict=True)}
    assert len(found) == space.size
    # Every object was drawn, so that their probabilities add to one; float32 over 136 of them.
    assert sum(math.exp(p) for p in found.values()) == pytest.approx(1.0, abs=1e-4)
