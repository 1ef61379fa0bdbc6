"""Our surrogates as BoTorch models, so that any of BoTorch's acquisitions of one output can value objects.

`q_log_ei`, `q_ucb` and `max_value_entropy` have routes of their own that are exact and faster.
"""

from collections.abc import Callable
from copy import copy
from warnings import catch_warnings, simplefilter

import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from botorch.acquisition.objective import PosteriorTransform
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from botorch.utils.sampling import manual_seed
from gpytorch.distributions import MultivariateNormal
from linear_operator import to_linear_operator
from linear_operator.utils.warnings import NumericalWarning
from torch import Tensor

from flowscout.errors import ShapeError
from flowscout.surrogates.acquisition import FrozenAcquisition
from flowscout.surrogates.pending import joint_moments
from flowscout.surrogates.protocol import Surrogate

_JOINT_ROWS = 512
"""Rows asked of the surrogate at once; batches of several points are cut out of their joint covariance."""


class AsModel(Model):
    """Show a surrogate of one output to BoTorch, in the state that it has now.

    Where BoTorch asks for a noisy observation, `noise_variance` is added. Nothing is differentiated: the
    spaces here are discrete.
    """

    def __init__(self, surrogate: Surrogate, *, noise_variance: float = 0.0) -> None:
        super().__init__()
        self._surrogate = copy(surrogate)
        self._noise_variance = noise_variance

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """Empty: there is one model."""
        return torch.Size([])

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """Return `b` joint posteriors of `q` points each at `X`, `... x q x d`, through the surrogate's own.

        Raises: ShapeError for another output than the first.
        """
        if output_indices not in (None, [0]):
            raise ShapeError(
                f"output_indices are {output_indices!r}, expected none or [0]: a surrogate has one output. "
                "Drop the argument."
            )
        batch, q = X.shape[:-2], X.shape[-2]
        mean, covariance = self._moments(X.reshape(-1, q, X.shape[-1]))
        if isinstance(observation_noise, Tensor):
            covariance = covariance + torch.diag_embed(observation_noise.squeeze(-1).expand_as(mean))
        elif observation_noise:
            covariance = covariance + self._noise_variance * torch.eye(q).to(covariance)
        normal = MultivariateNormal(mean.reshape(*batch, q), to_linear_operator(covariance.reshape(*batch, q, q)))
        posterior = GPyTorchPosterior(normal)
        return posterior if posterior_transform is None else posterior_transform(posterior)

    def _moments(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return means, `b x q`, and covariances, `b x q x q`, at `X`, `b x q x d`."""
        b, q, d = X.shape
        if q == 1:
            mean, sd = self._surrogate.mean_sd(X.reshape(b, d))
            return mean.reshape(b, 1), sd.square().reshape(b, 1, 1)
        means, covariances = [], []
        for chunk in torch.split(X, max(1, _JOINT_ROWS // q)):
            mean, covariance = joint_moments(self._surrogate, chunk.reshape(-1, d))
            c = len(chunk)
            means.append(mean.reshape(c, q))
            blocks = covariance.reshape(c, q, c, q).diagonal(dim1=0, dim2=2)  # q x q x c
            covariances.append(blocks.permute(2, 0, 1))
        return torch.cat(means), torch.cat(covariances)


def from_botorch(
    make: Callable[[Model], AcquisitionFunction],
    surrogate: Surrogate,
    *,
    name: str,
    is_log: bool,
    noise_variance: float = 0.0,
    seed: int = 0,
) -> FrozenAcquisition:
    """Return BoTorch's acquisition `make(model)`, with the surrogate as it is now for a model.

    Pending objects, candidate sets and samplers are given to BoTorch by `make`. `make` and each evaluation
    run with torch's global generator seeded by `seed`, and give it back as it was: what BoTorch draws, at
    construction or at the first call, is drawn the same again.
    """
    with manual_seed(seed), torch.no_grad():
        acquisition = make(AsModel(surrogate, noise_variance=noise_variance))

    def evaluate(X: Tensor) -> Tensor:
        with manual_seed(seed), torch.no_grad(), catch_warnings():
            # An object that is pending already leaves a singular covariance: the jitter is as it should be.
            simplefilter("ignore", NumericalWarning)
            return torch.cat([acquisition(chunk.unsqueeze(-2)) for chunk in torch.split(X, _JOINT_ROWS)])

    return FrozenAcquisition(name=name, is_log=is_log, evaluate=evaluate)
