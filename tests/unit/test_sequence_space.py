"""Sequences: text, strands, codes and edits."""

import math
import subprocess
import sys

import pytest
import torch

from flowscout.errors import ConfigError, ObjectError
from flowscout.loop.spaces import SequenceRules, SequenceSpace


@pytest.mark.parametrize("module", ["flowscout.loop.spaces", "flowscout.loop.spaces.alphabets"])
def test_checking_text_does_not_load_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_wrong_letter_is_named_with_its_object_position_and_alphabet():
    with pytest.raises(ObjectError, match=r"'ACGXACGT' has 'X' at position 4, .* the dna alphabet ACGT\."):
        SequenceSpace("dna", 8).parse(["ACGTACGT", "ACGXACGT"])


def test_wrong_length_is_named_with_both_numbers():
    reason = SequenceRules("rna", 8).validate("ACG")
    assert reason is not None
    assert "'ACG' has 3 letters, expected 8 from the rna alphabet ACGU" in reason


@pytest.mark.parametrize("text", ["", "ACG ", " ACG", "ACG\n", "AC-G", "ACGU", "ACGTA", 7, None, 1.5])
def test_what_is_not_in_the_space_is_refused_with_a_reason(text):
    assert SequenceRules("dna", 4).validate(text) is not None


def test_text_in_place_of_a_list_is_refused():
    with pytest.raises(ObjectError, match="expected a list"):
        SequenceSpace("01", 1).parse("0101")


def test_lower_case_is_the_same_object_in_a_named_alphabet():
    space = SequenceSpace("dna", 4)
    assert space.key("acGt") == "ACGT"
    assert space.decode(space.parse(["acgt"])) == ["ACGT"]


def test_lower_case_is_another_letter_in_an_alphabet_of_ones_own():
    space = SequenceSpace("aA", 2)
    assert space.key("aA") == "aA"
    assert space.validate("Ab") is not None


@pytest.mark.parametrize("letter", ["\N{LATIN SMALL LETTER DOTLESS I}", "\N{LATIN SMALL LETTER LONG S}"])
def test_letters_that_only_become_ascii_in_upper_case_are_refused(letter):
    assert SequenceRules("protein", 1).validate(letter) is not None


@pytest.mark.parametrize("alphabet", ["", "A", "AA", "A C", ["A", "CG"], ["A", ""], ["A", 1], "A\tC"])
def test_alphabet_that_cannot_be_is_refused(alphabet):
    with pytest.raises(ConfigError):
        SequenceRules(alphabet, 4)


@pytest.mark.parametrize("length", [0, -1, 2.0, "8", True, None])
def test_length_that_cannot_be_is_refused(length):
    with pytest.raises(ConfigError, match="length"):
        SequenceRules("dna", length)


def test_unknown_strand_is_refused():
    with pytest.raises(ConfigError, match="expected single or double"):
        SequenceRules("dna", 4, "both")


@pytest.mark.parametrize("alphabet", ["protein", "AT"])
def test_double_strand_needs_a_complement(alphabet):
    with pytest.raises(ConfigError, match="dna or rna"):
        SequenceSpace(alphabet, 4, strand="double")


def test_reverse_complement_is_the_same_object_only_with_two_strands():
    assert SequenceRules("dna", 4, "double").key("TTTG") == SequenceRules("dna", 4, "double").key("CAAA") == "CAAA"
    assert SequenceRules("dna", 4).key("TTTG") == "TTTG"


def test_reverse_complement_of_rna_pairs_a_with_u():
    assert SequenceRules("rna", 4, "double").reverse_complement("AAGC") == "GCUU"


@pytest.mark.parametrize(("length", "size"), [(1, 2), (2, 10), (3, 32), (8, 32_896)])
def test_size_with_two_strands_counts_keys(length, size):
    assert SequenceSpace("dna", length, strand="double").size == size


def test_size_of_a_space_too_large_to_enumerate_is_exact():
    space = SequenceSpace("protein", 40)
    assert space.size == 20**40
    with pytest.raises(ConfigError, match="Sample them"):
        space.enumerate()


def test_palindrome_has_one_state_and_any_other_key_two():
    space = SequenceSpace("dna", 4, strand="double")
    assert space.log_symmetry(space.parse(["ACGT", "AAAA"])).tolist() == [0.0, math.log(2)]


def test_features_are_the_codes_of_the_letters():
    space = SequenceSpace("dna", 4)
    assert space.features(space.parse(["ACGT", "TTAA"])).tolist() == [[0, 1, 2, 3], [3, 3, 0, 0]]


def test_encoding_of_a_prefix_is_zero_where_it_is_blank():
    space = SequenceSpace("dna", 2)
    state = space.step(space.reset(1), torch.tensor([2]))
    assert space.encode(state).tolist() == [[0, 0, 1, 0, 0, 0, 0, 0]]
    assert space.decode(state) == ["G"]


def test_distance_with_two_strands_is_to_the_nearer_strand():
    space = SequenceSpace("dna", 4, strand="double")
    a, b = space.parse(["AAAA"]), space.parse(["TTTT", "TTTG", "CCCC"])
    assert space.distance(a, b).tolist() == [[0, 1, 4]]


def test_neighbours_are_all_single_substitutions_once():
    space = SequenceSpace("dna", 3)
    state = space.parse(["ACG", "TTT"])
    near = space.neighbours(state)
    texts = space.decode(near)
    assert len(set(texts[:9])) == len(set(texts[9:])) == 9
    assert space.distance(state, near).tolist()[0][:9] == [1] * 9
    assert space.distance(state, near).tolist()[1][9:] == [1] * 9


def test_mutation_changes_one_letter_and_is_repeatable():
    space = SequenceSpace("protein", 12)
    state = space.parse(["ACDEFGHIKLMN"] * 64)
    mutants = [space.decode(space.mutate(state, torch.Generator().manual_seed(3))) for _ in range(2)]
    assert mutants[0] == mutants[1]
    assert len(set(mutants[0])) > 32  # of 228 equally likely
    assert space.distance(state, space.parse(mutants[0])).unique().tolist() == [1]


def test_no_objects_make_an_empty_batch():
    space = SequenceSpace("dna", 4)
    state = space.parse([])
    assert (len(state), space.decode(state), space.features(state).shape) == (0, [], (0, 4))


def test_empty_batch_can_be_edited_and_compared():
    space = SequenceSpace("dna", 4, strand="double")
    empty = space.parse([])
    assert len(space.neighbours(empty)) == len(space.mutate(empty, torch.Generator())) == 0
    assert space.distance(empty, space.parse(["ACGT"])).shape == (0, 1)


def test_unknown_name_in_the_package_says_what_there_is():
    from flowscout.loop import spaces

    with pytest.raises(AttributeError, match="SequenceSpace"):
        spaces.Sequences  # noqa: B018


@pytest.mark.parametrize("strand", ["single", "double"])
def test_image_is_the_other_state_of_a_key(strand):
    space = SequenceSpace("dna", 4, strand=strand)
    state = space.enumerate()
    texts, others = space.decode(state), space.decode(space.image(state))
    assert [space.key(text) for text in texts] == [space.key(text) for text in others]
    assert space.decode(space.image(space.image(state))) == texts
    differs = torch.tensor([text != other for text, other in zip(texts, others, strict=True)])
    assert torch.equal(differs, space.log_symmetry(state) > 0)


@pytest.mark.parametrize("least", [0, 9, 2.0, True, "3"])
def test_least_length_that_cannot_be_is_refused(least):
    with pytest.raises(ConfigError, match=r"min_length is .* from 1 to the length, 8"):
        SequenceSpace("dna", 8, min_length=least)


@pytest.mark.parametrize(
    "letters",
    ["ACGT", ["A", "C", "G"], ["A", "", "G", "T"], ["A", "X", "G", "T"], ["A", "AA", "G", "T"], [1] * 4, 4],
)
def test_letters_by_position_that_cannot_be_are_refused(letters):
    with pytest.raises(ConfigError, match="letters"):
        SequenceSpace("dna", 4, letters=letters)


def test_letters_by_position_must_read_the_same_on_both_strands():
    with pytest.raises(ConfigError, match="position 1 may have AC and, on the other strand, A, expected the same"):
        SequenceSpace("dna", 2, letters=["AC", "T"], strand="double")
    # Closed for objects of two letters, but not for those of one.
    with pytest.raises(ConfigError, match="In objects of 1 letters"):
        SequenceSpace("dna", 2, letters=["AC", "GT"], strand="double", min_length=1)
    assert SequenceSpace("dna", 2, letters=["ca", "GT"], strand="double").size == 3


def test_letters_by_position_and_both_ends_do_not_go_together():
    with pytest.raises(ConfigError, match="moves the others to positions"):
        SequenceSpace("dna", 2, letters=["A", "T"], ends="both")


def test_unknown_end_is_refused():
    with pytest.raises(ConfigError, match="expected append or both"):
        SequenceSpace("dna", 2, ends="prepend")


def test_length_outside_of_the_range_is_named_with_the_range():
    reason = SequenceRules("dna", 8, min_length=3).validate("AC")
    assert "'AC' has 2 letters, expected 3 to 8 from the dna alphabet" in reason
    assert "a string of 3 to 8 letters" in SequenceRules("dna", 8, min_length=3).validate(7)


def test_letter_that_its_position_may_not_have_is_named_with_what_it_may():
    rules = SequenceRules("dna", 3, choices=["ac", "ACGT", "T"])
    assert "'CGA' has 'A' at position 3, expected one of T there" in rules.validate("CGA")
    assert rules.key("cgt") == "CGT"


def test_least_length_that_is_the_length_leaves_one_length():
    space = SequenceSpace("dna", 4, min_length=4)
    assert (space.fixed_length, space.stop_action, space.max_steps, space.size) == (True, None, 4, 256)


def test_actions_append_then_prepend_then_stop():
    space = SequenceSpace("dna", 4, min_length=2, ends="both")
    assert (space.n_actions, space.n_backward_actions, space.stop_action, space.max_steps) == (9, 3, 8, 5)
    state = space.reset(1)
    assert space.forward_mask(state)[0].tolist() == [True] * 4 + [False] * 5
    for action, text in ((0, "A"), (4 + 3, "TA"), (2, "TAG"), (4 + 1, "CTAG"), (8, "CTAG")):
        state = space.step(state, torch.tensor([action]))
        assert space.decode(state) == [text]
    assert space.done(state).tolist() == [True]
    for back, text in ((2, "CTAG"), (1, "TAG"), (0, "TA"), (1, "A"), (0, "")):
        state = space.step_back(state, torch.tensor([back]))
        assert space.decode(state) == [text]


def test_full_sequence_can_only_stop():
    space = SequenceSpace("dna", 2, min_length=1)
    state = space.step_back(space.parse(["AC"]), torch.tensor([1]))
    assert space.forward_mask(state).tolist() == [[False] * 4 + [True]]


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (SequenceSpace("abc", 4, min_length=1), 3 + 9 + 27 + 81),
        (SequenceSpace("dna", 3, min_length=2, strand="double"), 10 + 32),
        (SequenceSpace("dna", 3, letters=["AC", "ACG", "T"]), 6),
        (SequenceSpace("dna", 4, ends="both"), 256),
        (SequenceSpace("protein", 40, min_length=40), 20**40),
    ],
)
def test_size_counts_all_lengths_and_letters(space, size):
    assert space.size == size


def test_enumeration_goes_from_short_to_long_in_the_order_of_codes():
    space = SequenceSpace("ab", 2, min_length=1)
    assert space.decode(space.enumerate()) == ["a", "b", "aa", "ab", "ba", "bb"]


def test_features_of_a_shorter_sequence_end_in_minus_one():
    space = SequenceSpace("dna", 4, min_length=1)
    assert space.features(space.parse(["AC", "TTTT"])).tolist() == [[0, 1, -1, -1], [3, 3, 3, 3]]


def test_distance_counts_missing_letters():
    space = SequenceSpace("dna", 4, min_length=1)
    a, b = space.parse(["ACGT"]), space.parse(["ACGT", "AC", "CGT", "TC"])
    assert space.distance(a, b).tolist() == [[0, 2, 4, 3]]


def test_symmetry_of_features_is_the_image_of_objects_of_any_length():
    space = SequenceSpace("dna", 4, min_length=1, strand="double")
    state = space.parse(["A", "ACG", "TTTG", "ACGT"])
    assert space.decode(space.image(state)) == ["T", "CGT", "CAAA", "ACGT"]
    assert torch.equal(space.symmetry(space.features(state)), space.features(space.image(state)))


def test_repr_tells_how_the_space_was_made():
    assert repr(SequenceSpace("dna", 4)) == "SequenceSpace('dna', 4, strand='single')"
    space = SequenceSpace("dna", 2, min_length=1, letters=["TA", "C"])
    assert repr(space) == "SequenceSpace('dna', 2, strand='single', min_length=1, letters=['AT', 'C'])"
