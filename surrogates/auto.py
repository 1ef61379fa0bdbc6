"""Several Gaussian processes as one belief, weighted by how well each predicts labels that it was not given.

The processes live in `exact_gp`; when a batch counts as foretold is decided by the loop.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from gpytorch.distributions import MultivariateNormal
from linear_operator import to_linear_operator
from torch import Generator, Tensor

from flowscout.errors import ShapeError
from flowscout.surrogates.diagnostics import score_predictions
from flowscout.surrogates.exact_gp import MAX_LEARNING, ExactGP, best_and_spread
from flowscout.surrogates.kernels import KernelName, Symmetry

MOTIF_LEVELS = 6
"""Alphabets up to this size (DNA, RNA) start from the belief that motifs float."""

SHARPNESS = 8.0
"""Nats by which a batch counts for each nat of mean predictive density: as many independent labels as it is worth.
A batch lies close together, so that its labels are far from independent."""

PRIOR_LABELS = 100.0
"""As many labels as the weights given at first count for, beside the labels of the first fit."""

MAX_KNOWN = 2_000
"""How many labels the processes are given, at most: a reward that is asked a hundred thousand times a round takes
the time of their number."""

LEAST_WEIGHT = 1e-3
"""A kernel of less weight counts for nothing until its weight rises again: its predictions are not asked for."""

LIGHT = 0.01
LIGHT_LEARNING = 250
"""From how many labels a kernel lighter than `LIGHT` learns: enough to see what it foretells."""

_STEPS = 200
"""Of expectation maximisation, which settles two or three weights to four digits in fewer."""


class AveragedGP:
    """One belief made of exact GPs that differ in their kernels.

    At the first fit, whose labels no surrogate picked, the weights are those with which the mixture best predicts
    each label from all others (`stacked_weights`), the given ones counting as `PRIOR_LABELS` more. Later, such
    scores cannot choose among kernels: a batch that one of them picked lies among its own neighbours, where that
    kernel predicts well. So the weights then follow what each kernel foretold of batches before they were
    measured (`foretell`). The mean and the variance are those of the mixture; of joint draws each kernel gives
    its share, so that a batch of Thompson draws is split among the beliefs.

    Of more than `MAX_KNOWN` labels the best half as many are known, and others evenly spaced from the next best to
    the worst: what is asked for lies near the best.

    Source: Yao et al. 2018, Bayesian Analysis 13(3), section 3.1 (stacking of predictive distributions), with a
    Dirichlet prior added.
    """

    def __init__(
        self,
        kernels: Mapping[KernelName, float],
        *,
        levels: int | None = None,
        symmetry: Symmetry | None = None,
        max_iterations: int = 75,
    ) -> None:
        self.kernels = tuple(kernels)
        self._members = tuple(
            ExactGP(kernel=kernel, levels=levels, symmetry=symmetry, max_iterations=max_iterations)
            for kernel in kernels
        )
        self._prior = torch.tensor(list(kernels.values()), dtype=torch.float64)
        self._log_weight = self._prior.log()
        self._foretold = torch.empty(0, dtype=torch.float64)  # no batch was foretold yet

    @property
    def weights(self) -> Tensor:
        """The weight of each kernel; they sum to one. One of less than `LEAST_WEIGHT` has none."""
        weight = self._log_weight.softmax(0)
        counts = weight >= LEAST_WEIGHT
        return torch.where(counts, weight, 0.0) / weight[counts].sum()

    def fit(self, X: Tensor, Y: Tensor, *, noise: Tensor | None = None, bounds: Tensor | None = None) -> None:
        """Fit every member to codes `X`, `n x d`, and labels `Y`, `n x 1`, both float64.

        The weights are learned too, unless `foretell` has set them. `noise` and `bounds` are as in `ExactGP.fit`.
        Raises: ShapeError and LabelError as `ExactGP.fit`.
        """
        rows = _known(X, Y)
        X, Y = X[rows], Y[rows]
        noise, bounds = (None if given is None else given[rows] for given in (noise, bounds))
        members = []
        for member, weight in zip(self._members, self.weights.tolist(), strict=True):
            fresh = member.unfitted(max_learning=LIGHT_LEARNING if weight < LIGHT else MAX_LEARNING)
            fresh.fit(X, Y, noise=noise, bounds=bounds)
            members.append(fresh)
        self._members = tuple(members)
        if not len(self._foretold):
            self._log_weight = self._stacked()

    def foretell(self, previous: "AveragedGP", X: Tensor, Y: Tensor) -> None:
        """Weigh the kernels by what `previous`, which had not seen them, said of labels `Y`, `n x 1`, at `X`.

        The weights are those of `previous`, times exp(-`SHARPNESS` x mean negative log predictive density). Where
        `previous` knew bounds only, it cannot say how far a label lies from its value, and the weights stay.
        """
        if previous.kernels != self.kernels:
            return
        noises = [member.diagnostics().get("noise_sd") for member in previous._members]
        measured = Y.squeeze(-1)
        scores = []
        for member, noise_sd in zip(previous._members, noises, strict=True):
            if noise_sd is None:
                self.take_weights(previous)
                return
            mean, sd = member.mean_sd(X)
            noisy = (sd.square() + noise_sd**2).sqrt()
            scores.append(score_predictions(mean, noisy, measured).nlpd)
        self._foretold = torch.tensor(scores, dtype=torch.float64)
        self._log_weight = (previous._log_weight - SHARPNESS * self._foretold).log_softmax(0)

    def take_weights(self, previous: "AveragedGP") -> None:
        """Keep the weights of `previous`, where nothing was measured since by which to weigh the kernels anew."""
        if previous.kernels == self.kernels:
            self._log_weight, self._foretold = previous._log_weight.clone(), previous._foretold.clone()

    def _heard(self) -> tuple[Tensor, list[ExactGP]]:
        """Return the weights, `k`, of the members that have any, and these."""
        weights = self.weights
        heard = [member for member, weight in zip(self._members, weights.tolist(), strict=True) if weight]
        return weights[weights > 0], heard

    @property
    def weighed_by(self) -> str:
        """What the weights follow, in words."""
        return "what they foretold" if len(self._foretold) else "how they predict labels left out"

    def _stacked(self) -> Tensor:
        """Return the logarithms of the weights that the labels of this fit speak for."""
        left_out = [member.left_out() for member in self._members]
        # Less the same constant for all kernels.
        density = torch.stack([-0.5 * (error / sd).square() - sd.log() for error, sd in left_out])
        return stacked_weights(density.cpu(), self._prior, PRIOR_LABELS).log()

    def mean_sd(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and sd of the mixture at `X`, `n x d`: `n` and `n`."""
        weights, members = self._heard()
        weights = weights.to(X.device)
        means, sds = map(torch.stack, zip(*[member.mean_sd(X) for member in members], strict=True))
        mean = weights @ means
        variance = weights @ (sds.square() + (means - mean).square())
        return mean, variance.sqrt()

    def posterior(self, X: Tensor) -> Posterior:
        """Return the normal of the mixture's joint mean and covariance at `X`, `n x d`; event shape `n x 1`."""
        weights, members = self._heard()
        weights, parts = weights.to(X.device), [member.joint(X) for member in members]
        means = torch.stack([mean for mean, _ in parts])
        mean = weights @ means
        between = means - mean
        covariance = (between.mT * weights) @ between
        for weight, (_, within) in zip(weights, parts, strict=True):
            covariance += weight * within
        covariance = 0.5 * (covariance + covariance.mT)
        return GPyTorchPosterior(MultivariateNormal(mean, to_linear_operator(covariance)))

    def sample(self, X: Tensor, n_draws: int, *, generator: Generator) -> Tensor:
        """Return joint posterior draws at `X`, `n_draws x n`: each kernel's share of them, in random order."""
        draws = [
            member.sample(X, count, generator=generator)
            for member, count in zip(self._members, shares(self.weights.tolist(), n_draws), strict=True)
            if count
        ]
        order = torch.randperm(n_draws, generator=generator, device=generator.device)
        return torch.cat(draws)[order.to(X.device)]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights and what each member needs besides the data."""
        state = {"log_weight": self._log_weight.clone(), "foretold": self._foretold.clone()}
        for kernel, member in zip(self.kernels, self._members, strict=True):
            state |= {f"{kernel}.{name}": value for name, value in member.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor], X: Tensor, Y: Tensor) -> None:
        """Rebuild the fit that gave `state` from its data, `n x d` and `n x 1`, without fitting.

        Raises: ShapeError if the state is of another surrogate or of other data.
        """
        if state.get("log_weight", torch.empty(0)).shape != self._log_weight.shape:
            raise ShapeError(
                f"the state has no weights of {len(self.kernels)} kernels, expected the state_dict() of a "
                f"surrogate that averages {', '.join(self.kernels)}. Refit, or load its own artefact."
            )
        rows = _known(X, Y)
        X, Y = X[rows], Y[rows]
        members = []
        for kernel, member in zip(self.kernels, self._members, strict=True):
            prefix = f"{kernel}."
            part = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
            fresh = member.unfitted()
            fresh.load_state_dict(part, X, Y)
            members.append(fresh)
        self._members = tuple(members)
        self._log_weight, self._foretold = state["log_weight"].clone(), state["foretold"].clone()

    def diagnostics(self) -> dict[str, float]:
        """Return the diagnostics of the heaviest member, and of each kernel its weight and what it foretold.

        Keys: those of `ExactGP.diagnostics`, `weight_<kernel>`, and `foretold_nlpd_<kernel>` once a batch was.
        """
        heaviest = int(self.weights.argmax())
        found = self._members[heaviest].diagnostics()
        found = {key: value for key, value in found.items() if not key.startswith("weight_")}
        found |= {f"weight_{kernel}": w for kernel, w in zip(self.kernels, self.weights.tolist(), strict=True)}
        if len(self._foretold):
            scores = zip(self.kernels, self._foretold.tolist(), strict=True)
            found |= {f"foretold_nlpd_{kernel}": nlpd for kernel, nlpd in scores}
        return found


def _known(X: Tensor, Y: Tensor) -> Tensor | slice:
    """Return the rows of labels, `n x 1`, that are made use of, in their order: all of data that do not fit."""
    if len(Y) <= MAX_KNOWN or len(X) != len(Y):
        return slice(None)
    return best_and_spread((-Y.flatten()).argsort(stable=True), MAX_KNOWN)


def stacked_weights(log_density: Tensor, prior: Tensor, strength: float) -> Tensor:
    """Return the weights, `k`, of a mixture whose members give labels they did not see `log_density`, `k x n`.

    They maximise the mixture's log density, summed over the labels, plus `strength` x `prior` . log weights: the
    prior, `k`, counts as so many labels. The problem is concave, and each step of expectation maximisation climbs.
    """
    weights = prior.clone()
    for _ in range(_STEPS):
        share = (log_density + weights.log().unsqueeze(-1)).softmax(0)
        weights = (share.sum(1) + strength * prior) / (log_density.shape[1] + strength)
    return weights


def prior_weights(levels: int) -> dict[KernelName, float]:
    """Return the kernels that sequences start from, and their weights.

    In DNA and RNA what matters is mostly a motif that may stand anywhere; in larger alphabets, mostly which letter
    stands where. Both are tried from the first batch on, and what they foretell decides.
    """
    return {"additive": 0.1, "pairs": 0.9} if levels <= MOTIF_LEVELS else {"additive": 0.9, "pairs": 0.1}


def shares(weights: Sequence[float], n: int) -> list[int]:
    """Return `n` in whole numbers, in proportion to weights that sum to one: the largest remainders win."""
    wanted = [weight * n for weight in weights]
    counts = [math.floor(value) for value in wanted]
    by_remainder = sorted(range(len(wanted)), key=lambda i: (counts[i] - wanted[i], i))
    for i in by_remainder[: n - sum(counts)]:
        counts[i] += 1
    return counts
