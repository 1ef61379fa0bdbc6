"""Which surrogate a campaign file means, and why: from a section to a choice, from a choice to a surrogate.

What a surrogate is fitted to belongs in `loop.labels`; when, in `loop.fitting`.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flowscout.errors import ConfigError, OracleImportError
from flowscout.loop.config import SurrogateSection
from flowscout.loop.oracles.function import import_function
from flowscout.loop.spaces import CatalogueSpace, SequenceSpace
from flowscout.surrogates import (
    SVGP,
    AveragedGP,
    BotorchSurrogate,
    CanonicalSurrogate,
    DeepEnsemble,
    ExactGP,
    PairwiseLinear,
    Surrogate,
    numeric_surrogate,
    prior_weights,
)
from flowscout.surrogates.kernels import KernelName

MAX_AVERAGED = 8_000
"""Up to how many labels `auto` averages exact GPs. On RNA of 14 letters with 5,000 labels they find better objects
from 2,000 of them than an ensemble from all; with 10,000 random labels the ensemble predicts better."""

MAX_EXACT = 5_000
"""Exact GPs are refused beyond: their memory is the square of it, their time the cube."""

AVERAGED = "averaged gp"

MATERN, TANIMOTO = "matern gp", "tanimoto gp"
"""Exact GPs of BoTorch on the numbers of a catalogue."""

_EXACT = ("gp", AVERAGED)

_SURROGATE = ("fit", "posterior", "mean_sd", "sample", "state_dict", "load_state_dict", "diagnostics")


@dataclass(frozen=True)
class SurrogateChoice:
    """A surrogate by `name` (a type of the campaign file, or `averaged gp`) and why it is this one."""

    name: str
    why: str
    kernel: KernelName | None = None

    def as_params(self) -> dict[str, Any]:
        """Return what is stored with a fit."""
        found = {"surrogate": self.name, "why": self.why}
        return found if self.kernel is None else found | {"kernel": self.kernel}


def choose_surrogate(
    section: SurrogateSection, space: SequenceSpace | CatalogueSpace, *, n_labels: int
) -> SurrogateChoice:
    """Return what the section means for `n_labels` labels of objects of `space`.

    Raises: ConfigError for an exact GP of too many labels.
    """
    if isinstance(space, CatalogueSpace):
        known = f"features are numbers, alike by the metric {space.metric}"
        if n_labels > MAX_EXACT:
            why = f"{known}; {n_labels:,} labels are more than the {MAX_EXACT:,} of exact Gaussian processes"
            return SurrogateChoice("ensemble", why)
        return SurrogateChoice(TANIMOTO if space.metric == "tanimoto" else MATERN, known)
    if section.type == "gp" and n_labels > MAX_EXACT:
        raise ConfigError(
            f"surrogate.type is 'gp' and there are {n_labels:,} labels, expected at most {MAX_EXACT:,} for an "
            "exact Gaussian process. Set surrogate.type to auto, ensemble or svgp."
        )
    if section.type == "gp":
        return SurrogateChoice("gp", "as the campaign file says", section.kernel)
    if section.type != "auto":
        return SurrogateChoice(section.type, "as the campaign file says")
    known = f"{n_labels:,} labels, {len(space.rules.letters)} letters"
    if n_labels <= MAX_AVERAGED:
        return SurrogateChoice(AVERAGED, f"{known}: exact Gaussian processes up to {MAX_AVERAGED:,} labels")
    return SurrogateChoice("ensemble", f"{known}: more than the {MAX_AVERAGED:,} of exact Gaussian processes")


def stored_choice(params: Mapping[str, Any], section: SurrogateSection) -> SurrogateChoice:
    """Return the choice that a fit was made with; fits of old that store none are of the section's type."""
    if "surrogate" not in params:
        name = AVERAGED if section.type == "auto" else section.type
        return SurrogateChoice(name, "not stored", section.kernel if name == "gp" else None)
    return SurrogateChoice(params["surrogate"], params["why"], params.get("kernel"))


def make_surrogate(choice: SurrogateChoice, space: SequenceSpace | CatalogueSpace, *, folder: Path) -> Surrogate:
    """Return the unfitted surrogate of a choice; `folder` is where a user's own functions are looked for first.

    Raises: ConfigError for a function that is not there, or makes no surrogate.
    """
    if isinstance(space, CatalogueSpace):
        if choice.name == "ensemble":
            return DeepEnsemble()
        return numeric_surrogate("tanimoto" if choice.name == TANIMOTO else "matern")
    levels, symmetry = len(space.rules.letters), space.symmetry
    if choice.name in _EXACT:
        if choice.name == AVERAGED:
            return AveragedGP(prior_weights(levels), levels=levels, symmetry=symmetry)
        return ExactGP(kernel=choice.kernel or "product", levels=levels, symmetry=symmetry)
    makers: dict[str, Callable[[], Surrogate]] = {
        "linear": lambda: PairwiseLinear(levels=levels),
        "ensemble": lambda: DeepEnsemble(levels=levels),
        "svgp": lambda: SVGP(levels=levels),
    }
    maker = makers.get(choice.name)
    surrogate = _own(choice.name, space, folder) if maker is None else maker()
    return surrogate if symmetry is None else CanonicalSurrogate(surrogate, symmetry)


def _own(name: str, space: SequenceSpace, folder: Path) -> Surrogate:
    """Return what a user's function makes: a surrogate of the space, or a BoTorch model of features and labels."""
    try:
        function = import_function(name, folder=folder)
    except OracleImportError as error:
        raise ConfigError(f"surrogate.type names a function that cannot be had: {error}") from error
    required = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) == 2:
        return BotorchSurrogate(function)
    made = function(*[space][: len(required)])
    missing = [m for m in _SURROGATE if not hasattr(made, m)]
    if missing:
        raise ConfigError(
            f"{name} made a {type(made).__name__} without {', '.join(missing)}, expected a surrogate (fit, "
            "posterior, mean_sd, sample, state_dict, load_state_dict, diagnostics). Let it take the space and "
            "return one, or take features and labels, (X, Y), and return a BoTorch model."
        )
    return cast("Surrogate", made)
