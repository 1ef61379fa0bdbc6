"""What is said of a sampler without enumerating, against exact enumeration."""

import math
from functools import cache

import pytest
import torch

from flowscout.errors import ConfigError, ShapeError
from flowscout.loop.gflownet import (
    ExponentCondition,
    Objective,
    Trainer,
    TrainerSettings,
    correlate,
    correlation,
    elbo,
    estimate_log_prob,
    eubo,
    exact_law,
    log_rewards,
    modes_found,
    separate_modes,
    target_law,
    top_k,
    total_variation,
)
from flowscout.loop.gflownet.objectives import Batch
from flowscout.loop.gflownet.sampler import walk_back
from flowscout.loop.gflownet.trajectories import batches
from flowscout.loop.spaces import GridSpace, SequenceSpace, SubsetSpace

WEIGHTS = 1.5 * torch.randn(8, 8, generator=torch.Generator().manual_seed(3))


def log_reward(state):
    """Return a log-reward with interactions, of any of the spaces below."""
    if hasattr(state, "tokens"):
        x = (state.tokens == 0).float()
    elif hasattr(state, "chosen"):
        x = state.chosen.float()
    else:
        x = state.position.float() / 2
    n = x.shape[1]
    return ((x @ WEIGHTS[:n, :n]) * x).sum(1)


SPACES = {
    "tree": SequenceSpace("dna", 4),
    "grid": GridSpace(2, 5),
    "subset": SubsetSpace(6),
    "subset of one size": SubsetSpace(7, size=3),
}


def trained(space, steps, **settings):
    trainer = Trainer(space, log_reward, settings=TrainerSettings(learning_rate=3e-3, batch_size=64, **settings))
    trainer.fit(steps)
    return trainer


@cache
def half_trained(name, *, steps=100, backward_policy="uniform"):
    """Return a trainer of `SPACES[name]` for the tests that only ask it: the same one each time."""
    return trained(SPACES[name], steps, backward_policy=backward_policy)


def from_target(target, n, *, seed=0):
    chosen = target.log_p.exp().multinomial(n, replacement=True, generator=torch.Generator().manual_seed(seed))
    return target.states[chosen]


def test_correlation_of_two_columns_shares_the_ranks_of_equals():
    log_p, log_r = torch.tensor([1.0, 2.0, 2.0, 9.0]), torch.tensor([0.0, 1.0, 2.0, 2.0])
    found = correlate(log_p, log_r)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3.5, 3.5: their covariance is 3.75, their variances 4.5 each.
    assert found.spearman == pytest.approx(3.75 / 4.5)
    assert found.pearson == pytest.approx(6.5 / math.sqrt(41 * 2.75))
    assert found.slope == pytest.approx(6.5 / 2.75)
    assert found.n == 4


def test_correlation_with_a_constant_is_not_a_number():
    found = correlate(torch.tensor([1.0, 2.0]), torch.zeros(2))
    assert math.isnan(found.spearman)
    assert math.isnan(found.pearson)
    assert math.isnan(found.slope)


def test_columns_of_two_lengths_have_no_correlation():
    with pytest.raises(ShapeError, match=r"\(2,\) and log_reward \(3,\)"):
        correlate(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize("strand", ["single", "double"])
def test_correlation_in_a_tree_is_that_of_the_exact_law(strand):
    space = SequenceSpace("dna", 4, strand=strand)
    trainer = Trainer(space, lambda state: space.features(state).square().sum(1) / 4)
    trainer.fit(40)
    law = exact_law(space, trainer.policy)
    expected = correlate(law.log_p, target_law(space, trainer.log_reward, law.states).log_p)
    found = correlation(trainer, law.states)
    # 1e-4: float32 against float64 over four steps.
    assert found.slope == pytest.approx(expected.slope, abs=1e-4)
    assert found.pearson == pytest.approx(expected.pearson, abs=1e-4)
    assert found.n == 256


@pytest.mark.parametrize("name", ["grid", "subset", "subset of one size"])
@pytest.mark.parametrize("backward_policy", ["uniform", "learned"])
def test_estimated_log_prob_is_that_of_the_exact_law(name, backward_policy):
    space = SPACES[name]
    trainer = half_trained(name, backward_policy=backward_policy)
    law = exact_law(space, trainer.policy)
    found = estimate_log_prob(
        space, trainer.policy, law.states, samples=4000, generator=torch.Generator().manual_seed(0)
    )
    error = found.double().exp() - law.log_p.exp()
    # 0.02: many times the error of 4,000 backward trajectories whose weights spread little after 100 steps.
    assert float(error.abs().sum()) < 0.02


@pytest.mark.parametrize("name", ["grid", "subset", "subset of one size"])
def test_correlation_in_a_graph_comes_near_that_of_the_exact_law(name):
    space = SPACES[name]
    trainer = half_trained(name)
    law = exact_law(space, trainer.policy)
    expected = correlate(law.log_p, target_law(space, log_reward, law.states).log_p)
    found = correlation(trainer, law.states, samples=500)
    # 0.02: the error of a log-probability from 500 trajectories is far below the spread of log R.
    assert found.slope == pytest.approx(expected.slope, abs=0.02)
    assert found.spearman == pytest.approx(expected.spearman, abs=0.02)


def test_bounds_in_a_tree_miss_log_z_by_the_divergences():
    space = SPACES["tree"]
    trainer = trained(space, 60)
    law = exact_law(space, trainer.policy)
    target = target_law(space, log_reward, law.states)
    below = float((law.log_p.exp() * (law.log_p - target.log_p)).sum())
    above = float((target.log_p.exp() * (target.log_p - law.log_p)).sum())
    low, high = elbo(trainer, 20_000), eubo(trainer, from_target(target, 20_000))
    assert below > 0.01
    assert above > 0.01
    # Four standard errors, of seeds that are fixed.
    assert low.value == pytest.approx(target.log_z - below, abs=4 * low.error)
    assert high.value == pytest.approx(target.log_z + above, abs=4 * high.error)


@pytest.mark.parametrize("name", list(SPACES))
@pytest.mark.parametrize("backward_policy", ["uniform", "learned", "tlm"])
def test_log_z_lies_between_bounds_that_training_closes(name, backward_policy):
    space = SPACES[name]
    if space.is_tree and backward_policy != "uniform":
        pytest.skip("a tree has one backward policy")
    gaps = []
    for steps in (10, 100):
        trainer = half_trained(name, steps=steps, backward_policy=backward_policy)
        target = target_law(space, log_reward, exact_law(space, trainer.policy).states)
        low, high = elbo(trainer, 4000), eubo(trainer, from_target(target, 4000))
        # Four standard errors, and 1e-5 of float32 where a policy is exact.
        assert low.value - 4 * low.error - 1e-5 <= target.log_z <= high.value + 4 * high.error + 1e-5
        gaps.append(high.value - low.value)
    assert gaps[1] < 0.5 * gaps[0]


@pytest.mark.parametrize("name", ["grid", "subset", "subset of one size"])
def test_the_backward_walk_and_the_objective_agree_on_a_learned_backward_policy(name):
    space = SPACES[name]
    trainer = half_trained(name, backward_policy="learned")
    states = space.enumerate()
    walk, log_pb = walk_back(space, trainer.policy, states, generator=torch.Generator().manual_seed(0))
    (paths,) = batches(space, walk, len(states))
    with torch.no_grad():
        batch = Batch(paths, log_reward(states))
        outcome = Objective(backward_policy="learned")(space, trainer.policy, batch)
    expected = log_reward(states) + log_pb - outcome.log_pf.sum(1)
    torch.testing.assert_close(outcome.log_z_samples, expected, rtol=0, atol=1e-4)


def test_bounds_under_a_condition_are_those_of_its_target():
    space = SPACES["subset"]
    settings = TrainerSettings(learning_rate=3e-3)
    trainer = Trainer(space, log_reward, condition=ExponentCondition(0.5, 2.0), settings=settings)
    trainer.fit(600)
    states = space.enumerate()
    for exponent in (0.5, 2.0):
        target = target_law(space, lambda state, e=exponent: e * log_reward(state), states)
        low = elbo(trainer, 4000, condition=exponent)
        high = eubo(trainer, from_target(target, 4000), condition=exponent)
        assert low.value - 4 * low.error <= target.log_z <= high.value + 4 * high.error
        assert high.value - low.value < 0.2
        torch.testing.assert_close(log_rewards(trainer, states, condition=exponent), exponent * log_reward(states))
        assert correlation(trainer, states, condition=exponent).pearson > 0.9


def test_wrong_conditions_are_refused():
    plain = Trainer(SPACES["tree"], log_reward)
    with pytest.raises(ConfigError, match="expected none"):
        elbo(plain, condition=1.0)
    family = Trainer(SPACES["tree"], log_reward, condition=ExponentCondition(0.5, 2.0))
    with pytest.raises(ConfigError, match="expected one"):
        elbo(family)
    with pytest.raises(ConfigError, match="learned no others"):
        elbo(family, condition=3.0)
    with pytest.raises(ShapeError, match="3 conditions came for 2048 objects"):
        elbo(family, condition=[1.0, 1.0, 1.0])


def test_a_bound_needs_two_trajectories():
    with pytest.raises(ConfigError, match="at least 2"):
        elbo(Trainer(SPACES["tree"], log_reward), 1)


def test_bounds_are_repeatable_and_leave_training_alone():
    trainers = [trained(SPACES["subset"], 8) for _ in range(2)]
    assert elbo(trainers[0], seed=1) == elbo(trainers[0], seed=1)
    assert elbo(trainers[0], seed=1) != elbo(trainers[0], seed=2)
    assert trainers[0].fit(5).loss == trainers[1].fit(5).loss


def test_flow_matching_has_bounds_though_loose():
    space = SPACES["subset"]
    trainer = trained(space, 300, loss="flow_matching")
    law = exact_law(space, trainer.policy)
    target = target_law(space, log_reward, law.states)
    assert total_variation(law, target) < 0.1
    assert elbo(trainer).value < target.log_z < eubo(trainer, from_target(target, 2000)).value


def test_modes_count_once_whatever_their_text():
    space = SequenceSpace("dna", 4, strand="double")
    states = space.parse(["AACC", "GGTT", "AAAA", "ACGT"])  # GGTT is AACC read from the other strand
    assert modes_found(space, states, space.parse(["GGTT", "TTTT", "CCCC"])) == 2


def test_modes_that_lie_together_are_one():
    space = SequenceSpace("dna", 4)
    states = space.parse(["AAAA", "AAAC", "GGGG", "GGGT", "CCCC", "AAAA"])
    values = torch.tensor([2.0, 3.0, 1.0, 5.0, -1.0, 2.0])
    assert separate_modes(space, states, values, threshold=0.0, distance=2) == 2
    assert separate_modes(space, states, values, threshold=0.0, distance=1) == 4
    assert separate_modes(space, states, values, threshold=2.5, distance=1) == 2
    assert separate_modes(space, states, values, threshold=9.0, distance=1) == 0


def test_top_objects_are_different_and_told_with_their_distance():
    space = SequenceSpace("dna", 4)
    states = space.parse(["AAAA", "GGGG", "GGGT", "GGGG", "CCCC"])
    values = torch.tensor([1.0, 4.0, 3.0, 4.0, 0.0])
    best = top_k(space, states, values, 3)
    assert best.objects == ["GGGG", "GGGT", "AAAA"]
    assert best.log_reward.tolist() == [4.0, 3.0, 1.0]
    assert best.mean_log_reward == pytest.approx(8 / 3)
    assert best.mean_distance == pytest.approx((1 + 4 + 4) / 3)
    assert len(top_k(space, states, values, 10).objects) == 4
    assert math.isnan(top_k(space, states, values, 1).mean_distance)
    with pytest.raises(ShapeError, match=r"\(2,\), expected \(5,\)"):
        top_k(space, states, torch.zeros(2), 1)
