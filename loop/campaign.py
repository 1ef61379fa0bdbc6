"""A campaign for people without a scheduler: ask, tell, run a round, look at what is known."""

import getpass
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flowscout.db import (
    Archived,
    AsOf,
    BudgetRecord,
    EventKind,
    History,
    Imported,
    Keep,
    Lineage,
    StatusRecord,
    Told,
    WaitingRow,
)
from flowscout.errors import CampaignBusyError, ConfigError, StateError
from flowscout.loop import asking
from flowscout.loop.config import MAX_BATCH, CampaignFile, database_url, read_campaign_file
from flowscout.loop.included import check_included
from flowscout.loop.notices import deliver, deliver_quietly
from flowscout.loop.oracles import Oracle, build_oracle
from flowscout.loop.outside import check_features
from flowscout.loop.reconciling import COLUMNS, rulings_of, unknown_rows
from flowscout.loop.spaces.listing import Listing
from flowscout.loop.telling import read_labels
from flowscout.loop.workbench import Workbench, hold_campaign, lay_out, register, rules_of
from flowscout.version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from flowscout.loop.replay import Replay
    from flowscout.loop.stages import Progress


class Campaign:
    """A discovery campaign over its history.

    Everything is kept in SQL: two objects of this class, in one process or in several, see the same campaign.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    @classmethod
    def from_yaml(
        cls, path: str | Path, *, db: str | None = None, actor: str | None = None, lease_s: float | None = None
    ) -> "Campaign":
        """Open the campaign of a file, registering it in the history if it is new or has changed.

        `db` is a database URL or the path of a SQLite file; by default the file `NAME.db` beside the
        campaign file. Nothing is written before the file, the space and the oracle are found to be right.
        `lease_s` is how long the leases that this object takes last without being renewed, which it does four
        times meanwhile (default: two minutes for the campaign, ten for a call).

        Raises:
            ConfigError: the file is wrong.
            OracleImportError, LabelError: its oracle cannot be had.
            SchemaError: the database cannot be opened.
        """
        file, _ = check_campaign_file(Path(path))
        history = History(database_url(file, db))
        bench = register(
            history,
            file,
            package_version=__version__,
            git_commit=_git_commit(file),
            actor=actor or _user(),
        )
        return cls(replace(bench, lease_s=lease_s))

    @classmethod
    def open(cls, db: str, name: str | None = None) -> "Campaign":
        """Open a campaign as a history holds it; neither its file nor its oracle need to be on this machine.

        It can be asked everything; what calls the oracle fails where the oracle is not. `name` may be left out
        where the history holds one campaign.

        Raises:
            NoHistoryError, SchemaError: there is no history at `db`, or it cannot be opened.
            NotFoundError: it holds no campaign of this name, or several and none was named.
        """
        history = History(db, create=False)
        try:
            return cls(lay_out(history, history.campaigns.only() if name is None else name))
        except BaseException:
            history.close()
            raise

    @property
    def name(self) -> str:
        """The campaign's name."""
        return self._bench.campaign.name

    @property
    def workbench(self) -> Workbench:
        """What the stages of `flowscout.loop.stages` take."""
        return self._bench

    def tell(
        self,
        data: "pd.DataFrame | Sequence[Mapping[str, Any]] | str | Path",
        *,
        source: str | None = None,
        actor: str | None = None,
        correct: bool = False,
        reason: str | None = None,
    ) -> Told:
        """Record measured values: all rows, or none. Telling the same again changes nothing.

        `data` is a table, the path of a CSV file, or a list of rows such as `{"object": "ACGT", "y": 0.5}`: the
        objects in a column `object` or `sequence`, the values in columns named like the objective and the
        further `properties` of the campaign file; empty cells say nothing yet. Beside a property NAME may stand
        NAME_sem (standard error), NAME_n (how many readings the value is a mean of), NAME_qualifier (`<`, `>`,
        `missing`, `infeasible`, `retracted`) and NAME_unit, which must be the campaign's. Columns `as_run_X`
        hold conditions. `row_id`, where there is one, identifies the rows of a `source` (default: the file's
        name), else object and `replicate`, else content and occurrence. With `correct` and a `reason` rows that
        are stored with another value are superseded. An object that is in no catalogue may be told where the
        table has all of the catalogue's features: it is learned from and never proposed.

        Raises:
            LabelError: a value is not a finite number, a column is missing, or a stored row has another value.
            ObjectError: an object is not in the space, and its features did not come.
            ConfigError: a correction came without a reason.
        """
        bench = self._bench
        why = _reason(reason, what="correction") if correct else None
        folder, rules = Path(bench.version.folder), bench.tools.rules
        sheet = read_labels(data, bench.config, folder=folder, source=source, rules=rules, correct=correct)
        check_features(bench, sheet.records)
        told = bench.history.measurements.add(
            bench.campaign.id, sheet.records, actor=actor or _user(), correct=why
        )
        self._complete_if_possible()
        self._deliver()
        return replace(told, empty=sheet.empty, unread=sheet.unread)

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
        if (obj is None) == (row is None):
            raise ConfigError(
                "expected either an object or a source and a row id; nothing was retracted. Give one."
            )
        why = _reason(reason, what="retraction")
        key = None if obj is None else _key(bench, obj)
        return bench.history.measurements.retract(
            bench.campaign.id, key=key, row=row, reason=why, actor=actor or _user()
        )

    def conflicts(self) -> "pd.DataFrame":
        """Return the rows that have two values until `settle_conflict` is told which counts."""
        import pandas as pd

        found = self._bench.history.conflicts.open(self._bench.campaign.id)
        columns = ["id", "at", "object", "property", "source", "row_id", "stored", "came", "actor"]
        rows = [vars(one) | {"stored": str(one.stored), "came": str(one.came)} for one in found]
        return pd.DataFrame(rows, columns=columns)

    def settle_conflict(self, conflict: int, *, keep: str, reason: str, actor: str | None = None) -> None:
        """Say which value of a conflict counts: `stored`, `came`, or `both` as readings of the object.

        Raises:
            ConfigError: `keep` is none of these, or no reason came.
            NotFoundError, StateError: there is no such conflict, or it was settled before.
        """
        if keep not in tuple(Keep):
            raise ConfigError(f"keep is {keep!r}, expected one of {', '.join(Keep)}; nothing was written.")
        why = _reason(reason, what="decision")
        self._bench.history.conflicts.settle(
            self._bench.campaign.id, conflict, Keep(keep), reason=why, actor=actor or _user()
        )

    def notify(self) -> int:
        """Tell the hooks of the campaign file what they do not know yet; return how many notices went out."""
        bench = self._bench
        return deliver(bench.history, bench.campaign, bench.config, folder=bench.tools.folder)

    def budget(self) -> BudgetRecord:
        """Return the money: limit, reserved, spent, and of which round and oracle."""
        return self._bench.history.budgets.get(self._bench.campaign.id)

    def set_budget(self, limit: float | None, *, reason: str, actor: str | None = None) -> None:
        """Raise or lower the limit, in US dollars (None: no limit), until the campaign file says another one.

        Raises:
            ConfigError: more is committed already, or no reason came.
        """
        minor = None if limit is None else round(limit * 100)
        why = _reason(reason, what="limit")
        self._bench.history.budgets.set_limit(self._bench.campaign.id, minor, reason=why, actor=actor or _user())
        self._deliver()

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

    def ask(self, n: int | None = None, *, include: Sequence[str] = ()) -> "pd.DataFrame":
        """Return the batch that is to be measured next: candidate_id, object, mean, sd, acquisition.

        A batch whose results are not all told is returned again, as far as it still waits. `n` is the size
        of a new batch, by default that of the campaign file. Your own candidates, `include`, have the first of
        its places; the others are chosen as if these were being measured.

        Raises:
            ObjectError: an object to include is not in the space, comes twice, was measured or vetoed, or waits.
            ConfigError: more are to be included than the batch has places.
            StateError: the campaign is finished, or a batch waits that holds not all of those to include.
        """
        import pandas as pd

        from flowscout.loop import stages

        if n is not None and not 1 <= n <= MAX_BATCH:
            raise ConfigError(
                f"a batch of {n} was asked for, expected 1 to {MAX_BATCH:,}; leave it out for the file's."
            )
        with self._held(size=n) as bench:
            unfinished = bench.history.rounds.unfinished(bench.campaign.id)
            if unfinished is not None:
                stages.collect(bench, unfinished.number)  # its results may all be told
            own = check_included(bench, [include] if isinstance(include, str) else include)
            number = stages.plan(bench)
            if number is None:
                raise StateError(
                    f"campaign {self.name!r} is finished: its budget of {bench.config.budget.rounds} rounds or "
                    "its money is used up; raise the budget in the campaign file to go on."
                )
            stages.fit(bench, number)
            stages.train(bench, number)
            stages.propose(bench, number, include=own)
            stages.hand_over(bench, number)
            record = bench.history.rounds.get(bench.campaign.id, number)
            waiting = set(bench.history.queries.pending(bench.campaign.id))
            proposals = bench.history.rounds.proposals(record.id, selected=True)
        columns = ["candidate_id", "object", "mean", "sd", "acquisition"]
        rows = [{name: getattr(p, name) for name in columns} for p in proposals if p.object in waiting]
        return pd.DataFrame(rows, columns=columns)

    def veto(self, objects: Sequence[str], *, reason: str, actor: str | None = None) -> "pd.DataFrame":
        """Take objects out of the batch before anybody has begun to measure them: all of them, or none.

        They are never proposed again in this campaign; values of them can still be told. Each place goes to the
        next best that the round considered and did not take, if there is one. The same veto again changes
        nothing. Returns object, replacement (who has its place now), new.

        Raises:
            ConfigError: no reason came.
            ObjectError: an object is not in the space.
            StateError: an object is in no batch, or its measurement has begun or is over.
        """
        import pandas as pd

        if not reason.strip():
            raise ConfigError("a veto came without a reason, expected a few words; they are kept in the history.")
        bench = self._bench
        named = [bench.tools.rules.require(text) for text in ([objects] if isinstance(objects, str) else objects)]
        wanted = {bench.tools.rules.key(text): text for text in named}
        done = bench.history.vetoes.add(bench.campaign.id, wanted, reason=reason, actor=actor or _user())
        self._complete_if_possible()
        return pd.DataFrame([asdict(one) for one in done], columns=["object", "replacement", "new"])

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
            bench.history.experiments.reconcile(bench.campaign.id, rulings, actor=actor or _user())
            self._complete_if_possible()
        return pd.DataFrame(unknown_rows(bench), columns=[*COLUMNS, "idempotent", "idempotency_key"])

    def cancel(self, objects: Sequence[str], *, reason: str, actor: str | None = None) -> int:
        """Cancel measurements that nobody has begun, all of them or none; return how many are cancelled now.

        Unlike after a veto, the places stay empty and a later round may propose the objects again.

        Raises:
            ConfigError: no reason came.
            StateError: an object awaits no measurement, or its measurement has begun or is over.
        """
        if not reason.strip():
            raise ConfigError("a cancellation came without a reason, expected a few words; they are kept.")
        bench = self._bench
        rules = bench.tools.rules
        wanted = {rules.key(text): text for text in ([objects] if isinstance(objects, str) else objects)}
        experiments = bench.history.experiments
        count = experiments.cancel(bench.campaign.id, wanted, reason=reason, actor=actor or _user())
        self._complete_if_possible()
        return count

    def run_round(self) -> "Progress | None":
        """Run the round that is due to its end, calling the oracle; None when the campaign is finished.

        Raises:
            CampaignBusyError: another process runs the campaign.
            OracleError: every measurement of the round failed.
        """
        from flowscout.loop import stages

        with self._held() as bench:
            return stages.run_round(bench)

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

    def sql(self, statement: str, *, limit: int | None = None, timeout_s: float = 30.0) -> "pd.DataFrame":
        """Return what one SELECT of the tables or of the view `history` finds, at most `limit` rows.

        The database itself sees to it that nothing can be changed or reached. All campaigns of it are seen.

        Raises:
            QueryError: it is wrong, not one question, not allowed, or takes longer than `timeout_s`.
        """
        import pandas as pd

        found = self._bench.history.queries.sql(statement, limit=limit, timeout_s=timeout_s)
        return pd.DataFrame.from_records(list(found.rows), columns=list(found.columns))

    def import_table(self, table: str | Path, *, source: str | None = None, actor: str | None = None) -> Imported:
        """Record the results of a large table (`.csv`, `.jsonl`, `.parquet`) in bulk, all rows checked first.

        Its columns are those of `tell`, or one value a row: object, property, value and, where there are any,
        qualifier, sem, n, unit, source and row_id. The same table again changes nothing.

        Raises:
            LabelError: the table cannot be read, or a row contradicts what is stored.
            ObjectError: an object is not in the space.
        """
        from flowscout.loop.importing import import_table

        done = import_table(self._bench, Path(table), source=source, actor=actor or _user())
        self._complete_if_possible()
        return done

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

    def replay(self, number: int, *, tolerance: float = 0.0) -> "Replay":
        """Compute a past round again from its cut-off and seeds, and report every difference; write nothing.

        Raises:
            NotFoundError: there is no such round.
            StateError: nothing was fitted in it yet.
        """
        from flowscout.loop.replay import replay

        return replay(self._bench, number, tolerance=tolerance)

    def close(self) -> None:
        """Close the history."""
        self._bench.history.close()

    def __enter__(self) -> "Campaign":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _held(self, *, size: int | None = None) -> Iterator[Workbench]:
        bench = self._bench
        if size is not None:
            batch = bench.config.batch.model_copy(update={"size": size})
            bench = replace(bench, config=bench.config.model_copy(update={"batch": batch}))
        with hold_campaign(bench) as held:
            yield held

    def _deliver(self) -> None:
        """Tell the hooks, if they can be told."""
        bench = self._bench
        deliver_quietly(bench.history, bench.campaign, bench.config, folder=bench.tools.folder)

    def _complete_if_possible(self) -> None:
        """Complete the round if what was told was the last of it; a live runner does so itself."""
        unfinished = self._bench.history.rounds.unfinished(self._bench.campaign.id)
        if unfinished is None:
            return
        from flowscout.loop import stages

        try:
            with self._held() as bench:
                stages.collect(bench, unfinished.number)
        except CampaignBusyError:
            return


def check_campaign_file(path: Path) -> tuple[CampaignFile, Oracle]:
    """Return a campaign file that is right, and its oracle. Nothing is written or measured.

    Raises:
        ConfigError: the file is wrong.
        OracleImportError, LabelError: its oracle cannot be had.
    """
    file = read_campaign_file(path)
    rules_of(file.config, file.folder)
    section, objective = file.config.oracle.model_dump(), file.config.objective.name
    return file, build_oracle(section, folder=file.folder, property=objective)


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse kinds of events that there are not.

    Raises:
        ConfigError: there is no such kind.
    """
    for kind in kinds:
        if kind not in tuple(EventKind):
            raise ConfigError(f"no events are of kind {kind!r}, expected one of {', '.join(EventKind)}.")


def _reason(reason: str | None, *, what: str) -> str:
    if reason is None or not reason.strip():
        raise ConfigError(f"a {what} came without a reason, expected a few words; they are kept in the history.")
    return reason.strip()


def _key(bench: Workbench, obj: str) -> str:
    """Return the key of an object of the space, or of one outside a catalogue, whose name is its key."""
    rules = bench.tools.rules
    return obj.strip() if isinstance(rules, Listing) and obj not in rules else rules.key(rules.require(obj))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a process of a user that the system has no name for
        return "unknown"


def _git_commit(file: CampaignFile) -> str | None:
    """Return the commit that the campaign file's folder is at, or None outside a repository."""
    command = ["git", "-C", str(file.folder), "rev-parse", "HEAD"]
    try:
        done: Any = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
