"""Export of the view `history` to a file: one row for each measurement, for people and their notebooks.

The whole history, which can be imported again, belongs in `archive.py`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Boolean, text

from flowscout.db.database import Database
from flowscout.db.models.base import UtcDateTime
from flowscout.db.rowfiles import BATCH, Kind, check_format, whole_file, write_rows

_NUMBERS = ("value", "sem", "acquisition", "log_reward", "log_prob", "predicted_mean", "predicted_sd")
_COUNTS = (
    "seq",
    "measurement_id",
    "round",
    "candidate_id",
    "n",
    "supersedes_id",
    "replicate",
    "attempt",
    "cost_minor",
    "rank",
    "sampler_run_id",
    "model_fit_id",
    "data_upto_seq",
)


class Export:
    """Files made of a history."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def measurements(self, campaign: str, path: Path) -> int:
        """Write the campaign's rows of the view `history` by the ending of `path`; return how many.

        In CSV a text that a spreadsheet would run as a formula stands behind an apostrophe. The rows are one
        snapshot; the file is written whole or not at all; memory holds a few thousand rows.

        Raises:
            ConfigError: the ending is none of `.jsonl`, `.csv` and `.parquet`, or the file cannot be written.
        """
        form = check_format(path)
        with self._database.read() as session, whole_file(path) as temporary:
            query = text("SELECT * FROM history WHERE campaign = :campaign ORDER BY seq")
            types = query.columns(measured_at=UtcDateTime(), superseded=Boolean())
            found = session.execute(types, {"campaign": campaign}, execution_options={"yield_per": BATCH})
            kinds = {name: kind_of(name) for name in found.keys()}  # noqa: SIM118 - a result is no dictionary
            return write_rows(temporary, kinds, _rows(found), form=form)


def kind_of(column: str) -> Kind:
    """Return what a column of the view `history` holds."""
    if column in _NUMBERS:
        return "float"
    if column in _COUNTS:
        return "int"
    return {"measured_at": "time", "superseded": "bool", "as_run": "json"}.get(column, "text")  # type: ignore[return-value]


def _rows(found: Any) -> Iterator[dict[str, Any]]:
    for row in found.mappings():
        made = dict(row)
        conditions = made.pop("as_run", None)
        if conditions is not None:  # SQLite keeps JSON as text
            made["as_run"] = json.loads(conditions) if isinstance(conditions, str) else conditions
        yield made
