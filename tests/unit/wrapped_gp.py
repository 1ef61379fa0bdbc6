"""A BoTorch SingleTaskGP behind our protocol, so that both sides of a comparison share one model."""

import torch
from botorch.models import SingleTaskGP
from botorch.posteriors.posterior import Posterior
from gpytorch.kernels import RBFKernel, ScaleKernel
from torch import Generator, Tensor

from flowscout.surrogates.kernels import cholesky


class WrappedGP:
    """An unfitted SingleTaskGP with fixed hyper-parameters on `n x d` features."""

    def __init__(self, noise: float | Tensor = 1e-2) -> None:
        self.noise = noise

    def fit(self, X: Tensor, Y: Tensor) -> None:
        kernel = ScaleKernel(RBFKernel())
        self.model = SingleTaskGP(
            X, Y, self.noise * torch.ones_like(Y), covar_module=kernel, outcome_transform=None
        )
        kernel.outputscale, kernel.base_kernel.lengthscale = 1.5, 0.3
        self.model.eval()

    def posterior(self, X: Tensor) -> Posterior:
        return self.model.posterior(X)

    def mean_sd(self, X: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            posterior = self.model.posterior(X.unsqueeze(-2))
        return posterior.mean.flatten(), posterior.variance.flatten().sqrt()

    def sample(self, X: Tensor, n_draws: int, *, generator: Generator) -> Tensor:
        with torch.no_grad():
            normal = self.model.posterior(X).distribution
        noise = torch.randn(n_draws, len(X), generator=generator, dtype=X.dtype)
        return normal.mean + noise @ cholesky(normal.covariance_matrix).mT


def points(n: int, seed: int = 0, d: int = 2) -> Tensor:
    return torch.rand(n, d, generator=Generator().manual_seed(seed), dtype=torch.float64)


def fitted_gp(seed: int = 0) -> WrappedGP:
    X = points(12, seed)
    gp = WrappedGP()
    gp.fit(X, (3.0 * X.sum(-1, keepdim=True)).sin())
    return gp
