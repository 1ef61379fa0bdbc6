"""What a person asks of a campaign: objects by any of their names, moments by words, the best that differ.

How the history is read belongs in `flowscout.db`.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

from flowscout.db import AsOf, BestRow, HistoryFilter
from flowscout.errors import ConfigError, NotFoundError, ObjectError
from flowscout.loop.outside import inside
from flowscout.loop.workbench import Workbench

APART = 0.25
"""Without a distance of its own a diverse ranking keeps this share of the largest distance among the best."""

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
        distance = bench.config.batch.distance
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
