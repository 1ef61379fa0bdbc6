"""Surrogates for features that are numbers, each an exact Gaussian process of BoTorch.

Surrogates on category codes live in `exact_gp.py`; the kernels here, where GPyTorch has none, in
`numeric_kernels.py`.
"""

from typing import Literal, get_args

import torch
from botorch.models import SingleTaskGP
from botorch.models.transforms.input import AffineInputTransform
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.priors import GammaPrior
from torch import Tensor

from flowscout.errors import ConfigError
from flowscout.surrogates.botorch_model import BotorchSurrogate
from flowscout.surrogates.numeric_kernels import TanimotoKernel

NumericKernel = Literal["matern", "rbf", "tanimoto"]


def numeric_surrogate(kernel: NumericKernel = "matern") -> BotorchSurrogate:
    """Return an unfitted surrogate on features `n x d` in float64.

    `matern` (5/2) and `rbf` have a lengthscale for each feature, under a prior that grows with their number, and
    see features standardised by those of the labelled objects. `tanimoto` sees features as they are: counts or
    indicators, at least 0; it learns a variance and the noise.

    Source: Hvarfner et al. 2024, arXiv:2402.02229 (the prior of lengthscales).

    Raises:
        ConfigError: There is no such kernel.
    """
    if kernel not in get_args(NumericKernel):
        raise ConfigError(
            f"kernel is {kernel!r}, expected {', '.join(get_args(NumericKernel))}. Take tanimoto for counts and "
            "fingerprints, matern otherwise."
        )
    return BotorchSurrogate(_tanimoto if kernel == "tanimoto" else lambda X, Y: _stationary(X, Y, kernel))


def _stationary(X: Tensor, Y: Tensor, kernel: NumericKernel) -> SingleTaskGP:
    covariance = get_covar_module_with_dim_scaled_prior(ard_num_dims=X.shape[-1], use_rbf_kernel=kernel == "rbf")
    assert isinstance(covariance, MaternKernel) == (kernel == "matern")
    return SingleTaskGP(X, Y, covar_module=covariance, outcome_transform=None, input_transform=_standardise(X))


def _tanimoto(X: Tensor, Y: Tensor) -> SingleTaskGP:
    # The labels' variance is 1: an output scale near it, from 0.1 to 4 with 95%.
    covariance = ScaleKernel(TanimotoKernel(), outputscale_prior=GammaPrior(2.0, 1.5))
    covariance.outputscale = torch.tensor(1.0, dtype=X.dtype)
    return SingleTaskGP(X, Y, covar_module=covariance, outcome_transform=None)


def _standardise(X: Tensor) -> AffineInputTransform:
    """Return the transform that gives each column of `X` mean 0 and sd 1; a constant one is only centred.

    BoTorch's own divides a constant column by 1e-8: then an object that differs in it would be far from all.
    """
    mean = X.mean(dim=0)
    sd = (X - mean).square().mean(dim=0).sqrt()
    sd = torch.where(sd > 1e-12 * X.abs().amax(dim=0), sd, 1.0)
    return AffineInputTransform(X.shape[-1], coefficient=sd, offset=mean)
