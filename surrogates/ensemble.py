"""An ensemble of small networks, trained together as one batched network: for many labels, and fast to ask.

How they are trained belongs in `ensemble_training.py`.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from botorch.posteriors.ensemble import EnsemblePosterior
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
    one_hot,
)
from flowscout.surrogates.diagnostics import score_predictions
from flowscout.surrogates.ensemble_training import (
    TrainingOptions,
    Weights,
    bootstrap,
    forward,
    left_out,
    train_members,
)

_CHUNK = 4096
"""Points predicted at once: 16 members of width 64 take 34 MB."""


@dataclass(frozen=True)
class _Fitted:
    """What predictions are made from. Never changed in place: see guarantee 1 of `Surrogate`."""

    weights: Weights  # float64
    X: Tensor  # n x d
    labels: Tensor  # n, standardised
    shift: Tensor  # d, of features that are numbers
    scale: Tensor  # d
    noise: Tensor  # scalar, standardised
    label_mean: Tensor
    label_sd: Tensor
    seed: int


class DeepEnsemble:
    """Model labels on features `n x d` (float64) by the mean and spread of networks on bootstrap samples.

    With `levels` the features are category codes from 0 to `levels - 1` and are taken as indicators; without, they
    are numbers and are standardised. Each member has its own bootstrap sample of the labels, its own first weights
    and its own minibatches, all decided by `seed` and its number: the same member results whatever their number.
    Training is in float32, predictions are made in float64.

    The belief about the noise-free label is that of the members, equally likely. A new measurement also differs by
    `noise_sd`: what the out-of-bag errors exceed the members' spread by, noise and shared mistakes alike.

    `device` is where networks are trained and kept: by default a GPU where there is one, else where the data are.

    Source: Lakshminarayanan et al. 2017, arXiv:1612.01474, with bootstrap samples and one noise for all points.
    """

    def __init__(
        self,
        *,
        levels: int | None = None,
        members: int = 16,
        options: TrainingOptions | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        check_levels(levels)
        if members < 2:
            raise ConfigError(
                f"members is {members!r}, expected at least 2: a spread needs two. Leave it out for 16."
            )
        self._levels = levels
        self._members = members
        self._options = TrainingOptions() if options is None else options
        self._seed = seed
        self._device = None if device is None else torch.device(device)
        self._fitted: _Fitted | None = None

    def fit(self, X: Tensor, Y: Tensor) -> None:
        """Fit to features `X`, `n x d`, and labels `Y`, `n x 1`, both float64.

        Raises: ShapeError for wrong shapes or dtypes; LabelError, naming the row, for a label that is not
        finite, or if the labels' spread overflows.
        """
        check_inputs(X, self._levels)
        labels = check_labels(X, Y)
        device = self._place(X)
        label_mean, label_sd = label_scale(labels)
        standardised = ((labels - label_mean) / label_sd).to(device)
        shift, scale = self._feature_scale(X)
        X = X.to(device, copy=True)
        inputs = _inputs(X, self._levels, shift, scale)
        rows = bootstrap(len(labels), self._members, self._seed)
        weights = train_members(inputs.float(), standardised.float(), rows, options=self._options, seed=self._seed)
        weights = tuple(w.double() for w in weights)
        noise = _noise(weights, inputs, standardised, rows)
        self._fitted = _Fitted(
            weights, X, standardised, shift, scale, noise, label_mean.cpu(), label_sd.cpu(), self._seed
        )

    def mean_sd(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the spread of the members at `X`, `n x d`: `n` and `n`."""
        posterior = self.posterior(X)
        sd = posterior.variance.squeeze(-1).sqrt()
        # Members may agree to the last bit; an acquisition divides by the spread.
        return posterior.mean.squeeze(-1), sd.clamp_min(1e-12 * self._require_fit().label_sd.item())

    def posterior(self, X: Tensor) -> EnsemblePosterior:
        """Return the joint posterior of the noise-free labels at `X`, `n x d`: a draw is a member."""
        return EnsemblePosterior(self._predict(X).unsqueeze(-1))

    def sample(self, X: Tensor, n_draws: int, *, generator: Generator) -> Tensor:
        """Return joint posterior draws of the noise-free labels at `X`, `n_draws x n`: members drawn at random.

        With a generator of the same seed, calls at different points see the same members.
        """
        chosen = torch.randint(self._members, (n_draws,), generator=generator, device=generator.device)
        return self._predict(X)[chosen.to(X.device)]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the members' weights, the noise, the scales, the seed and the number of labels."""
        fitted = self._require_fit()
        state = {f"weights.{number}": weight.cpu().clone() for number, weight in enumerate(fitted.weights)}
        for name in ("shift", "scale", "noise", "label_mean", "label_sd"):
            state[name] = getattr(fitted, name).cpu().clone()
        state["seed"] = torch.tensor(fitted.seed)
        state["n_labels"] = torch.tensor(len(fitted.labels))
        return state

    def load_state_dict(self, state: dict[str, Tensor], X: Tensor, Y: Tensor) -> None:
        """Rebuild the fit that gave `state` from its data, `n x d` and `n x 1`, without fitting.

        Raises: ShapeError if the state is of another surrogate or of other data.
        """
        check_inputs(X, self._levels)
        labels = check_labels(X, Y)
        sizes = self._layer_sizes(X.shape[1])
        names = [f"weights.{number}" for number in range(2 * (len(sizes) - 1))]
        scales = ("shift", "scale", "noise", "label_mean", "label_sd")
        check_state(state, len(labels), {*names, *scales, "seed"}, "a DeepEnsemble")
        device = self._place(X)
        expected = [t for a, b in pairwise(sizes) for t in ((a, b), (1, b))]
        for name, shape in zip(names, expected, strict=True):
            check_shape(name, state[name], torch.empty(self._members, *shape, device="meta"))
        check_shape("shift", state["shift"], torch.empty(X.shape[1], device="meta"))
        label_mean, label_sd = state["label_mean"].clone(), state["label_sd"].clone()
        self._fitted = _Fitted(
            weights=tuple(state[name].to(device, copy=True) for name in names),
            X=X.to(device, copy=True),
            labels=((labels - label_mean.to(labels)) / label_sd.to(labels)).to(device),
            shift=state["shift"].to(device, copy=True),
            scale=state["scale"].to(device, copy=True),
            noise=state["noise"].to(device, copy=True),
            label_mean=label_mean,
            label_sd=label_sd,
            seed=int(state["seed"].item()),
        )

    def diagnostics(self) -> dict[str, float]:
        """Return the noise and the out-of-bag scores, the latter on the scale of the labels.

        Each label is predicted by the members whose bootstrap sample left it out (about 37 in 100 of them); those
        that fewer than two members left out are not scored. The same labels decided when a member stopped and how
        large `noise_sd` is, so the scores are a little kind.

        Keys: n_labels, n_members, n_scored, noise_sd (labels' scale), and loo_rmse, loo_r2, loo_spearman,
        loo_nlpd, loo_coverage90 where they are defined.
        """
        fitted = self._require_fit()
        inputs = _inputs(fitted.X, self._levels, fitted.shift, fitted.scale)
        rows = bootstrap(len(fitted.labels), self._members, fitted.seed)
        mean, variance, scored = _out_of_bag(fitted.weights, inputs, rows)
        label_sd = fitted.label_sd.to(mean.device)
        found = {
            "n_labels": float(len(fitted.labels)),
            "n_members": float(self._members),
            "n_scored": float(scored.sum().item()),
            "noise_sd": (label_sd * fitted.noise.sqrt()).item(),
        }
        if not bool(scored.any()):
            return found
        sd = (variance + fitted.noise).sqrt()
        scores = score_predictions(
            label_sd * mean[scored], label_sd * sd[scored], label_sd * fitted.labels[scored]
        )
        return found | scores.as_dict("loo_")

    def _predict(self, X: Tensor) -> Tensor:
        """Return every member's prediction at `X`, `n x d`, on the scale of the labels: `k x n`."""
        fitted = self._require_fit(X)
        parts = []
        with torch.no_grad():
            for chunk in torch.split(X.to(fitted.shift.device), _CHUNK):
                inputs = _inputs(chunk, self._levels, fitted.shift, fitted.scale)
                parts.append(forward(fitted.weights, inputs))
        standardised = torch.cat(parts, dim=1).to(X.device)
        return fitted.label_mean.to(X.device) + fitted.label_sd.to(X.device) * standardised

    def _place(self, X: Tensor) -> torch.device:
        if self._device is not None:
            return self._device
        return torch.device("cuda") if torch.cuda.is_available() else X.device

    def _layer_sizes(self, width: int) -> list[int]:
        n_inputs = width if self._levels is None else width * self._levels
        return [n_inputs, *[self._options.width] * self._options.n_hidden, 1]

    def _feature_scale(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the sd of each column, `d` and `d`, on the networks' device; 1 where constant."""
        place = self._place(X)
        if self._levels is not None:
            return torch.zeros_like(X[0], device=place), torch.ones_like(X[0], device=place)
        shift, sd = X.mean(0), X.std(0, correction=0)
        constant = sd <= 1e-13 * X.abs().amax(0)
        return shift.to(place), torch.where(constant, 1.0, sd).to(place)

    def _require_fit(self, X: Tensor | None = None) -> _Fitted:
        if self._fitted is None:
            raise not_fitted()
        if X is not None:
            check_inputs(X, self._levels, self._fitted.X.shape[1])
        return self._fitted


def _inputs(X: Tensor, levels: int | None, shift: Tensor, scale: Tensor) -> Tensor:
    """Return what the networks see of features `n x d`."""
    return (X - shift) / scale if levels is None else one_hot(X, levels)


def _out_of_bag(weights: Weights, inputs: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean and variance of the members that were not given a label, each `n`, and which have two."""
    held_out = left_out(rows).to(inputs)
    with torch.no_grad():
        predicted = torch.cat([forward(weights, chunk) for chunk in torch.split(inputs, _CHUNK)], dim=1)
    count = held_out.sum(0)
    mean = (held_out * predicted).sum(0) / count.clamp_min(1.0)
    variance = (held_out * (predicted - mean).square()).sum(0) / (count - 1.0).clamp_min(1.0)
    return mean, variance, count >= 2


def _noise(weights: Weights, inputs: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """Return what the square out-of-bag errors of standardised labels exceed the members' variance by; a scalar.

    At least 1e-4 of the labels' variance, and that alone where no label was left out.
    """
    mean, variance, scored = _out_of_bag(weights, inputs, rows)
    if not bool(scored.any()):
        return torch.full_like(labels[0], 1e-4)
    excess = (labels - mean)[scored].square().mean() - variance[scored].mean()
    return excess.clamp_min(1e-4)
