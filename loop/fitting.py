"""Fitting a round's surrogate: which one, to what, what the one before it foretold, and how it is had back.

What is then made of the belief belongs in `loop.beliefs`.
"""

import logging
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import torch

from flowscout.db import FitRecord, History, RoundRecord, TrainingSet
from flowscout.errors import FlowscoutError, StateError
from flowscout.loop.labels import Labels, fit_to, make_labels, rebuild
from flowscout.loop.outside import outside_features
from flowscout.loop.prequential import calibration_warning, foretold_scores, pooled_coverage
from flowscout.loop.seeds import derive_seed
from flowscout.loop.surrogate_choice import SurrogateChoice, choose_surrogate, make_surrogate, stored_choice
from flowscout.loop.workbench import Workbench, at_version
from flowscout.surrogates import AveragedGP, Surrogate

logger = logging.getLogger(__name__)

MIN_LABELS = 2
"""With fewer labels nothing can be learned, and the batch is drawn at random."""


REMEMBERED = 2
"""So many training sets are kept: a round reads its own and that of the fit before it, several times each."""

REMEMBERED_BYTES = 2**27
"""Labels with larger features, such as wide fingerprints of many molecules, are made anew each time."""


@dataclass
class _Read:
    """A training set, and the labels that versions of the campaign file make of it."""

    data: TrainingSet
    labels: dict[str, Labels] = field(default_factory=dict)


_read: "WeakKeyDictionary[History, dict[tuple[int, str, int], _Read]]" = WeakKeyDictionary()
"""By campaign, property and cut-off; what is known up to a cut-off never changes."""


def training_set(bench: Workbench, *, upto_seq: int | None = None) -> TrainingSet:
    """Return what is known of the objective up to a cut-off (default: now)."""
    kept = _read.setdefault(bench.history, {})
    campaign_id, name = bench.campaign.id, bench.config.objective.name
    found = None if upto_seq is None else kept.get((campaign_id, name, upto_seq))
    if found is not None:
        return found.data
    near = next((one.data for at, one in reversed(list(kept.items())) if at[:2] == (campaign_id, name)), None)
    data = bench.history.measurements.training_set(campaign_id, name, upto_seq=upto_seq, near=near)
    if (campaign_id, name, data.upto_seq) in kept:  # nothing has come since
        return kept[campaign_id, name, data.upto_seq].data
    kept[campaign_id, name, data.upto_seq] = _Read(data)
    while len(kept) > REMEMBERED:
        kept.pop(next(iter(kept)), None)
    return data


def labels_of(bench: Workbench, data: TrainingSet) -> Labels:
    """Return the labels of a training set on the scale that is learned; larger is better. They are shared."""
    read = (one for one in list(_read.get(bench.history, {}).values()) if one.data is data)
    kept = next((one.labels for one in read), {})
    found = kept.get(bench.version.sha256)
    if found is None:
        scale, outside = bench.scale, outside_features(bench, data)
        found = make_labels(bench.space, scale.learned(data), sign=scale.sign, outside=outside)
        if found.X.nbytes <= REMEMBERED_BYTES:
            kept[bench.version.sha256] = found
    return found


def fit_surrogate(bench: Workbench, record: RoundRecord) -> FitRecord:
    """Fit the surrogate of a round to everything measured so far; return what is to be stored of it.

    Its diagnostics hold the scores of the fit, and under `foretold_` those of the fit before it on what has been
    measured since; `pooled_coverage90` is over the latest rounds.
    """
    data = training_set(bench)
    empty = FitRecord(
        kind="none",
        seed=derive_seed(record.seed, "fit"),
        data_upto_seq=data.upto_seq,
        data_count=len(data.rows),
        data_sha256=data.sha256,
    )
    if len(data.rows) < MIN_LABELS:
        return empty
    choice = choose_surrogate(bench.config.surrogate, bench.space, n_labels=len(data.rows))
    surrogate = new_surrogate(bench, choice)
    parent, foretold = _foretold(bench, record, surrogate, data)
    fit_to(surrogate, labels_of(bench, data))
    diagnostics = surrogate.diagnostics() | foretold
    warning = calibration_warning(diagnostics)
    if warning is not None:
        logger.warning("campaign %s, round %d: %s", bench.campaign.name, record.number, warning)
    return replace(
        empty,
        kind=bench.config.surrogate.type[:50],  # as the column
        params=_explained(choice, surrogate).as_params() | {"versions": versions()},
        diagnostics=diagnostics,
        artefact=bench.artefacts.put(surrogate.state_dict(), kind="surrogate"),
        parent_id=None if parent is None else parent.id,
    )


def versions() -> dict[str, str]:
    """Return the versions that the numbers of a fit hang on."""
    return {"torch": str(torch.__version__)}


def new_surrogate(bench: Workbench, choice: SurrogateChoice) -> Surrogate:
    """Return the unfitted surrogate of a choice, for the campaign's space."""
    return make_surrogate(choice, bench.space, folder=bench.tools.folder)


def load_surrogate(bench: Workbench, fitted: FitRecord) -> Surrogate:
    """Return the surrogate as it was fitted, of the kind it was then, from its artefact and exactly its data.

    Raises: StateError if the history does not hold these data any more.
    """
    assert fitted.artefact is not None
    data = training_set(bench, upto_seq=fitted.data_upto_seq)
    if data.sha256 != fitted.data_sha256:
        raise StateError(
            f"the measurements up to seq {fitted.data_upto_seq} are not those that fit {fitted.id} saw "
            f"({len(data.rows)} rows now, {fitted.data_count} then); the history was changed by other means. "
            "Restore it from a backup."
        )
    surrogate = new_surrogate(bench, stored_choice(fitted.params, bench.config.surrogate))
    rebuild(surrogate, bench.artefacts.get(fitted.artefact), labels_of(bench, data))
    return surrogate


def _foretold(
    bench: Workbench, record: RoundRecord, surrogate: Surrogate, data: TrainingSet
) -> tuple[FitRecord | None, dict[str, float]]:
    """Score what the previous round's surrogate says of all that was measured since, and let the new one learn.

    Returns the fit that was asked, None if there is none, and the scores.
    """
    rounds = [one for one in bench.history.rounds.all(bench.campaign.id) if one.number < record.number]
    fits = [(one, fit) for one in rounds if (fit := bench.history.rounds.fit(one.id)) is not None]
    turn, previous = fits[-1] if fits else (record, None)
    if previous is None or previous.artefact is None:
        return None, {}
    known = {row.key for row in training_set(bench, upto_seq=previous.data_upto_seq).rows}
    fresh = replace(data, rows=tuple(row for row in data.rows if row.key not in known), bounded=())
    try:
        before = at_version(bench, turn.config_version_id)
        earlier = load_surrogate(before, previous)
        # As it would have seen them: the campaign file may name other features since, or the other direction.
        labels = labels_of(before, fresh) if fresh.rows else None
    except FlowscoutError as error:  # its file or its function is gone, or the catalogue is another
        logger.warning("the surrogate of an earlier round cannot be asked: %s", error)
        return None, {}
    if isinstance(surrogate, AveragedGP) and isinstance(earlier, AveragedGP):
        if labels is None:
            surrogate.take_weights(earlier)
        else:
            surrogate.foretell(earlier, labels.X, labels.Y)
    if labels is None:
        return None, {}
    scores = foretold_scores(
        earlier, labels.X, labels.Y, noise_sd=float(previous.diagnostics.get("noise_sd", 0.0))
    )
    return previous, scores | pooled_coverage([*(fit.diagnostics for _, fit in fits), scores])


def _explained(choice: SurrogateChoice, surrogate: Surrogate) -> SurrogateChoice:
    """Return the choice with the weights that kernels were given, and by what."""
    if not isinstance(surrogate, AveragedGP):
        return choice
    weights = zip(surrogate.kernels, surrogate.weights.tolist(), strict=True)
    shares = ", ".join(f"{kernel} {weight:.2f}" for kernel, weight in weights)
    return replace(choice, why=f"{choice.why}; kernels by {surrogate.weighed_by}: {shares}")
