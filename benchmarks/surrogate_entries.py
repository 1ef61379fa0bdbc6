"""What `benchmarks/surrogates.py` compares: our surrogates, what `auto` makes of the data, BoTorch's, a forest.

Where the data come from, and what is measured, belongs elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from botorch.models import MixedSingleTaskGP, SingleTaskGP
from botorch.models.model import Model
from torch import Tensor

from flowscout.loop.config import SurrogateSection
from flowscout.loop.spaces import CatalogueSpace, SequenceSpace
from flowscout.loop.surrogate_choice import choose_surrogate, make_surrogate
from flowscout.surrogates import (
    SVGP,
    BotorchSurrogate,
    DeepEnsemble,
    ExactGP,
    PairwiseLinear,
    Surrogate,
    numeric_surrogate,
)
from flowscout.surrogates.kernels import KernelName

MAX_EXACT = 5_000
LEVELS, LENGTH = 4, 8

Predictor = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps `X`, `Y` and new `X` to the mean and the sd of new measurements, `n` and `n`."""


@dataclass(frozen=True)
class Entry:
    """A surrogate under test; `max_labels` bounds what is asked of it."""

    predict: Predictor
    max_labels: int | None = None


def by_surrogate(make: Callable[[], Surrogate]) -> Predictor:
    """Return the predictor of a Flowscout surrogate, its noise taken from its diagnostics."""

    def predict(X: Tensor, Y: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        surrogate = make()
        surrogate.fit(X, Y)
        mean, sd = surrogate.mean_sd(new)
        return mean, (sd.square() + surrogate.diagnostics()["noise_sd"] ** 2).sqrt()

    return predict


def by_auto(space_of: Callable[[Tensor], SequenceSpace | CatalogueSpace]) -> Predictor:
    """Return the predictor of what `surrogate: auto` makes of a campaign's first fit."""

    def predict(X: Tensor, Y: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        space = space_of(X)
        choice = choose_surrogate(SurrogateSection(), space, n_labels=len(X))
        return by_surrogate(lambda: make_surrogate(choice, space, folder=Path()))(X, Y, new)

    return predict


def exact(kernel: KernelName) -> Entry:
    """Return our exact GP with a kernel on codes."""
    return Entry(by_surrogate(lambda: ExactGP(kernel=kernel, levels=LEVELS)), MAX_EXACT)


def single_task_gp(X: Tensor, Y: Tensor) -> Model:
    """Return BoTorch's default GP, on numbers that it is given as they are."""
    return SingleTaskGP(X, Y)


def mixed_single_task_gp(X: Tensor, Y: Tensor) -> Model:
    """Return BoTorch's GP of categories on codes."""
    return MixedSingleTaskGP(X, Y, cat_dims=list(range(X.shape[-1])))


def on_indicators(predict: Predictor) -> Predictor:
    """Return a predictor that is given indicators of letters in place of codes."""

    def indicators(X: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(X.long(), LEVELS).flatten(1).double()

    return lambda X, Y, new: predict(indicators(X), Y, indicators(new))


def random_forest(X: Tensor, Y: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Predict by scikit-learn's forest: mean and spread of its trees, and what out-of-bag errors exceed it by."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(n_estimators=200, oob_score=True, random_state=0, n_jobs=1)
    forest.fit(X.numpy(), Y.squeeze(-1).numpy())

    def trees(points: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(tree.predict(points.numpy())) for tree in forest.estimators_])

    spread = trees(new)
    errors = Y.squeeze(-1) - torch.from_numpy(forest.oob_prediction_)
    noise = (errors.square().mean() - spread.var(0).mean()).clamp_min(1e-4 * Y.var())
    return spread.mean(0), (spread.var(0) + noise).sqrt()


def reverse_complement(X: Tensor) -> Tensor:
    """Return the codes of the other strand."""
    return (LEVELS - 1) - X.flip(-1)


def catalogue(X: Tensor) -> CatalogueSpace:
    """Return the catalogue of fingerprints that `auto` is asked about; which objects it has decides nothing."""
    return CatalogueSpace([str(row) for row in range(len(X))], X, metric="tanimoto")


SEQUENCES: dict[str, Entry] = {
    "auto": Entry(by_auto(lambda _: SequenceSpace("dna", LENGTH))),
    "auto-two-strands": Entry(by_auto(lambda _: SequenceSpace("dna", LENGTH, strand="double"))),
    "gp": exact("product"),
    "gp-additive": exact("additive"),
    "gp-pairs": exact("pairs"),
    "gp-mixture": exact("mixture"),
    "gp-two-strands": Entry(by_surrogate(lambda: ExactGP(symmetry=reverse_complement)), MAX_EXACT),
    "svgp": Entry(by_surrogate(lambda: SVGP(levels=LEVELS))),
    "ensemble": Entry(by_surrogate(lambda: DeepEnsemble(levels=LEVELS))),
    "linear": Entry(by_surrogate(lambda: PairwiseLinear(levels=LEVELS))),
    "botorch-single": Entry(on_indicators(by_surrogate(lambda: BotorchSurrogate(single_task_gp))), MAX_EXACT),
    "botorch-mixed": Entry(by_surrogate(lambda: BotorchSurrogate(mixed_single_task_gp)), MAX_EXACT),
    "forest": Entry(on_indicators(random_forest)),
}
"""What sequences are predicted by; a new surrogate is one more line."""

FINGERPRINTS: dict[str, Entry] = {
    "auto": Entry(by_auto(catalogue)),
    "gp-tanimoto": Entry(by_surrogate(lambda: numeric_surrogate("tanimoto")), MAX_EXACT),
    "gp-matern": Entry(by_surrogate(lambda: numeric_surrogate("matern")), MAX_EXACT),
    "gp-rbf": Entry(by_surrogate(lambda: numeric_surrogate("rbf")), MAX_EXACT),
    "svgp": Entry(by_surrogate(SVGP)),
    "ensemble": Entry(by_surrogate(DeepEnsemble)),
    "botorch-single": Entry(by_surrogate(lambda: BotorchSurrogate(single_task_gp)), MAX_EXACT),
    "forest": Entry(random_forest),
}
"""What molecules are predicted by, from counts of their fragments."""
