"""What a person tells a campaign: results, what is wrong about them, what became of calls, how much may be spent.

How a table is read belongs in `loop.tables.telling`; how facts are stored, in `db`.
"""

import getpass
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowscout.db import Imported, Keep, Told
from flowscout.errors import CampaignBusyError, ConfigError
from flowscout.loop.campaign_questions import CampaignQuestions
from flowscout.loop.due import announce_due
from flowscout.loop.gates import completable
from flowscout.loop.notices import deliver, deliver_quietly
from flowscout.loop.outside import check_features, known_key
from flowscout.loop.reconciling import COLUMNS, rulings_of, unknown_rows
from flowscout.loop.tables.telling import read_labels
from flowscout.loop.workbench import Workbench, hold_campaign

if TYPE_CHECKING:
    import pandas as pd


class CampaignResults(CampaignQuestions):
    """The part of `flowscout.Campaign` that is told things."""

    def tell(
        self,
        data: "pd.DataFrame | Sequence[Mapping[str, Any]] | str | Path",
        *,
        source: str | None = None,
        actor: str | None = None,
        correct: bool = False,
        reason: str | None = None,
        sheet: str | None = None,
    ) -> Told:
        """Record measured values: all rows, or none. Telling the same again changes nothing.

        `data` is a table, the path of a CSV, Excel or JSON lines file (`sheet` names one of several in a
        workbook), or a list of rows such as `{"object": "ACGT", "y": 0.5}`: the objects in a column `object` or
        `sequence`, the values in columns named like the objective and the further `properties` of the campaign
        file; empty cells say nothing yet. Beside a property NAME may stand NAME_sem (standard error), NAME_n (how
        many readings the value is a mean of), NAME_qualifier (`<`, `>`, `missing`, `infeasible`, `retracted`) and
        NAME_unit, which must be the campaign's. Columns `as_run_X` hold conditions. `row_id`, where there is one,
        identifies the rows of a `source` (default: the file's name), else plate and `well`, else object and
        `replicate`, else content and occurrence. With `correct` and a `reason` rows that are stored with another
        value are superseded. An object that is in no catalogue may be told where the table has all of the
        catalogue's features: it is learned from and never proposed. In the sheet of a plate (with a column `well`)
        wells with a `control` are no candidates, and unknown columns are conditions.

        Raises:
            TableError: rows are wrong, each of which it names: a value is not a finite number, an object is not in
                the space and its features did not come.
            LabelError: the table cannot be read, a column is missing, or a stored row has another value.
            ConfigError: a correction came without a reason.
        """
        bench = self._bench
        why = check_reason(reason, what="correction") if correct else None
        folder, rules = Path(bench.version.folder), bench.tools.rules
        found = read_labels(
            data, bench.config, folder=folder, source=source, rules=rules, correct=correct, sheet=sheet
        )
        check_features(bench, found.records)
        told = bench.history.measurements.add(
            bench.campaign.id, found.records, actor=actor or user_name(), correct=why
        )
        self._complete_if_possible()
        return replace(
            told, empty=found.empty, unread=found.unread, conditions=found.conditions, controls=found.controls
        )

    def import_table(self, table: str | Path, *, source: str | None = None, actor: str | None = None) -> Imported:
        """Record the results of a large table (`.csv`, `.jsonl`, `.parquet`) in bulk, all rows checked first.

        Its columns are those of `tell`, or one value a row: object, property, value and, where there are any,
        qualifier, sem, n, unit, source and row_id. The same table again changes nothing.

        Raises:
            LabelError: the table cannot be read, or a row contradicts what is stored.
            ObjectError: an object is not in the space.
        """
        from flowscout.loop.tables.importing import import_table

        done = import_table(self._bench, Path(table), source=source, actor=actor or user_name())
        self._complete_if_possible()
        return done

    def retract(
        self,
        obj: str | None = None,
        *,
        source: str | None = None,
        row_id: str | None = None,
        reason: str,
        actor: str | None = None,
    ) -> int:
        """Take back all values of an object, or those of one row of a source; return how many were taken back.

        Nothing is deleted: what was fitted before is still known to have seen them. The same again changes
        nothing. An object of which every value was taken back may be proposed again.

        Raises:
            ConfigError: neither an object nor a row came, or no reason.
            NotFoundError: no value of it is stored.
        """
        bench = self._bench
        row = None if source is None or row_id is None else (source, row_id)
        if (obj is None) == (row is None) or (obj is not None and (source, row_id) != (None, None)):
            raise ConfigError(
                "expected either an object, all of whose values are taken back, or a source with a row id; "
                "nothing was retracted. Give one of the two."
            )
        why = check_reason(reason, what="retraction")
        key = None if obj is None else known_key(bench, obj)
        count = bench.history.measurements.retract(
            bench.campaign.id, key=key, row=row, reason=why, actor=actor or user_name()
        )
        self._deliver()
        return count

    def settle_conflict(self, conflict: int, *, keep: str, reason: str, actor: str | None = None) -> None:
        """Say which value of a conflict counts: `stored`, `came`, or `both` as readings of the object.

        Raises:
            ConfigError: `keep` is none of these, or no reason came.
            NotFoundError, StateError: there is no such conflict, or it was settled before.
        """
        if keep not in tuple(Keep):
            raise ConfigError(f"keep is {keep!r}, expected one of {', '.join(Keep)}; nothing was written.")
        why = check_reason(reason, what="decision")
        self._bench.history.conflicts.settle(
            self._bench.campaign.id, conflict, Keep(keep), reason=why, actor=actor or user_name()
        )
        self._deliver()

    def reconcile(
        self,
        done: "Mapping[str, float | None] | pd.DataFrame | str | Path | None" = None,
        *,
        never: Sequence[str] = (),
        retry: Sequence[str] = (),
        actor: str | None = None,
    ) -> "pd.DataFrame":
        """Settle calls of which nobody knew whether they happened; return those that are unknown now.

        `done` holds values by object (None: the one that came too late), or a table as `tell` takes: the call
        happened and is paid for. `never`: it did not happen and never will; it is queued with another key and
        its money is free. `retry`: it is queued with the same key; an oracle that is not idempotent may be paid
        twice then, so that the price of the first call counts as spent. All of it is done or nothing; each act
        is kept in the history with its `actor`.

        Raises:
            StateError: an object has no unknown call.
            LabelError: a value is no finite number, or contradicts one of the same call that is stored.
        """
        import pandas as pd

        bench = self._bench
        rulings = rulings_of(bench, done=done, never=never, retry=retry)
        if rulings:
            bench.history.experiments.reconcile(bench.campaign.id, rulings, actor=actor or user_name())
            self._complete_if_possible()
        return pd.DataFrame(unknown_rows(bench), columns=[*COLUMNS, "idempotent", "idempotency_key"])

    def set_budget(self, limit: float | None, *, reason: str, actor: str | None = None) -> None:
        """Raise or lower the limit, in US dollars (None: no limit), until the campaign file says another one.

        Raises:
            ConfigError: more is committed already, or no reason came.
        """
        minor = None if limit is None else round(limit * 100)
        why = check_reason(reason, what="limit")
        self._bench.history.budgets.set_limit(
            self._bench.campaign.id, minor, reason=why, actor=actor or user_name()
        )
        self._deliver()

    def notify(self) -> int:
        """Tell the hooks of the campaign file what they do not know yet; return how many notices went out."""
        bench = self._bench
        return deliver(bench.history, bench.campaign, bench.config, folder=bench.tools.folder)

    @contextmanager
    def _held(self, *, size: int | None = None) -> Iterator[Workbench]:
        bench = self._bench
        if size is not None:
            batch = bench.config.batch.model_copy(update={"size": size})
            bench = replace(bench, config=bench.config.model_copy(update={"batch": batch}))
        with hold_campaign(bench) as held:
            yield held

    def _deliver(self) -> None:
        """Tell the hooks, if they can be told, and start a run where the campaign is scheduled and one is due."""
        bench = self._bench
        deliver_quietly(bench.history, bench.campaign, bench.config, folder=bench.tools.folder)
        announce_due(bench)

    def _complete_if_possible(self) -> None:
        """Complete the rounds of which the last was told, unless a live runner does; tell the hooks."""
        if completable(self._bench):
            from flowscout.loop import stages

            with suppress(CampaignBusyError), self._held() as bench:
                stages.complete(bench)
        self._deliver()


def check_reason(reason: str | None, *, what: str) -> str:
    """Return the reason that a person gave for an act.

    Raises:
        ConfigError: there is none.
    """
    if reason is None or not reason.strip():
        raise ConfigError(f"a {what} came without a reason, expected a few words; they are kept in the history.")
    return reason.strip()


def user_name() -> str:
    """Return who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a process of a user that the system has no name for
        return "unknown"
