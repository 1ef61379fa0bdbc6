"""Rules of a bench, against brute force over all strings of small spaces."""

from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flowscout.errors import ConfigError
from flowscout.loop.spaces import SequenceRules
from flowscout.loop.spaces.constraints import Constraints

COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}
MEANING = {letter: letter for letter in "ACGT"} | {"N": "ACGT", ".": "ACGT", "R": "AG"}


def turned(text):
    return "".join(COMPLEMENT[letter] for letter in reversed(text))


def places(motif):
    """Return the letters of each place, read with none of the code under test."""
    found, rest = [], motif
    while rest:
        if rest[0] == "[":
            body, rest = rest[1:].split("]", 1)
            found.append(set("ACGT") - set(body[1:]) if body[0] == "^" else set(body))
        else:
            found.append(set(MEANING[rest[0]]))
            rest = rest[1:]
    return found


def holds(text, motif):
    wanted = places(motif)
    starts = range(len(text) - len(wanted) + 1)
    return any(all(text[at + i] in some for i, some in enumerate(wanted)) for at in starts)


def obeys(text, rules):
    """Return whether a text obeys constraints, each in the plainest words."""
    both = [text, turned(text)] if rules.strand == "double" else [text]
    given_rules = rules.constraints
    if any(holds(one, motif) for one in both for motif in given_rules.forbid):
        return False
    if given_rules.homopolymer and any(letter * (given_rules.homopolymer + 1) in text for letter in "ACGT"):
        return False
    if given_rules.gc:
        share = sum(letter in "GC" for letter in text) / len(text)
        # 1e-9: shares are quotients of whole numbers below 10, limits have two decimals
        if not given_rules.gc[0] - 1e-9 <= share <= given_rules.gc[1] + 1e-9:
            return False
    if given_rules.wild_type is not None:
        wild = given_rules.wild_type
        return (
            min(sum(a != b for a, b in zip(wild, one, strict=True)) for one in both) <= given_rules.max_mutations
        )
    return True


PLACE = st.sampled_from([*"ACGT", "N", ".", "R", "[AT]", "[^C]", "[CG]"])
MOTIF = st.lists(PLACE, min_size=1, max_size=4).map("".join).filter(lambda m: any(len(p) < 4 for p in places(m)))
SHARES = [0, 0.25, 0.4, 0.5, 0.6, 1]


@st.composite
def rules_of_dna(draw, least=1, most=6):
    length = draw(st.integers(least, most))
    shorter = draw(st.one_of(st.none(), st.integers(1, length)))
    wild = (
        draw(st.text("ACGT", min_size=length, max_size=length))
        if shorter is None and draw(st.booleans())
        else None
    )
    constraints = Constraints(
        wild_type=wild,
        max_mutations=None if wild is None else draw(st.integers(0, 3)),
        forbid=tuple(draw(st.lists(MOTIF, max_size=3))),
        gc=draw(st.one_of(st.none(), st.lists(st.sampled_from(SHARES), min_size=2, max_size=2).map(sorted))),
        homopolymer=draw(st.one_of(st.none(), st.integers(1, 3))),
    )
    strand = draw(st.sampled_from(["single", "double"]))
    choices = None
    if strand == "single" and draw(st.booleans()):
        some = st.sets(st.sampled_from("ACGT"), min_size=1).map(lambda letters: "".join(sorted(letters)))
        choices = draw(st.lists(some, min_size=length, max_size=length))
    assume(constraints)
    return SequenceRules("dna", length, strand, shorter, choices, constraints)


def strings_of(rules):
    found = []
    for length in rules.lengths:
        texts = map("".join, product(*[rules.choice(place) for place in range(length)]))
        found += [text for text in texts if obeys(text, rules)]
    return found


@given(rules_of_dna())
@settings(deadline=None)
def test_automaton_holds_exactly_the_strings_that_obey_and_counts_their_objects(rules):
    expected = strings_of(rules)
    if not expected:
        with pytest.raises(ConfigError, match="no sequence obeys all rules together"):
            _ = rules.size
        return
    automaton = rules.automaton
    found, open_ends = [], [(0, "")]
    while open_ends:
        node, text = open_ends.pop()
        assert automaton.accepts[node] or automaton.legal[node].any(), "a dead end"
        if automaton.accepts[node]:
            found.append(text)
        open_ends += [
            (int(automaton.successor[node, code]), text + letter)
            for code, letter in enumerate("ACGT")
            if automaton.legal[node, code]
        ]
    assert sorted(found) == sorted(expected)
    assert automaton.strings == len(expected)
    assert rules.size == len({rules.key(text) for text in expected})


@given(rules_of_dna(most=5))
@settings(deadline=None)
def test_validate_agrees_with_the_rules_and_says_why_not(rules):
    allowed = set(strings_of(rules))
    for length in rules.lengths:
        for text in map("".join, product("ACGT", repeat=length)):
            reason = rules.validate(text)
            assert (reason is None) == (text in allowed), reason
            assert reason is None or (text in reason and "expected" in reason)


@given(rules_of_dna(most=5))
@settings(deadline=None)
def test_both_strands_of_an_object_obey_or_neither_does(rules):
    assume(rules.strand == "double")
    allowed = set(strings_of(rules))
    assert {turned(text) for text in allowed} == allowed
