"""What can be asked of a campaign: where it stands, what is known, and why. Nothing is written.

How a table of the history is read belongs in `loop.asking` and `db`.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flowscout.db import (
    Archived,
    AsOf,
    BudgetRecord,
    EventKind,
    Lineage,
    StatusRecord,
    WaitingRow,
)
from flowscout.errors import ConfigError
from flowscout.loop import asking
from flowscout.loop.workbench import Workbench

if TYPE_CHECKING:
    import pandas as pd

    from flowscout.loop.replay import Replay


class CampaignQuestions:
    """The part of `flowscout.Campaign` that answers questions."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    @property
    def name(self) -> str:
        """The campaign's name."""
        return self._bench.campaign.name

    @property
    def workbench(self) -> Workbench:
        """What the stages of `flowscout.loop.stages` take."""
        return self._bench

    def status(self) -> StatusRecord:
        """Return where the campaign stands."""
        objective = self._bench.config.objective
        return self._bench.history.queries.status(
            self._bench.campaign.id, objective.name, direction=objective.direction
        )

    def best(
        self, k: int = 10, *, diverse: bool = False, distance: float | None = None, as_of: AsOf | None = None
    ) -> "pd.DataFrame":
        """Return the `k` best candidates, with the round that proposed each (none: it was told).

        With `diverse`, or a `distance`, they are taken greedily by value, each at least `distance` from those
        taken, in the space's own distance. By default that is the campaign file's `batch.distance`, else a
        quarter of the largest distance among the best hundred (or ten times `k`). There are fewer than `k`
        where no others are that far apart; objects outside a catalogue are left out. `as_of` (see `history`)
        ranks by what was known then.

        Raises:
            ConfigError: `k` or the distance is not positive.
            NotFoundError, QueryError: `as_of` is no moment of the campaign.
        """
        import pandas as pd

        rows = asking.best_rows(self._bench, k, diverse=diverse, distance=distance, as_of=as_of)
        columns = ["rank", "candidate_id", "object", "value", "count", "round"]
        return pd.DataFrame([{c: getattr(row, c) for c in columns} for row in rows], columns=columns)

    def history(
        self,
        *,
        round: int | None = None,  # noqa: A002
        property: str | None = None,  # noqa: A002
        origin: str | None = None,
        source: str | None = None,
        object: int | str | None = None,  # noqa: A002
        since: datetime | None = None,
        until: datetime | None = None,
        as_of: AsOf | None = None,
    ) -> "pd.DataFrame":
        """Return one row for each measurement, in the order of `seq`, with its whole provenance.

        `since` and `until` are aware times, both included. `as_of` is a moment: `"round 7"` (what its
        surrogate saw), an aware time, a `seq` (or `"seq 120"`). What came later is not seen then, and a
        correction that came later corrects nothing.

        Raises:
            NotFoundError: the campaign has no such round, object or `seq`.
            QueryError: `as_of` says no moment, or a time has no zone.
        """
        wanted = asking.make_filter(
            self._bench, round=round, property=property, origin=origin, source=source, object=object,
            since=since, until=until, as_of=as_of,
        )  # fmt: skip
        return asking.make_table(self._bench.history.queries.iterate_history(self._bench.campaign.id, wanted))

    def lineage(self, candidate: int | str) -> Lineage:
        """Return everything that the history knows of a candidate, named by its object or its id.

        Its proposals with the fit, the sampler and the campaign file behind each; its evaluations and every
        attempt at them; its values with their corrections; the events that name it.

        Raises:
            NotFoundError: the campaign has no such candidate; the message names those near it.
        """
        return self._bench.history.queries.lineage(asking.find_candidate(self._bench, candidate))

    def pending(self) -> "pd.DataFrame":
        """Return what waits to be measured: since when, in which state, who runs it, the money held for it."""
        import pandas as pd

        rows = self._bench.history.queries.waiting(self._bench.campaign.id)
        return pd.DataFrame([asdict(row) for row in rows], columns=[one.name for one in fields(WaitingRow)])

    def conflicts(self) -> "pd.DataFrame":
        """Return the rows that have two values until `settle_conflict` is told which counts."""
        import pandas as pd

        found = self._bench.history.conflicts.open(self._bench.campaign.id)
        columns = ["id", "at", "object", "property", "source", "row_id", "stored", "came", "actor"]
        rows = [vars(one) | {"stored": str(one.stored), "came": str(one.came)} for one in found]
        return pd.DataFrame(rows, columns=columns)

    def budget(self) -> BudgetRecord:
        """Return the money: limit, reserved, spent, and of which round and oracle."""
        return self._bench.history.budgets.get(self._bench.campaign.id)

    def events(self, *, kind: str | Sequence[str] = (), since: datetime | None = None) -> "pd.DataFrame":
        """Return the log: id, at, kind, actor, round, detail; of one or several kinds, since a time.

        Raises:
            ConfigError: there is no such kind.
        """
        import pandas as pd

        kinds = [kind] if isinstance(kind, str) else list(kind)
        check_kinds(kinds)
        found = self._bench.history.events.read(self._bench.campaign.id, kinds=kinds, since=since)
        return pd.DataFrame([vars(one) for one in found], columns=["id", "at", "kind", "actor", "round", "detail"])

    def sql(self, statement: str, *, limit: int | None = None, timeout_s: float = 30.0) -> "pd.DataFrame":
        """Return what one SELECT of the tables or of the view `history` finds, at most `limit` rows.

        The database itself sees to it that nothing can be changed or reached. All campaigns of it are seen.

        Raises:
            QueryError: it is wrong, not one question, not allowed, or takes longer than `timeout_s`.
        """
        import pandas as pd

        found = self._bench.history.queries.sql(statement, limit=limit, timeout_s=timeout_s)
        return pd.DataFrame.from_records(list(found.rows), columns=list(found.columns))

    def export(self, to: str | Path) -> "int | Archived":
        """Write the measurements to a file (`.csv`, `.jsonl`, `.parquet`), else the whole history to a new folder.

        Returns how many rows were written, or what the folder holds.

        Raises:
            ConfigError: the file cannot be written, or the folder is there already.
        """
        from flowscout.loop.moving import export_whole

        path = Path(to)
        if path.suffix:
            return self._bench.history.export.measurements(self.name, path)
        return export_whole(self._bench.history, self.name, path)

    def export_plate(self, to: str | Path, size: int = 96, *, controls: Sequence[str] = ()) -> int:
        """Write plate maps (`.csv`, `.xlsx`) of what waits to be measured; return how many rows they have.

        Each of `controls` is NAME=OBJECT:WELLS, such as `positive=ACGT:A1-H1`. Fill the last columns and `tell`
        the file: in any order, any part of it, with further columns, which are kept as conditions.

        Raises:
            ConfigError: there is no plate of this size, a control does not fit, or the file cannot be written.
            StateError: nothing waits.
        """
        from flowscout.loop.tables.plate_maps import plate_rows, write_plate

        columns, rows = plate_rows(self._bench, size=size, controls=controls)
        write_plate(Path(to), columns, rows)
        return len(rows)

    def replay(self, number: int, *, tolerance: float = 0.0) -> "Replay":
        """Compute a past round again from its cut-off and seeds, and report every difference; write nothing.

        Raises:
            NotFoundError: there is no such round.
            StateError: nothing was fitted in it yet.
        """
        from flowscout.loop.replay import replay

        return replay(self._bench, number, tolerance=tolerance)


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse kinds of events that there are not.

    Raises:
        ConfigError: there is no such kind.
    """
    for kind in kinds:
        if kind not in tuple(EventKind):
            raise ConfigError(f"no events are of kind {kind!r}, expected one of {', '.join(EventKind)}.")
