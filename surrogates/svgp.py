"""A sparse variational Gaussian process: what a GP knows, for 5,000 to 100,000 labels.

Kernels over codes live in `kernels.py`; up to a few thousand labels `ExactGP` is better and as fast.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from botorch import settings
from botorch.models.approximate_gp import SingleTaskVariationalGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from botorch.models.utils.inducing_point_allocators import GreedyVarianceReduction
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from gpytorch.constraints import GreaterThan
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import VariationalELBO
from gpytorch.optim import NGD
from gpytorch.priors import GammaPrior, LogNormalPrior
from gpytorch.variational import NaturalVariationalDistribution
from linear_operator import to_linear_operator
from torch import Generator, Tensor

from flowscout.errors import ConfigError
from flowscout.surrogates.checks import (
    check_inputs,
    check_labels,
    check_levels,
    check_shape,
    check_state,
    label_scale,
    not_fitted,
)
from flowscout.surrogates.diagnostics import score_predictions
from flowscout.surrogates.kernels import HammingKernel, cholesky

_log = logging.getLogger(__name__)

_CHUNK = 4096
"""Points predicted, or labels conditioned on, at once: with 512 inducing points they take 17 MB."""

_MAX_ALLOCATION = 2048
"""Labels among which inducing points are chosen: the choice needs their covariance, 34 MB."""

KernelFactory = Callable[[int], Kernel]
"""Makes a covariance function of features with so many columns, its scale included."""


@dataclass(frozen=True)
class _Fitted:
    """What predictions are made from. Never changed in place: see guarantee 1 of `Surrogate`."""

    model: SingleTaskVariationalGP
    X: Tensor  # n x d, as given
    labels: Tensor  # n, standardised
    low: Tensor  # d, of features that are numbers
    range: Tensor  # d
    root: Tensor  # m x m, lower Cholesky factor of the inducing points' covariance
    mean: Tensor  # m, of the whitened inducing values
    precision_root: Tensor  # m x m, lower Cholesky factor of their posterior precision
    log_evidence: float
    label_mean: Tensor
    label_sd: Tensor
    fit_succeeded: bool


class SVGP:
    """Model labels on features `n x d` (float64) by a GP that sees them through `inducing_points` points.

    With `levels` the features are category codes from 0 to `levels - 1` and the default kernel is an ARD Hamming
    kernel; without, they are numbers, scaled to the unit cube, and the default is BoTorch's. `kernel` makes
    another: it gets the number of columns and returns a GPyTorch kernel with its scale.

    Hyper-parameters (and the places of inducing points, where features are numbers) maximise BoTorch's
    variational bound on minibatches, by Adam, with natural gradient steps for the inducing values. The inducing
    values are then set to their exact optimum given all labels, which the Gaussian likelihood has in closed form:
    no prediction hangs on where the minibatches ended. Everything random is decided by `seed`.

    Source: Hensman et al. 2013, arXiv:1309.6835, for the bound; Titsias 2009, AISTATS, eq. 10, for the optimum;
    Burt et al. 2020, JMLR 21(131), for the choice of inducing points.
    """

    def __init__(
        self,
        *,
        levels: int | None = None,
        kernel: KernelFactory | None = None,
        inducing_points: int = 256,
        batch_size: int = 512,
        n_steps: int = 300,
        seed: int = 0,
    ) -> None:
        check_levels(levels)
        for name, value in (("inducing_points", inducing_points), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigError(f"{name} is {value!r}, expected at least 1. Leave it out for the default.")
        self._levels = levels
        self._kernel = kernel
        self._inducing_points = inducing_points
        self._batch_size = batch_size
        self._n_steps = n_steps
        self._seed = seed
        self._fitted: _Fitted | None = None

    def fit(self, X: Tensor, Y: Tensor) -> None:
        """Fit to features `X`, `n x d`, and labels `Y`, `n x 1`, both float64.

        Raises: ShapeError for wrong shapes or dtypes; LabelError, naming the row, for a label that is not
        finite, or if the labels' spread overflows.
        """
        check_inputs(X, self._levels)
        labels = check_labels(X, Y)
        label_mean, label_sd = label_scale(labels)
        standardised = (labels - label_mean) / label_sd
        low, width = self._feature_range(X)
        inputs = (X - low) / width
        generator = torch.Generator().manual_seed(self._seed)
        model = self._build(inputs, self._choose_inducing_points(inputs, generator))
        succeeded = True
        if bool((standardised != 0.0).any()):
            succeeded = self._maximise_bound(model, inputs, standardised, generator)
            if not succeeded:
                model = self._build(inputs, self._choose_inducing_points(inputs, generator))
        self._fitted = _condition(
            model, X, standardised, (low, width), (label_mean, label_sd), fit_succeeded=succeeded
        )

    def mean_sd(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the marginal posterior mean and sd of the noise-free label at `X`, `n x d`: `n` and `n`."""
        fitted = self._require_fit(X)
        parts = [_marginal(fitted, chunk) for chunk in torch.split(X, _CHUNK)]
        mean = torch.cat([part[0] for part in parts])
        variance = torch.cat([part[1] for part in parts])
        return fitted.label_mean + fitted.label_sd * mean, fitted.label_sd * variance.clamp_min(1e-12).sqrt()

    def posterior(self, X: Tensor) -> Posterior:
        """Return the joint posterior of the noise-free labels at `X`, `n x d`; event shape `n x 1`."""
        mean, covariance = _joint(self._require_fit(X), X)
        # As an operator: its Cholesky factor is made when it is needed, with jitter where objects repeat.
        return GPyTorchPosterior(MultivariateNormal(mean, to_linear_operator(covariance)))

    def sample(self, X: Tensor, n_draws: int, *, generator: Generator) -> Tensor:
        """Return joint posterior draws of the noise-free labels at `X`, `n_draws x n`.

        Costs the Cholesky factor of an `n x n` matrix: keep `n` under a few thousand.
        """
        mean, covariance = _joint(self._require_fit(X), X)
        noise = torch.randn(n_draws, len(mean), generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + noise @ cholesky(covariance).mT

    def state_dict(self) -> dict[str, Tensor]:
        """Return the hyper-parameters, the inducing points, the scales and the number of labels."""
        fitted = self._require_fit()
        state = {f"model.{name}": value.clone() for name, value in _kept(fitted.model).items()}
        for name in ("low", "range", "label_mean", "label_sd"):
            state[name] = getattr(fitted, name).clone()
        state["n_labels"] = torch.tensor(len(fitted.labels))
        state["fit_succeeded"] = torch.tensor(fitted.fit_succeeded)
        return state

    def load_state_dict(self, state: dict[str, Tensor], X: Tensor, Y: Tensor) -> None:
        """Rebuild the fit that gave `state` from its data, `n x d` and `n x 1`, without fitting.

        Raises: ShapeError if the state is of another surrogate or of other data.
        """
        check_inputs(X, self._levels)
        labels = check_labels(X, Y)
        points = f"model.{_INDUCING_POINTS}"
        scales = {"low", "range", "label_mean", "label_sd"}
        check_state(state, len(labels), {points, *scales, "fit_succeeded"}, "an SVGP")
        check_shape("low", state["low"], X[0])
        low, width, label_mean, label_sd = (
            state[name].clone() for name in ("low", "range", "label_mean", "label_sd")
        )
        model = self._build((X - low) / width, state[points].clone())
        kept = _kept(model)
        check_state(state, len(labels), {f"model.{name}" for name in kept}, "an SVGP")
        with torch.no_grad():
            for name, value in kept.items():
                check_shape(name, state[f"model.{name}"], value)
                value.copy_(state[f"model.{name}"])
        standardised = (labels - label_mean) / label_sd
        succeeded = bool(state["fit_succeeded"].item())
        self._fitted = _condition(
            model, X, standardised, (low, width), (label_mean, label_sd), fit_succeeded=succeeded
        )

    def diagnostics(self) -> dict[str, float]:
        """Return the noise, the bound and leave-one-out scores, the latter on the scale of the labels.

        The scores are exact for this model: inducing values are conditioned on all labels but one, in closed form;
        hyper-parameters and inducing points stay those of the fit to all.

        Keys: n_labels, n_inducing, fit_succeeded, noise_sd (labels' scale), log_marginal_likelihood (its lower
        bound, of the standardised labels, per label), and loo_rmse, loo_r2, loo_spearman, loo_nlpd, loo_coverage90
        where they are defined.
        """
        fitted = self._require_fit()
        error, sd = _leave_one_out(fitted)
        measured = fitted.label_sd * fitted.labels
        scores = score_predictions(measured - fitted.label_sd * error, fitted.label_sd * sd, measured)
        noise = fitted.model.likelihood.noise.detach().squeeze()
        return {
            "n_labels": float(len(measured)),
            "n_inducing": float(len(fitted.mean)),
            "fit_succeeded": float(fitted.fit_succeeded),
            "noise_sd": (noise.sqrt() * fitted.label_sd).item(),
            "log_marginal_likelihood": fitted.log_evidence / len(measured),
            **scores.as_dict("loo_"),
        }

    def _feature_range(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least value and the range of each column, `d` and `d`; 0 and 1 of codes."""
        if self._levels is not None:
            return torch.zeros_like(X[0]), torch.ones_like(X[0])
        low, width = X.amin(0), X.amax(0) - X.amin(0)
        return low, torch.where(width > 1e-13 * X.abs().amax(0), width, 1.0)

    def _make_kernel(self, width: int) -> Kernel:
        if self._kernel is not None:
            return self._kernel(width).double()
        if self._levels is None:
            return get_covar_module_with_dim_scaled_prior(ard_num_dims=width).double()
        base = HammingKernel(
            ard_num_dims=width,
            lengthscale_prior=GammaPrior(3.0, 6.0),
            lengthscale_constraint=GreaterThan(1e-2, transform=None, initial_value=0.5),
        )
        return ScaleKernel(
            base,
            outputscale_prior=LogNormalPrior(0.0, 1.0),
            outputscale_constraint=GreaterThan(1e-3, initial_value=1.0),
        ).double()

    def _build(self, inputs: Tensor, points: Tensor) -> SingleTaskVariationalGP:
        """Return a model of `inputs`, `n x d`, with `points`, `m x d`, at its default hyper-parameters."""
        likelihood = GaussianLikelihood(
            noise_prior=LogNormalPrior(-4.0, 1.0),
            # 1e-4 of the labels' variance, as the exact GP has it.
            noise_constraint=GreaterThan(1e-4, initial_value=math.exp(-3.0)),
        )
        with settings.validate_input_scaling(False), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            return SingleTaskVariationalGP(
                inputs,
                likelihood=likelihood.double(),
                learn_inducing_points=self._levels is None,
                covar_module=self._make_kernel(inputs.shape[1]),
                variational_distribution=NaturalVariationalDistribution(len(points), mean_init_std=0.0).double(),
                inducing_points=points,
            )

    def _choose_inducing_points(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Return at most `inducing_points` different rows of `inputs`, `m x d`, spread as the kernel sees them."""
        chosen = torch.randperm(len(inputs), generator=generator)[:_MAX_ALLOCATION].sort().values
        candidates = torch.unique(inputs[chosen.to(inputs.device)], dim=0)
        points: Tensor = GreedyVarianceReduction().allocate_inducing_points(
            inputs=candidates,
            covar_module=self._make_kernel(inputs.shape[1]).to(inputs),
            num_inducing=min(self._inducing_points, len(candidates)),
            input_batch_shape=torch.Size([]),
        )
        return points

    def _maximise_bound(
        self, model: SingleTaskVariationalGP, inputs: Tensor, labels: Tensor, generator: Generator
    ) -> bool:
        """Fit the hyper-parameters in place; return False, leaving them in any state, if that failed."""
        variational = set(model.model.variational_parameters())
        others = [p for p in model.parameters() if p.requires_grad and p not in variational]
        natural = NGD(list(variational), num_data=len(labels), lr=0.1)
        adam = torch.optim.Adam(others, lr=0.05)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self._n_steps)
        bound = VariationalELBO(model.likelihood, model.model, num_data=len(labels))
        model.train()
        size = min(self._batch_size, len(labels))
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed)
                for _ in range(self._n_steps):
                    rows = torch.randint(len(labels), (size,), generator=generator).to(labels.device)
                    rows = rows if size < len(labels) else torch.arange(len(labels), device=labels.device)
                    natural.zero_grad()
                    adam.zero_grad()
                    (-bound(model(inputs[rows]), labels[rows])).backward()
                    natural.step()
                    adam.step()
                    decay.step()
        except (RuntimeError, ValueError) as err:
            _log.info("the variational bound could not be maximised, defaults stand in: %s", err)
            return False
        return all(bool(p.isfinite().all()) for p in model.parameters())

    def _require_fit(self, X: Tensor | None = None) -> _Fitted:
        if self._fitted is None:
            raise not_fitted()
        if X is not None:
            check_inputs(X, self._levels, self._fitted.X.shape[1])
        return self._fitted


_INDUCING_POINTS = "model.variational_strategy.inducing_points"


def _kept(model: SingleTaskVariationalGP) -> dict[str, Tensor]:
    """Return what a rebuild needs: hyper-parameters and inducing points, not the inducing values."""
    found = {
        name: value.detach() for name, value in model.named_parameters() if "_variational_distribution" not in name
    }
    found[_INDUCING_POINTS] = model.model.variational_strategy.inducing_points.detach()
    return found


def _condition(
    model: SingleTaskVariationalGP,
    X: Tensor,
    labels: Tensor,
    feature_range: tuple[Tensor, Tensor],
    label_scale: tuple[Tensor, Tensor],
    *,
    fit_succeeded: bool,
) -> _Fitted:
    """Return the optimum of the inducing values given standardised `labels`, `n`, at `X`, `n x d`.

    With whitened columns `A = root^-1 k(Z, X)` their precision is `I + A A^T / noise` and their mean solves
    `precision mean = A (labels - prior mean) / noise`.
    """
    model.eval()
    low, width = feature_range
    with torch.no_grad():
        points = model.model.variational_strategy.inducing_points
        noise = model.likelihood.noise.squeeze()
        # The jitter of the bound that was maximised: without, near-duplicate points would weigh differently here.
        eye = torch.eye(len(points), dtype=X.dtype, device=X.device)
        root = cholesky(_covariance(model, points, points) + model.model.variational_strategy.jitter_val * eye)
        residual = labels - model.model.mean_module.constant
        precision, moment, unexplained = eye.clone(), torch.zeros_like(points[:, 0]), torch.zeros_like(noise)
        for chunk, part in zip(torch.split(X, _CHUNK), torch.split(residual, _CHUNK), strict=True):
            columns, variance = _whitened(model, root, (chunk - low) / width)
            precision += columns @ columns.mT / noise
            moment += columns @ part / noise
            unexplained += (variance - columns.square().sum(0)).sum()
        precision_root = cholesky(precision)
        mean = torch.cholesky_solve(moment.unsqueeze(-1), precision_root).squeeze(-1)
        log_det = len(labels) * noise.log() + 2.0 * precision_root.diagonal().log().sum()
        fit = residual @ residual / noise - moment @ mean + unexplained / noise
        log_evidence = -0.5 * (fit + log_det + len(labels) * math.log(2.0 * math.pi)).item()
    return _Fitted(
        model,
        X.clone(),
        labels,
        *feature_range,
        root,
        mean,
        precision_root,
        log_evidence,
        *label_scale,
        fit_succeeded,
    )


def _covariance(model: SingleTaskVariationalGP, a: Tensor, b: Tensor) -> Tensor:
    """Return the prior covariance of `n x d` and `m x d` inputs, `n x m`."""
    covariance: Tensor = model.model.covar_module(a, b).to_dense()
    return covariance


def _whitened(model: SingleTaskVariationalGP, root: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the whitened covariances with the inducing points, `m x n`, and the prior variances, `n`."""
    cross = _covariance(model, model.model.variational_strategy.inducing_points, inputs)
    variance: Tensor = model.model.covar_module(inputs, diag=True)
    return torch.linalg.solve_triangular(root, cross, upper=False), variance


def _marginal(fitted: _Fitted, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the standardised posterior mean, variance, and the inducing values' part of it, each `n`."""
    with torch.no_grad():
        columns, prior = _whitened(fitted.model, fitted.root, (X - fitted.low) / fitted.range)
        learned = torch.linalg.solve_triangular(fitted.precision_root, columns, upper=False).square().sum(0)
        mean = fitted.model.model.mean_module.constant + columns.mT @ fitted.mean
        return mean, (prior - columns.square().sum(0)).clamp_min(0.0) + learned, learned


def _joint(fitted: _Fitted, X: Tensor) -> tuple[Tensor, Tensor]:
    """Return the joint posterior mean `n` and covariance `n x n` on the scale of the labels."""
    with torch.no_grad():
        inputs = (X - fitted.low) / fitted.range
        columns, _ = _whitened(fitted.model, fitted.root, inputs)
        learned = torch.linalg.solve_triangular(fitted.precision_root, columns, upper=False)
        covariance = _covariance(fitted.model, inputs, inputs) - columns.mT @ columns + learned.mT @ learned
        covariance = 0.5 * (covariance + covariance.mT)
        mean = fitted.model.model.mean_module.constant + columns.mT @ fitted.mean
        return fitted.label_mean + fitted.label_sd * mean, fitted.label_sd.square() * covariance


def _leave_one_out(fitted: _Fitted) -> tuple[Tensor, Tensor]:
    """Return each label's error and sd when predicted from all others, `n` and `n`, standardised.

    The posterior of the inducing values is that of a linear model, with a label's own share `h = learned / noise`
    in its prediction: without it the error is `error / (1 - h)` and the variance `learned / (1 - h)`.
    """
    parts = [_marginal(fitted, chunk) for chunk in torch.split(fitted.X, _CHUNK)]
    mean, variance, learned = (torch.cat([part[number] for part in parts]) for number in range(3))
    noise = fitted.model.likelihood.noise.detach().squeeze()
    others = (1.0 - learned / noise).clamp_min(1e-9)
    sd = (variance - learned + learned / others + noise).sqrt()
    return (fitted.labels - mean) / others, sd
