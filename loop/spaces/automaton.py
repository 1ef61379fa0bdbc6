"""All sequences that obey the rules of a space, as one automaton that has no dead end, and their exact number.

A node says, after so many letters, what of them still matters: the motifs that have begun, the mutations, the
letters G and C. What the rules are belongs in `constraints`, what is done with a node in `growth`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from flowscout.errors import ConfigError
from flowscout.loop.spaces.constraints import Limits

LIMIT = 2**24
"""The most entries of an automaton's table, one for each node and letter, before it is made small."""

MOTIF_LIMIT = 2**14
"""The most states of the motifs alone, and 2^24 the most pairs of them with two strands."""

_BITS = 1000
"""Bits that are kept of the counts of a layer: float64 holds 1023."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Automaton:
    """Nodes by layer, a layer for each number of letters; node 0 is the start, before the first.

    `successor` int32 `N x A`: the node after each letter, 0 where no object has it; `legal` bool `N x A`: whether
    one has. `accepts` bool `N`: whether the letters so far are an object. `weight` float64 `N`: how many objects a
    node can still become, relative to the nodes of its layer. `size` is the exact number of objects: with two
    strands a string and its reverse complement are one, so that it is less than that of the `strings`.
    """

    successor: Array
    legal: Array
    accepts: Array
    weight: Array
    strings: int
    size: int


@dataclass(frozen=True)
class _Counters:
    """What a node counts beside the state of its motifs, whose table is `delta`, int64 `Q x A`.

    `mutates` and `turned`, int64 `L x A`, are what a letter adds to the distances from the wild type and from its
    other strand, `strong`, int64 `A`, to the number of G and C. `feasible`, bool `(L + 1) x G`, says which such
    numbers can still end within the limits; `choices`, bool `L x A`, which letters a position may have.
    """

    delta: Array
    mutates: Array
    turned: Array | None
    most: int
    strong: Array
    feasible: Array
    choices: Array

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """The number of states of the motifs, of both distances, and of counts of G and C."""
        if self.turned is None:
            return len(self.delta), self.most + 1, 1, self.feasible.shape[1]
        return len(self.delta), self.most + 2, self.most + 2, self.feasible.shape[1]

    def step(self, codes: Array, position: int) -> Array:
        """Return the codes after each letter at a position, int64 `n x A`, -1 where a rule is broken.

        A code is the mixed-radix number of motif, distances and count.
        """
        _, M, T, G = self.sizes
        motif, distance, other, count = np.unravel_index(codes, self.sizes)
        after = self.delta[motif]
        count = count[:, None] + self.strong
        bad = (after < 0) | ~self.choices[position] | (count >= G)
        count = np.minimum(count, G - 1)
        bad |= ~self.feasible[position + 1][count]
        distance = np.minimum(distance[:, None] + self.mutates[position], self.most + 1)
        nearest = distance
        if self.turned is None:
            other = np.zeros_like(distance)
        else:  # both are counted up to one too many: either strand may be the one that is near
            other = np.minimum(other[:, None] + self.turned[position], self.most + 1)
            nearest = np.minimum(distance, other)
        bad |= nearest > self.most
        return np.where(bad, -1, ((after * M + distance) * T + other) * G + count)


@lru_cache(maxsize=16)
def compile_limits(limits: Limits) -> Automaton:
    """Return the automaton of all sequences within some limits; the latest ones are kept.

    Raises:
        ConfigError: There is no such sequence, or the automaton would be too large; the message names a rule.
    """
    found = _compile(limits)
    if found is None:
        raise ConfigError(_why_empty(limits))
    return found


def _compile(limits: Limits) -> Automaton | None:
    counters = _counters(limits)
    layers, links = _forward(limits, counters)
    return _backward(limits, counters, layers, links)


def motif_table(motifs: Sequence[Sequence[str]], letters: str) -> Array:
    """Return the least automaton that finds motifs, int64 `Q x A`: the state after each letter, -1 for a find.

    State 0 is the start. A state is the set of beginnings of motifs that the last letters are, a bit for each of
    their places (the subset construction); states that foretell the same are then made one.

    Raises:
        ConfigError: The motifs have more than `MOTIF_LIMIT` states.
    """
    first, last, masks, bit = 0, 0, [0] * len(letters), 1
    for motif in motifs:
        first |= bit
        for place in motif:
            masks = [mask | bit if letter in place else mask for mask, letter in zip(masks, letters, strict=True)]
            bit <<= 1
        last |= bit >> 1
    numbers, rows, states = {0: 0}, [], [0]
    for state in states:  # it grows while it is read
        row = []
        for mask in masks:
            after = (state << 1 | first) & mask
            if after & last:
                row.append(-1)
                continue
            if after not in numbers:
                numbers[after] = len(states)
                states.append(after)
            row.append(numbers[after])
        rows.append(row)
        if len(states) > MOTIF_LIMIT:
            raise ConfigError(
                f"forbid has {len(motifs)} motifs of up to {max(map(len, motifs))} letters, both strands counted, "
                f"which have more than {MOTIF_LIMIT:,} states; expected fewer. Forbid fewer or shorter motifs, or "
                "give their wildcards letters."
            )
    return _minimal(np.array(rows))


def _minimal(table: Array) -> Array:
    """Return the table with states made one that foretell the same; state 0 stays the first."""
    classes, n = np.zeros(len(table), dtype=np.int64), 1
    while True:
        after = np.where(table < 0, -1, classes[table])
        _, first, found = np.unique(
            np.column_stack([classes, after]), axis=0, return_index=True, return_inverse=True
        )
        order = np.argsort(np.argsort(first))  # classes are numbered as they first come: 0 stays 0
        classes = order[found.reshape(-1)]
        if len(first) == n:
            chosen = np.sort(first)
            return np.where(table[chosen] < 0, -1, classes[table[chosen]])
        n = len(first)


def _counters(limits: Limits) -> _Counters:
    rules, letters, length = limits.constraints, limits.letters, limits.lengths[-1]
    mutates = np.zeros((length, len(letters)), dtype=np.int64)
    turned, most = None, 0
    if rules.wild_type is not None:
        assert rules.max_mutations is not None
        most = min(rules.max_mutations, length)
        mutates = _differs(rules.wild_type, letters)
        turned = None if limits.complement is None else _differs(limits.turn(rules.wild_type), letters)
    strong, feasible = np.zeros(len(letters), dtype=np.int64), np.ones((length + 1, 1), dtype=np.bool_)
    if rules.gc is not None:
        strong = np.array([letter in "GC" for letter in letters]).astype(np.int64)
        ranges = {n: limits.count_range(n) for n in limits.lengths}
        count = np.arange(max(high for _, high in ranges.values()) + 1)
        feasible = np.zeros((length + 1, len(count)), dtype=np.bool_)
        for n, (low, high) in ranges.items():
            left = n - np.arange(n + 1)[:, None]
            feasible[: n + 1] |= (count <= high) & (count + left >= low)
    choices = np.array([[letter in choice for letter in letters] for choice in limits.choices])
    delta = motif_table([motif.places for motif in limits.motifs], letters)
    return _Counters(delta, mutates, turned, most, strong, feasible, choices)


def _differs(wild_type: str, letters: str) -> Array:
    return np.array([[letter != wild for letter in letters] for wild in wild_type]).astype(np.int64)


def _forward(limits: Limits, counters: _Counters) -> tuple[list[Array], list[Array]]:
    """Return the codes that can be reached, layer by layer, and where each letter leads, -1 for nowhere.

    Raises:
        ConfigError: They are too many.
    """
    layers, links, entries = [np.zeros(1, dtype=np.int64)], [], 0
    for position in range(limits.lengths[-1]):
        after = counters.step(layers[-1], position)
        entries += after.size
        if entries > LIMIT:
            raise ConfigError(_too_large(limits, counters, position))
        codes, place = np.unique(after, return_inverse=True)
        found = place.reshape(after.shape).astype(np.int32)
        if len(codes) and codes[0] < 0:
            codes, found = codes[1:], found - 1
        layers.append(codes)
        links.append(found)
    return layers, links


def _backward(limits: Limits, counters: _Counters, layers: list[Array], links: list[Array]) -> Automaton | None:
    """Count completions from the end on, drop what has none, and make one of nodes that have the same."""
    n_letters = len(limits.letters)
    small = n_letters ** (limits.lengths[-1] + 1) < 2**62
    classes, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64 if small else object)
    rows: list[Array] = []
    weights: list[Array] = []
    for position in reversed(range(len(layers))):
        ends = _accepts(limits, counters, layers[position], position)
        after = np.full((len(ends), n_letters), -1, dtype=np.int64)
        if position < len(links):
            after = np.append(classes, -1)[links[position]]
        alive = ends | (after >= 0).any(axis=1)
        one, of = np.unique(np.column_stack([ends, after])[alive], axis=0, return_inverse=True)
        ways = np.append(counts, 0)[one[:, 1:]]
        counts = one[:, 0].astype(counts.dtype) + (ways.sum(axis=1) if len(one) else 0)
        classes = np.full(len(ends), -1, dtype=np.int64)
        classes[alive] = of.reshape(-1)
        rows.append(one)
        weights.append(_floats(counts))
    if len(counts) == 0:
        return None
    strings = int(counts[0])
    palindromes = 0
    if limits.complement is not None:
        palindromes = sum(_palindromes(limits, counters, n) for n in limits.lengths if n % 2 == 0)
    size = strings if limits.complement is None else (strings + palindromes) // 2
    return _joined(rows[::-1], weights[::-1], strings, size)


def _accepts(limits: Limits, counters: _Counters, codes: Array, length: int) -> Array:
    """Return which nodes after so many letters are objects, bool `n`."""
    if length not in limits.lengths:
        return np.zeros(len(codes), dtype=np.bool_)
    low, high = limits.count_range(length)
    count = np.unravel_index(codes, counters.sizes)[3]
    return (count >= low) & (count <= high) if limits.constraints.gc is not None else np.ones_like(codes, np.bool_)


def _floats(counts: Array) -> Array:
    """Return counts relative to each other as float64, exact to its rounding."""
    if counts.dtype != object:
        return counts.astype(np.float64)
    spare = max(0, max((int(count).bit_length() for count in counts), default=0) - _BITS)
    return np.array([float(max(1, int(count) >> spare)) for count in counts])


def _joined(rows: list[Array], weights: list[Array], strings: int, size: int) -> Automaton:
    starts = np.cumsum([0, *map(len, rows)])
    table = np.concatenate(rows)
    after, ends = table[:, 1:], table[:, 0].astype(np.bool_)
    below = np.repeat(starts[1:], [len(some) for some in rows])
    legal = after >= 0
    successor = np.where(legal, after + below[:, None], 0).astype(np.int32)
    return Automaton(successor, legal, ends, np.concatenate(weights), strings, size)


def _palindromes(limits: Limits, counters: _Counters, length: int) -> int:
    """Return how many sequences of an even length that are their own reverse complement are within the limits.

    The first half decides such a sequence. As motifs are forbidden on both strands, one that stands in the second
    half stands in the first too; one across the middle reaches less than its width into either half. So the first
    half is counted from the start as far as no motif at the middle reaches, and from there on together with what
    mirrors it: from the middle outwards, by the motifs' state before a letter and that after its mirror image.
    """
    assert limits.complement is not None
    half = length // 2
    outward = min(half, max((len(motif.places) for motif in limits.motifs), default=1) - 1)
    mirror = [limits.letters.index(letter) for letter in limits.complement]
    delta, Q, A = counters.delta, len(counters.delta), len(mirror)
    M = counters.most + 1
    G = half + 1 if limits.constraints.gc is not None else 1
    if Q * Q * M * min(G, outward + 1) > LIMIT:
        raise ConfigError(
            f"forbid has motifs of {Q:,} states with strand double, expected at most {math.isqrt(LIMIT // M):,}: "
            "their pairs are counted. Forbid fewer or shorter motifs, or choose strand single."
        )

    def moves(position: int) -> list[tuple[int, int, int]]:
        """Return the letters that a position may have, with what letter and mirror image add to the counters."""
        other = length - 1 - position
        return [
            (a, int(counters.mutates[position, a] + counters.mutates[other, mirror[a]]), int(counters.strong[a]))
            for a in range(A)
            if counters.choices[position, a]
        ]

    head = np.zeros((M, G, Q), dtype=object)
    head[0, 0, 0] = 1
    for position in range(half - outward):
        after = np.zeros_like(head)
        for a, distance, count in moves(position):
            moved = _summed(head, delta[:, a])
            after[distance:, count:] += moved[: M - distance, : G - count]
        head = after
    tail = np.zeros((M, min(G, outward + 1), Q, Q), dtype=object if A**outward >= 2**62 else np.int64)
    tail[0, 0] = np.eye(Q, dtype=np.int64)
    for position in reversed(range(half - outward, half)):
        wider = np.zeros_like(tail)
        for a, distance, count in moves(position):
            before, moved = delta[:, a], _summed(tail, delta[:, mirror[a]])
            moved = np.where((before >= 0)[:, None], moved[:, :, before], 0)
            wider[distance:, count:] += moved[: M - distance, : tail.shape[1] - count]
        tail = wider
    ways = tail.sum(axis=3).astype(object)
    low, high = limits.count_range(length)
    total = 0
    for m in range(M):
        for g in range(ways.shape[1]):
            first, last = max(0, -(-low // 2) - g), high // 2 - g
            if limits.constraints.gc is None:
                first, last = 0, 0
            total += int((head[: M - m, first : last + 1] * ways[m, g]).sum()) if last >= first else 0
    return total


def _summed(values: Array, states: Array) -> Array:
    """Return the sums of the last columns that go to one state each; those that go to none, -1, are left out."""
    found = np.zeros_like(values)
    for column, state in enumerate(states.tolist()):
        if state >= 0:
            found[..., state] += values[..., column]
    return found


def _too_large(limits: Limits, counters: _Counters, position: int) -> str:
    Q, M, T, G = counters.sizes
    motifs = " and ".join(name for name in ("forbid", "homopolymer") if name in limits.constraints.named)
    factors = {motifs or "forbid": Q, "max_mutations": M * T, "gc": G}
    found = {name: n for name, n in factors.items() if n > 1}
    largest = max(found, key=lambda name: found[name])
    told = ", ".join(f"{name} {n:,}" for name, n in found.items())
    return (
        f"the rules together have more than {LIMIT:,} states times letters at position {position + 1} of "
        f"{limits.lengths[-1]}, expected fewer: what each tells apart is {told}. Relax {largest} first, "
        "which has most."
    )


def _why_empty(limits: Limits) -> str:
    """Return a sentence that says without which rule there would be an object."""
    ways = {
        name: replace(limits, constraints=limits.constraints.without(name), motifs=_motifs_without(limits, name))
        for name in limits.constraints.named
    }
    if any(choice != limits.letters for choice in limits.choices):
        ways["letters"] = replace(limits, choices=(limits.letters,) * len(limits.choices))
    counts = {name: found.size for name, way in ways.items() if (found := _compile(way)) is not None}
    rules = ", ".join(ways)
    if not counts:
        advice = "No rule alone is the cause: relax two of them."
    else:
        said = " or ".join(f"{name} ({count:,} objects)" for name, count in counts.items())
        advice = f"There would be some without {said}. Relax that rule."
    return f"no sequence obeys all rules together ({rules}), expected at least one. {advice}"


def _motifs_without(limits: Limits, name: str) -> tuple[Any, ...]:
    if name not in ("forbid", "homopolymer"):
        return limits.motifs
    return tuple(motif for motif in limits.motifs if bool(motif.text) == (name == "homopolymer"))
