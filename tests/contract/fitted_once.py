"""The contract of surrogates with one fit for a class, where a test asks only for a surrogate that is fitted."""

from collections.abc import Callable
from copy import deepcopy
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from flowscout.surrogates.protocol import Surrogate
from flowscout.testing.surrogates import SurrogateContract


class FittedOnce(SurrogateContract):
    """Fit once, and give each test a deep copy of what nobody has asked anything yet.

    That the same data give the same fit is a test of the contract, on surrogates that it makes itself.
    """

    _pristine: ClassVar[dict[type, Surrogate]] = {}

    @pytest.fixture
    def fitted(self, make: Callable[[], Surrogate], X: Tensor) -> Surrogate:
        """Return the surrogate, fitted to `X` and its labels: another object each time."""
        if type(self) not in self._pristine:
            self._pristine[type(self)] = make()
            self._pristine[type(self)].fit(X, self.labels(X))
        return deepcopy(self._pristine[type(self)])


class OnNumbers(FittedOnce):
    """The same on features that are numbers, on scales that differ and far from zero."""

    def features(self, n: int, seed: int) -> Tensor:
        """Return features of `n` objects, `n x 4`, drawn by `seed`."""
        generator = torch.Generator().manual_seed(seed)
        scale = torch.tensor([1.0, 1.0, 1e3, 1e-3], dtype=torch.float64)
        return torch.rand(n, 4, generator=generator, dtype=torch.float64) * scale + torch.tensor([0, 0, 5e3, 0])
