"""What is seen while rounds run: one line a round, and a bar that says what is being done.

The display reads the history, as anybody may, so that it shows rounds that any process runs.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from flowscout.cli.output import stdout
from flowscout.db import CampaignRecord, History, ObjectiveRecord, RoundRow, RoundState

POLL_S = 0.2

_DOING = {
    RoundState.PLANNED: (0, "starting"),
    RoundState.FITTING: (0, "fitting the surrogate"),
    RoundState.TRAINING: (1, "training the GFlowNet and drawing a batch"),
    RoundState.PROPOSED: (3, "handing the batch to the oracle"),
    RoundState.AWAITING_APPROVAL: (3, "waiting for approval"),
    RoundState.DISPATCHED: (4, "measuring"),
    RoundState.COMPLETE: (5, "done"),
    RoundState.FAILED: (4, "failed"),
    RoundState.CANCELLED: (5, "cancelled"),
}
_STAGES = 5

LEGEND = (
    "spread: mean pairwise distance in the batch; model: rank correlation with labels left out; "
    "unique: share of different objects among the sampler's samples"
)

Spread = Callable[[int], float | None]
"""Returns the mean pairwise distance of a round's batch."""


class RoundsDisplay:
    """A progress bar over `rounds` rounds, and a line for each that completes, while used as a context."""

    def __init__(
        self,
        history: History,
        campaign: CampaignRecord,
        objective: ObjectiveRecord,
        *,
        rounds: int,
        spread: Spread,
    ) -> None:
        self._history, self._campaign, self._objective = history, campaign, objective
        self._rounds, self._spread = rounds, spread
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="flowscout-display", daemon=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            console=stdout,
            transient=True,
        )
        self._bar: TaskID | None = None
        self._shown = {row.number for row in self._rows() if row.state is RoundState.COMPLETE}

    def __enter__(self) -> "RoundsDisplay":
        self._progress.console.print(LEGEND, style="dim")
        self._progress.start()
        self._bar = self._progress.add_task("starting", total=self._rounds * _STAGES)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._look()
        self._progress.stop()

    def _watch(self) -> None:
        while not self._ended.wait(POLL_S):
            self._look()

    def _rows(self) -> tuple[RoundRow, ...]:
        status = self._history.queries.status(
            self._campaign.id, self._objective.property, direction=self._objective.direction
        )
        return status.rounds

    def _look(self) -> None:
        rows = self._rows()
        for row in rows:
            if row.state is RoundState.COMPLETE and row.number not in self._shown:
                self._shown.add(row.number)
                self._progress.console.print(self._line(row), soft_wrap=True)
        if rows and self._bar is not None:
            done, doing = _DOING[rows[-1].state]
            self._progress.update(
                self._bar,
                completed=(rows[-1].number - 1) * _STAGES + done,
                description=f"round {rows[-1].number} of {self._rounds}: {doing}",
            )

    def _line(self, row: RoundRow) -> str:
        """Return a completed round in one line."""
        parts = [f"[bold]round {row.number}[/]"]
        if row.batch_mean is not None:
            parts.append(f"batch mean {row.batch_mean:.3f} best {row.batch_best:.3f}")
            risen = row.best == row.batch_best
            parts.append(f"best so far [{'bold green' if risen else 'none'}]{row.best:.3f}[/]")
        spread = self._spread(row.number)
        if spread is not None:
            parts.append(f"spread {spread:.1f}")
        if "loo_spearman" in row.surrogate:
            parts.append(f"model {row.surrogate['loo_spearman']:.2f}")
        policy = _policy_of(row.sampler)
        if policy:
            sampler = f"unique {policy['unique_share']:.0%}"
            parts.append(f"[yellow]{sampler}, fell back[/]" if policy.get("fallback") else sampler)
        if row.message:
            parts.append(f"[yellow]{row.message}[/]")
        if row.seconds is not None:
            parts.append(f"{row.seconds:.1f} s")
        return " [dim]|[/] ".join(parts)


def _policy_of(sampler: dict[str, Any]) -> dict[str, Any]:
    """Return the diagnostics of a round's policy, which may be a part of a mixture; empty where it had none."""
    found = (one for one in (sampler, *sampler.values()) if isinstance(one, dict) and "unique_share" in one)
    return next(found, {})


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Show a spinner with a text while something takes its time."""
    with stdout.status(what):
        yield
