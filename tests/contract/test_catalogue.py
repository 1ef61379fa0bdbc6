"""The catalogue space against the contract of spaces, in the shapes that its tree can take."""

from functools import cache

import pytest
import torch

from flowscout.loop.spaces.catalogue import CatalogueSpace
from flowscout.testing.spaces import SpaceContract


@cache
def listed(n, d=3, *, seed=0, **options):
    """Return a catalogue of `n` objects with `d` random features."""
    X = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return CatalogueSpace([f"c{row}" for row in range(n)], X, **options)


class TestCatalogue(SpaceContract):
    @pytest.fixture
    def space(self):
        return listed(300)

    @pytest.fixture
    def objects(self):
        return ["c0", "c299", "c17", "c0"]


class TestLongNarrowTree(SpaceContract):
    @pytest.fixture
    def space(self):
        return listed(37, branching=2)

    @pytest.fixture
    def objects(self):
        return ["c0", "c36"]


class TestOneObject(SpaceContract):
    @pytest.fixture
    def space(self):
        return listed(1)

    @pytest.fixture
    def objects(self):
        return ["c0"]


class TestOneObjectMoreThanALevelHolds(SpaceContract):
    @pytest.fixture
    def space(self):
        return listed(17)

    @pytest.fixture
    def objects(self):
        return ["c16", "c3"]


class TestFingerprintsOfWhichManyAreEqual(SpaceContract):
    @pytest.fixture
    def space(self):
        bits = torch.randint(0, 2, (120, 4), generator=torch.Generator().manual_seed(3))
        return CatalogueSpace([f"c{row}" for row in range(120)], bits.double(), metric="tanimoto")

    @pytest.fixture
    def objects(self):
        return [f"c{row}" for row in range(40)]


class TestFractionsUnderTanimoto(SpaceContract):
    @pytest.fixture
    def space(self):
        X = torch.rand(50, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        return CatalogueSpace([f"c{row}" for row in range(50)], X, metric="tanimoto")

    @pytest.fixture
    def objects(self):
        return [f"c{row}" for row in range(50)]


class TestFarMoreFeaturesThanCoordinates(SpaceContract):
    @pytest.fixture
    def space(self):
        return listed(90, 200)

    @pytest.fixture
    def objects(self):
        return ["c5", "c89"]


class TestAHundredThousand(SpaceContract):
    @pytest.fixture
    def space(self):
        return listed(100_000, 6)

    @pytest.fixture
    def small_space(self):
        return listed(257)

    @pytest.fixture
    def objects(self):
        return ["c0", "c99999"]
