"""The GFlowNet against exact enumeration, and against itself."""

import io
import math
from collections import defaultdict

import pytest
import torch

from flowscout.errors import ConfigError, NonFiniteError, ShapeError
from flowscout.loop.gflownet import (
    Behaviour,
    Policy,
    Trainer,
    TrainerSettings,
    draw,
    exact_law,
    log_prob,
    log_z_error,
    rollout,
    target_law,
    total_variation,
)
from flowscout.loop.gflownet.policy import masked_log_softmax
from flowscout.loop.gflownet.sampler import walk_back
from flowscout.loop.gflownet.trajectories import batches
from flowscout.loop.spaces import SequenceSpace


def peaked_reward(space: SequenceSpace, *, seed: int = 0):
    """Return a log-reward with interactions between letters, the same for both strands of a key.

    Its standard deviation is about 2.5: on 4^4 the best tenth of the objects hold most of the mass.
    """
    generator = torch.Generator().manual_seed(seed)
    single = 1.2 * torch.randn(space.max_steps, space.n_actions, generator=generator)
    pair = 1.2 * torch.randn(space.max_steps - 1, space.n_actions, space.n_actions, generator=generator)
    place = torch.arange(space.max_steps)

    every = space.enumerate()
    codes = space.parse([space.key(text) for text in space.decode(every)]).tokens
    table = single[place, codes].sum(1) + pair[place[:-1], codes[:, :-1], codes[:, 1:]].sum(1)
    powers = space.n_actions ** place.flip(0)  # `enumerate` goes in the order of codes

    def log_reward(state):
        return table[(state.tokens * powers).sum(1)]

    return log_reward


def flat_reward(state):
    return state.tokens.double().sum(1) / 4


@pytest.fixture(params=["single", "double"])
def space(request):
    return SequenceSpace("dna", 4, strand=request.param)


@pytest.mark.parametrize("loss", ["trajectory_balance", "log_partition_variance"])
def test_trained_policy_samples_in_proportion_to_the_reward(space, loss):
    log_reward = peaked_reward(space)
    trainer = Trainer(space, log_reward, seed=1, settings=TrainerSettings(loss=loss, learning_rate=3e-3))
    untrained = exact_law(space, trainer.policy)
    target = target_law(space, log_reward, untrained.states)
    assert total_variation(untrained, target) >= 0.5

    trainer.fit(600)

    law = exact_law(space, trainer.policy)
    # 0.05: over five seeds the noise of the last steps left at most 0.031, and 0.02 in log Z.
    assert total_variation(law, target) < 0.05
    assert log_z_error(law, target) < 0.05


def test_two_strands_share_the_reward_of_their_key():
    space = SequenceSpace("dna", 3, strand="double")
    log_reward = peaked_reward(space)
    law = target_law(space, log_reward, space.enumerate())
    p = defaultdict(float)
    for text, log_p in zip(space.decode(law.states), law.log_p.tolist(), strict=True):
        p[space.key(text)] += math.exp(log_p)
    expected = log_reward(space.parse(list(p))).double().softmax(0)
    # 1e-6: the reward is float32.
    torch.testing.assert_close(torch.tensor(list(p.values()), dtype=torch.float64), expected, rtol=0, atol=1e-6)
    assert len(p) == space.size


def test_untrained_policy_is_uniform(space):
    policy = Policy(space.encoding_dim, space.n_actions, generator=torch.Generator().manual_seed(0))
    law = exact_law(space, policy)
    assert len(law.states) == 256
    torch.testing.assert_close(law.log_p, torch.full_like(law.log_p, -math.log(256)))


def test_log_prob_of_given_objects_is_that_of_the_exact_law(space):
    trainer = Trainer(space, peaked_reward(space))
    trainer.fit(20)
    law = exact_law(space, trainer.policy)
    # 1e-4: float32 against float64 over four steps.
    torch.testing.assert_close(trainer.log_prob(law.states).double(), law.log_p, rtol=0, atol=1e-4)


def test_draws_follow_the_exact_law_and_know_their_log_prob():
    space = SequenceSpace("dna", 3)
    trainer = Trainer(space, peaked_reward(space))
    trainer.fit(30)
    law = exact_law(space, trainer.policy)
    sample = trainer.draw(40_000, generator=torch.Generator().manual_seed(5))
    places = torch.tensor([16, 4, 1])
    counts = torch.bincount((sample.states.tokens * places).sum(1), minlength=64).double()
    expected = 40_000 * law.log_p.exp()[(law.states.tokens * places).sum(1).argsort()]
    chi_square = ((counts - expected).square() / expected.clamp_min(1e-9))[expected > 5].sum()
    assert chi_square < 63 + 5 * math.sqrt(2 * 63)  # five standard deviations of a chi-square with 63 degrees
    torch.testing.assert_close(sample.log_pf, trainer.log_prob(sample.states), rtol=0, atol=1e-5)


def test_explored_trajectories_keep_the_policys_own_log_prob():
    space = SequenceSpace("dna", 4)
    trainer = Trainer(space, peaked_reward(space))
    trainer.fit(30)
    explored = rollout(space, trainer.policy, 64, generator=torch.Generator().manual_seed(0), epsilon=1.0)
    with torch.no_grad():
        steps = masked_log_softmax(trainer.policy(explored.encodings), explored.masks)
    (paths,) = batches(space, explored, 64)
    log_pf = paths.pad(steps.gather(1, explored.actions.unsqueeze(1)).squeeze(1)).sum(1)
    torch.testing.assert_close(log_pf, log_prob(space, trainer.policy, explored.terminal), rtol=0, atol=1e-5)


def test_exploration_takes_uniform_actions_whatever_the_policy_says():
    space = SequenceSpace("dna", 1)
    policy = Policy(space.encoding_dim, space.n_actions, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        policy.forward_head.bias[2] = 50.0  # always G
    generator = torch.Generator().manual_seed(0)
    for epsilon in (0.0, 0.5, 1.0):
        actions = rollout(space, policy, 10_000, generator=generator, epsilon=epsilon).actions
        share = (actions == 2).double().mean().item()
        assert abs(share - (1 - epsilon + epsilon / 4)) < 0.025  # five standard deviations of 10,000 draws


def test_backtracked_trajectories_are_the_ones_that_were_sampled():
    space = SequenceSpace("protein", 6)
    policy = Policy(space.encoding_dim, space.n_actions, generator=torch.Generator().manual_seed(0))
    sampled = rollout(space, policy, 32, generator=torch.Generator().manual_seed(1))
    back, log_pb = walk_back(space, policy, sampled.terminal, generator=torch.Generator())
    (expected,), (found,) = batches(space, sampled, 32), batches(space, back, 32)
    for name in ("encodings", "masks", "actions", "slots", "lengths", "log_pb"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert not log_pb.any()


def test_same_seed_gives_the_same_training_and_the_same_samples(space):
    trainers = [Trainer(space, peaked_reward(space), seed=3) for _ in range(2)]
    losses = [trainer.fit(15).loss for trainer in trainers]
    draws = [trainer.draw(100, generator=torch.Generator().manual_seed(0)) for trainer in trainers]
    assert losses[0] == losses[1]
    assert torch.equal(draws[0].states.tokens, draws[1].states.tokens)
    assert torch.equal(draws[0].log_pf, draws[1].log_pf)


def test_another_seed_gives_other_samples():
    space = SequenceSpace("dna", 4)
    losses = [Trainer(space, flat_reward, seed=seed).fit(2).loss for seed in (0, 1)]
    assert losses[0] != losses[1]


def test_training_neither_reads_nor_moves_the_global_random_numbers():
    space = SequenceSpace("dna", 4)
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        trainer = Trainer(space, flat_reward)
        losses.append(trainer.fit(3).loss)
        trainer.draw(10, generator=torch.Generator().manual_seed(0))
        assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("loss", ["trajectory_balance", "log_partition_variance"])
def test_resumed_training_equals_uninterrupted_training_to_the_last_bit(loss):
    space, settings = SequenceSpace("dna", 4), TrainerSettings(loss=loss)
    whole = Trainer(space, flat_reward, seed=4, settings=settings)
    expected = whole.fit(12).loss + whole.fit(8).loss

    first = Trainer(space, flat_reward, seed=4, settings=settings)
    losses = first.fit(12).loss
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    first.fit(5)  # a snapshot does not follow the trainer that made it
    file.seek(0)
    second = Trainer(space, flat_reward, seed=99, settings=settings)
    second.load_state_dict(torch.load(file, weights_only=True))
    losses += second.fit(8).loss

    assert losses == expected
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, second.policy.state_dict()[name])


def test_warm_start_begins_with_the_other_policys_law():
    space = SequenceSpace("dna", 4)
    first = Trainer(space, peaked_reward(space))
    first.fit(50)
    second = Trainer(space, peaked_reward(space), seed=7, policy_state=first.policy.state_dict())
    assert total_variation(exact_law(space, first.policy), exact_law(space, second.policy)) == 0
    kept = exact_law(space, first.policy).log_p
    second.fit(1)
    assert torch.equal(exact_law(space, first.policy).log_p, kept)


def test_warm_start_from_another_shape_is_refused():
    space = SequenceSpace("dna", 4)
    state = Trainer(space, flat_reward).policy.state_dict()
    with pytest.raises(ShapeError, match="same space, width and depth"):
        Trainer(SequenceSpace("dna", 5), flat_reward, policy_state=state)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_reward_that_is_not_finite_is_named_with_its_object(value):
    space = SequenceSpace("dna", 2)

    def log_reward(state):
        bad = (state.tokens == torch.tensor([3, 1])).all(1)
        return torch.where(bad, value, 0.0)

    trainer = Trainer(space, log_reward)
    with pytest.raises(NonFiniteError, match=rf"log_reward is {value} for the object 'TC'"):
        trainer.fit(1)


def test_weights_that_are_not_finite_are_named_as_log_pf():
    space = SequenceSpace("dna", 4)
    state = Trainer(space, flat_reward).policy.state_dict()
    state["forward_head.bias"][0] = math.nan
    with pytest.raises(NonFiniteError, match="log_pf is nan for the object"):
        Trainer(space, flat_reward, policy_state=state).fit(1)


def test_loss_that_overflows_is_named_and_leaves_the_weights_alone():
    space = SequenceSpace("dna", 4)
    trainer = Trainer(space, lambda state: state.tokens[:, 0] * 1e30)
    before = {name: value.clone() for name, value in trainer.policy.trunk.state_dict().items()}
    with pytest.raises(NonFiniteError, match="loss is inf for the object"):
        trainer.fit(1)
    for name, value in trainer.policy.trunk.state_dict().items():
        assert torch.equal(value, before[name])


def test_reward_that_returns_a_column_is_refused():
    space = SequenceSpace("dna", 4)

    def column(state):
        return flat_reward(state).unsqueeze(1)

    with pytest.raises(ShapeError, match=r"\(768, 1\), expected \(768,\)"):
        Trainer(space, column).fit(1)
    with pytest.raises(ShapeError, match=r"\(256, 1\), expected \(256,\)"):
        target_law(space, column, space.enumerate())


def test_record_tells_every_step():
    space = SequenceSpace("dna", 2, strand="double")
    seen = []
    record = Trainer(space, flat_reward).fit(12, progress=seen.append)
    assert seen == list(range(1, 13))
    assert record.steps == len(record.loss) == 12


def test_no_steps_change_nothing():
    record = Trainer(SequenceSpace("dna", 4), flat_reward).fit(0)
    assert (record.steps, record.loss) == (0, ())


def test_reward_may_compute_with_gradients_of_its_own():
    space = SequenceSpace("dna", 4)
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    record = Trainer(space, lambda state: space.features(state) @ weight / 4).fit(2)
    assert weight.grad is None
    assert all(map(math.isfinite, record.loss))


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_reward_and_caller_keep_their_number_of_threads():
    seen = set()

    def log_reward(state):
        seen.add(torch.get_num_threads())
        return flat_reward(state)

    Trainer(SequenceSpace("dna", 4), log_reward).fit(2)
    assert seen == {3}
    assert torch.get_num_threads() == 3


def test_states_given_to_the_reward_may_be_changed_in_place():
    space = SequenceSpace("dna", 4)
    sample = draw(space, Trainer(space, flat_reward).policy, 4, generator=torch.Generator().manual_seed(0))
    sample.states.tokens.add_(1)
    sample.log_pf.add_(1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": "subtb"},
        {"residual": "absolute"},
        {"batch_size": 1},
        {"width": 0},
        {"depth": 0},
        {"learning_rate": -1.0},
        {"learning_rate": math.nan},
        {"decay": 0.0},
        {"clip_norm": 0.0},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainerSettings(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 1.5},
        {"replay": -0.1},
        {"replay": 0.6, "local_search": 0.6},
        {"ahead": 0},
        {"temperature": 0.0},
        {"acceptance": "always"},
    ],
)
def test_behaviour_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Behaviour(**wrong)


def test_space_too_large_for_an_exact_law_is_refused():
    space = SequenceSpace("protein", 6)
    policy = Policy(space.encoding_dim, space.n_actions, generator=torch.Generator().manual_seed(0), width=4)
    with pytest.raises(ConfigError, match="exact law"):
        exact_law(space, policy)


def test_laws_of_different_spaces_cannot_be_compared():
    spaces = [SequenceSpace("dna", length) for length in (2, 3)]
    laws = [target_law(space, flat_reward, space.enumerate()) for space in spaces]
    with pytest.raises(ShapeError, match="16 and 64 states"):
        total_variation(*laws)
