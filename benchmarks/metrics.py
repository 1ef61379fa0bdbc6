"""The figures of a discovery table, from the calls a method made.

The measures themselves live in `flowscout.loop.metrics`, because the product's demonstration prints them
too; the rules (what counts as found, what a wasted call costs) live here.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from landscape import Landscape

from flowscout.loop.metrics import (
    Image,
    distinct_hits,
    mean_least_distance,
    mean_pairwise_distance,
    true_top,
    true_top_found,
)

N_TOP = 128
N_AUC = 10
N_TRUE_TOP = 100
HIT = 0.9


@dataclass(frozen=True)
class Figures:
    """One run's figures; `distinct_hits_shifted` also takes hits within two places' shift for one."""

    calls: int
    max: float
    mean_top128: float
    top10: float
    auc_top10: float
    distinct_hits: int
    distinct_hits_shifted: int
    diversity: float
    novelty: float
    duplicates: int
    true_top100_found: int


def measure(landscape: Landscape, initial: Sequence[str], calls: Sequence[str]) -> Figures:
    """Return the figures of `calls`, in the order in which they were made.

    Only queried objects count. A call that repeats an earlier one or an initial object, or asks for what the
    landscape does not hold, finds nothing. Where fewer than 128 (or 10) objects were found, the empty places
    score the landscape's minimum: a method cannot raise its mean by wasting calls.
    """
    found, duplicates = _found(landscape, initial, calls)
    ranked = sorted(found, key=lambda item: (-found[item], item))
    image, floor = landscape.image, landscape.minimum
    return Figures(
        calls=len(calls),
        max=max(found.values(), default=floor),
        mean_top128=_padded_mean([found[item] for item in ranked[:N_TOP]], N_TOP, floor),
        top10=_padded_mean([found[item] for item in ranked[:N_AUC]], N_AUC, floor),
        auc_top10=auc_top(landscape, initial, calls, N_AUC),
        distinct_hits=len(distinct_hits(found, threshold=HIT, image=image)),
        distinct_hits_shifted=len(distinct_hits(found, threshold=HIT, image=image, max_shift=2)),
        diversity=mean_pairwise_distance(ranked[:N_TOP], image=image),
        novelty=mean_least_distance(ranked[:N_TOP], initial, image=image),
        duplicates=duplicates,
        true_top100_found=true_top_found(found, true_top(landscape.scores, N_TRUE_TOP, image=image), image=image),
    )


def auc_top(landscape: Landscape, initial: Sequence[str], calls: Sequence[str], n: int) -> float:
    """Return the mean over calls of the mean of the best `n` found so far (of all, while fewer)."""
    seen = set(initial)
    best: list[float] = []
    total = 0.0
    for item in calls:
        if item not in seen and item in landscape.scores:
            heapq.heappush(best, landscape.scores[item])
            if len(best) > n:
                heapq.heappop(best)
        seen.add(item)
        total += sum(best) / len(best) if best else landscape.minimum
    return total / len(calls) if calls else landscape.minimum


def ceiling(landscape: Landscape, *, image: Image | None = None) -> float:
    """Return the mean of the best 128 scores: no method can do better.

    With `image` an object and its image are bought once between them, as by a method that is told so.
    """
    values = sorted((v for s, v in landscape.scores.items() if image is None or s <= image(s)), reverse=True)
    return _padded_mean(values[:N_TOP], N_TOP, landscape.minimum)


def _found(landscape: Landscape, initial: Sequence[str], calls: Sequence[str]) -> tuple[dict[str, float], int]:
    """Return the objects found, with their scores, and the number of repeated calls."""
    seen = set(initial)
    found: dict[str, float] = {}
    duplicates = 0
    for item in calls:
        if item in seen:
            duplicates += 1
        elif item in landscape.scores:
            found[item] = landscape.scores[item]
        seen.add(item)
    return found, duplicates


def _padded_mean(values: Sequence[float], n: int, floor: float) -> float:
    return (sum(values) + floor * (n - len(values))) / n
