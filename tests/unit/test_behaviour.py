"""What training looks at: shares, order, rewards and memory."""

import itertools
import math

import pytest
import torch
from engine_spaces import SPACES, GridSpace, SubsetSpace, WordSpace, hash_reward

from flowscout.errors import ConfigError
from flowscout.loop.gflownet import (
    Behaviour,
    ExponentCondition,
    Policy,
    PreferenceCondition,
    Trainer,
    TrainerSettings,
    draw,
    estimate_log_prob,
)
from flowscout.loop.gflownet.behaviour import Shares
from flowscout.loop.gflownet.replay import RANK_WEIGHT, Replay
from flowscout.loop.gflownet.sampler import regrow, step_back, walk_back

BEHAVIOURS = {
    "forward": Behaviour(epsilon=0.1),
    "tempered": Behaviour(epsilon=0.0, temperature=2.0, ahead=2),
    "falling epsilon": Behaviour(epsilon=0.5, final_epsilon=0.0, epsilon_steps=3, ahead=1),
    "replay": Behaviour(replay=0.5, replay_capacity=6, ahead=2),
    "data": Behaviour(data=0.4, ahead=2),
    "local search": Behaviour(local_search=0.5, search_rounds=2, ahead=2),
    "metropolis": Behaviour(local_search=0.5, search_rounds=3, acceptance="metropolis", search_depth=1.0),
    "everything": Behaviour(replay=0.2, data=0.3, local_search=0.3, epsilon=0.2, ahead=3),
}
CONDITIONS = {"none": None, "exponent": ExponentCondition(0.5, 3.0), "preference": PreferenceCondition(2)}
SIZE = 10


def outcomes_of(space, condition):
    """Return a reward: two columns where the condition is of two objectives."""
    one = hash_reward(space)
    if condition is None or condition.outcomes is None:
        return one
    return lambda state: torch.stack([one(state), -one(state) / 2 + 0.3], dim=1)


def data_of(space):
    texts = {"grid": ["0,0", "3,1", "2,2"], "words": ["a", "ab", "bba"]}
    texts |= {"subset": ["11100", "00111"], "sequence": ["010", "111"]}
    name = next(name for name, make in SPACES.items() if repr(make()) == repr(space))
    return space.parse(texts[name])


def make_trainer(name, behaviour, *, condition=None, loss="trajectory_balance", backward="uniform", **settings):
    space = SPACES[name]()
    partial = outcomes_of(space, condition) if loss == "forward_looking_detailed_balance" else None
    return Trainer(
        space,
        outcomes_of(space, condition),
        partial_log_reward=partial,
        condition=condition,
        data=data_of(space),
        settings=TrainerSettings(
            loss=loss,
            backward_policy=backward,
            behaviour=behaviour,
            batch_size=SIZE,
            groups=3,
            width=16,
            **settings,
        ),
    )


def target_by_hand(space, condition, states, encoded):
    """Return log-rewards with the condition's value read back from its thermometer code."""
    outcome = outcomes_of(space, condition)(states)
    if condition is None:
        return outcome
    shares = encoded.view(len(states), -1, condition.bins).mean(2)
    if isinstance(condition, ExponentCondition):
        return outcome * (condition.low * (condition.high / condition.low) ** shares[:, 0])
    return condition.exponent * (shares * outcome).sum(1)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("name", SPACES)
def test_every_row_has_the_reward_of_its_own_object(name, behaviour, condition):
    given = CONDITIONS[condition]
    trainer = make_trainer(name, BEHAVIOURS[behaviour], condition=given)
    space, explorer = trainer.space, trainer._explorer
    for step in range(3):
        for batch in explorer.sample(step):
            paths = batch.trajectories
            assert len(paths) == SIZE
            expected = target_by_hand(space, given, paths.terminal, batch.condition)
            # 1e-4: the condition is read back from a float32 code.
            torch.testing.assert_close(batch.log_reward, expected, rtol=1e-4, atol=1e-4)
            assert batch.log_reward.dtype == torch.float32
            assert space.done(paths.terminal).all()
            check_trajectories(space, paths)
            if given is not None:
                assert batch.group.tolist() == [row % 3 for row in range(SIZE)]
                assert torch.equal(batch.condition, batch.condition[:3][batch.group])
                assert len(batch.condition.unique(dim=0)) == 3


def check_trajectories(space, paths):
    """Follow every trajectory and see that it ends in its own object."""
    for row in range(len(paths)):
        state = space.reset(1)
        for step in range(int(paths.lengths[row])):
            (place,) = (paths.slots == row * paths.horizon + step).nonzero().squeeze(1).tolist()
            assert torch.equal(space.encode(state)[0], paths.encodings[place])
            action = paths.actions[place : place + 1]
            state = space.step(state, action)
            backward = space.backward_mask(state).sum().double()
            assert float(paths.log_pb[place]) == pytest.approx(-math.log(backward), abs=1e-6)
        assert space.decode(state) == space.decode(paths.terminal[row : row + 1])


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize(
    ("name", "loss"),
    [("grid", "modified_detailed_balance")] + [(name, "forward_looking_detailed_balance") for name in SPACES],
)
def test_visited_rewards_are_those_of_their_states(name, loss, condition):
    given = CONDITIONS[condition]
    trainer = make_trainer(name, BEHAVIOURS["everything"], condition=given, loss=loss)
    space = trainer.space
    for step in range(2):
        for batch in trainer._explorer.sample(step):
            states = batch.trajectories.states
            if loss == "modified_detailed_balance":
                states = space.step(states, torch.full((len(states),), space.stop_action))
            encoded = None if given is None else batch.condition[batch.trajectories.rows]
            expected = target_by_hand(space, given, states, encoded)
            torch.testing.assert_close(batch.visited, expected, rtol=1e-4, atol=1e-4)


def test_shares_sum_to_the_batch_however_they_are_rounded():
    parts = (0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 1.0)
    for size, (replay, data, search) in itertools.product((2, 3, 6, 7, 192), itertools.product(parts, repeat=3)):
        if replay + data + search <= 1:
            shares = Shares.of(Behaviour(replay=replay, data=data, local_search=search), size)
            found = (shares.forward, shares.replay, shares.data, shares.search)
            assert sum(found) == size
            assert min(found) >= 0
            for part, share in zip((replay, data, search), found[1:], strict=True):
                assert abs(part * size - share) <= 1


@pytest.mark.parametrize("size", [3, 6, 7])
def test_batch_of_no_forward_trajectories_has_its_size(size):
    space = GridSpace(3)
    trainer = Trainer(
        space,
        hash_reward(space),
        data=space.parse(["0,0", "1,1"]),
        settings=TrainerSettings(
            behaviour=Behaviour(replay=0.25, data=0.5, local_search=0.25), batch_size=size, width=8
        ),
    )
    trainer.fit(6)
    assert {len(batch.trajectories) for batch in trainer._explorer.sample(6)} == {size}


def test_rows_of_each_source_come_from_it():
    trainer = make_trainer("grid", Behaviour(replay=0.2, data=0.3, local_search=0.2, replay_capacity=3, ahead=2))
    explorer, space = trainer._explorer, trainer.space
    explorer.sample(0)
    known = set(space.decode(data_of(space)))
    for batch in explorer.sample(1):
        texts = space.decode(batch.trajectories.terminal)
        # 10 rows: 3 forwards, 2 of the replay, 3 of the data, 2 of the search. The first batch has no replay.
        assert set(texts[5:8]) <= known
    assert len(explorer.replay) == 3
    first = Trainer(space, hash_reward(space), settings=TrainerSettings(behaviour=Behaviour(replay=1.0)))
    assert len(first._explorer.replay) == 0
    first.fit(1)
    memory = set(space.decode(first._explorer.replay.states))
    (again, *_) = first._explorer.sample(4)
    assert set(space.decode(again.trajectories.terminal)) <= memory


def test_first_half_of_the_forward_rows_is_the_policys_own_for_a_backward_policy_by_likelihood():
    trainer = make_trainer("subset", Behaviour(epsilon=1.0, temperature=3.0, data=0.2), backward="tlm")
    with torch.no_grad():
        trainer.policy.forward_head.bias.copy_(torch.tensor([60.0, 40.0, 20.0, 0.0, 0.0]))
    (batch,) = trainer._explorer.sample(0)
    assert batch.on_policy.tolist() == [True] * 4 + [False] * 6  # 8 forwards, half of them faithful
    texts = trainer.space.decode(batch.trajectories.terminal)
    assert set(texts[:4]) == {"11100"}
    assert len(set(texts[4:8])) > 1

    faithful = make_trainer("subset", Behaviour(epsilon=0.0, data=0.2), backward="tlm")
    (batch,) = faithful._explorer.sample(0)
    assert batch.on_policy.tolist() == [True] * 8 + [False] * 2


def test_epsilon_falls_in_a_straight_line():
    behaviour = Behaviour(epsilon=0.4, final_epsilon=0.1, epsilon_steps=10)
    assert [behaviour.epsilon_at(step) for step in (0, 5, 10, 99)] == pytest.approx([0.4, 0.25, 0.1, 0.1])
    assert behaviour.explores
    assert not Behaviour(epsilon=0.0).explores
    assert Behaviour(epsilon=0.0, final_epsilon=0.1).explores


def test_local_search_improves_what_the_policy_samples():
    space = GridSpace(4)
    log_reward = hash_reward(space, scale=3.0)
    means = []
    for rounds in (1, 12):
        trainer = Trainer(
            space,
            log_reward,
            settings=TrainerSettings(
                behaviour=Behaviour(local_search=1.0, search_rounds=rounds, ahead=1), batch_size=200
            ),
        )
        (batch,) = trainer._explorer.sample(0)
        means.append(float(batch.log_reward.mean()))
    plain = draw(space, trainer.policy, 200, generator=torch.Generator().manual_seed(0)).states
    assert float(log_reward(plain).mean()) < means[0] < means[1]


@pytest.mark.parametrize("name", SPACES)
def test_steps_back_and_forth_end_in_finished_objects(name):
    space = SPACES[name]()
    policy = Policy(space.encoding_dim, space.n_actions, generator=torch.Generator().manual_seed(0), width=8)
    generator = torch.Generator().manual_seed(3)
    terminal = draw(space, policy, 40, generator=generator).states
    for depth in range(1, space.max_steps + 1):  # further back than most trajectories are long
        partial = step_back(space, policy, terminal, depth, generator=generator)
        assert len(partial) == 40
        assert not space.done(partial).any()
        again = regrow(space, policy, partial, depth, generator=generator, condition=None)
        assert space.done(again).all()
        if depth == space.max_steps:
            assert torch.equal(space.encode(partial), space.encode(space.reset(40)))


@pytest.mark.parametrize("name", SPACES)
def test_walks_back_have_their_steps_in_order(name):
    space = SPACES[name]()
    policy = Policy(
        space.encoding_dim,
        space.n_actions,
        generator=torch.Generator().manual_seed(0),
        width=8,
        n_backward_actions=space.n_backward_actions,
    )
    torch.nn.init.normal_(policy.backward_head.weight, generator=torch.Generator().manual_seed(1))
    terminal = draw(space, policy, 40, generator=torch.Generator().manual_seed(3)).states
    walk, log_pb = walk_back(space, policy, terminal, generator=torch.Generator().manual_seed(4))
    for row in range(40):
        own = (walk.rows == row).nonzero().squeeze(1)
        own = own[walk.steps[own].argsort()]
        assert walk.steps[own].tolist() == list(range(len(own)))
        state, total = space.reset(1), 0.0
        for place in own.tolist():
            assert torch.equal(space.encode(state)[0], walk.encodings[place])
            action = walk.actions[place : place + 1]
            back, state = space.reverse(state, action), space.step(state, action)
            with torch.no_grad():
                logits = policy.heads(space.encode(state)).backward[0]
            legal = space.backward_mask(state)[0]
            total += float(logits.masked_fill(~legal, -math.inf).log_softmax(0)[back])
        assert space.decode(state) == space.decode(terminal[row : row + 1])
        assert float(log_pb[row]) == pytest.approx(total, abs=1e-4)


def test_estimated_log_prob_is_that_of_the_law():
    space = GridSpace(3)
    policy = Policy(space.encoding_dim, space.n_actions, generator=torch.Generator().manual_seed(0), width=8)
    torch.nn.init.normal_(policy.forward_head.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    from engine_spaces import policy_law

    law = policy_law(space, policy)
    everything = space.enumerate()
    found = estimate_log_prob(
        space, policy, everything, samples=2000, generator=torch.Generator().manual_seed(0)
    ).exp()
    expected = torch.tensor([law[text] for text in space.decode(everything)])
    # 0.01: 2,000 trajectories of objects that have at most six.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


def test_noise_is_never_used_twice(monkeypatch):
    # Every draw of a block is handed out once: more steps than a block has, and rows dropped in between.
    from flowscout.loop.gflownet import sampler

    used = []
    choose = sampler._Noise.choose

    def spy(self, logits, mask):
        chosen = choose(self, logits, mask)
        used.append(self._noise[self._left, : len(logits)].clone())
        return chosen

    monkeypatch.setattr(sampler._Noise, "choose", spy)
    space = GridSpace(12)
    policy = Policy(space.encoding_dim, space.n_actions, generator=torch.Generator().manual_seed(0), width=8)
    for epsilon in (0.0, 0.5, torch.full((50,), 0.5)):
        used.clear()
        generator = torch.Generator().manual_seed(0)
        sampler.rollout(space, policy, 50, generator=generator, epsilon=epsilon, temperature=1.3)
        draws = torch.cat([block.flatten() for block in used]).double()
        assert len(used) > sampler.NOISE_STEPS
        assert min(len(block) for block in used) < 50
        # A float32 variate may come up twice by chance, a row of three may not.
        rows = torch.cat(used)
        assert len(rows.unique(dim=0)) == len(rows)
        assert torch.isfinite(draws).all()


# Replay


def replay_of(space, capacity):
    return Replay(space, capacity)


def test_replay_keeps_the_best_different_objects_in_order():
    space = GridSpace(5)
    log_reward = hash_reward(space)
    replay = replay_of(space, 7)
    generator = torch.Generator().manual_seed(0)
    everything, seen = space.enumerate(), set()
    for _ in range(6):
        states = everything[torch.randint(25, (9,), generator=generator)]
        replay.add(states, log_reward(states))
        seen |= set(space.decode(states))
        best = sorted(seen, key=lambda text: -float(log_reward(space.parse([text]))))[:7]
        assert space.decode(replay.states) == best
        assert torch.equal(replay.outcome, log_reward(replay.states))
        assert len(replay) == len(best)


def test_replay_draws_by_rank():
    space = WordSpace(3, 3)
    replay = replay_of(space, 20)
    states = space.parse(["a", "b", "c", "ab", "bc", "abc", "cab", "cc"])
    replay.add(states, torch.arange(8.0))
    drawn, outcome = replay.draw(40_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(7 - outcome.long(), minlength=8).double() / 40_000
    weights = torch.tensor([1 / (RANK_WEIGHT * 8 + rank) for rank in range(1, 9)], dtype=torch.float64)
    # 0.0125: five standard deviations of 40,000 draws.
    torch.testing.assert_close(counts, weights / weights.sum(), rtol=0, atol=0.0125)
    texts = space.decode(states)
    assert space.decode(drawn) == [texts[int(value)] for value in outcome]


def test_replay_ranks_rows_of_several_objectives_by_their_mean():
    space = GridSpace(3)
    replay = replay_of(space, 2)
    replay.add(space.parse(["0,1", "1,0", "2,2"]), torch.tensor([[4.0, 0.0], [1.0, 1.0], [2.0, 3.0]]))
    assert space.decode(replay.states) == ["2,2", "0,1"]
    assert replay.outcome.tolist() == [[2.0, 3.0], [4.0, 0.0]]


def test_replay_is_scored_again():
    space = SubsetSpace(5, 2)
    replay = replay_of(space, 3)
    replay.rescore(hash_reward(space))  # nothing is remembered yet
    states = space.parse(["11000", "10100", "00011", "01100"])
    replay.add(states, torch.tensor([3.0, 2.0, 1.0, 0.0]))
    assert space.decode(replay.states) == ["11000", "10100", "00011"]
    replay.rescore(lambda states: states.chosen.float() @ torch.arange(5.0))
    assert space.decode(replay.states) == ["00011", "10100", "11000"]
    assert replay.outcome.tolist() == [7.0, 2.0, 1.0]
    replay.add(space.parse(["00011"]), torch.tensor([7.0]))
    assert len(replay) == 3


def test_replay_comes_back_from_its_state():
    space = GridSpace(4)
    replay = replay_of(space, 5)
    empty = replay_of(space, 5)
    empty.load_state_dict(replay.state_dict())
    assert (len(empty), empty.states) == (0, None)
    replay.add(space.enumerate(), torch.zeros(16))  # ties, too, keep their order
    again = replay_of(space, 5)
    again.load_state_dict(replay.state_dict())
    for one in (replay, again):
        one.add(space.parse(["3,3", "0,0"]), torch.tensor([1.0, 1.0]))
    assert space.decode(again.states) == space.decode(replay.states)
    assert torch.equal(again.outcome, replay.outcome)
    draws = [one.draw(30, torch.Generator().manual_seed(1)) for one in (replay, again)]
    assert space.decode(draws[0][0]) == space.decode(draws[1][0])


def test_another_reward_drops_what_was_sampled_and_scores_again_what_is_remembered():
    trainer = make_trainer("words", BEHAVIOURS["everything"])
    space, explorer = trainer.space, trainer._explorer
    trainer.fit(4)
    assert len(trainer._queue) == 2  # three ahead, of which the second block has been begun
    trainer.log_reward = lambda state: -hash_reward(space)(state)
    assert len(trainer._queue) == 0
    expected = -hash_reward(space)(explorer.replay.states)
    assert torch.equal(explorer.replay.outcome, expected)
    assert torch.equal(expected, expected.sort(descending=True).values)
    for batch in explorer.sample(4):
        torch.testing.assert_close(batch.log_reward, -hash_reward(space)(batch.trajectories.terminal))


def test_reward_may_return_the_same_buffer_every_time():
    space = GridSpace(3)
    plain, buffers = hash_reward(space), {}

    def reused(state):
        values = plain(state)
        buffer = buffers.setdefault(len(state), torch.empty(len(state)))
        return buffer.copy_(values)

    for loss, partial in (("modified_detailed_balance", None), ("forward_looking_detailed_balance", True)):
        trained = []
        for log_reward in (plain, reused):
            trainer = Trainer(
                space,
                log_reward,
                partial_log_reward=log_reward if partial else None,
                data=space.parse(["0,1", "2,2"]),
                settings=TrainerSettings(loss=loss, behaviour=BEHAVIOURS["everything"], batch_size=SIZE, width=8),
            )
            trained.append(trainer.fit(6).loss)
        assert trained[0] == trained[1]


def test_data_that_are_not_finished_objects_are_refused():
    space = GridSpace(3)
    settings = TrainerSettings(behaviour=Behaviour(data=0.5))
    for data in (space.reset(2), space.parse(["1,1"])[:0]):
        with pytest.raises(ConfigError, match="data"):
            Trainer(space, hash_reward(space), data=data, settings=settings)
    with pytest.raises(ConfigError, match="none came"):
        Trainer(space, hash_reward(space), settings=settings)
