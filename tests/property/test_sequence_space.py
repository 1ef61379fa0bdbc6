"""Sequences of any alphabet, length and strand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowscout.errors import ObjectError
from flowscout.loop.spaces import SequenceRules, SequenceSpace
from flowscout.loop.spaces.walking import BLANK

ALPHABETS = st.one_of(
    st.sampled_from(["dna", "rna", "protein"]),
    st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=2, max_size=6).filter(
        lambda text: len(set(text)) == len(text)
    ),
)
SINGLE = st.builds(SequenceSpace, ALPHABETS, st.integers(1, 12))
DOUBLE = st.builds(
    lambda alphabet, length: SequenceSpace(alphabet, length, strand="double"),
    st.sampled_from(["dna", "rna"]),
    st.integers(1, 12),
)
SPACES = st.one_of(SINGLE, DOUBLE)


def texts_of(space: SequenceSpace) -> st.SearchStrategy[str]:
    return st.text(space.rules.letters, min_size=space.max_steps, max_size=space.max_steps)


@given(st.data(), SPACES)
def test_decode_undoes_parse(data, space):
    texts = data.draw(st.lists(texts_of(space), max_size=5))
    assert space.decode(space.parse(texts)) == texts


@given(
    st.data(), st.one_of(SPACES, st.builds(lambda n: SequenceSpace("dna", n + 2, min_length=2), st.integers(0, 5)))
)
def test_texts_read_together_are_those_read_one_by_one(data, space):
    texts = data.draw(st.lists(texts_of(space) | st.text("acgtACGTx", max_size=space.max_steps), max_size=5))
    if any(space.validate(text) is not None for text in texts):
        with pytest.raises(ObjectError):
            space.parse(texts)
        return
    expected = [[space.rules.letters.index(letter) for letter in space.rules.require(text)] for text in texts]
    expected = [row + [BLANK] * (space.rules.length - len(row)) for row in expected]
    assert space.parse(texts).tokens.tolist() == expected


@given(st.data(), SPACES)
def test_key_is_a_valid_text_and_its_own_key(data, space):
    key = space.key(data.draw(texts_of(space)))
    assert space.validate(key) is None
    assert space.key(key) == key


@given(st.data(), DOUBLE)
def test_two_texts_have_one_key_exactly_when_they_are_one_duplex(data, space):
    a, b = data.draw(texts_of(space)), data.draw(texts_of(space))
    other = space.rules.reverse_complement(a)
    assert space.rules.reverse_complement(other) == a
    assert space.key(other) == space.key(a)
    assert (space.key(a) == space.key(b)) == (b in {a, other})


@given(st.data(), SPACES)
def test_distance_agrees_with_counting_letters(data, space):
    a, b = data.draw(texts_of(space)), data.draw(texts_of(space))
    strands = [b] if space.rules.complement is None else [b, space.rules.reverse_complement(b)]
    expected = min(sum(x != y for x, y in zip(a, strand, strict=True)) for strand in strands)
    assert space.distance(space.parse([a]), space.parse([b])).item() == expected


@given(st.data(), SPACES)
def test_symmetry_counts_the_strings_of_a_key(data, space):
    text = data.draw(texts_of(space))
    strings = {text} if space.rules.complement is None else {text, space.rules.reverse_complement(text)}
    assert round(space.log_symmetry(space.parse([text])).exp().item()) == len(strings)


@given(st.data(), SPACES)
def test_a_mutant_is_a_neighbour(data, space):
    text = data.draw(texts_of(space))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    state = space.parse([text])
    assert space.decode(space.mutate(state, generator))[0] in set(space.decode(space.neighbours(state)))


@given(st.one_of(st.text(max_size=6), st.none(), st.integers(), st.binary(max_size=4)))
def test_validate_never_raises_and_agrees_with_the_letters(thing):
    rules = SequenceRules("dna", 4)
    fits = isinstance(thing, str) and len(thing) == 4 and set(thing) <= set("ACGTacgt")
    assert (rules.validate(thing) is None) == fits
