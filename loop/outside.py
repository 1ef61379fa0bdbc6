"""Objects that were told and are not in the space: they train the surrogate and are never proposed.

Those of no catalogue have features, kept with their measurements; sequences that break a rule have their letters.
How either is read from a table belongs in `loop.tables.telling`.
"""

from collections.abc import Iterable, Sequence

from flowscout.db import MeasurementRecord, TrainingSet
from flowscout.errors import LabelError, ObjectError
from flowscout.loop.spaces.listing import Listing
from flowscout.loop.workbench import Workbench

FEATURES = "features"
"""Under this name the conditions of a measurement hold the features of an object outside the catalogue."""


def inside(bench: Workbench, texts: Iterable[str]) -> list[str]:
    """Return those of the objects that are in the campaign's space, in their order."""
    rules = bench.tools.rules
    if isinstance(rules, Listing):
        return [text for text in texts if text in rules]
    return [text for text in texts if rules.validate(text) is None] if rules.ruled else list(texts)


def known_key(bench: Workbench, text: str) -> str:
    """Return the key of an object that is known: in the space, or outside it.

    Raises:
        ObjectError: it is a sequence of other letters or of another length than those of the space.
    """
    rules = bench.tools.rules
    if not isinstance(rules, Listing):
        return rules.told(text)[0]
    return rules.key(text) if text in rules else text.strip()


def codes_outside(bench: Workbench, texts: Iterable[str]) -> dict[str, Sequence[float]]:
    """Return the codes of the letters of those sequences that are not in the space, by their texts."""
    rules = bench.tools.rules
    if isinstance(rules, Listing) or not rules.ruled:
        return {}
    strange = [text for text in texts if rules.validate(text) is not None]
    return {text: [float(rules.letters.index(letter)) for letter in rules.normalise(text)] for text in strange}


def outside_features(bench: Workbench, data: TrainingSet) -> dict[str, Sequence[float]]:
    """Return the features of the objects of a training set that are not in the space, by their names.

    Raises:
        ObjectError: an object was told without the features that the catalogue has.
    """
    rules = bench.tools.rules
    if not isinstance(rules, Listing):
        return codes_outside(bench, [row.object for row in data.rows] + [row.object for row in data.bounded])
    known = [row.key for row in data.rows] + [row.key for row in data.bounded]
    keys = [key for key in known if key not in rules]
    told = bench.history.measurements.as_run(bench.campaign.id, keys)
    found: dict[str, Sequence[float]] = {}
    for key in keys:
        features = told.get(key, {}).get(FEATURES, {})
        missing = [column for column in rules.columns if column not in features]
        if missing:
            raise ObjectError(
                f"{key!r} was measured, but is not in the catalogue and was told without its {missing[0]!r}, "
                f"expected the features {', '.join(rules.columns)} of every measured object. Put its row back "
                "into the catalogue."
            )
        found[key] = [features[column] for column in rules.columns]
    return found


def check_features(bench: Workbench, records: Sequence[MeasurementRecord]) -> None:
    """Refuse features that contradict those that the same object was told with before.

    Raises:
        LabelError: they do.
    """
    came = {
        record.key: record.as_run[FEATURES] for record in records if record.as_run and FEATURES in record.as_run
    }
    told = bench.history.measurements.as_run(bench.campaign.id, list(came))
    for key, features in came.items():
        before = told.get(key, {}).get(FEATURES, features)
        changed = [column for column, value in features.items() if before.get(column, value) != value]
        if changed:
            raise LabelError(
                f"{key!r} came with {changed[0]} = {features[changed[0]]!r}, but was told with "
                f"{before[changed[0]]!r} before, expected one object to have one set of features; nothing was "
                "written. Mend the table, or give the object a name of its own."
            )
