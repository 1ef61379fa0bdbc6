"""How well surrogates foretold what was measured afterwards, round by round, and pooled.

What is done about a surrogate that foretells badly is decided by whoever reads it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from flowscout.surrogates import Surrogate, score_predictions

POOLED_ROUNDS = 4
"""Of how many rounds at least calibration is judged: a batch of 24 says nothing."""

WINDOW = 8
"""Of how many rounds at most: what a surrogate said of ten labels is no measure of it at a thousand."""

LEAST_COVERAGE = 0.75
"""Of 90% intervals. With 96 labels 0.9 is 0.9 +- 0.03; but a batch was chosen where the surrogate hoped for much,
so that some of what it lacks is that choice."""


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
