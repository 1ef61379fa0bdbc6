"""What a surrogate asks of the tensors it is given, and the scale on which it learns.

What a surrogate does with them belongs in its own module.
"""

import torch
from torch import Tensor

from flowscout.errors import ConfigError, FlowscoutError, LabelError, ShapeError


def check_features(X: Tensor, width: int | None = None) -> None:
    """Check that `X` is `n x d` in float64 and finite, with at least one row; `width` is the `d` expected.

    Raises: ShapeError.
    """
    if X.ndim != 2 or X.dtype != torch.float64 or X.shape[1] == 0 or (width is not None and X.shape[1] != width):
        raise ShapeError(
            f"X has shape {tuple(X.shape)} and dtype {X.dtype}, expected n x {width or 'd'} features in "
            "torch.float64. Convert with X.to(torch.float64); one object is a single row, X.unsqueeze(0)."
        )
    if X.shape[0] == 0:
        raise ShapeError(f"X has shape {tuple(X.shape)}, expected at least one row. Leave empty calls out.")
    bad = (~X.isfinite()).nonzero()
    if bad.numel():
        row, column = bad[0].tolist()
        raise ShapeError(
            f"X holds {X[row, column].item()!r} at row {row}, column {column}, expected finite features. "
            "Leave objects that cannot be described out of the call, or fill the gap in space.features."
        )


def check_codes(X: Tensor, levels: int, width: int | None = None) -> None:
    """Check that `X`, `n x d` in float64, holds the codes 0 to `levels - 1`.

    Raises: ShapeError.
    """
    check_features(X, width)
    bad = (X.floor().clamp(0, levels - 1) != X).nonzero()
    if bad.numel():
        row, column = bad[0].tolist()
        raise ShapeError(
            f"X holds {X[row, column].item():g} at row {row}, column {column}, expected category codes from 0 "
            f"to {levels - 1}. Encode letters by their place in the alphabet, or raise levels={levels}."
        )


def check_inputs(X: Tensor, levels: int | None, width: int | None = None) -> None:
    """Check codes where `levels` is given, features otherwise.

    Raises: ShapeError.
    """
    if levels is None:
        check_features(X, width)
    else:
        check_codes(X, levels, width)


def check_labels(X: Tensor, Y: Tensor) -> Tensor:
    """Return the labels as a vector, `n`, once `Y` is `n x 1` for the `n` rows of `X`.

    Raises: ShapeError; LabelError, naming the row, for a label that is not finite.
    """
    if Y.shape != (X.shape[0], 1) or Y.dtype != torch.float64:
        raise ShapeError(
            f"Y has shape {tuple(Y.shape)} and dtype {Y.dtype}, expected ({X.shape[0]}, 1) in torch.float64: "
            "one row per row of X, one column per property. A vector becomes a column by Y.unsqueeze(-1)."
        )
    bad = (~Y.isfinite()).nonzero()
    if bad.numel():
        row = int(bad[0, 0].item())
        raise LabelError(
            f"label {Y[row, 0].item()!r} at row {row}, expected a finite number. "
            "Record a failed measurement as missing and leave its row out of the training set."
        )
    return Y.squeeze(-1).clone()


def label_scale(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and sd that standardise `labels`, `n`; sd 1 where they are constant to rounding.

    Raises: LabelError if the variance overflows.
    """
    mean = labels.mean()
    sd = (labels - mean).square().mean().sqrt()
    if not bool(sd.isfinite()):
        raise LabelError(
            f"labels between {labels.min().item():.3g} and {labels.max().item():.3g} overflow when their "
            "variance is taken, expected magnitudes under 1e150. Rescale them, or use their logarithms."
        )
    if sd <= 1e-13 * labels.abs().max():
        return labels[0].clone(), torch.ones_like(sd)
    return mean, sd


def check_state(state: dict[str, Tensor], n_labels: int, required: set[str], owner: str) -> None:
    """Check that `state` has the `required` keys beside `n_labels`, and was fitted to `n_labels` labels.

    Raises: ShapeError.
    """
    missing = (required | {"n_labels"}) - state.keys()
    if missing:
        raise ShapeError(
            f"the state has no {', '.join(sorted(missing))}, expected the state_dict() of {owner} made with the "
            "same options. Refit, or load the artefact of this surrogate."
        )
    if int(state["n_labels"].item()) != n_labels:
        raise ShapeError(
            f"the state was fitted to {int(state['n_labels'].item())} labels and {n_labels} came, expected "
            "the same rows. Take exactly the rows with seq <= the fit's data_upto_seq."
        )


def check_shape(name: str, found: Tensor, expected: Tensor) -> None:
    """Check that a stored tensor has the shape of the one it replaces.

    Raises: ShapeError.
    """
    if found.shape != expected.shape:
        raise ShapeError(
            f"the state's {name} has shape {tuple(found.shape)}, expected {tuple(expected.shape)}. "
            "Load it with the data and the options of its fit."
        )


def check_levels(levels: int | None, least: int = 2) -> None:
    """Check an option that counts categories.

    Raises: ConfigError.
    """
    if levels is not None and levels < least:
        raise ConfigError(
            f"levels is {levels!r}, expected the number of categories, at least {least}. "
            "Pass the length of the alphabet, or leave it out for features that are numbers."
        )


def not_fitted() -> FlowscoutError:
    """Return the error of a prediction that was asked for before there were labels."""
    return FlowscoutError(
        "the surrogate holds no labels, expected a fit before a prediction. "
        "Call fit(X, Y) or load_state_dict(state, X, Y) first."
    )


def one_hot(X: Tensor, levels: int) -> Tensor:
    """Return indicators, `n x (d levels)`, of codes `n x d`, in the codes' own dtype."""
    places = torch.arange(levels, dtype=X.dtype, device=X.device)
    return (X.unsqueeze(-1) == places).to(X.dtype).flatten(-2)
