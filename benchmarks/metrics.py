"""The figures of a discovery table, from the calls a method made.

The measures themselves live in `flowscout.loop.metrics`, because the product's demonstration prints them
too; the rules (what counts as found, what a wasted call costs) live here.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from landscape import Landscape

from flowscout.loop.metrics import (
    Image,
    distinct_hits,
    edit_distances,
    mean_pairwise_distance,
    true_top,
    true_top_found,
)

N_TOP = 128
N_AUC = 10
N_TRUE_TOP = 100
_CHUNK = 2_000  # initial objects compared at once: bounds the memory of 32,768 of them


@dataclass(frozen=True)
class HitRule:
    """What is a hit, by its score, and from which Hamming distance on two hits are distinct."""

    threshold: float = 0.9
    distance: int = 3


@dataclass(frozen=True)
class Figures:
    """One run's figures; `distinct_hits_shifted` also takes hits within two places' shift for one.

    `max` is the best score found, `best` the best known at the end, initial objects included.
    `true_top100_found` is None where the landscape cannot be enumerated.
    """

    calls: int
    max: float
    best: float
    mean_top128: float
    top10: float
    auc_top10: float
    distinct_hits: int
    distinct_hits_shifted: int
    diversity: float
    novelty: float
    duplicates: int
    true_top100_found: int | None


@dataclass(frozen=True)
class Curves:
    """Figures after each round: calls made so far, and what they have found."""

    curve_calls: list[int]
    curve_best: list[float]
    curve_top128: list[float]
    curve_hits: list[int]


def measure(
    landscape: Landscape, initial: Sequence[str], calls: Sequence[str], *, hit: HitRule | None = None
) -> Figures:
    """Return the figures of `calls`, in the order in which they were made.

    Only queried objects count. A call that repeats an earlier one or an initial object, or asks for what the
    landscape does not hold, finds nothing. Where fewer than 128 (or 10) objects were found, the empty places
    score the landscape's floor: a method cannot raise its mean by wasting calls.
    """
    found, duplicates = _found(landscape, initial, calls)
    ranked = sorted(found, key=lambda item: (-found[item], item))
    image, floor, table = landscape.image, landscape.floor, landscape.table
    rule = hit or HitRule()
    return Figures(
        calls=len(calls),
        max=max(found.values(), default=floor),
        best=_best(landscape, initial, found),
        mean_top128=_mean_top(found, N_TOP, floor),
        top10=_mean_top(found, N_AUC, floor),
        auc_top10=auc_top(landscape, initial, calls, N_AUC),
        distinct_hits=_n_distinct(found, rule, image),
        distinct_hits_shifted=_n_distinct(found, rule, image, max_shift=2),
        diversity=mean_pairwise_distance(ranked[:N_TOP], image=image),
        novelty=_novelty(ranked[:N_TOP], initial, image),
        duplicates=duplicates,
        true_top100_found=None
        if table is None
        else true_top_found(found, true_top(table, N_TRUE_TOP, image=image), image=image),
    )


def follow(
    landscape: Landscape,
    initial: Sequence[str],
    batches: Sequence[Sequence[str]],
    *,
    hit: HitRule | None = None,
) -> Curves:
    """Return the figures after each batch of calls."""
    rule = hit or HitRule()
    calls: list[str] = []
    curves = Curves([], [], [], [])
    for batch in batches:
        calls += batch
        found, _ = _found(landscape, initial, calls)
        curves.curve_calls.append(len(calls))
        curves.curve_best.append(_best(landscape, initial, found))
        curves.curve_top128.append(_mean_top(found, N_TOP, landscape.floor))
        curves.curve_hits.append(_n_distinct(found, rule, landscape.image))
    return curves


def auc_top(landscape: Landscape, initial: Sequence[str], calls: Sequence[str], n: int) -> float:
    """Return the mean over calls of the mean of the best `n` found so far (of all, while fewer)."""
    found, _ = _found(landscape, initial, calls)
    seen: set[str] = set()
    best: list[float] = []
    total = 0.0
    for item in calls:
        if item in found and item not in seen:
            seen.add(item)
            heapq.heappush(best, found[item])
            if len(best) > n:
                heapq.heappop(best)
        total += sum(best) / len(best) if best else landscape.floor
    return total / len(calls) if calls else landscape.floor


def ceiling(landscape: Landscape, *, image: Image | None = None) -> float | None:
    """Return the mean of the best 128 scores, which no method can beat; None where they are not known.

    With `image` an object and its image are bought once between them, as by a method that is told so.
    """
    if landscape.table is None:
        return None
    kept = {item: v for item, v in landscape.table.items() if image is None or item <= image(item)}
    return _mean_top(kept, N_TOP, landscape.floor)


def _found(landscape: Landscape, initial: Sequence[str], calls: Sequence[str]) -> tuple[dict[str, float], int]:
    """Return the objects found, with their scores, and the number of repeated calls."""
    seen = set(initial)
    fresh: list[str] = []
    duplicates = 0
    for item in calls:
        if item in seen:
            duplicates += 1
        elif landscape.holds(item):
            fresh.append(item)
        seen.add(item)
    return dict(zip(fresh, landscape.score(fresh), strict=True)), duplicates


def _best(landscape: Landscape, initial: Sequence[str], found: dict[str, float]) -> float:
    return max([*found.values(), *landscape.score(initial)], default=landscape.floor)


def _mean_top(scores: dict[str, float], n: int, floor: float) -> float:
    best = heapq.nlargest(n, scores.values())
    return (sum(best) + floor * (n - len(best))) / n


def _n_distinct(found: dict[str, float], hit: HitRule, image: Image | None, *, max_shift: int = 0) -> int:
    kept = distinct_hits(found, threshold=hit.threshold, distance=hit.distance, image=image, max_shift=max_shift)
    return len(kept)


def _novelty(items: Sequence[str], initial: Sequence[str], image: Image | None) -> float:
    """Return the mean over `items` of the least edit distance to `initial`; 0 if either is empty."""
    if not items or not initial:
        return 0.0
    chunks = [initial[i : i + _CHUNK] for i in range(0, len(initial), _CHUNK)]
    least = np.min([edit_distances(items, chunk, image=image).min(axis=1) for chunk in chunks], axis=0)
    return float(least.mean())
