"""How a campaign leaves a plateau: where many objects score alike and none better, part of the batch drifts.

On a plateau a surrogate is certain that small changes do not matter: it has seen many of them, and each of those
that would matter never. Which changes were never seen is a fact of the objects; that the rest of an object stays
as good as it is, is what the surrogate knows best. So a share of the batch makes the changes seen least among
equals, several at once, where the surrogate believes that they cost nothing.
Source of the idea: neutral drift in directed evolution, Gupta & Tawfik 2008, doi:10.1038/nmeth.1262.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from flowscout.db import FitRecord, RoundRecord, TrainingSet
from flowscout.loop.fitting import training_set
from flowscout.loop.outside import inside
from flowscout.loop.proposers.evolution import edit, fresh
from flowscout.loop.seeds import derive_seed
from flowscout.loop.selection import least_distance
from flowscout.loop.spaces import SequenceSpace, SequenceState
from flowscout.loop.workbench import Workbench
from flowscout.surrogates import Surrogate

DRIFTED = "drift"
"""The origin of what was changed where changes are believed not to matter."""

LEVEL = 0.01
"""Objects are level with the best from this share of the labels' spread below it."""

FALL = 0.1
"""How far below the best, as a share of the labels' spread, a drifted object may be believed to be."""

LEAST_LEVEL = 4
"""So many of a batch at least, and a quarter of it, are level with the best on a plateau."""

CHILDREN = 20_000
"""Among how many changed objects the drifted ones are looked for."""


def drift(
    bench: Workbench, record: RoundRecord, fitted: FitRecord, surrogate: Surrogate, known: set[str]
) -> SequenceState | None:
    """Return the objects of a round that drift, or None where the campaign stands on no plateau.

    Only sequences of one length drift, and none where objects of a batch are to keep a distance: what drifts is
    alike. `known` are the keys of what is not to be proposed.
    """
    section, space = bench.config.batch, bench.space
    n = round(section.drift * section.size)
    if (
        n == 0
        or least_distance(section, space) is not None
        or not isinstance(space, SequenceSpace)
        or not space.fixed_length
        or record.number < 2
    ):
        return None
    data = bench.scale.learned(training_set(bench, upto_seq=fitted.data_upto_seq))
    before = bench.history.rounds.get(bench.campaign.id, record.number - 1)
    batch = bench.history.rounds.proposals(before.id, selected=True)
    if not on_plateau(data, {p.key: p.origin == DRIFTED for p in batch}, sign=bench.scale.sign):
        return None
    known_values = {row.object: bench.scale.sign * row.value for row in data.rows}
    values = {text: known_values[text] for text in inside(bench, known_values)}
    if not values:  # the rules were changed, and nothing that is known obeys them
        return None
    seed = derive_seed(record.seed, "drift")
    return drifted(space, surrogate, list(values), list(values.values()), n, known=known, seed=seed)


def on_plateau(data: TrainingSet, batch: dict[str, bool], *, sign: float) -> bool:
    """Return whether a batch came back level with what was best before it, in many places and better in none.

    `batch` says of each key whether it drifted: those count as better, but not as level.
    """
    values = {row.key: sign * row.value for row in data.rows}
    came = {key: values[key] for key in batch if key in values}
    before = [value for key, value in values.items() if key not in came]
    if not came or not before:
        return False
    near = max(before) - LEVEL * _spread(list(values.values()))
    if max(came.values()) > max(before) + (max(before) - near):
        return False
    others = [value for key, value in came.items() if not batch[key]]
    return sum(value >= near for value in others) >= max(LEAST_LEVEL, len(others) / 4)


def drifted(
    space: SequenceSpace,
    surrogate: Surrogate,
    objects: Sequence[str],
    values: Sequence[float],
    n: int,
    *,
    known: set[str],
    seed: int,
) -> SequenceState:
    """Return at most `n` new sequences that are believed to be level with the best of `objects`.

    They are children of those that are level: half with a letter taken out at one place and another put in
    elsewhere, all with up to a third of their letters changed. One after the other is taken that has the letters
    seen least at their places, in level objects and in those taken before. `values` are the objects' labels,
    larger is better; `surrogate` has learned from them.
    """
    best, spread = max(values), _spread(values)
    level = [text for text, value in zip(objects, values, strict=True) if value >= best - LEVEL * spread]
    generator = Generator().manual_seed(seed)
    parents = space.parse(level)
    born = _children(space, parents, generator)
    born = born[fresh(space, born, set(known))]
    if len(born) == 0:
        return born
    mean = torch.cat([surrogate.mean_sd(space.features(some))[0] for some in _chunks(born)])
    good = (mean >= best - FALL * spread).nonzero().squeeze(1)
    if len(good) < n:
        good = mean.topk(min(n, len(mean))).indices
    codes, seen = space.features(born[good]).long(), space.features(parents).long()
    return born[good[_least_seen(codes, seen, n)]]


def _children(space: SequenceSpace, parents: SequenceState, generator: Generator) -> SequenceState:
    most = max(2, space.rules.length // 3)
    half = CHILDREN // 2
    mothers = parents[torch.randint(len(parents), (CHILDREN,), generator=generator)]
    moved = space.shift(mothers[:half], generator)
    shifted = edit(space, moved, torch.randint(most + 1, (half,), generator=generator), generator)
    kept = edit(space, mothers[half:], torch.randint(1, most + 1, (half,), generator=generator), generator)
    return type(parents).cat([shifted, kept])


def _chunks(states: SequenceState) -> list[SequenceState]:
    return [states[start : start + 2_000] for start in range(0, len(states), 2_000)]


def _least_seen(codes: Tensor, seen: Tensor, n: int) -> Tensor:
    """Return at most `n` rows of `codes`, `m x L`, greedily those with the letters seen least at their places."""
    n_letters = int(max(codes.max(), seen.max())) + 1
    places = torch.arange(codes.shape[1])
    counts = torch.stack([torch.bincount(column, minlength=n_letters) for column in seen.T]).double()
    chosen: list[int] = []
    for _ in range(min(n, len(codes))):
        news = (1.0 + counts[places, codes]).pow(-2).sum(dim=1)
        news[chosen] = -1.0
        chosen.append(int(news.argmax()))
        counts[places, codes[chosen[-1]]] += 1
    return torch.tensor(chosen, dtype=torch.int64)


def _spread(values: Sequence[float]) -> float:
    """Return how far the best lies above the lowest tenth of the labels: one outlier below does not count."""
    found = torch.tensor(values, dtype=torch.float64)
    return (found.max() - found.quantile(0.1)).item()
