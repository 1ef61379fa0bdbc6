"""A campaign for people without a scheduler: ask, tell, run a round, look at what is known.

What it is told stands in `campaign_results`, what it can be asked in `campaign_questions`.
"""

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flowscout.db import History, RoundState
from flowscout.errors import ConfigError, StateError
from flowscout.loop.campaign_gates import CampaignGates
from flowscout.loop.campaign_results import check_reason, user_name
from flowscout.loop.config import MAX_BATCH, CampaignFile, database_url, read_campaign_file
from flowscout.loop.gates import awaiting_approval
from flowscout.loop.included import check_included
from flowscout.loop.oracles import Oracle, build_oracle
from flowscout.loop.stopping import why_finished
from flowscout.loop.workbench import Workbench, lay_out, register, rules_of
from flowscout.version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from flowscout.loop.stages import Progress


class Campaign(CampaignGates):
    """A discovery campaign over its history.

    Everything is kept in SQL: two objects of this class, in one process or in several, see the same campaign.
    """

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
            actor=actor or user_name(),
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

    def ask(self, n: int | None = None, *, include: Sequence[str] = ()) -> "pd.DataFrame":
        """Return the batch that is to be measured next: candidate_id, object, mean, sd, acquisition.

        Where each is measured several times, there is a row for each time, and a column `replicate`. A batch
        whose results are not all told is returned again, as far as it still waits; of several, where a schedule
        starts rounds before all results are in, all that waits. `n` is the size of a new batch, by default that of
        the campaign file; `mean` and `sd` are of the value as the objective's `transform` makes it. Your own
        candidates, `include`, have the first of its places; the others are chosen as if these were being measured.

        Raises:
            ObjectError: an object to include is not in the space, comes twice, was measured or vetoed, or waits.
            ConfigError: more are to be included than the batch has places.
            StateError: the campaign is finished or paused, the batch waits for approval, or one waits that holds
                not all of those to include.
        """
        import pandas as pd

        from flowscout.loop import stages

        if n is not None and not 1 <= n <= MAX_BATCH:
            raise ConfigError(
                f"a batch of {n} was asked for, expected 1 to {MAX_BATCH:,}; leave it out for the file's."
            )
        with self._held(size=n) as bench:
            stages.complete(bench)  # all results of a batch may be told
            own = check_included(bench, [include] if isinstance(include, str) else include)
            number = stages.plan(bench)
            if number is None:
                ended = why_finished(bench)
                why = "its budget is used up" if ended is None else ended.why
                raise StateError(
                    f"campaign {self.name!r} is finished: {why}; raise the budget in the campaign file, or change "
                    "its section `stop`, to go on."
                )
            stages.fit(bench, number)
            stages.train(bench, number)
            stages.propose(bench, number, include=own)
            stages.hand_over(bench, number)
            under_way = bench.history.rounds.under_way(bench.campaign.id)
            handed_out = [one for one in under_way if one.state is RoundState.DISPATCHED]
            asked = awaiting_approval(under_way)
            if asked is not None and not handed_out:
                raise StateError(
                    f"the batch of round {asked.number} waits for approval: {asked.message}. Nothing of it is to "
                    "be measured yet: `flowscout approve` shows it and lets it be handed out."
                )
            waiting: dict[str, list[int]] = {}
            for row in bench.history.queries.waiting(bench.campaign.id):
                waiting.setdefault(row.object, []).append(row.replicate)
            proposals = [
                proposal
                for record in handed_out
                for proposal in bench.history.rounds.proposals(record.id, selected=True)
            ]
        said = ["candidate_id", "object", "mean", "sd", "acquisition"]
        rows = [
            {"replicate": replicate} | {name: getattr(p, name) for name in said}
            for p in proposals
            for replicate in waiting.get(p.object, [])
        ]
        several = bench.config.batch.replicates > 1 or any(len(found) > 1 for found in waiting.values())
        return pd.DataFrame(rows, columns=[*said, "replicate"] if several else said)

    def veto(self, objects: Sequence[str], *, reason: str, actor: str | None = None) -> "pd.DataFrame":
        """Take objects out of the batch before anybody has begun to measure them: all of them, or none.

        They are never proposed again in this campaign; values of them can still be told. Each place goes to the
        next best that the round considered and did not take, if there is one; in a batch that was approved it
        stays empty. The same veto again changes nothing. Returns object, replacement (who has its place now), new.

        Raises:
            ConfigError: no reason came.
            ObjectError: an object is not in the space.
            StateError: an object is in no batch, or its measurement has begun or is over.
        """
        import pandas as pd

        bench, why = self._bench, check_reason(reason, what="veto")
        wanted = dict(_named(bench, [objects] if isinstance(objects, str) else objects))
        done = bench.history.vetoes.add(bench.campaign.id, wanted, reason=why, actor=actor or user_name())
        self._complete_if_possible()
        return pd.DataFrame([asdict(one) for one in done], columns=["object", "replacement", "new"])

    def cancel(self, objects: Sequence[str], *, reason: str, actor: str | None = None) -> int:
        """Cancel measurements that nobody has begun, all of them or none; return how many are cancelled now.

        Unlike after a veto, the places stay empty and a later round may propose the objects again.

        Raises:
            ConfigError: no reason came.
            StateError: an object awaits no measurement, or its measurement has begun or is over.
        """
        bench, why = self._bench, check_reason(reason, what="cancellation")
        rules = bench.tools.rules
        wanted = {rules.key(text): text for text in ([objects] if isinstance(objects, str) else objects)}
        experiments = bench.history.experiments
        count = experiments.cancel(bench.campaign.id, wanted, reason=why, actor=actor or user_name())
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

    def close(self) -> None:
        """Close the history."""
        self._bench.history.close()

    def __enter__(self) -> "Campaign":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _named(bench: Workbench, objects: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield key and text of objects of the space; where its catalogue is not on this machine, as they are written.

    Raises:
        ObjectError: an object is not in the space.
    """
    try:
        rules = bench.tools.rules
    except ConfigError:
        yield from ((text.strip(), text.strip()) for text in objects)
        return
    for text in objects:
        named = rules.require(text)
        yield rules.key(named), named


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


def _git_commit(file: CampaignFile) -> str | None:
    """Return the commit that the campaign file's folder is at, or None outside a repository."""
    command = ["git", "-C", str(file.folder), "rev-parse", "HEAD"]
    try:
        done: Any = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
