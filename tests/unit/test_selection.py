"""Selection takes distinct objects: each slot the best of a belief of its own, or the farthest from the best."""

import torch
from torch import Generator

from flowscout.loop.selection import most_dissimilar, thompson_batch
from flowscout.loop.spaces import SequenceSpace
from flowscout.surrogates import ExactGP

SPACE = SequenceSpace("dna", 4)


def surrogate() -> ExactGP:
    X = SPACE.features(SPACE.enumerate()[torch.arange(0, 256, 9)])
    gp = ExactGP()
    gp.fit(X, (X == 2).sum(dim=1, keepdim=True).double())
    return gp


def test_a_batch_holds_no_object_twice_and_repeats_with_its_seed() -> None:
    X = SPACE.features(SPACE.enumerate())
    first, again, other = (
        thompson_batch(surrogate(), X, 20, generator=Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert len(set(first)) == 20
    assert first == again != other


def test_thompson_sampling_prefers_what_is_believed_to_be_good() -> None:
    X = SPACE.features(SPACE.enumerate())
    batch = thompson_batch(surrogate(), X, 20, generator=Generator().manual_seed(0))
    n_g = (X == 2).sum(dim=1).double()
    assert n_g[batch].mean() > n_g.mean() + 0.5  # the mean over the space is 1


def test_a_pool_smaller_than_the_batch_is_taken_whole() -> None:
    X = SPACE.features(SPACE.enumerate()[torch.arange(3)])
    assert sorted(thompson_batch(surrogate(), X, 5, generator=Generator().manual_seed(0))) == [0, 1, 2]


def test_the_most_dissimilar_are_far_from_the_elites_and_from_each_other() -> None:
    elites = SPACE.parse(["AAAA", "AAAC"])
    candidates = SPACE.parse(["AAAG", "CCGG", "CCGT", "GGTT", "AACC"])
    chosen = most_dissimilar(SPACE, candidates, elites, 2)
    assert chosen == [1, 3]  # CCGT is as far from the elites as CCGG, but next to it
    assert most_dissimilar(SPACE, candidates, elites, 0) == []
