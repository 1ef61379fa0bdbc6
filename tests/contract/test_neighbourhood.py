"""The neighbourhood of given sequences against the contract of spaces, and what is special to it."""

import pytest
import torch

from flowscout.errors import ConfigError, ObjectError
from flowscout.loop.gflownet import Trainer, TrainerSettings, exact_law, target_law, total_variation
from flowscout.loop.spaces import NeighbourhoodSpace, SequenceSpace
from flowscout.testing.spaces import SpaceContract


class TestOverlappingBalls(SpaceContract):
    @pytest.fixture
    def space(self):
        return NeighbourhoodSpace(SequenceSpace("dna", 5), ["ACGTA", "ACGTT", "GGGGG"], 2)

    @pytest.fixture
    def objects(self):
        return ["ACGTA@0", "ACGTA@1", "ACGGT@1", "GGGGG@2", "GGTGA@2"]


class TestOneCentre(SpaceContract):
    @pytest.fixture
    def space(self):
        return NeighbourhoodSpace(SequenceSpace("AB", 6), ["AABBAA"], 6)

    @pytest.fixture
    def objects(self):
        return ["AABBAA@0", "BBBBBB@0", "ABABAB@0"]


class TestTwoStrands(SpaceContract):
    @pytest.fixture
    def space(self):
        return NeighbourhoodSpace(SequenceSpace("dna", 4, strand="double"), ["ACGT", "AACC", "GGTA"], 1)

    @pytest.fixture
    def objects(self):
        return ["ACGT@0", "ACCT@0", "AACC@1", "GGTT@2"]


class TestLongProtein(SpaceContract):
    @pytest.fixture
    def space(self):
        return NeighbourhoodSpace(SequenceSpace("protein", 40), ["ACDEFGHIKL" * 4, "ACDEFGHIKM" * 4], 6)

    @pytest.fixture
    def small_space(self):
        return NeighbourhoodSpace(SequenceSpace("protein", 3), ["ACD", "ACE"], 1)

    @pytest.fixture
    def objects(self):
        return ["ACDEFGHIKL" * 4 + "@0", "YCDEFGHIKL" + "ACDEFGHIKL" * 3 + "@0", "ACDEFGHIKM" * 4 + "@1"]


def test_it_holds_what_is_near_a_centre_and_nothing_else():
    sequences = SequenceSpace("dna", 4)
    space = NeighbourhoodSpace(sequences, ["ACGT", "AAAA"], 2)
    everything = sequences.enumerate()
    near = (sequences.distance(everything, sequences.parse(["ACGT", "AAAA"])) <= 2).any(dim=1)
    wanted = [text for text, inside in zip(sequences.decode(everything), near.tolist(), strict=True) if inside]
    assert sorted(set(space.keys(space.enumerate()))) == sorted(wanted)
    assert space.size == len(wanted)
    assert [space.validate(text) is None for text in sequences.decode(everything)] == near.tolist()


def test_letters_may_be_those_that_a_centre_is_written_with():
    space = NeighbourhoodSpace(SequenceSpace("@01", 4), ["01@1", "@@@@"], 1)
    assert space.key(space.key("01@1@0")) == "01@1"
    assert space.decode(space.parse(["01@1", "@@@1@1"])) == ["01@1@0", "@@@1@1"]


def test_every_state_of_an_object_is_found():
    space = NeighbourhoodSpace(SequenceSpace("dna", 4), ["ACGT", "ACGG", "TTTT"], 1)
    states, row = space.states(space.sequences.parse(["ACGA", "TTTA"]))
    assert space.decode(states) == ["ACGA@0", "ACGA@1", "TTTA@2"]
    assert row.tolist() == [0, 0, 1]


def test_a_policy_learns_the_law_over_objects_not_over_their_states():
    space = NeighbourhoodSpace(SequenceSpace("dna", 4), ["ACGT", "ACGG", "TTTT"], 2)

    def log_reward(state):
        return (state.tokens == 2).sum(dim=1).double()  # the more G the better

    trainer = Trainer(space, log_reward, seed=0, settings=TrainerSettings())
    trainer.fit(600)
    law = exact_law(space, trainer.policy)
    # 0.05: what the noise of the last steps leaves, twice over.
    assert total_variation(law, target_law(space, log_reward, law.states)) < 0.05


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((SequenceSpace("dna", 4), ["ACGT", "acgt"], 1), "each once"),
        ((SequenceSpace("dna", 4), [], 1), "at least one"),
        ((SequenceSpace("dna", 4), ["ACGT"], 5), "radius is 5"),
        ((SequenceSpace("dna", 4, min_length=2), ["ACGT"], 1), "one length"),
        ((SequenceSpace("dna", 4, forbid=["AA"]), ["ACGT"], 1), "without rules"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        NeighbourhoodSpace(*arguments)


@pytest.mark.parametrize(
    ("text", "words"), [("TTTT", "farther than 1"), ("ACGG@1", "not within 1"), ("AXGT", "'X'"), (7, "int")]
)
def test_what_is_elsewhere_is_refused(text, words):
    space = NeighbourhoodSpace(SequenceSpace("dna", 4), ["ACGT", "CCCC"], 1)
    assert words in space.validate(text)
    with pytest.raises(ObjectError, match=words):
        space.parse([text])


def test_uniform_steps_never_leave_the_neighbourhood():
    space = NeighbourhoodSpace(SequenceSpace("dna", 12), ["ACGTACGTACGT"], 3)
    state = space.reset(64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(space.max_steps):
        mask = space.forward_mask(state)
        mask[space.done(state), space.stop_action] = True
        state = space.step(state, mask.double().multinomial(1, generator=generator).squeeze(1))
    assert space.done(state).all()
    assert (space.distance(state, space.parse(["ACGTACGTACGT"])) <= 3).all()
