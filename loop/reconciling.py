"""Reconciling: what a person says of calls of which nobody knew whether they happened.

Everything is checked before anything is written. What it changes belongs in `db.expiry`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowscout.db import MeasurementRecord, Ruling, UnknownRecord, Verdict
from flowscout.errors import ConfigError, LabelError, StateError
from flowscout.loop.measuring import source_of
from flowscout.loop.tables.telling import read_labels
from flowscout.loop.workbench import Workbench

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("object", "oracle", "attempt", "owner", "started_at", "reserved", "value", "message")


def unknown_rows(bench: Workbench) -> list[dict[str, Any]]:
    """Return the unknown calls of a campaign, one row for each; `value` is one that came too late."""
    wanted = bench.config.objective.name
    return [
        {
            "object": row.object,
            "oracle": row.oracle,
            "attempt": row.attempt,
            "owner": row.owner,
            "started_at": row.started_at,
            "reserved": row.reserved_minor / 100,
            "value": row.values.get(wanted),
            "message": row.message,
            "idempotent": row.idempotent,
            "idempotency_key": row.idempotency_key,
        }
        for row in bench.history.experiments.unknown(bench.campaign.id)
    ]


def rulings_of(
    bench: Workbench,
    *,
    done: "Mapping[str, float | None] | pd.DataFrame | str | Path | None",
    never: Sequence[str],
    retry: Sequence[str],
) -> list[Ruling]:
    """Return what is said of unknown calls as rulings.

    Raises:
        StateError: an object has no unknown call.
        ConfigError: an object comes twice.
        LabelError: a value is no finite number, or none is known.
        ObjectError: an object is not in the space.
    """
    unknown: dict[str, UnknownRecord] = {}
    for row in bench.history.experiments.unknown(bench.campaign.id):
        unknown.setdefault(row.key, row)  # of several replicates the first
    rulings: dict[str, Ruling] = {}

    def find(text: str) -> UnknownRecord:
        key = bench.tools.rules.key(text)
        if key not in unknown:
            raise StateError(
                f"no call for {text!r} is unknown, expected one of {_some(unknown)}; nothing was written. "
                "`flowscout reconcile FILE` lists them."
            )
        if key in rulings:
            raise ConfigError(f"{text!r} comes more than once, expected once; nothing was written. Say one thing.")
        return unknown[key]

    for text, measurements in _values(bench, done, find).items():
        row = find(text)
        rulings[row.key] = Ruling(row.evaluation_id, Verdict.DONE, measurements, attempt=row.attempt)
    for verdict, texts in ((Verdict.NEVER, never), (Verdict.RETRY, retry)):
        for text in [texts] if isinstance(texts, str) else texts:
            row = find(text)
            rulings[row.key] = Ruling(row.evaluation_id, verdict, attempt=row.attempt)
    return list(rulings.values())


def _values(bench: Workbench, done: Any, find: Any) -> dict[str, list[MeasurementRecord]]:
    """Return the measurements that are told of unknown calls, by object.

    They are rows of the oracle's call, so that its own answer, should it come after all, is found to be the same.
    """
    if done is None:
        return {}
    if not isinstance(done, Mapping):
        rules, folder = bench.tools.rules, Path(bench.version.folder)
        told: dict[str, list[MeasurementRecord]] = {}
        for record in read_labels(done, bench.config, folder=folder, rules=rules).records:
            told.setdefault(record.object, []).append(_of_call(record, find(record.object)))
        return told
    found = {}
    for text, value in done.items():
        row, prop = find(text), bench.config.objective.name
        value = row.values.get(prop) if value is None else value
        if value is None or not isfinite(value):
            raise LabelError(
                f"{text!r} is to be done with value {value!r}, expected a finite number: none came late either; "
                "nothing was written. Give the value that was measured."
            )
        without_place = bench.scale.refusal(value)
        if without_place is not None:
            raise LabelError(f"{text!r} is to be done with value {value:g}, {without_place}; nothing was written.")
        record = MeasurementRecord(row.key, row.object, prop, value, source="", row_id="")
        found[text] = [_of_call(record, row)]
    return found


def _of_call(record: MeasurementRecord, row: UnknownRecord) -> MeasurementRecord:
    return replace(record, object=row.object, source=source_of(row.oracle), row_id=row.idempotency_key)


def _some(unknown: Mapping[str, UnknownRecord]) -> str:
    names = [repr(row.object) for row in unknown.values()]
    return (
        ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none: none is unknown"
    )
