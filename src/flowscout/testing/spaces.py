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
from flowscout.loop.spaces.protocol import Space

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
            parent, action = (
                state[space.forward_mask(state).nonzero()[:, 0]],
                _legal(space.forward_mask(state)),
            )
            child = space.step(parent, action)
            back = space.reverse(parent, action)
            assert space.backward_mask(child).gather(1, back.unsqueeze(1)).all()
            assert torch.equal(space.encode(space.step_back(child, back)), space.encode(parent))
            assert torch.equal(space.retrace(child, back), action)

    def test_every_backward_action_leads_to_a_parent_that_allows_its_child(self, space: Space[Any]) -> None:
        for state in random_walk(space):
            mask = space.backward_mask(state)
            child, back = state[mask.nonzero()[:, 0]], _legal(mask)
            if len(child) == 0:
                continue
            action, parent = space.retrace(child, back), space.step_back(child, back)
            assert space.forward_mask(parent).gather(1, action.unsqueeze(1)).all()
            assert torch.equal(space.encode(space.step(parent, action)), space.encode(child))
            assert torch.equal(space.reverse(parent, action), back)

    def test_every_backward_walk_ends_in_the_first_state(self, space: Space[Any], objects: Sequence[str]) -> None:
        state = space.parse(objects)
        generator = torch.Generator().manual_seed(0)
        for _ in range(space.max_steps):
            mask = space.backward_mask(state)
            state = state[mask.any(dim=1)]
            if len(state):
                state = space.step_back(state, _choose(mask[mask.any(dim=1)], generator))
        assert not space.backward_mask(state).any()
        assert torch.equal(space.encode(state), space.encode(space.reset(len(state))))

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

    def test_batch_step_equals_single_steps(self, space: Space[Any]) -> None:
        generator = torch.Generator().manual_seed(1)
        for state in random_walk(space):
            state = state[~space.done(state)]
            if len(state) == 0:
                continue
            action = _choose(space.forward_mask(state), generator)
            together = space.encode(space.step(state, action))
            rows = [torch.tensor([row]) for row in range(len(state))]
            apart = [space.encode(space.step(state[row], action[row])) for row in rows]
            assert torch.equal(together, torch.cat(apart))

    def test_a_step_leaves_the_state_it_started_from_unchanged(self, space: Space[Any]) -> None:
        state = space.reset(4)
        before = space.encode(state).clone()
        space.step(state, _choose(space.forward_mask(state), torch.Generator().manual_seed(0)))
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
        walked = list(random_walk(space))[-1]
        again = space.parse(space.decode(walked))
        assert torch.equal(space.encode(again), space.encode(walked))

    def test_what_the_space_builds_is_valid(self, space: Space[Any]) -> None:
        assert [space.validate(text) for text in space.decode(list(random_walk(space))[-1])] == [None] * 16

    def test_key_of_a_key_is_the_key(self, space: Space[Any], objects: Sequence[str]) -> None:
        keys = [space.key(text) for text in objects]
        assert [space.key(key) for key in keys] == keys

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

    def test_enumeration_has_every_object_once(self, small_space: Space[Any]) -> None:
        texts = small_space.decode(small_space.enumerate())
        assert len(set(texts)) == len(texts)
        assert len({small_space.key(text) for text in texts}) == small_space.size
        reached = unfold(small_space).levels[-1]
        assert sorted(small_space.decode(reached)) == sorted(texts)

    def test_log_symmetry_counts_the_states_of_a_key(self, small_space: Space[Any]) -> None:
        state = small_space.enumerate()
        keys = [small_space.key(text) for text in small_space.decode(state)]
        counts = Counter(keys)
        expected = torch.tensor([counts[key] for key in keys], dtype=torch.float64).log()
        torch.testing.assert_close(small_space.log_symmetry(state), expected)

    def test_tabular_optimum_samples_keys_in_proportion_to_their_reward(self, small_space: Space[Any]) -> None:
        graph = unfold(small_space)
        states = graph.levels[-1]
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
    """Yield the states of `n` walks over uniform legal actions, from the first state to finished objects.

    Finished rows are dropped while others go on; the last batch yielded holds what finished last.
    """
    generator = torch.Generator().manual_seed(seed)
    state = space.reset(n)
    yield state
    while not space.done(state).all():
        state = state[~space.done(state)]
        state = space.step(state, _choose(space.forward_mask(state), generator))
        yield state


def _choose(mask: Tensor, generator: torch.Generator) -> Tensor:
    return mask.double().multinomial(1, generator=generator).squeeze(1)


def _legal(mask: Tensor) -> Tensor:
    return mask.nonzero()[:, 1]
