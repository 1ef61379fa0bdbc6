"""Any BoTorch model of one output as a surrogate: bring your own.

What BoTorch cannot know (seeds, guarantees, scores) is added here; what a good model is, is yours.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from botorch.cross_validation import efficient_loo_cv
from botorch.exceptions.errors import BotorchError, ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior, scalarize_posterior
from botorch.posteriors.posterior import Posterior
from botorch.posteriors.transformed import TransformedPosterior
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.models import ExactGP as GPyTorchExactGP
from gpytorch.settings import max_cholesky_size
from torch import Generator, Tensor

from flowscout.errors import ShapeError
from flowscout.surrogates.checks import check_features, check_labels, check_state, label_scale, not_fitted
from flowscout.surrogates.diagnostics import score_predictions

_log = logging.getLogger(__name__)

_CHUNK = 512
"""Points predicted at once: BoTorch's posterior is joint, and takes the square of their number."""

_FOLDS = 5

MakeModel = Callable[[Tensor, Tensor], Model]
"""Makes a model, not yet fitted, of features `n x d` and standardised labels `n x 1`, both float64."""

FitModel = Callable[[Model], object]
"""Fits a model in place; what it returns is ignored."""


def fit_by_marginal_likelihood(model: Model) -> None:
    """Fit an exact GP by BoTorch's `fit_gpytorch_mll`."""
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))


@dataclass(frozen=True)
class _Fitted:
    """What predictions are made from. Never changed in place: see guarantee 1 of `Surrogate`."""

    model: Model
    X: Tensor  # n x d
    labels: Tensor  # n, standardised
    label_mean: Tensor
    label_sd: Tensor
    fit_succeeded: bool


class BotorchSurrogate:
    """Model labels by the BoTorch model that `make_model(X, Y)` returns, fitted in place by `fit(model)`.

    The model is given labels of mean 0 and variance 1, and predicts on that scale: BoTorch's own `Standardize`
    leaves labels below 1e-8, molar affinities for one, as they are. Features come as they are: scale them by an
    input transform. Any model of one output will do whose `posterior` has a mean, a variance and samples.
    `fit=None` leaves the model as `make_model` returned it.

        BotorchSurrogate(lambda X, Y: SingleTaskGP(X, Y, input_transform=Normalize(X.shape[-1])))

    Both functions run under a random state of their own, decided by `seed`, so that the same data give the same
    fit; warnings of theirs are logged. Where fitting fails, the model at its first hyper-parameters stands in.
    """

    def __init__(
        self, make_model: MakeModel, *, fit: FitModel | None = fit_by_marginal_likelihood, seed: int = 0
    ) -> None:
        self._make_model = make_model
        self._fit_model = fit
        self._seed = seed
        self._fitted: _Fitted | None = None

    def fit(self, X: Tensor, Y: Tensor) -> None:
        """Fit to features `X`, `n x d`, and labels `Y`, `n x 1`, both float64.

        Raises: ShapeError for wrong shapes or dtypes; LabelError, naming the row, for a label that is not
        finite, or if the labels' spread overflows.
        """
        check_features(X)
        labels = check_labels(X, Y)
        label_mean, label_sd = label_scale(labels)
        standardised = (labels - label_mean) / label_sd
        X = X.clone()
        model, succeeded = self._fitted_model(X, standardised)
        self._fitted = _Fitted(model, X, standardised, label_mean, label_sd, succeeded)

    def mean_sd(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the marginal posterior mean and sd of the noise-free label at `X`, `n x d`: `n` and `n`."""
        fitted = self._require_fit(X)
        parts = [_marginal(fitted.model, chunk) for chunk in torch.split(X, _CHUNK)]
        mean, variance = (torch.cat([part[number] for part in parts]) for number in range(2))
        return fitted.label_mean + fitted.label_sd * mean, fitted.label_sd * variance.sqrt()

    def posterior(self, X: Tensor) -> Posterior:
        """Return the model's joint posterior at `X`, `n x d`, on the scale of the labels; event shape `n x 1`."""
        fitted = self._require_fit(X)
        return _on_scale(_posterior(fitted.model, X), fitted.label_mean, fitted.label_sd)

    def sample(self, X: Tensor, n_draws: int, *, generator: Generator) -> Tensor:
        """Return joint posterior draws of the noise-free labels at `X`, `n_draws x n`."""
        posterior = self.posterior(X)
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device).item())
        with _random_state(seed), _logged_warnings(), torch.no_grad():
            draws: Tensor = posterior.sample(torch.Size([n_draws])).squeeze(-1)
        return draws

    def state_dict(self) -> dict[str, Tensor]:
        """Return the model's own state and the number of labels."""
        fitted = self._require_fit()
        state = {
            f"model.{name}": value.detach().clone()
            for name, value in fitted.model.state_dict().items()
            if isinstance(value, Tensor)
        }
        state["label_mean"] = fitted.label_mean.clone()
        state["label_sd"] = fitted.label_sd.clone()
        state["n_labels"] = torch.tensor(len(fitted.labels))
        state["fit_succeeded"] = torch.tensor(fitted.fit_succeeded)
        return state

    def load_state_dict(self, state: dict[str, Tensor], X: Tensor, Y: Tensor) -> None:
        """Rebuild the fit that gave `state` from its data, `n x d` and `n x 1`, without fitting.

        Raises: ShapeError if the state is of another surrogate or of other data.
        """
        check_features(X)
        labels = check_labels(X, Y)
        check_state(state, len(labels), {"label_mean", "label_sd", "fit_succeeded"}, "a BotorchSurrogate")
        label_mean, label_sd = state["label_mean"].clone(), state["label_sd"].clone()
        standardised = (labels - label_mean) / label_sd
        X = X.clone()
        stored = {name.removeprefix("model."): v for name, v in state.items() if name.startswith("model.")}
        try:
            model = self._made(X, standardised, stored)
        except (RuntimeError, LookupError) as err:
            raise ShapeError(
                f"the state does not fit the model ({err}), expected the state_dict() of a BotorchSurrogate with "
                "the same make_model. Refit, or load the artefact of this surrogate."
            ) from err
        succeeded = bool(state["fit_succeeded"].item())
        self._fitted = _Fitted(model, X, standardised, label_mean, label_sd, succeeded)

    def diagnostics(self) -> dict[str, float]:
        """Return the noise and cross-validated scores, on the scale of the labels.

        An exact GP is scored by leaving each label out in closed form (BoTorch's `efficient_loo_cv`); any other
        model by five folds, each fitted anew, which costs five fits.

        Keys: n_labels, fit_succeeded, noise_sd (the root mean square over the labels of what a measurement adds; 0
        where the model has no noise), and loo_rmse, loo_r2, loo_spearman, loo_nlpd, loo_coverage90 where defined.
        """
        fitted = self._require_fit()
        found = {
            "n_labels": float(len(fitted.labels)),
            "fit_succeeded": float(fitted.fit_succeeded),
            "noise_sd": (fitted.label_sd * _noise(fitted.model, fitted.X).mean().sqrt()).item(),
        }
        if len(fitted.labels) < 2:
            return found
        mean, sd = self._cross_validated(fitted)
        scale = fitted.label_sd
        return found | score_predictions(scale * mean, scale * sd, scale * fitted.labels).as_dict("loo_")

    def _cross_validated(self, fitted: _Fitted) -> tuple[Tensor, Tensor]:
        """Return the mean and sd with which each label is predicted from others, noise included: `n` and `n`."""
        if isinstance(fitted.model, GPyTorchExactGP):
            # On a copy: it switches the model's mode, and predictions must stay what they are.
            with torch.no_grad(), max_cholesky_size(10**6):
                mean, variance = _moments(efficient_loo_cv(deepcopy(fitted.model)).posterior)
            return mean.squeeze(-1), variance.squeeze(-1).sqrt()
        n = len(fitted.labels)
        fold = torch.randperm(n, generator=torch.Generator().manual_seed(self._seed)) % min(_FOLDS, n)
        mean, variance = torch.empty_like(fitted.labels), torch.empty_like(fitted.labels)
        for number in range(min(_FOLDS, n)):
            out = (fold == number).to(fitted.X.device)
            model, _ = self._fitted_model(fitted.X[~out], fitted.labels[~out])
            mean[out], variance[out] = _marginal(model, fitted.X[out])
            variance[out] += _noise(model, fitted.X[out])
        return mean, variance.sqrt()

    def _fitted_model(self, X: Tensor, labels: Tensor) -> tuple[Model, bool]:
        """Return a fitted model of `X`, `n x d`, and labels, `n`; the default one and False where that failed."""
        model = self._made(X, labels)
        if self._fit_model is None or bool((labels == labels[0]).all()):
            return model, True
        try:
            with _random_state(self._seed), _logged_warnings():
                self._fit_model(model)
        except (BotorchError, ModelFittingError, RuntimeError, ValueError) as err:
            _log.info("the model could not be fitted, its first hyper-parameters stand in: %s", err)
            return self._made(X, labels), False
        # Made anew: a fit leaves caches behind, by which a rebuilt model would differ in the last bit.
        return self._made(X, labels, model.state_dict()), True

    def _made(self, X: Tensor, labels: Tensor, state: dict[str, Tensor] | None = None) -> Model:
        """Return a model of `X`, `n x d`, and labels, `n`: of the first hyper-parameters, or of `state`."""
        with _random_state(self._seed), _logged_warnings():
            model = self._make_model(X, labels.unsqueeze(-1))
            if state is not None:
                # Not the model's own: BoTorch's would take its labels off their scale and put them back, which
                # changes last bits. The scales are in the state, and these are the labels they came from.
                torch.nn.Module.load_state_dict(model, state)
        model.eval()
        return model

    def _require_fit(self, X: Tensor | None = None) -> _Fitted:
        if self._fitted is None:
            raise not_fitted()
        if X is not None:
            check_features(X, self._fitted.X.shape[1])
        return self._fitted


def _posterior(model: Model, X: Tensor, *, observation_noise: bool = False) -> Posterior:
    """Return the joint posterior at `X`, exact: GPyTorch approximates solves beyond a size that we raise."""
    with torch.no_grad(), max_cholesky_size(10**6), _logged_warnings():
        return model.posterior(X, observation_noise=observation_noise)


def _marginal(model: Model, X: Tensor) -> tuple[Tensor, Tensor]:
    """Return the posterior mean and variance at `X`, `n` and `n`."""
    return _moments(_posterior(model, X))


def _noise(model: Model, X: Tensor) -> Tensor:
    """Return the variance that a measurement at each row of `X` adds, `n`; zero where the model has none."""
    parts = []
    for chunk in torch.split(X, _CHUNK):
        _, with_noise = _moments(_posterior(model, chunk, observation_noise=True))
        parts.append(with_noise - _moments(_posterior(model, chunk))[1])
    return torch.cat(parts).clamp_min(0.0)


def _moments(posterior: Any) -> tuple[Tensor, Tensor]:
    """Return the marginal means and variances, `... x n` each, of a posterior that has them."""
    with torch.no_grad(), _logged_warnings():
        return posterior.mean.squeeze(-1), posterior.variance.squeeze(-1).clamp_min(1e-12)


def _on_scale(posterior: Posterior, label_mean: Tensor, label_sd: Tensor) -> Posterior:
    """Return `posterior` moved from standardised labels to labels as they were measured."""
    if isinstance(posterior, GPyTorchPosterior):
        return scalarize_posterior(posterior, label_sd.reshape(1), offset=label_mean.item())
    return TransformedPosterior(
        posterior,
        sample_transform=lambda samples: label_mean + label_sd * samples,
        mean_transform=lambda mean, _: label_mean + label_sd * mean,
        variance_transform=lambda _, variance: label_sd.square() * variance,
    )


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """Run with the global random state of `seed`, and leave the caller's as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _logged_warnings() -> Iterator[None]:
    """Log what a user's model warns of: a round must not fail by it, nor lose it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        _log.info("the model warns: %s", warning.message)
