"""Rules of a bench: numbers known in closed form, messages, and what is too large."""

from math import comb

import pytest
import torch

from flowscout.errors import ConfigError, ObjectError
from flowscout.loop.spaces import SequenceRules, SequenceSpace
from flowscout.loop.spaces import automaton as automata
from flowscout.loop.spaces.constraints import Constraints, read_motif


def rules(alphabet, length, strand="single", **given):
    return SequenceRules(alphabet, length, strand, constraints=Constraints(**given))


def test_mutants_of_a_long_protein_are_counted_in_closed_form():
    wild = "ACDEFGHIKLMNPQRSTVWY" * 12 + "ACDEFGHIKL"
    assert rules("protein", 250, wild_type=wild, max_mutations=3).size == sum(
        comb(250, k) * 19**k for k in range(4)
    )


def test_sequences_without_repeated_letters_and_of_one_gc_share_are_counted_in_closed_form():
    assert rules("dna", 300, homopolymer=1).size == 4 * 3**299
    assert rules("dna", 300, gc=(0.5, 0.5)).size == comb(300, 150) * 2**300


def test_objects_of_both_strands_are_counted_with_their_palindromes():
    # A sequence with a share of one half: C(100, 50) 2^100; palindromes are decided by half of it, 50 letters.
    expected = (comb(100, 50) * 2**100 + comb(50, 25) * 2**50) // 2
    assert rules("dna", 100, "double", gc=(0.5, 0.5)).size == expected


def test_limits_that_are_decimal_fractions_are_met_exactly():
    # 0.7 * 10 is 7.000000000000001 in float64
    assert rules("dna", 10, gc=(0.7, 0.7)).size == comb(10, 7) * 2**10


@pytest.mark.parametrize(
    ("alphabet", "letters", "text", "places"),
    [
        ("protein", "ACDEFGHIKLMNPQRSTVWY", "N[^P]s", ("N", "ACDEFGHIKLMNQRSTVWY", "S")),
        ("protein", "ACDEFGHIKLMNPQRSTVWY", "CxC", ("C", "ACDEFGHIKLMNPQRSTVWY", "C")),
        ("dna", "ACGT", "gnR", ("G", "ACGT", "AG")),
        ("rna", "ACGU", "Y[^AU]", ("CU", "CG")),
        ("aNx", "aNx", "N.x", ("N", "aNx", "x")),
    ],
)
def test_motif_is_read_with_wildcards_and_classes(alphabet, letters, text, places):
    assert read_motif(text, alphabet=alphabet, letters=letters) == places


@pytest.mark.parametrize("text", ["G-G", "G[", "G[]A", "[^ACGT]", "G]", "x(2)", "GGU"])
def test_text_that_is_no_motif_is_refused(text):
    with pytest.raises(ConfigError, match="expected letters of ACGT"):
        read_motif(text, alphabet="dna", letters="ACGT")


@pytest.mark.parametrize(
    ("given", "text", "said"),
    [
        ({"forbid": ["GAATTC"]}, "AAGAATTCAA", "has GAATTC at position 3, the motif 'GAATTC', expected nowhere"),
        ({"homopolymer": 3}, "ACGGGGGTAC", "has 5 letters G in a row from position 3 on, expected at most 3"),
        ({"gc": (0.4, 0.6)}, "AAAAAAAAGC", "has 2 letters G or C of 10, a share of 0.2, expected 0.4 to 0.6"),
        (
            {"wild_type": "ACGTACGTAC", "max_mutations": 1},
            "TCGTACGTAA",
            "has 2 mutations of the wild type ACGTACGTAC (at position 1, 10), expected at most 1",
        ),
    ],
)
def test_broken_rule_is_named_with_its_place(given, text, said):
    with pytest.raises(ObjectError) as caught:
        rules("dna", 10, **given).require(text)
    assert said in str(caught.value)


def test_motif_of_the_other_strand_is_named():
    reason = rules("dna", 8, "double", forbid=["GGTCTC"]).validate("AGAGACCA")
    assert "has GAGACC at position 2, the motif 'GGTCTC' on the other strand" in reason


def test_rules_too_large_to_compile_name_the_one_to_relax(monkeypatch):
    monkeypatch.setattr(automata, "LIMIT", 10_000)
    with pytest.raises(ConfigError, match=r"homopolymer 17, gc 61\. Relax gc first"):
        _ = rules("dna", 100, gc=(0.4, 0.6), homopolymer=4).size


def test_motifs_with_too_many_wildcards_are_refused():
    with pytest.raises(ConfigError, match="forbid has 1 motifs of up to 18 letters"):
        _ = rules("dna", 40, forbid=["A" + "N" * 16 + "C"]).size


def test_space_of_three_hundred_letters_is_drawn_from_and_edited():
    space = SequenceSpace("dna", 300, gc=[0.45, 0.55], homopolymer=3, forbid=["GAATTC"])
    generator = torch.Generator().manual_seed(0)
    start = space.uniform(16, generator)
    for state in (
        start,
        space.mutate(start, generator),
        space.crossover(start, start[torch.arange(15, -1, -1)], generator),
    ):
        assert [space.validate(text) for text in space.decode(state)] == [None] * 16
