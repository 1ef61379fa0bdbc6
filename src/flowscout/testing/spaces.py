"""The contract that every space keeps, as one class of pytest tests.

What is special to one space (its errors, its objects) belongs in that space's own tests.

    class TestMySpace(SpaceContract):
        @pytest.fixture
        def space(self): return MySpace(...)

        @pytest.fixture
        def objects(self): return ["...", "..."]        # valid texts, in canonical case
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from flowscout.loop.gflownet.exact import policy_tables, tabular_optimum, target_law, terminal_law, unfold
from flowscout.loop.gflownet.policy import Policy
from flowscout.loop.spaces.protocol import CrossableSpace, Space

EXACT_LIMIT = 10_000
"""The largest space that is enumerated with all its texts."""


class SpaceContract:
    """Test one space against `flowscout.loop.spaces.Space`.

    Subclass it and provide the fixtures `space` and `objects`. Where the space has more than `EXACT_LIMIT`
    objects, provide `small_space` too: an instance of the same class that can be enumerated.
    """

    @pytest.fixture
    def space(self) -> Space[Any]:
        """Return the space under test."""
        raise NotImplementedError("Provide a fixture `space` that returns the space to test.")

    @pytest.fixture
    def objects(self) -> Sequence[str]:
        """Return some objects of the space, each in the form that `decode` returns."""
        raise NotImplementedError("Provide a fixture `objects` that returns texts of the space.")

    @pytest.fixture
    def small_space(self, space: Space[Any]) -> Space[Any]:
        """Return an instance that can be enumerated: the space itself unless overridden."""
        if space.size is None or space.size > EXACT_LIMIT:
            raise NotImplementedError(f"{space!r} is too large to enumerate: provide a fixture `small_space`.")
        return space

    def test_every_legal_action_can_be_undone(self, space: Space[Any]) -> None:
        for state in random_walk(space):
            mask = space.forward_mask(state)
            parent, action = state[mask.nonzero()[:, 0]], _legal(mask)
            if len(parent) == 0:
                continue
            child = space.step(parent, action)
            back = space.reverse(parent, action)
            assert space.backward_mask(child).gather(1, back.unsqueeze(1)).all()
            assert_same_states(space, space.step_back(child, back), parent)
            assert torch.equal(space.retrace(child, back), action)

    def test_every_backward_action_leads_to_a_parent_that_allows_its_child(self, space: Space[Any]) -> None:
        for state in random_walk(space):
            check_parents(space, state)

    def test_every_backward_walk_ends_in_the_first_state(self, space: Space[Any], objects: Sequence[str]) -> None:
        state = space.parse(objects)
        generator = torch.Generator().manual_seed(0)
        for _ in range(space.max_steps):
            # Checked on the way back too: a parent that the walk forward never meets may be out of its reach.
            check_parents(space, state)
            mask = space.backward_mask(state)
            started, state = state[~mask.any(dim=1)], state[mask.any(dim=1)]
            if len(state):
                state = space.step_back(state, choose(space.backward_mask(state), generator))
            state = type(state).cat([started, state])
        assert not space.backward_mask(state).any()
        assert_same_states(space, state, space.reset(len(state)))

    def test_first_state_has_no_parent(self, space: Space[Any]) -> None:
        assert not space.backward_mask(space.reset(3)).any()

    def test_no_state_is_a_dead_end(self, space: Space[Any]) -> None:
        for state in random_walk(space):
            assert torch.equal(space.forward_mask(state).any(dim=1), ~space.done(state))

    def test_no_walk_is_longer_than_max_steps(self, space: Space[Any]) -> None:
        states = list(random_walk(space))
        assert space.done(states[-1]).all()
        assert len(states) <= space.max_steps + 1
        if space.fixed_length:
            assert len(states) == space.max_steps + 1
            assert not any(space.done(state).any() for state in states[:-1])

    def test_objects_of_different_lengths_finish_by_the_stop_action_and_only_by_it(
        self, space: Space[Any]
    ) -> None:
        assert space.fixed_length == (space.stop_action is None)
        if space.stop_action is None:
            return
        for state in random_walk(space):
            mask = space.forward_mask(state)
            row, action = mask.nonzero(as_tuple=True)
            assert torch.equal(space.done(space.step(state[row], action)), action == space.stop_action)

    def test_stop_leaves_a_finished_row_as_it_is(self, space: Space[Any]) -> None:
        if space.stop_action is None:
            return
        end = finished_walk(space)
        idle = end
        for _ in range(3):
            idle = space.step(idle, torch.full((len(end),), space.stop_action))
            assert_same_states(space, idle, end)
            assert space.decode(idle) == space.decode(end)
        back = space.backward_mask(end).int().argmax(dim=1)
        assert_same_states(space, space.step_back(idle, back), space.step_back(end, back))

    def test_undoing_the_stop_is_the_only_way_back_from_a_finished_row(self, space: Space[Any]) -> None:
        if space.stop_action is None:
            return
        stop = torch.tensor([space.stop_action])
        undo = int(space.reverse(space.reset(1), stop))
        for state in random_walk(space):
            mask, done = space.backward_mask(state), space.done(state)
            assert torch.equal(mask[:, undo], done)
            assert (mask[done].sum(dim=1) == 1).all()

    def test_every_state_terminal_is_true_exactly_where_every_state_can_stop(
        self, small_space: Space[Any]
    ) -> None:
        space = small_space
        if space.stop_action is None:
            assert not space.every_state_terminal
        else:
            graph = unfold(space)
            assert bool(graph.masks[:, space.stop_action].all()) == space.every_state_terminal

    def test_tree_has_one_parent_for_every_state_but_the_first(self, space: Space[Any]) -> None:
        for depth, state in enumerate(random_walk(space)):
            parents = space.backward_mask(state).sum(dim=1)
            assert (parents == 0).all() if depth == 0 else (parents >= 1).all()
            if space.is_tree:
                assert (parents <= 1).all()

    def test_batch_step_equals_single_steps(self, space: Space[Any]) -> None:
        generator = torch.Generator().manual_seed(1)
        for state in random_walk(space):
            state = state[~space.done(state)]
            if len(state) == 0:
                continue
            action = choose(space.forward_mask(state), generator)
            rows = [torch.tensor([row]) for row in range(len(state))]
            apart = [space.step(state[row], action[row]) for row in rows]
            together = space.step(state, action)
            assert_same_states(space, together, type(state).cat(apart))
            back = space.reverse(state, action)
            parts = [space.step_back(one, back[row]) for one, row in zip(apart, rows, strict=True)]
            assert_same_states(space, space.step_back(together, back), type(state).cat(parts))

    def test_rows_are_chosen_and_joined_as_a_batch(self, space: Space[Any]) -> None:
        for state in random_walk(space):
            odd = torch.arange(len(state)) % 2 == 1
            order = torch.cat([odd.nonzero(), (~odd).nonzero()]).squeeze(1)
            joined = type(state).cat([state[odd], state[~odd]])
            assert len(state[odd]) == int(odd.sum())
            assert_same_states(space, joined, state[order])
            assert_same_states(space, joined[order.argsort()].to("cpu"), state)

    def test_a_step_leaves_the_state_it_started_from_unchanged(self, space: Space[Any]) -> None:
        state = space.reset(4)
        before = space.encode(state).clone()
        space.step(state, choose(space.forward_mask(state), torch.Generator().manual_seed(0)))
        assert torch.equal(space.encode(state), before)

    def test_masks_and_encodings_have_the_promised_shapes(self, space: Space[Any]) -> None:
        for state in random_walk(space):
            n = len(state)
            assert space.forward_mask(state).shape == (n, space.n_actions)
            assert space.backward_mask(state).shape == (n, space.n_backward_actions)
            assert space.encode(state).shape == (n, space.encoding_dim)
            assert space.forward_mask(state).dtype == space.backward_mask(state).dtype == torch.bool
            assert space.encode(state).dtype == torch.float32

    def test_parse_undoes_decode(self, space: Space[Any], objects: Sequence[str]) -> None:
        state = space.parse(objects)
        assert space.done(state).all()
        assert space.decode(state) == list(objects)
        walked = finished_walk(space)
        assert_same_states(space, space.parse(space.decode(walked)), walked)

    def test_what_the_space_builds_is_valid(self, space: Space[Any]) -> None:
        texts = space.decode(finished_walk(space))
        assert [space.validate(text) for text in texts] == [None] * len(texts)

    def test_key_of_a_key_is_the_key(self, space: Space[Any], objects: Sequence[str]) -> None:
        keys = [space.key(text) for text in objects]
        assert [space.key(key) for key in keys] == keys

    def test_keys_of_states_are_those_of_their_texts(self, space: Space[Any], objects: Sequence[str]) -> None:
        for state in (space.parse(objects), finished_walk(space), space.parse([])):
            assert space.keys(state) == [space.key(text) for text in space.decode(state)]

    def test_features_are_float64_with_one_row_per_object(self, space: Space[Any], objects: Sequence[str]) -> None:
        features = space.features(space.parse(objects))
        assert features.dtype == torch.float64
        assert len(features) == len(objects)

    def test_distance_is_symmetric_and_zero_exactly_for_equal_keys(
        self, space: Space[Any], objects: Sequence[str]
    ) -> None:
        texts = list(dict.fromkeys([*objects, *(space.key(text) for text in objects)]))
        state = space.parse(texts)
        distance = space.distance(state, state)
        same = torch.tensor([[space.key(a) == space.key(b) for b in texts] for a in texts])
        assert torch.equal(distance, distance.T)
        assert torch.equal(distance == 0, same)

    def test_children_of_two_objects_are_objects_and_those_of_twins_their_equals(
        self, space: Space[Any], objects: Sequence[str]
    ) -> None:
        if not isinstance(space, CrossableSpace):
            return
        state = type(space.parse(objects)).cat([space.parse(objects), finished_walk(space)])
        other = state[torch.arange(len(state)).flip(0)]
        found = [space.crossover(state, other, torch.Generator().manual_seed(5)) for _ in range(2)]
        assert_same_states(space, *found)  # it follows from the generator
        assert space.done(found[0]).all()
        assert [space.validate(text) for text in space.decode(found[0])] == [None] * len(state)
        assert_same_states(space, space.crossover(state, state, torch.Generator().manual_seed(5)), state)

    def test_enumeration_has_every_object_once(self, small_space: Space[Any]) -> None:
        texts = small_space.decode(small_space.enumerate())
        assert len(set(texts)) == len(texts)
        assert len({small_space.key(text) for text in texts}) == small_space.size
        reached = unfold(small_space).terminal
        assert sorted(small_space.decode(reached)) == sorted(texts)

    def test_log_symmetry_counts_the_states_of_a_key(self, small_space: Space[Any]) -> None:
        state = small_space.enumerate()
        keys = [small_space.key(text) for text in small_space.decode(state)]
        counts = Counter(keys)
        expected = torch.tensor([counts[key] for key in keys], dtype=torch.float64).log()
        torch.testing.assert_close(small_space.log_symmetry(state), expected)

    def test_tabular_optimum_samples_keys_in_proportion_to_their_reward(self, small_space: Space[Any]) -> None:
        graph = unfold(small_space)
        states = graph.terminal
        keys = [small_space.key(text) for text in small_space.decode(states)]
        numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
        number = torch.tensor([numbers[key] for key in keys])
        log_r = 2 * torch.randn(len(numbers), dtype=torch.float64, generator=torch.Generator().manual_seed(0))

        target = target_law(small_space, lambda _: log_r[number], states)
        tables, log_z = tabular_optimum(small_space, graph, target.log_p + target.log_z)
        law = torch.zeros_like(log_r).index_add(0, number, terminal_law(graph, tables).exp())

        # 1e-9: float64 sums over at most EXACT_LIMIT objects lose about 1e-12.
        assert abs(log_z - float(log_r.logsumexp(0))) < 1e-9
        torch.testing.assert_close(law, log_r.softmax(0), rtol=0, atol=1e-9)

    def test_law_of_any_policy_sums_to_one(self, small_space: Space[Any]) -> None:
        generator = torch.Generator().manual_seed(0)
        policy = Policy(small_space.encoding_dim, small_space.n_actions, generator=generator, width=8)
        torch.nn.init.normal_(policy.forward_head.weight, generator=generator)
        graph = unfold(small_space)
        log_p = terminal_law(graph, policy_tables(small_space, policy, graph))
        assert abs(float(log_p.logsumexp(0))) < 1e-9  # float64, as above


def random_walk(space: Space[Any], *, n: int = 16, seed: int = 0) -> Iterator[Any]:
    """Yield the states of `n` walks over random legal actions, from the first state until all are finished.

    A row that is finished stays as it is by the stop action, which is drawn seldom: walks shall get far.
    """
    generator = torch.Generator().manual_seed(seed)
    state = space.reset(n)
    yield state
    while not space.done(state).all():
        mask = space.forward_mask(state).clone()
        if space.stop_action is not None:
            mask[space.done(state), space.stop_action] = True
        state = space.step(state, choose(mask, generator, seldom=space.stop_action))
        yield state


def finished_walk(space: Space[Any], *, n: int = 16) -> Any:
    """Return the finished states of `n` random walks."""
    return list(random_walk(space, n=n))[-1]


def assert_same_states(space: Space[Any], a: Any, b: Any) -> None:
    """Assert that two batches are the same row by row, in all that a space says of them."""
    assert len(a) == len(b)
    assert torch.equal(space.done(a), space.done(b))
    assert torch.equal(space.encode(a), space.encode(b))
    assert torch.equal(space.forward_mask(a), space.forward_mask(b))
    assert torch.equal(space.backward_mask(a), space.backward_mask(b))


def check_parents(space: Space[Any], state: Any) -> None:
    """Assert that every legal backward action leads to a parent from which its child is reached again."""
    mask = space.backward_mask(state)
    child, back = state[mask.nonzero()[:, 0]], _legal(mask)
    if len(child) == 0:
        return
    action, parent = space.retrace(child, back), space.step_back(child, back)
    assert space.forward_mask(parent).gather(1, action.unsqueeze(1)).all()
    assert_same_states(space, space.step(parent, action), child)
    assert torch.equal(space.reverse(parent, action), back)


def choose(mask: Tensor, generator: torch.Generator, *, seldom: int | None = None) -> Tensor:
    """Return one legal action per row, `b`, each with equal probability but for a `seldom` one."""
    weights = mask.double()
    if seldom is not None:
        weights[:, seldom] *= 0.1
    return weights.multinomial(1, generator=generator).squeeze(1)


def _legal(mask: Tensor) -> Tensor:
    return mask.nonzero()[:, 1]
