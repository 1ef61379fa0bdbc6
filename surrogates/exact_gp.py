"""An exact Gaussian process over category codes: the default surrogate up to a few thousand labels.

Kernels live in `kernels.py`, scores in `diagnostics.py`; several outputs and pending points will be other
classes behind the same `Surrogate` protocol.
"""

import logging
import math
import warnings
from dataclasses import dataclass

import torch
from botorch import settings
from botorch.exceptions.errors import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from gpytorch.constraints import GreaterThan
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from linear_operator import to_linear_operator
from torch import Generator, Tensor

from flowscout.errors import ShapeError
from flowscout.surrogates.checks import check_labels, check_state, label_scale, not_fitted
from flowscout.surrogates.diagnostics import leave_one_out, score_predictions
from flowscout.surrogates.kernels import KernelName, Prepared, Symmetry, cholesky, code_kernel, describe, levels_of
from flowscout.surrogates.label_noise import (
    LEAST_NOISE,
    PartlyKnownNoise,
    Stands,
    check_bounds,
    check_noise,
    make_stands,
    stored_stands,
)

_log = logging.getLogger(__name__)

_CHUNK = 4096
"""Points predicted at once: bounds memory at about 60 MB for 300 labels, whole landscapes included."""

MAX_LEARNING = 1_000
"""From how many labels hyper-parameters are learned, at most: each step takes the cube of their number."""

MAX_SPREAD = 600
"""From how many labels the sd of a single point is computed, at most: each point takes the square of it."""


@dataclass(frozen=True)
class _Fitted:
    """What predictions are made from. Never changed in place: see guarantee 1 of `Surrogate`."""

    model: SingleTaskGP
    X: Tensor  # n x d
    prepared: Prepared  # what the kernel reads of X
    levels: int  # of the prepared codes
    residual: Tensor  # n, standardised labels less the prior mean
    cholesky: Tensor  # n x n, of the labels' covariance, noise included
    alpha: Tensor  # n, the covariance's inverse times the residual
    spread_rows: Tensor | None  # the labels that sds are computed from; None for all
    spread_factor: Tensor  # the Cholesky factor of their covariance
    label_mean: Tensor  # scalar
    label_sd: Tensor  # scalar
    fit_succeeded: bool
    stands: Stands | None = None  # None where all labels have the learned noise


class ExactGP:
    """Model labels on codes `n x d` (float64 integers from 0).

    `kernel` says when two objects are alike: `product`, an ARD Hamming-exponential kernel; `additive`, one effect
    for each position, mixed with it; `pairs`, the gapped pairs of letters that both hold, wherever they stand;
    `mixture`, all three with learned weights. `levels` is the number of categories (default: those seen in the
    labelled codes). `symmetry` maps codes to the codes of equivalent objects (the reverse complement of
    double-stranded DNA); the model then cannot tell the two apart.

    Hyper-parameters maximise the marginal likelihood with priors, in at most `max_iterations` steps: longer fits
    over-fit a hundred labels. With one label, or all equal, there is nothing to learn them from and the priors'
    modes stay. Of more than `max_learning` labels so many are used, evenly spaced in the labels' order. The sd of
    `mean_sd` is that given at most `MAX_SPREAD` labels, the best half and the others evenly spaced: an sd is the
    dearest part of a reward, and fewer labels never make it smaller. Means and joint posteriors use all labels.

    Labels may have variances of their own, and rows may be known only by bounds (see `fit`).

    `fit_succeeded` in the diagnostics is 0 where the optimiser failed and the defaults stand in.
    """

    def __init__(
        self,
        *,
        kernel: KernelName = "product",
        levels: int | None = None,
        symmetry: Symmetry | None = None,
        max_iterations: int = 75,
        max_learning: int = MAX_LEARNING,
    ) -> None:
        self.kernel = kernel
        self._levels = levels
        self._symmetry = symmetry
        self._max_iterations = max_iterations
        self._max_learning = max_learning
        self._fitted: _Fitted | None = None

    def unfitted(self, *, max_learning: int | None = None) -> "ExactGP":
        """Return a surrogate with the same options, but for those given, and no labels."""
        return ExactGP(
            kernel=self.kernel,
            levels=self._levels,
            symmetry=self._symmetry,
            max_iterations=self._max_iterations,
            max_learning=self._max_learning if max_learning is None else max_learning,
        )

    def fit(self, X: Tensor, Y: Tensor, *, noise: Tensor | None = None, bounds: Tensor | None = None) -> None:
        """Fit to codes `X`, `n x d`, and labels `Y`, `n x 1`, both float64.

        `noise`, `n`, is the variance of each label where it is known, NaN where it is the one that the fit
        learns; none counts as less than 1e-4 of the labels' variance. `bounds`, `n x 2`, says of a row that its
        measurement lies above the first and below the second, -inf and inf where there is no such bound; both
        are NaN where `Y` was measured, which elsewhere may be any finite number. Hyper-parameters are learned
        from measured rows; bounded ones then enter as Gaussian sites by expectation propagation.

        Raises: ShapeError for wrong shapes or dtypes; LabelError, naming the row, for a label that is not
        finite, a variance below 0 or bounds out of order, or if the labels' spread overflows.
        """
        _check_codes(X)
        labels = check_labels(X, Y)
        known, limits = check_noise(noise, labels), check_bounds(bounds, labels)
        measured = limits.isnan().all(1).nonzero().flatten()
        learned_from = measured if len(measured) else torch.arange(len(labels), device=labels.device)
        label_mean, label_sd = label_scale(labels[learned_from])
        standardised = (labels - label_mean) / label_sd
        known = (known / label_sd.square()).clamp_min(LEAST_NOISE)
        some = learned_from[
            _evenly_spaced(labels[learned_from].argsort(stable=True), self._max_learning).sort().values
        ]
        model = self._build(X[some], standardised[some], known[some])
        succeeded = True
        if len(measured) and bool((standardised[some] != 0.0).any()):
            succeeded = _maximise_likelihood(model, self._max_iterations)
            if not succeeded:
                model = self._build(X[some], standardised[some], known[some])
        stands = None
        if noise is not None or len(measured) < len(labels):
            with torch.no_grad():
                stands = make_stands(
                    standardised,
                    known,
                    (limits - label_mean) / label_sd,
                    prior=_prior(model, X),
                    constant=model.mean_module.constant,
                    learned=model.likelihood.noise,
                )
        self._fitted = self._condition(
            model, X, standardised, label_mean, label_sd, fit_succeeded=succeeded, stands=stands
        )

    def mean_sd(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the marginal posterior mean and sd of the noise-free label at `X`, `n x d`: `n` and `n`."""
        fitted = self._require_fit(X)
        parts = [_marginal(fitted, chunk) for chunk in torch.split(X, _CHUNK)]
        mean = torch.cat([part[0] for part in parts])
        sd = torch.cat([part[1] for part in parts])
        return fitted.label_mean + fitted.label_sd * mean, fitted.label_sd * sd

    def posterior(self, X: Tensor) -> Posterior:
        """Return the joint posterior of the noise-free labels at `X`, `n x d`; event shape `n x 1`."""
        mean, covariance = self.joint(X)
        # As an operator: a dense matrix is factored at once, and fails where an object and its image are there.
        return GPyTorchPosterior(MultivariateNormal(mean, to_linear_operator(covariance)))

    def joint(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean, `n`, and the covariance, `n x n`, of the noise-free labels at `X`, `n x d`."""
        fitted = self._require_fit(X)
        with torch.no_grad():
            cross = _cross(fitted, X)
            mean = fitted.model.mean_module.constant + cross @ fitted.alpha
            explained = torch.linalg.solve_triangular(fitted.cholesky, cross.mT, upper=False)
            covariance = _prior(fitted.model, X) - explained.mT @ explained
            # Exactly symmetric, so that a Cholesky factor of either triangle is the same.
            covariance = 0.5 * (covariance + covariance.mT)
            return fitted.label_mean + fitted.label_sd * mean, fitted.label_sd.square() * covariance

    def sample(self, X: Tensor, n_draws: int, *, generator: Generator) -> Tensor:
        """Return joint posterior draws of the noise-free labels at `X`, `n_draws x n`.

        Costs the Cholesky factor of an `n x n` matrix: keep `n` under a few thousand.
        """
        mean, covariance = self.joint(X)
        noise = torch.randn(n_draws, mean.numel(), generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + noise @ cholesky(covariance).mT

    def state_dict(self) -> dict[str, Tensor]:
        """Return the hyper-parameters, the labels' scale and number, and what stands for noise and bounds."""
        fitted = self._require_fit()
        state = {f"model.{name}": value.detach().clone() for name, value in fitted.model.named_parameters()}
        state["label_mean"] = fitted.label_mean.clone()
        state["label_sd"] = fitted.label_sd.clone()
        state["n_labels"] = torch.tensor(fitted.X.shape[0])
        state["fit_succeeded"] = torch.tensor(fitted.fit_succeeded)
        if fitted.stands is not None:
            state |= fitted.stands.state()
        return state

    def load_state_dict(self, state: dict[str, Tensor], X: Tensor, Y: Tensor) -> None:
        """Rebuild the fit that gave `state` from its data, `n x d` and `n x 1`, without fitting.

        Raises: ShapeError if the state is of another surrogate or of other data.
        """
        _check_codes(X)
        labels = check_labels(X, Y)
        required = {"label_mean", "label_sd", "fit_succeeded"}
        check_state(state, len(X), required, "an ExactGP")
        standardised = (labels - state["label_mean"]) / state["label_sd"]
        some = _evenly_spaced(labels.argsort(stable=True), self._max_learning).sort().values
        model = self._build(X[some], standardised[some])
        parameters = dict(model.named_parameters())
        stored = {name.removeprefix("model."): v for name, v in state.items() if name.startswith("model.")}
        if {n: p.shape for n, p in parameters.items()} != {n: v.shape for n, v in stored.items()}:
            raise ShapeError(
                f"the state holds { ({n: tuple(v.shape) for n, v in stored.items()})!r}, expected "
                f"{ ({n: tuple(p.shape) for n, p in parameters.items()})!r}. Rebuild with the surrogate, the "
                "symmetry and the code width of the fit."
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(stored[name])
        self._fitted = self._condition(
            model,
            X,
            standardised,
            state["label_mean"].clone(),
            state["label_sd"].clone(),
            fit_succeeded=bool(state["fit_succeeded"].item()),
            stands=stored_stands(state),
        )

    def left_out(self) -> tuple[Tensor, Tensor]:
        """Return the error and the sd of each measured label when it is left out, in the order of the rows.

        Both are of a new measurement, noise included, on the scale of the labels; see `leave_one_out`.
        """
        fitted = self._require_fit()
        error, sd = leave_one_out(fitted.cholesky, fitted.residual)
        if fitted.stands is not None:
            measured = ~fitted.stands.bounded
            error, sd = error[measured], sd[measured]
        return fitted.label_sd * error, fitted.label_sd * sd

    def diagnostics(self) -> dict[str, float]:
        """Return hyper-parameters and leave-one-out scores, the latter on the scale of the labels.

        Keys: n_labels, fit_succeeded, noise_sd (labels' scale), output_scale, what the kernel learned
        (lengthscale_min, lengthscale_max, weights), log_marginal_likelihood (of the standardised labels, per
        label), and loo_rmse, loo_r2, loo_spearman, loo_nlpd, loo_coverage90 where they are defined. With labels
        of known variance noise_sd is the root mean square over them; with bounded rows there is n_bounded and no
        log_marginal_likelihood, and scores are those of the measured rows.
        """
        fitted = self._require_fit()
        n, stands = fitted.residual.numel(), fitted.stands
        measured = torch.ones(n, dtype=torch.bool) if stands is None else ~stands.bounded
        noise = fitted.model.likelihood.noise.detach() if stands is None else stands.noise[measured]
        found = {
            "n_labels": float(n),
            "fit_succeeded": float(fitted.fit_succeeded),
            "output_scale": fitted.model.covar_module.outputscale.item(),
            **describe(fitted.model.covar_module.base_kernel),
        }
        if bool(measured.all()):
            found["log_marginal_likelihood"] = _log_likelihood(fitted) / n
        else:
            found["n_bounded"] = float((~measured).sum())
        if not bool(measured.any()):
            return found
        error, sd = self.left_out()
        labels = (fitted.label_sd * fitted.residual)[measured]
        noise_sd = noise.mean().sqrt() * fitted.label_sd
        return (
            found | {"noise_sd": noise_sd.item()} | score_predictions(labels - error, sd, labels).as_dict("loo_")
        )

    def _build(self, X: Tensor, standardised: Tensor, known: Tensor | None = None) -> SingleTaskGP:
        """Return a model of `X`, `n x d`, and standardised labels, `n`, at its default hyper-parameters."""
        levels = 1 + int(X.max()) if self._levels is None else self._levels
        kernel = code_kernel(self.kernel, n_positions=X.shape[1], n_levels=levels, symmetry=self._symmetry)
        scaled = ScaleKernel(
            kernel,
            outputscale_prior=LogNormalPrior(0.0, 1.0),
            outputscale_constraint=GreaterThan(1e-3, transform=None, initial_value=1.0),
        )
        noise_prior = LogNormalPrior(-4.0, 1.0)
        constraint = GreaterThan(LEAST_NOISE, transform=None, initial_value=math.exp(-3.0))
        if known is None or bool(known.isnan().all()):
            likelihood = GaussianLikelihood(noise_prior=noise_prior, noise_constraint=constraint)
        else:
            likelihood = PartlyKnownNoise(known, noise_prior=noise_prior, noise_constraint=constraint)
        with settings.validate_input_scaling(False):
            return SingleTaskGP(
                X, standardised.unsqueeze(-1), likelihood=likelihood, covar_module=scaled, outcome_transform=None
            )

    def _condition(
        self,
        model: SingleTaskGP,
        X: Tensor,
        standardised: Tensor,
        label_mean: Tensor,
        label_sd: Tensor,
        *,
        fit_succeeded: bool,
        stands: Stands | None,
    ) -> _Fitted:
        """Return the factors that every prediction shares, for labels `n` at `X`, `n x d`."""
        model.eval()
        with torch.no_grad():
            levels = max(self._levels or 1, levels_of(model.covar_module.base_kernel, X))
            targets = standardised if stands is None else stands.targets
            residual = targets - model.mean_module.constant
            covariance = _prior(model, X)
            covariance.diagonal().add_(model.likelihood.noise if stands is None else stands.noise)
            factor = cholesky(covariance)
            alpha = torch.cholesky_solve(residual.unsqueeze(-1), factor).squeeze(-1)
            rows, spread = None, factor
            if len(X) > MAX_SPREAD:
                rows = best_and_spread((-residual).argsort(stable=True), MAX_SPREAD)
                spread = cholesky(covariance[rows][:, rows])
            prepared = model.covar_module.base_kernel.prepare(X, levels)
        return _Fitted(
            model=model,
            X=X.clone(),
            prepared=prepared,
            levels=levels,
            residual=residual,
            cholesky=factor,
            alpha=alpha,
            spread_rows=rows,
            spread_factor=spread,
            label_mean=label_mean,
            label_sd=label_sd,
            fit_succeeded=fit_succeeded,
            stands=stands,
        )

    def _require_fit(self, X: Tensor | None = None) -> _Fitted:
        if self._fitted is None:
            raise not_fitted()
        if X is not None:
            _check_codes(X, self._fitted.X.shape[1])
        return self._fitted


def _maximise_likelihood(model: SingleTaskGP, max_iterations: int) -> bool:
    """Fit the hyper-parameters in place; return False, leaving them in any state, if that failed."""
    mll = ExactMarginalLogLikelihood(model.likelihood, model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # One attempt: further ones start from random draws of the priors. An abnormal end of the line
            # search is kept, because the point it reached is still the best seen.
            fit_gpytorch_mll(
                mll,
                optimizer_kwargs={"options": {"maxiter": max_iterations}},
                max_attempts=1,
                warning_handler=lambda _: True,
            )
    except (ModelFittingError, RuntimeError, ValueError) as err:
        _log.info("the marginal likelihood could not be maximised, defaults stand in: %s", err)
        return False
    return all(bool(p.isfinite().all()) for p in model.parameters())


def _log_likelihood(fitted: _Fitted) -> float:
    """Return the log marginal likelihood of the standardised labels."""
    n = fitted.residual.numel()
    fits = -0.5 * (fitted.residual @ fitted.alpha) - fitted.cholesky.diagonal().log().sum()
    return fits.item() - 0.5 * n * math.log(2.0 * math.pi)


def best_and_spread(order: Tensor, n: int) -> Tensor:
    """Return `n` rows of `order`, the best first: the best half as many, the others evenly spaced; sorted."""
    half = n // 2
    return torch.cat([order[:half], _evenly_spaced(order[half:], n - half)]).sort().values


def _evenly_spaced(rows: Tensor, n: int) -> Tensor:
    """Return at most `n` of the rows, the first and the last among them."""
    if len(rows) <= n:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, n, dtype=torch.float64, device=rows.device).round().long()]


def _marginal(fitted: _Fitted, X: Tensor) -> tuple[Tensor, Tensor]:
    """Return the standardised posterior mean and sd at `X`, `n x d`: `n` and `n`."""
    with torch.no_grad():
        cross = _cross(fitted, X)
        mean = fitted.model.mean_module.constant + cross @ fitted.alpha
        if fitted.spread_rows is not None:
            cross = cross.index_select(1, fitted.spread_rows)
        explained = torch.linalg.solve_triangular(fitted.spread_factor, cross.mT, upper=False)
        # All kernels have diagonal one, so the prior variance is the output scale everywhere.
        variance = fitted.model.covar_module.outputscale - explained.square().sum(0)
        return mean, variance.clamp_min(1e-12).sqrt()


def _cross(fitted: _Fitted, X: Tensor) -> Tensor:
    """Return the prior covariance of codes `n x d` and the labelled codes, `n x m`."""
    scaled = fitted.model.covar_module
    levels = levels_of(scaled.base_kernel, X)
    prepared = fitted.prepared
    if levels > fitted.levels:  # a category that no label has
        prepared = scaled.base_kernel.prepare(fitted.X, levels)
    else:
        levels = fitted.levels
    covariance: Tensor = scaled.outputscale * scaled.base_kernel.compare(
        scaled.base_kernel.prepare(X, levels), prepared
    )
    return covariance


def _prior(model: SingleTaskGP, X: Tensor) -> Tensor:
    """Return the prior covariance of codes `n x d` among each other, `n x n`, without lazy evaluation."""
    scaled = model.covar_module
    covariance: Tensor = scaled.outputscale * scaled.base_kernel.forward(X, X)
    return covariance


def _check_codes(X: Tensor, width: int | None = None) -> None:
    if X.ndim != 2 or X.dtype != torch.float64 or (width is not None and X.shape[1] != width):
        raise ShapeError(
            f"X has shape {tuple(X.shape)} and dtype {X.dtype}, expected n x {width or 'd'} codes in "
            "torch.float64. Convert with X.to(torch.float64); one object is a single row, X.unsqueeze(0)."
        )
    if X.shape[0] == 0:
        raise ShapeError(f"X has shape {tuple(X.shape)}, expected at least one row. Leave empty calls out.")
    if not bool((X >= 0).all() and (X.floor() == X).all() and X.isfinite().all()):
        raise ShapeError(
            "X holds values that are not category codes, expected integers from 0 in every entry. "
            "Encode letters by their place in the alphabet."
        )
