"""Edits under the rules of a bench: they stay inside, they end, they reach all there is."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowscout.errors import ConfigError
from flowscout.loop.gflownet import TrainerSettings, exact_law
from flowscout.loop.gflownet.trainer import make_policy
from flowscout.loop.proposers.evolution import Evolution
from flowscout.loop.proposers.protocol import Problem
from flowscout.loop.spaces import SequenceSpace

SPACES = {
    "mutants": SequenceSpace("protein", 5, wild_type="MKTWY", max_mutations=2),
    "mutants of both strands": SequenceSpace("dna", 8, strand="double", wild_type="ACGTTGCA", max_mutations=3),
    "motifs": SequenceSpace("dna", 8, forbid=["GAA", "TNT", "C[^G]C"]),
    "one share of GC": SequenceSpace("dna", 8, gc=[0.5, 0.5], homopolymer=2),
    "letters": SequenceSpace("dna", 6, letters=["A", "AC", "ACGT", "T", "GT", "C"]),
    "lengths": SequenceSpace("dna", 5, min_length=2),
    "rules of several lengths": SequenceSpace("dna", 6, min_length=2, gc=[0.4, 0.6], forbid=["CG"]),
    "both ends": SequenceSpace("dna", 5, min_length=2, ends="both"),
    "no mutation left": SequenceSpace("dna", 6, wild_type="ACGTAC", max_mutations=2, letters=["C", *["ACGT"] * 5]),
    "one object": SequenceSpace("dna", 3, wild_type="ACG", max_mutations=0),
}


@given(st.sampled_from(sorted(SPACES)), st.integers(0, 10_000))
@settings(deadline=None, max_examples=20)
def test_every_edit_is_an_object_and_follows_from_the_generator(name, seed):
    space = SPACES[name]
    start = space.uniform(16, torch.Generator().manual_seed(seed))
    others = start[torch.arange(16).flip(0)]
    for edit in (space.mutate, space.shift, lambda state, g: space.crossover(state, others, g)):
        found = [edit(start, torch.Generator().manual_seed(seed + 1)) for _ in range(2)]
        assert torch.equal(found[0].tokens, found[1].tokens)
        assert [space.validate(text) for text in space.decode(found[0])] == [None] * 16
        assert space.done(found[0]).all()


@pytest.mark.parametrize("name", sorted(SPACES))
def test_mutation_changes_the_object_wherever_there_is_another(name):
    space = SPACES[name]
    start = space.uniform(200, torch.Generator().manual_seed(0))
    changed = (space.mutate(start, torch.Generator().manual_seed(1)).tokens != start.tokens).any(dim=1)
    assert changed.all() if name != "one object" else not changed.any()


@pytest.mark.parametrize("name", sorted(SPACES))
def test_neighbours_are_all_allowed_objects_one_edit_away(name):
    space = SPACES[name]
    everything = space.decode(space.enumerate())

    def near(text):
        same = [one for one in everything if len(one) == len(text) and _differ(one, text) == 1]
        return sorted(same + [one for one in everything if _is_one_longer(one, text) or _is_one_longer(text, one)])

    state = space.uniform(5, torch.Generator().manual_seed(2))
    for row, text in enumerate(space.decode(state)):
        assert sorted(space.decode(space.neighbours(state[row : row + 1]))) == near(text)


def _differ(a, b):
    return sum(x != y for x, y in zip(a, b, strict=True))


def _is_one_longer(long, short):
    return len(long) == len(short) + 1 and any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


class Flat:
    """A reward that prefers nothing."""

    def __call__(self, state):
        return torch.zeros(len(state))


@pytest.mark.parametrize(
    "space",
    [
        SequenceSpace("dna", 5, wild_type="ACGTA", max_mutations=2),
        SequenceSpace("dna", 4, gc=[0.5, 0.5]),
        SequenceSpace("dna", 4, gc=[0.5, 0.5], homopolymer=1, forbid=["AC", "CA"]),
        # Two islands, four substitutions apart: no single edit, and no exchange, leads from one to the other.
        SequenceSpace("ab", 4, forbid=["ab", "ba"]),
        SequenceSpace("dna", 5, strand="double", wild_type="ACGTA", max_mutations=1),
        SequenceSpace("dna", 4, min_length=1, homopolymer=1, gc=[0.5, 1.0]),
    ],
    ids=repr,
)
def test_search_from_one_object_meets_every_other(space):
    start = space.uniform(1, torch.Generator().manual_seed(0))
    problem = Problem(space, Flat(), start, torch.device("cpu"))
    children = min(64, 4 * space.size)  # the search ends after 20 generations without a new object
    found = Evolution(evaluations=100_000, parents=64, children=children, crossover=0.5).run(problem, seed=0)
    keys = {space.key(text) for text in space.decode(type(start).cat([start, found.states]))}
    assert len(keys) == space.size


@pytest.mark.parametrize("name", sorted(SPACES))
def test_uniform_draws_give_every_string_one_probability(name):
    space = SPACES[name]
    texts = space.decode(space.enumerate())
    n = 20_000
    drawn = space.decode(space.uniform(n, torch.Generator().manual_seed(0)))
    counts = torch.tensor([drawn.count(text) for text in texts[:50]]).double()
    expected = n / len(texts)
    assert set(drawn) <= set(texts)
    # 4.5 sd of a count: once in 3,000 such tests of 50 counts.
    assert ((counts - expected).abs() <= 4.5 * math.sqrt(expected) + 1).all()


def test_nothing_of_a_plain_space_has_changed_by_rules_that_never_bind():
    plain, ruled = SequenceSpace("dna", 5), SequenceSpace("dna", 5, homopolymer=5, forbid=["ACGTACGT"])
    assert ruled.size == plain.size
    assert ruled.decode(ruled.enumerate()) == plain.decode(plain.enumerate())


def test_rules_and_both_ends_do_not_go_together():
    with pytest.raises(ConfigError, match="ends is 'both' and the rules are forbid, gc"):
        SequenceSpace("dna", 5, ends="both", forbid=["GG"], gc=[0, 1])


@pytest.mark.parametrize("name", [name for name, space in SPACES.items() if space.has_prior])
def test_untrained_policy_builds_every_string_with_one_probability(name):
    space = SPACES[name]
    policy = make_policy(space, TrainerSettings(), torch.Generator().manual_seed(0))
    law = exact_law(space, policy)
    uniform = torch.full_like(law.log_p, -math.log(len(law.log_p)))
    # 1e-5: the prior is float32, and there are up to eight of its steps.
    torch.testing.assert_close(law.log_p, uniform, rtol=0, atol=1e-5)
