"""Surrogates on numbers against the one contract."""

import pytest
import torch

from flowscout.surrogates.numeric import numeric_surrogate
from flowscout.testing.surrogates import SurrogateContract


class OnNumbers(SurrogateContract):
    """Features on scales that differ and far from zero."""

    def features(self, n, seed):
        generator = torch.Generator().manual_seed(seed)
        scale = torch.tensor([1.0, 1.0, 1e3, 1e-3], dtype=torch.float64)
        return torch.rand(n, 4, generator=generator, dtype=torch.float64) * scale + torch.tensor([0, 0, 5e3, 0])


class TestMatern(OnNumbers):
    @pytest.fixture
    def make(self):
        return numeric_surrogate


class TestRbf(OnNumbers):
    @pytest.fixture
    def make(self):
        return lambda: numeric_surrogate("rbf")


class TestTanimoto(SurrogateContract):
    @pytest.fixture
    def make(self):
        return lambda: numeric_surrogate("tanimoto")
