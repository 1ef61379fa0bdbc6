"""Measures of a set of discovered objects: how many, how different, how many of the true best.

Pure functions of strings and numbers, shared by the demonstration and the benchmarks. What a campaign
optimises belongs in `rewards` and `selection`, not here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Image = Callable[[str], str]
"""Maps an object to the equivalent one; applied twice it changes nothing."""

_COMPLEMENT = str.maketrans("ACGT", "TGCA")
_GAP = -1  # pads strings of unequal length; no character has this code


def reverse_complement(sequence: str) -> str:
    """Return the other strand of a DNA sequence, read in its own direction."""
    return sequence.translate(_COMPLEMENT)[::-1]


def canonical(item: str, image: Image | None = None) -> str:
    """Return one name for an object and its image: the smaller in alphabetical order."""
    return item if image is None else min(item, image(item))


def distinct_hits(
    scores: Mapping[str, float],
    *,
    threshold: float = 0.9,
    distance: int = 3,
    image: Image | None = None,
    max_shift: int = 0,
) -> list[str]:
    """Return hits far from one another: greedily by descending score, ties alphabetical.

    A hit scores at least `threshold`; it is kept if its Hamming distance to every kept one is at least
    `distance`. With `image` the distance is the smaller of those to the kept object and to its image. With
    `max_shift` it is also the least over relative shifts of up to that many places, counted over the
    letters that overlap: two windows on one motif are then one hit. All objects have one length.
    """
    hits = sorted((s for s, score in scores.items() if score >= threshold), key=lambda s: (-scores[s], s))
    if not hits:
        return []
    codes = _codes(hits)
    kept: list[int] = []
    kept_codes = np.empty((0, codes.shape[1]), dtype=codes.dtype)
    for index in range(len(hits)):
        if kept and _least_shifted_hamming(codes[index], kept_codes, max_shift) < distance:
            continue
        kept.append(index)
        both = [hits[index]] if image is None else [hits[index], image(hits[index])]
        kept_codes = np.concatenate([kept_codes, _codes(both)])
    return [hits[index] for index in kept]


def true_top(landscape: Mapping[str, float], n: int, *, image: Image | None = None) -> set[str]:
    """Return the canonical names of the `n` best objects of a landscape, ties alphabetical.

    With `image` a pair counts once, so these are the `n` best pairs.
    """
    best: dict[str, float] = {}
    for item, score in landscape.items():
        name = canonical(item, image)
        best[name] = max(score, best.get(name, score))
    return set(sorted(best, key=lambda name: (-best[name], name))[:n])


def true_top_found(found: Iterable[str], top: set[str], *, image: Image | None = None) -> int:
    """Return how many members of `top` (canonical names) are among the found objects; a pair counts once."""
    return len({canonical(item, image) for item in found} & top)


def edit_distances(a: Sequence[str], b: Sequence[str], *, image: Image | None = None) -> NDArray[np.int64]:
    """Return Levenshtein distances, `n x m`; with `image` the least over `b` and the images of `b`."""
    direct = _levenshtein(a, b)
    if image is None:
        return direct
    return np.minimum(direct, _levenshtein(a, [image(item) for item in b]))


def mean_pairwise_distance(items: Sequence[str], *, image: Image | None = None) -> float:
    """Return the mean edit distance over all pairs of different places; 0 for fewer than two items."""
    if len(items) < 2:
        return 0.0
    distances = edit_distances(items, items, image=image)
    return float(distances[np.triu_indices(len(items), k=1)].mean())


def mean_least_distance(items: Sequence[str], known: Sequence[str], *, image: Image | None = None) -> float:
    """Return the mean over `items` of the least edit distance to `known`: novelty. 0 if either is empty."""
    if not items or not known:
        return 0.0
    return float(edit_distances(items, known, image=image).min(axis=1).mean())


def _least_shifted_hamming(one: NDArray[np.int64], many: NDArray[np.int64], max_shift: int) -> int:
    """Return the least Hamming distance of `one`, `l`, to the rows of `many`, `n x l`, over shifts."""
    length = one.size
    least = length
    for shift in range(min(max_shift, length - 1) + 1):
        overlap = length - shift
        for left, right in ((one[shift:], many[:, :overlap]), (one[:overlap], many[:, shift:])):
            least = min(least, int((left != right).sum(axis=1).min()))
    return least


def _levenshtein(a: Sequence[str], b: Sequence[str]) -> NDArray[np.int64]:
    """Return Levenshtein distances, `n x m`, by the row recurrence over all pairs at once.

    Source: Wagner & Fischer 1974. The step along a row, a running minimum of `value - column`, is done by
    `minimum.accumulate`, so that the only Python loop is over the letters of `a`.
    """
    if not a or not b:
        return np.zeros((len(a), len(b)), dtype=np.int64)
    codes_a, codes_b = _codes(a), _codes(b)
    lengths_a = np.array([len(item) for item in a])
    lengths_b = np.array([len(item) for item in b])
    columns = np.arange(codes_b.shape[1] + 1)
    row = np.broadcast_to(columns, (len(a), len(b), columns.size)).copy()
    result = np.where(lengths_a[:, None] == 0, lengths_b[None, :], 0)
    for i in range(codes_a.shape[1]):
        differs = codes_a[:, i, None, None] != codes_b[None, :, :]
        step = np.empty_like(row)
        step[..., 0] = i + 1
        step[..., 1:] = np.minimum(row[..., :-1] + differs, row[..., 1:] + 1)
        row = np.minimum.accumulate(step - columns, axis=-1) + columns
        at_end = row[:, np.arange(len(b)), lengths_b]
        result = np.where(lengths_a[:, None] == i + 1, at_end, result)
    return result.astype(np.int64)


def _codes(items: Sequence[str]) -> NDArray[np.int64]:
    """Return code points, `n x longest`, padded with -1."""
    longest = max(len(item) for item in items)
    codes = np.full((len(items), longest), _GAP, dtype=np.int64)
    for row, item in enumerate(items):
        codes[row, : len(item)] = [ord(letter) for letter in item]
    return codes
