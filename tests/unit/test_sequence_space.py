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
