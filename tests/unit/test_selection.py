"""Selection takes distinct objects: each slot the best of a belief of its own, or the farthest from the best."""

import torch
from torch import Generator

from flowscout.loop.selection import thompson_batch
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
