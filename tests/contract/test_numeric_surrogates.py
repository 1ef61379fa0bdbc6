"""Surrogates on numbers against the one contract."""

import pytest
from fitted_once import FittedOnce, OnNumbers

from flowscout.surrogates.numeric import numeric_surrogate


class TestMatern(OnNumbers):
    @pytest.fixture
    def make(self):
        return numeric_surrogate


class TestRbf(OnNumbers):
    @pytest.fixture
    def make(self):
        return lambda: numeric_surrogate("rbf")


class TestTanimoto(FittedOnce):
    @pytest.fixture
    def make(self):
        return lambda: numeric_surrogate("tanimoto")
