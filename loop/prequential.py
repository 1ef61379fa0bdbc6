"""How well surrogates foretold what was measured afterwards: scored as it comes in, or read from the history.

What is done about a surrogate that foretells badly is decided by whoever reads it; what is drawn of it belongs
in the command line.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowscout.loop.scales import Scale
from flowscout.surrogates import PredictionScores, Surrogate, score_predictions

POOLED_ROUNDS = 4
"""Of how many rounds at least calibration is judged: a batch of 24 says nothing."""

WINDOW = 8
"""Of how many rounds at most: what a surrogate said of ten labels is no measure of it at a thousand."""

LEAST_COVERAGE = 0.75
"""Of 90% intervals. With 96 labels 0.9 is 0.9 +- 0.03; but a batch was chosen where the surrogate hoped for much,
so that some of what it lacks is that choice."""


@dataclass(frozen=True)
class Foretold:
    """One measured value and what was believed of it before: `sd` includes the noise of a measurement."""

    round: int
    object: str
    value: float
    mean: float
    sd: float


def foretold_scores(surrogate: Surrogate, X: Tensor, Y: Tensor, *, noise_sd: float) -> dict[str, float]:
    """Return scores of what a surrogate, which had not seen them, says of labels `Y`, `n x 1`, at `X`, `n x d`.

    Keys: foretold_n, foretold_rmse, foretold_r2, foretold_spearman, foretold_nlpd, foretold_coverage90; those
    that the labels do not define are left out. `noise_sd` is what a measurement adds.
    """
    mean, sd = surrogate.mean_sd(X)
    scores = score_predictions(mean, (sd.square() + noise_sd**2).sqrt(), Y.squeeze(-1))
    return {"foretold_n": float(scores.n)} | scores.as_dict("foretold_")


def pooled_coverage(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return `pooled_coverage90` and `pooled_rounds` over the latest `WINDOW` diagnostics that have scores.

    Empty where they are fewer than `POOLED_ROUNDS`. Each label counts alike.
    """
    scored = [one for one in rounds if "foretold_coverage90" in one][-WINDOW:]
    if len(scored) < POOLED_ROUNDS:
        return {}
    n = sum(one["foretold_n"] for one in scored)
    covered = sum(one["foretold_n"] * one["foretold_coverage90"] for one in scored)
    return {"pooled_coverage90": covered / n, "pooled_rounds": float(len(scored))}


def calibration_warning(diagnostics: Mapping[str, Any]) -> str | None:
    """Return what a round says of a surrogate whose intervals held too few labels, None where all is well."""
    coverage = diagnostics.get("pooled_coverage90")
    if coverage is None or coverage >= LEAST_COVERAGE:
        return None
    return (
        f"the surrogate is too sure of itself: over {diagnostics['pooled_rounds']:.0f} rounds its 90% intervals "
        f"held {coverage:.0%} of what was measured afterwards"
    )


def foretold(
    history: Sequence[Mapping[str, Any]],
    noise: Mapping[int, float],
    *,
    property: str,  # noqa: A002
    scale: Scale | None = None,
) -> list[Foretold]:
    """Return every exact value of a property that was predicted before it was measured, in the order told.

    Both are on the `scale` that is learned (default: that of the values); values that are not on it are left out.

    `history` holds rows of the view `history`. What a proposal stores is the sd of the value without noise;
    `noise` is what a measurement adds by the diagnostics of each round's surrogate, where they tell. Values
    superseded since are left out.
    """
    return [
        Foretold(
            round=row["round"],
            object=row["object"],
            value=row["value"] if scale is None else scale.value(row["value"]),
            mean=row["predicted_mean"],
            sd=math.hypot(row["predicted_sd"], noise.get(row["round"], 0.0)),
        )
        for row in history
        if row["property"] == property
        and row["value"] is not None
        and (scale is None or scale.transform == "none" or row["value"] > 0)
        and row["qualifier"] == "="
        and not row["superseded"]
        and row["round"] is not None
        and row["predicted_mean"] is not None
        and row["predicted_sd"]
    ]


def scores_of(values: Sequence[Foretold]) -> PredictionScores | None:
    """Return the scores of predictions made before their values were known, or None if there are none."""
    if not values:
        return None
    columns = [[getattr(one, name) for one in values] for name in ("mean", "sd", "value")]
    return score_predictions(*(torch.tensor(column, dtype=torch.float64) for column in columns))


def scores_by_round(values: Sequence[Foretold]) -> dict[int, PredictionScores]:
    """Return the scores of each round's batch, by the number of the round."""
    numbers = sorted({one.round for one in values})
    found = {number: scores_of([one for one in values if one.round == number]) for number in numbers}
    return {number: scores for number, scores in found.items() if scores is not None}
