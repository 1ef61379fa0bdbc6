"""Bayesian linear regression on letters and all pairs of letters: cheap, exact and strong where effects add up.

Kernels that know more than agreement by position belong in `kernels.py`.
"""

import math
from dataclasses import dataclass

import torch
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from gpytorch.distributions import MultivariateNormal
from linear_operator import to_linear_operator
from linear_operator.operators import RootLinearOperator
from torch import Generator, Tensor
from torch.nn.functional import embedding_bag

from flowscout.errors import ShapeError
from flowscout.surrogates.checks import (
    check_codes,
    check_labels,
    check_levels,
    check_state,
    label_scale,
    not_fitted,
    one_hot,
)
from flowscout.surrogates.diagnostics import score_predictions
from flowscout.surrogates.kernels import cholesky

_CHUNK = 2048
"""Points predicted at once: with 6,000 features they take 100 MB."""

_LIMIT = 6_000
"""The largest matrix that is decomposed: some minutes and 300 MB."""

_WEIGHT_DRAWS = 200_000
"""The most weights that are drawn one by one; with more, draws are made on the points asked for."""

_RATIOS = torch.logspace(-4, 4, 161, dtype=torch.float64)
"""Noise variance over signal variance, where the evidence is looked at first; 20 a decade."""


@dataclass(frozen=True)
class _Fitted:
    """The posterior by weights (`mean` is `f`, the weights') or by labels (`mean` is `n`). Never changed in place.

    Both are on the scale of the standardised labels. `root` is the lower Cholesky factor of the precision of the
    weights times the noise variance (`f x f`), or of the covariance of the labels (`n x n`).
    """

    by_weights: bool
    X: Tensor  # n x d codes
    labels: Tensor  # n, standardised
    mean: Tensor
    root: Tensor
    signal: Tensor  # scalar, the prior variance of the property
    noise: Tensor  # scalar, the variance of a measurement
    log_evidence: float
    label_mean: Tensor
    label_sd: Tensor


class PairwiseLinear:
    """Model labels on codes `n x d` (float64, 0 to `levels - 1`) as linear in letters and pairs of letters.

    The features are one indicator for each letter at each place and one for each pair of letters at each pair of
    places: `f = d v + d (d - 1) / 2 v^2` of them. Weights are normal with one variance, noise with another; the
    two maximise the evidence, which is one search along their ratio after one eigendecomposition. With fewer
    labels than features the same posterior is computed in the dual and no feature is ever written down: two
    objects that agree at `a` places share `a` letters and `a (a - 1) / 2` pairs.

    Source: MacKay 1992, "Bayesian interpolation", Neural Computation 4(3), for the evidence; Rasmussen & Williams
    2006, section 2.1, for both forms of the posterior.
    """

    def __init__(self, *, levels: int) -> None:
        check_levels(levels)
        self._levels = levels
        self._fitted: _Fitted | None = None

    def fit(self, X: Tensor, Y: Tensor) -> None:
        """Fit to codes `X`, `n x d`, and labels `Y`, `n x 1`, both float64.

        Raises: ShapeError for wrong shapes or dtypes, or more than 6,000 labels and features alike; LabelError,
        naming the row, for a label that is not finite, or if the labels' spread overflows.
        """
        check_codes(X, self._levels)
        labels = check_labels(X, Y)
        label_mean, label_sd = label_scale(labels)
        standardised = (labels - label_mean) / label_sd
        signal, noise = self._maximise_evidence(X, standardised)
        self._fitted = self._condition(X, standardised, signal, noise, label_mean, label_sd)

    def mean_sd(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the marginal posterior mean and sd of the noise-free label at `X`, `n x d`: `n` and `n`."""
        fitted = self._require_fit(X)
        means, sds = [], []
        for chunk in torch.split(X, _CHUNK):
            mean, explained = self._project(fitted, chunk)
            variance = explained.square().sum(0)
            if not fitted.by_weights:
                variance = fitted.signal - variance
            means.append(mean)
            sds.append(variance.clamp_min(1e-12).sqrt())
        return fitted.label_mean + fitted.label_sd * torch.cat(means), fitted.label_sd * torch.cat(sds)

    def posterior(self, X: Tensor) -> Posterior:
        """Return the joint posterior of the noise-free labels at `X`, `n x d`; event shape `n x 1`."""
        fitted = self._require_fit(X)
        mean, covariance = self._joint(fitted, X)
        # As an operator: its Cholesky factor is made when it is needed, with jitter where objects repeat. By
        # weights a root is known: draws of more objects than there are weights need no jitter at all.
        operator = to_linear_operator(covariance)
        if fitted.by_weights:
            operator = RootLinearOperator(fitted.label_sd * self._project(fitted, X)[1].mT)
        return GPyTorchPosterior(MultivariateNormal(mean, operator))

    def sample(self, X: Tensor, n_draws: int, *, generator: Generator) -> Tensor:
        """Return joint posterior draws of the noise-free labels at `X`, `n_draws x n`.

        A draw is a draw of all weights: with a generator of the same seed, calls at different points see the same
        functions. Only with more than 200,000 weights (or none written down) is it made on the points alone, by
        the Cholesky factor of an `n x n` matrix.
        """
        fitted = self._require_fit(X)
        if fitted.by_weights:
            weights = self._draw_weights(fitted, n_draws, generator)
            value = self._sum_of_weights(X, weights).mT
        elif self._n_features(X.shape[1]) <= _WEIGHT_DRAWS:
            value = self._draw_by_update(fitted, X, n_draws, generator)
        else:
            mean, covariance = self._joint(fitted, X)
            noise = torch.randn(n_draws, len(mean), generator=generator, dtype=mean.dtype, device=mean.device)
            return mean + noise @ cholesky(covariance).mT
        return fitted.label_mean + fitted.label_sd * value

    def state_dict(self) -> dict[str, Tensor]:
        """Return the two variances, the labels' scale and the number of labels."""
        fitted = self._require_fit()
        return {
            "signal": fitted.signal.clone(),
            "noise": fitted.noise.clone(),
            "label_mean": fitted.label_mean.clone(),
            "label_sd": fitted.label_sd.clone(),
            "n_labels": torch.tensor(len(fitted.labels)),
        }

    def load_state_dict(self, state: dict[str, Tensor], X: Tensor, Y: Tensor) -> None:
        """Rebuild the fit that gave `state` from its data, `n x d` and `n x 1`, without fitting.

        Raises: ShapeError if the state is of another surrogate or of other data.
        """
        check_codes(X, self._levels)
        labels = check_labels(X, Y)
        check_state(state, len(labels), {"signal", "noise", "label_mean", "label_sd"}, "a PairwiseLinear")
        label_mean, label_sd, signal, noise = (
            state[name].clone() for name in ("label_mean", "label_sd", "signal", "noise")
        )
        standardised = (labels - label_mean) / label_sd
        self._fitted = self._condition(X, standardised, signal, noise, label_mean, label_sd)

    def diagnostics(self) -> dict[str, float]:
        """Return the variances and exact leave-one-out scores, the latter on the scale of the labels.

        Keys: n_labels, n_features, noise_sd (labels' scale), output_scale, log_marginal_likelihood (of the
        standardised labels, per label), and loo_rmse, loo_r2, loo_spearman, loo_nlpd, loo_coverage90 where they
        are defined.
        """
        fitted = self._require_fit()
        residual, leverage = self._residual_and_leverage(fitted)
        error = fitted.label_sd * residual / (1.0 - leverage)
        sd = fitted.label_sd * (fitted.noise / (1.0 - leverage)).sqrt()
        measured = fitted.label_sd * fitted.labels
        return {
            "n_labels": float(len(measured)),
            "n_features": float(self._n_features(fitted.X.shape[1])),
            "noise_sd": (fitted.label_sd * fitted.noise.sqrt()).item(),
            "output_scale": fitted.signal.item(),
            "log_marginal_likelihood": fitted.log_evidence / len(measured),
            **score_predictions(measured - error, sd, measured).as_dict("loo_"),
        }

    def _maximise_evidence(self, X: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the signal and the noise variance that make standardised `labels`, `n`, most probable.

        For a ratio of the two, the best signal variance is a mean of squares; the ratio is found on a grid, then
        refined by golden section between its neighbours. Where the labels are all equal, both are one.
        """
        n = len(labels)
        if not bool((labels != 0.0).any()):
            return torch.ones_like(labels[0]), torch.full_like(labels[0], 1e-4)
        spectrum, energy, rest = self._spectrum(X, labels)
        n_rest = n - len(spectrum)

        def evidence(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
            ratio = log_ratio.exp().unsqueeze(-1)
            scale = spectrum + ratio
            signal = ((energy / scale).sum(-1) + rest / ratio.squeeze(-1)) / n
            log_det = scale.log().sum(-1) + n_rest * log_ratio + n * signal.log()
            return -0.5 * log_det, signal

        grid = _RATIOS.to(labels).log()
        best = int(evidence(grid)[0].argmax().item())
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        golden = 0.5 * (math.sqrt(5.0) - 1.0)
        for _ in range(40):  # 0.618^40: to 1e-9 of the bracket
            a, b = high - golden * (high - low), low + golden * (high - low)
            if bool(evidence(a)[0] >= evidence(b)[0]):
                high = b
            else:
                low = a
        log_ratio = 0.5 * (low + high)
        signal = evidence(log_ratio)[1].squeeze()
        return signal, signal * log_ratio.exp()

    def _spectrum(self, X: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the eigenvalues of the unit prior covariance, and how much of the labels' square lies along each.

        Eigenvalues that are zero to rounding are left out; the third value is the square of what remains.
        """
        n, n_features = len(labels), self._n_features(X.shape[1])
        if min(n, n_features) > _LIMIT:
            raise ShapeError(
                f"{n} labels of {n_features} features (letters and their pairs) came, expected at most {_LIMIT} "
                "of one or the other. Use an SVGP or a DeepEnsemble for these data."
            )
        if n_features >= n:
            values, vectors = torch.linalg.eigh(self._agreement(X, X))
            energy = (vectors.mT @ labels).square()
            return values.clamp_min(0.0), energy, torch.zeros_like(labels[0])
        gram, moment = self._moments(X, labels)
        values, vectors = torch.linalg.eigh(gram / self._n_terms(X.shape[1]))
        kept = values > 1e-10 * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        energy = (vectors.mT @ moment).square() / (self._n_terms(X.shape[1]) * values)
        return values, energy, (labels @ labels - energy.sum()).clamp_min(0.0)

    def _condition(
        self, X: Tensor, labels: Tensor, signal: Tensor, noise: Tensor, label_mean: Tensor, label_sd: Tensor
    ) -> _Fitted:
        """Return the posterior given standardised `labels`, `n`, and the two variances."""
        n, n_features = len(labels), self._n_features(X.shape[1])
        by_weights = n_features < n
        if by_weights:
            gram, moment = self._moments(X, labels)
            prior = noise / signal * self._n_terms(X.shape[1])
            root = cholesky(gram + prior * torch.eye(n_features, dtype=X.dtype, device=X.device))
            mean = torch.cholesky_solve(moment.unsqueeze(-1), root).squeeze(-1)
            log_det = n * noise.log() + 2.0 * root.diagonal().log().sum() - n_features * prior.log()
            fit = (labels @ labels - moment @ mean) / noise
        else:
            covariance = signal * self._agreement(X, X)
            root = cholesky(covariance + noise * torch.eye(n, dtype=X.dtype, device=X.device))
            mean = torch.cholesky_solve(labels.unsqueeze(-1), root).squeeze(-1)
            log_det = 2.0 * root.diagonal().log().sum()
            fit = labels @ mean
        log_evidence = -0.5 * (fit + log_det + n * math.log(2.0 * math.pi)).item()
        return _Fitted(
            by_weights, X.clone(), labels, mean, root, signal, noise, log_evidence, label_mean, label_sd
        )

    def _project(self, fitted: _Fitted, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the standardised mean at `X`, `n`, and columns `k x n` whose inner products are covariances.

        By weights these are the posterior covariances; by labels, what is to be taken off the prior's.
        """
        if fitted.by_weights:
            design = self._design(X)
            columns = torch.linalg.solve_triangular(fitted.root, design.mT, upper=False)
            return design @ fitted.mean, fitted.noise.sqrt() * columns
        cross = fitted.signal * self._agreement(X, fitted.X)
        return cross @ fitted.mean, torch.linalg.solve_triangular(fitted.root, cross.mT, upper=False)

    def _joint(self, fitted: _Fitted, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the joint posterior mean `n` and covariance `n x n` on the scale of the labels."""
        mean, columns = self._project(fitted, X)
        covariance = columns.mT @ columns
        if not fitted.by_weights:
            covariance = fitted.signal * self._agreement(X, X) - covariance
        covariance = 0.5 * (covariance + covariance.mT)
        return fitted.label_mean + fitted.label_sd * mean, fitted.label_sd.square() * covariance

    def _draw_weights(self, fitted: _Fitted, n_draws: int, generator: Generator) -> Tensor:
        """Return posterior draws of the weights, `f x n_draws`."""
        noise = torch.randn(
            len(fitted.mean), n_draws, generator=generator, dtype=fitted.mean.dtype, device=fitted.mean.device
        )
        spread = torch.linalg.solve_triangular(fitted.root.mT, noise, upper=True)
        weights: Tensor = fitted.mean.unsqueeze(-1) + fitted.noise.sqrt() * spread
        return weights

    def _draw_by_update(self, fitted: _Fitted, X: Tensor, n_draws: int, generator: Generator) -> Tensor:
        """Return standardised draws at `X`, `n_draws x n`: draws of the prior's weights, moved to fit the labels.

        Source: Wilson et al. 2020, arXiv:2002.09309, eq. 13 (Matheron's rule).
        """
        width = X.shape[1]
        options = {"generator": generator, "dtype": X.dtype, "device": X.device}
        weights = torch.randn(self._n_features(width), n_draws, **options)  # type: ignore[call-overload]
        noise = torch.randn(len(fitted.labels), n_draws, **options)  # type: ignore[call-overload]
        weights = weights * (fitted.signal / self._n_terms(width)).sqrt()
        prior = self._sum_of_weights(fitted.X, weights) + fitted.noise.sqrt() * noise
        update = torch.cholesky_solve(fitted.labels.unsqueeze(-1) - prior, fitted.root)
        cross = fitted.signal * self._agreement(X, fitted.X)
        value: Tensor = self._sum_of_weights(X, weights) + cross @ update
        return value.mT

    def _residual_and_leverage(self, fitted: _Fitted) -> tuple[Tensor, Tensor]:
        """Return the labels less the posterior mean and how much each label moves its prediction, `n` and `n`."""
        if fitted.by_weights:
            parts = [self._project(fitted, chunk) for chunk in torch.split(fitted.X, _CHUNK)]
            leverage = torch.cat([columns.square().sum(0) for _, columns in parts]) / fitted.noise
            return fitted.labels - torch.cat([mean for mean, _ in parts]), leverage.clamp_max(1.0 - 1e-9)
        inverse = torch.cholesky_inverse(fitted.root)
        return fitted.noise * fitted.mean, 1.0 - fitted.noise * inverse.diagonal()

    def _n_terms(self, width: int) -> int:
        """Return how many features an object of `width` places has: its letters and their pairs."""
        return width + width * (width - 1) // 2

    def _n_features(self, width: int) -> int:
        return width * self._levels + width * (width - 1) // 2 * self._levels**2

    def _agreement(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the share of features that codes `n x d` and `m x d` have in common, `n x m`."""
        letters = one_hot(a, self._levels) @ one_hot(b, self._levels).mT
        return (letters + 0.5 * letters * (letters - 1.0)) / self._n_terms(a.shape[1])

    def _index(self, X: Tensor) -> Tensor:
        """Return the numbers of the features that codes `n x d` have, `n x (d + d (d - 1) / 2)`."""
        codes, width, levels = X.long(), X.shape[1], self._levels
        letters = codes + levels * torch.arange(width, device=X.device)
        i, j = torch.triu_indices(width, width, offset=1, device=X.device)
        pairs = codes[:, i] * levels + codes[:, j] + levels**2 * torch.arange(len(i), device=X.device)
        return torch.cat([letters, width * levels + pairs], dim=1)

    def _design(self, X: Tensor) -> Tensor:
        """Return the features of codes `n x d`, `n x f`."""
        empty = torch.zeros(len(X), self._n_features(X.shape[1]), dtype=X.dtype, device=X.device)
        return empty.scatter_(1, self._index(X), 1.0)

    def _sum_of_weights(self, X: Tensor, weights: Tensor) -> Tensor:
        """Return the value of each column of `weights`, `f x k`, at codes `n x d`: `n x k`."""
        return torch.cat(
            [embedding_bag(self._index(part), weights, mode="sum") for part in torch.split(X, _CHUNK)]
        )

    def _moments(self, X: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features' products with each other, `f x f`, and with the labels, `f`."""
        n_features = self._n_features(X.shape[1])
        gram = torch.zeros(n_features, n_features, dtype=X.dtype, device=X.device)
        moment = torch.zeros(n_features, dtype=X.dtype, device=X.device)
        for chunk, part in zip(torch.split(X, _CHUNK), torch.split(labels, _CHUNK), strict=True):
            design = self._design(chunk)
            gram += design.mT @ design
            moment += design.mT @ part
        return gram, moment

    def _require_fit(self, X: Tensor | None = None) -> _Fitted:
        if self._fitted is None:
            raise not_fitted()
        if X is not None:
            check_codes(X, self._levels, self._fitted.X.shape[1])
        return self._fitted
