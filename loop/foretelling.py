"""How well each round's surrogate foretold the batch of its round before that was measured (prequential).

It reads rows of the view `history`; what is drawn of them belongs in the command line.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flowscout.db import RoundRow
from flowscout.surrogates import PredictionScores, score_predictions


@dataclass(frozen=True)
class Foretold:
    """One measured value and what was believed of it before: `sd` includes the noise of a measurement."""

    round: int
    object: str
    value: float
    mean: float
    sd: float


def foretold(
    history: Sequence[Mapping[str, Any]],
    rounds: Sequence[RoundRow],
    *,
    property: str,  # noqa: A002
) -> list[Foretold]:
    """Return every exact value of a property that was predicted before it was measured, in the order told.

    `history` holds rows of the view `history`. What a proposal stores is the sd of the value without noise; the
    noise is that of the surrogate's diagnostics of the round. Values superseded since are left out.
    """
    noise = {row.number: float(row.surrogate.get("noise_sd", 0.0)) for row in rounds}
    return [
        Foretold(
            round=row["round"],
            object=row["object"],
            value=row["value"],
            mean=row["predicted_mean"],
            sd=math.hypot(row["predicted_sd"], noise.get(row["round"], 0.0)),
        )
        for row in history
        if row["property"] == property
        and row["value"] is not None
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
