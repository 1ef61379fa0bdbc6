"""Every surrogate against the one contract."""

import pytest
import torch
from botorch.models import MixedSingleTaskGP, SingleTaskGP, SingleTaskVariationalGP
from botorch.models.transforms import Normalize
from fitted_once import FittedOnce, OnNumbers
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.mlls import VariationalELBO

from flowscout.surrogates import AveragedGP, ExactGP
from flowscout.surrogates.botorch_model import BotorchSurrogate
from flowscout.surrogates.ensemble import DeepEnsemble
from flowscout.surrogates.ensemble_training import TrainingOptions
from flowscout.surrogates.linear import PairwiseLinear
from flowscout.surrogates.svgp import SVGP

SHORT = TrainingOptions(width=32, max_steps=300)


def fit_variational(model):
    """Fit a BoTorch model by its variational bound."""
    bound = VariationalELBO(model.likelihood, model.model, num_data=len(model.model.train_targets))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.2)
    model.train()
    for _ in range(25):
        optimiser.zero_grad()
        (-bound(model(model.model.train_inputs[0]), model.model.train_targets)).backward()
        optimiser.step()


class TestExactGP(FittedOnce):
    @pytest.fixture
    def make(self):
        return ExactGP


class TestGappedPairs(FittedOnce):
    def labels(self, X):
        neighbours = [((X[:, :-1] == a) & (X[:, 1:] == b)).any(1).double() for a, b in ((0, 1), (2, 2), (3, 0))]
        noise = torch.randn(len(X), generator=torch.Generator().manual_seed(1), dtype=X.dtype)
        return (neighbours[0] - 0.5 * neighbours[1] + 0.7 * neighbours[2] + 0.05 * noise).unsqueeze(-1)

    @pytest.fixture
    def make(self):
        return lambda: ExactGP(kernel="pairs", levels=4)


class TestAveragedGP(FittedOnce):
    @pytest.fixture
    def make(self):
        return lambda: AveragedGP({"additive": 0.5, "pairs": 0.5}, levels=4)


class TestPairwiseLinearInTheDual(FittedOnce):
    @pytest.fixture
    def make(self):
        return lambda: PairwiseLinear(levels=4)


class TestPairwiseLinearByWeights(FittedOnce):
    @pytest.fixture
    def make(self):
        return lambda: PairwiseLinear(levels=4)

    def features(self, n, seed):
        return super().features(n, seed)[:, :2]  # 24 features, fewer than labels


class TestDeepEnsembleOnCodes(FittedOnce):
    @pytest.fixture
    def make(self):
        return lambda: DeepEnsemble(levels=4, options=SHORT)


class TestDeepEnsembleOnNumbers(OnNumbers):
    @pytest.fixture
    def make(self):
        return lambda: DeepEnsemble(options=SHORT, members=8)


class TestSVGPOnCodes(FittedOnce):
    @pytest.fixture
    def make(self):
        return lambda: SVGP(levels=4, inducing_points=24, n_steps=60)


class TestSVGPOnNumbers(OnNumbers):
    @pytest.fixture
    def make(self):
        return lambda: SVGP(inducing_points=24, n_steps=60)


class TestSVGPWithAKernelOfOnesOwn(OnNumbers):
    @pytest.fixture
    def make(self):
        return lambda: SVGP(kernel=lambda d: ScaleKernel(MaternKernel(2.5, ard_num_dims=d)), n_steps=60)


class TestBotorchSingleTaskGP(OnNumbers):
    @pytest.fixture
    def make(self):
        return lambda: BotorchSurrogate(lambda X, Y: SingleTaskGP(X, Y, input_transform=Normalize(X.shape[-1])))


class TestBotorchSingleTaskVariationalGP(FittedOnce):
    def features(self, n, seed):
        return torch.rand(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    @pytest.fixture
    def make(self):
        def make_model(X, Y):
            return SingleTaskVariationalGP(X, Y, inducing_points=15)

        return lambda: BotorchSurrogate(make_model, fit=fit_variational)


class TestBotorchMixedSingleTaskGP(FittedOnce):
    @pytest.fixture
    def make(self):
        return lambda: BotorchSurrogate(lambda X, Y: MixedSingleTaskGP(X, Y, cat_dims=list(range(X.shape[-1]))))
