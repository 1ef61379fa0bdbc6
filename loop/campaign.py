"""A campaign for people without a scheduler: ask, tell, run a round, look at what is known."""

import getpass
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flowscout.db import Archived, History, Imported, StatusRecord, Told
from flowscout.errors import CampaignBusyError, ConfigError, StateError
from flowscout.loop.config import CampaignFile, database_url, read_campaign_file
from flowscout.loop.included import check_included
from flowscout.loop.oracles import Oracle, build_oracle
from flowscout.loop.outside import check_features
from flowscout.loop.reconciling import COLUMNS, rulings_of, unknown_rows
from flowscout.loop.telling import read_labels
from flowscout.loop.workbench import Workbench, hold_campaign, register, rules_of
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
    def from_yaml(cls, path: str | Path, *, db: str | None = None, actor: str | None = None) -> "Campaign":
        """Open the campaign of a file, registering it in the history if it is new or has changed.

        `db` is a database URL or the path of a SQLite file; by default the file `NAME.db` beside the
        campaign file. Nothing is written before the file, the space and the oracle are found to be right.

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
        return cls(bench)

    @property
    def name(self) -> str:
        """The campaign's name."""
        return self._bench.campaign.name

    @property
    def workbench(self) -> Workbench:
        """What the stages of `flowscout.loop.stages` take."""
        return self._bench

    def tell(
        self, data: "pd.DataFrame | str | Path", *, source: str | None = None, actor: str | None = None
    ) -> Told:
        """Record measured values: all rows, or none. Telling the same again changes nothing.

        `data` is a table (or the path of a CSV file) with the objects in a column `object` or `sequence` and
        the values in a column named like the objective; `row_id`, where there is one, identifies the rows of
        a `source` (default: the file's name), otherwise content and occurrence do. Columns NAME_sem (standard
        error), NAME_n (how many readings the value is a mean of) and NAME_qualifier (`<`, `>`) may stand beside
        the objective NAME; their cells may be empty. An object that is in no
        catalogue may be told where the table has all of the catalogue's features: it is learned from and
        never proposed.

        Raises:
            LabelError: a value is not a finite number, a column is missing, or a stored row has another value.
            ObjectError: an object is not in the space, and its features did not come.
        """
        bench = self._bench
        folder, rules = Path(bench.version.folder), bench.tools.rules
        records = read_labels(data, bench.config, folder=folder, source=source, rules=rules)
        check_features(bench, records)
        told = bench.history.measurements.add(bench.campaign.id, records, actor=actor or _user())
        self._complete_if_possible()
        return told

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

        if n is not None and n < 1:
            raise ConfigError(f"a batch of {n} was asked for, expected 1 or more; leave it out for the file's.")
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

    def best(self, k: int = 10) -> "pd.DataFrame":
        """Return the `k` best candidates, with the round that proposed each (none: it was told)."""
        import pandas as pd

        objective = self._bench.config.objective
        rows = self._bench.history.queries.best(
            self._bench.campaign.id, objective.name, direction=objective.direction, k=k
        )
        columns = ["rank", "candidate_id", "object", "value", "count", "round"]
        return pd.DataFrame([{c: getattr(row, c) for c in columns} for row in rows], columns=columns)

    def history(self, *, round: int | None = None) -> "pd.DataFrame":  # noqa: A002
        """Return one row for each measurement, in the order of `seq`, with its whole provenance."""
        import pandas as pd

        return pd.DataFrame(self._bench.history.queries.history(self.name, round_number=round))

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
