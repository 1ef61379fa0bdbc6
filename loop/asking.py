"""What a person asks of a campaign: objects by any of their names, moments by words, the best that differ.

How the history is read belongs in `flowscout.db`.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flowscout.db import HISTORY_COLUMNS, AsOf, BestRow, HistoryFilter
from flowscout.errors import ConfigError, NotFoundError, ObjectError
from flowscout.loop.outside import inside
from flowscout.loop.workbench import Workbench

if TYPE_CHECKING:
    import pandas as pd

APART = 0.25
"""Without a distance of its own a diverse ranking keeps this share of the largest distance among the best."""

_NUMBERS = ("value", "sem", "acquisition", "log_reward", "log_prob", "predicted_mean", "predicted_sd")
"""Columns of the history that are numbers, and NaN where there is none, whatever rows were asked for."""

_SHARED = (
    "campaign", "object", "candidate_key", "property", "qualifier", "unit", "source", "row_id", "actor", "oracle",
    "oracle_version", "fidelity", "idempotency_key", "origin", "sampler", "surrogate", "config_sha256",
    "package_version", "git_commit", "prefect_run_id",
)  # fmt: skip
"""Columns whose texts stand in several columns (a key is often the object) or in many rows."""

_FEW = 100  # of the best are compared at first


def find_candidate(bench: Workbench, name: int | str) -> int:
    """Return the id of a candidate that is named by its id or in any way of writing its object.

    Raises:
        NotFoundError: there is none; the message names those near it.
    """
    ask, campaign_id = bench.history.queries.candidate, bench.campaign.id
    try:
        return ask(campaign_id, name)
    except NotFoundError:
        if isinstance(name, int):
            raise
        key = _key(bench, name)  # of the other strand, or of lower case
        if key is None or key == name:
            raise
    return ask(campaign_id, key)


def _key(bench: Workbench, name: str) -> str | None:
    """Return the key of an object; None where it is not in the space, or the space's own file is not here."""
    try:
        return bench.tools.rules.key(name)
    except (ObjectError, ConfigError):
        return None


def make_filter(
    bench: Workbench,
    *,
    round: int | None = None,  # noqa: A002
    property: str | None = None,  # noqa: A002
    origin: str | None = None,
    source: str | None = None,
    object: int | str | None = None,  # noqa: A002
    since: datetime | None = None,
    until: datetime | None = None,
    as_of: AsOf | None = None,
) -> HistoryFilter:
    """Return the filter that a person means.

    Raises:
        NotFoundError: the campaign has no such round, object or `seq`.
        QueryError: `as_of` says no moment, or a time has no zone.
    """
    return HistoryFilter(
        round=round,
        property=property,
        origin=origin,
        source=source,
        candidate_id=None if object is None else find_candidate(bench, object),
        since=since,
        until=until,
        upto_seq=cut_off(bench, as_of),
    )


def make_table(lists: Iterable[list[dict[str, Any]]]) -> "pd.DataFrame":
    """Return rows of the history as one table, with every column also where there is no row.

    A million rows of the full chain take 1 GB while the table is made: texts that rows share are kept once, and
    each column is made while the next still waits.
    """
    import numpy as np
    import pandas as pd

    cells: dict[str, list[Any]] = {name: [] for name in HISTORY_COLUMNS}
    kept: dict[str, str] = {}
    for rows in lists:
        for name, column in cells.items():
            if name in _SHARED:
                column.extend(None if row[name] is None else kept.setdefault(row[name], row[name]) for row in rows)
            else:
                column.extend(row[name] for row in rows)
    columns = {}
    for name in HISTORY_COLUMNS:
        column = cells.pop(name)
        columns[name] = pd.Series(np.array(column, dtype=np.float64) if name in _NUMBERS else column)
    return pd.DataFrame(columns, copy=False)


def cut_off(bench: Workbench, as_of: AsOf | None) -> int | None:
    """Return the last `seq` that was known at a moment; None for now."""
    return None if as_of is None else bench.history.queries.cut_off(bench.campaign.id, as_of)


def best_rows(
    bench: Workbench, k: int, *, diverse: bool = False, distance: float | None = None, as_of: AsOf | None = None
) -> list[BestRow]:
    """Return the best candidates as `Campaign.best` promises them."""
    if k < 1:
        raise ConfigError(f"the best {k} were asked for, expected 1 or more.")
    if distance is not None and not distance > 0:
        raise ConfigError(f"distance is {distance!r}, expected a positive number; leave it out for the default.")
    upto_seq = cut_off(bench, as_of)
    if not diverse and distance is None:
        return _ranked(bench, k, upto_seq)
    few = max(_FEW, 10 * k)
    while True:
        rows = _ranked(bench, few, upto_seq)
        chosen = _apart(bench, rows, k, distance)
        if len(chosen) == k or len(rows) < few:
            return [replace(row, rank=rank) for rank, row in enumerate(chosen, start=1)]
        few *= 8


def _ranked(bench: Workbench, k: int, upto_seq: int | None) -> list[BestRow]:
    objective, ask = bench.config.objective, bench.history.queries.best
    return ask(bench.campaign.id, objective.name, direction=objective.direction, k=k, upto_seq=upto_seq)


def _apart(bench: Workbench, rows: list[BestRow], k: int, distance: float | None) -> list[BestRow]:
    """Return the first `k` of the rows that are at least `distance` from every one before them that is taken."""
    known = set(inside(bench, [row.object for row in rows]))
    rows = [row for row in rows if row.object in known]
    if not rows:
        return []
    space: Any = bench.space
    states = space.parse([row.object for row in rows])
    if distance is None:
        wanted = bench.config.batch.distance
        distance = None if wanted == "auto" else wanted
    if distance is None:
        some = states[: max(_FEW, 10 * k)]
        distance = APART * float(space.distance(some, some).max())
    chosen: list[int] = []
    free = [True] * len(rows)
    for place in range(len(rows)):
        if not free[place] or len(chosen) == k:
            continue
        chosen.append(place)
        near = space.distance(states[place : place + 1], states).squeeze(0) < distance
        free = [one and not bool(close) for one, close in zip(free, near.tolist(), strict=True)]
    return [rows[place] for place in chosen]
