"""Gates: whether a campaign's next round may start now, by what its history says. Nothing is written.

Who asks, and starts rounds, belongs in `flows`; when a campaign is done for good, in `loop.stopping`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

from flowscout.db import CampaignState, EvaluationState, RoundRecord, RoundState
from flowscout.db.timings import HANDED_OVER_S
from flowscout.errors import ConfigError
from flowscout.loop.oracle_sections import LabSection, PlugInSection
from flowscout.loop.stopping import BUDGET_RULES, why_finished
from flowscout.loop.workbench import Workbench, at_version

Kind = Literal["running", "due", "results", "hours", "approval", "training", "paused", "finished", "budget"]

_TOKEN = re.compile(r"\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<word>[A-Za-z]+)|(?P<mark>>=|[()])|(?P<strange>\S))")
_GRAMMAR = "results >= N or hours >= H, joined by and, or, with brackets"
_DEEPEST = 20

_UNDECIDED = (RoundState.PLANNED, RoundState.FITTING, RoundState.TRAINING, RoundState.PROPOSED)


@dataclass(frozen=True)
class Gate:
    """Whether work may go on, of which kind, and why in a sentence.

    Open: `running` (a round has work to do: go on with it) and `due` (the next one may start). Closed: `results`
    and `hours` (these are waited for), `approval`, `training` (handed over to another process), `paused`,
    `finished` (a stopping rule holds) and `budget` (rounds, money or objects are used up). The last two are marked
    by `stages.plan`, which is to be called then too, and starts nothing.

    `again`: all that is to be done is to call again for a batch whose measurements failed altogether. A person or
    the schedule's next time does so; nobody starts a run for it at once, or it would be called without a pause.
    """

    open: bool
    kind: Kind
    why: str
    again: bool = False


@dataclass(frozen=True)
class Atom:
    """At least so many `results` since the latest fit, or `hours` since the latest round began."""

    what: Literal["results", "hours"]
    least: float

    def missing(self, found: Mapping[str, float]) -> list["Atom"]:
        """Return itself where too little was found, else nothing."""
        return [] if found[self.what] >= self.least else [self]

    def __str__(self) -> str:
        return f"{self.what} >= {self.least:g}"


@dataclass(frozen=True)
class AllOf:
    """All of these."""

    of: tuple["When", ...]

    def missing(self, found: Mapping[str, float]) -> list[Atom]:
        """Return what is missing of any part."""
        return [atom for part in self.of for atom in part.missing(found)]

    def __str__(self) -> str:
        return " and ".join(f"({part})" if isinstance(part, AnyOf) else str(part) for part in self.of)


@dataclass(frozen=True)
class AnyOf:
    """Any of these."""

    of: tuple["When", ...]

    def missing(self, found: Mapping[str, float]) -> list[Atom]:
        """Return what is missing of all parts; nothing where one is there."""
        parts = [part.missing(found) for part in self.of]
        return [] if not all(parts) else [atom for part in parts for atom in part]

    def __str__(self) -> str:
        return " or ".join(str(part) for part in self.of)


When = Atom | AllOf | AnyOf


def parse_when(text: str) -> When:
    """Return what the text of `--when` means: `results >= N`, `hours >= H`, `and`, `or`, brackets.

    `and` binds more tightly than `or`.

    Raises:
        ConfigError: it says something else.
    """
    reader = _Reader(text)
    found = reader.alternatives(depth=0)
    if reader.word is not None:
        reader.refuse("the end, and or or")
    return found


class _Reader:
    """A recursive descent through the words of a gate."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = [match.group().strip() for match in _TOKEN.finditer(text)]
        self._place = 0

    @property
    def word(self) -> str | None:
        """The next word, in small letters; None at the end."""
        return self._tokens[self._place].lower() if self._place < len(self._tokens) else None

    def alternatives(self, *, depth: int) -> When:
        parts = [self._conditions(depth=depth)]
        while self._takes("or"):
            parts.append(self._conditions(depth=depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def refuse(self, expected: str) -> None:
        """Say what came instead of what was expected.

        Raises:
            ConfigError: always.
        """
        came = "nothing more" if self.word is None else repr(self._tokens[self._place])
        raise ConfigError(
            f"the gate {self.text!r} has {came} where {expected} was expected; write {_GRAMMAR}, for example "
            "'results >= 24 or hours >= 168'."
        )

    def _conditions(self, *, depth: int) -> When:
        parts = [self._one(depth=depth)]
        while self._takes("and"):
            parts.append(self._one(depth=depth))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _one(self, *, depth: int) -> When:
        if self._takes("("):
            if depth == _DEEPEST:
                raise ConfigError(f"the gate {self.text[:60]!r}... has brackets more than {_DEEPEST} deep.")
            found = self.alternatives(depth=depth + 1)
            if not self._takes(")"):
                self.refuse("a closing bracket")
            return found
        what: Literal["results", "hours"] = "results" if self.word == "results" else "hours"
        if not self._takes(what):
            self.refuse("results or hours")
        if not self._takes(">="):
            self.refuse(">=")
        number = self.word or ""
        if not re.fullmatch(r"\d+(\.\d+)?", number) or not isfinite(float(number)):
            self.refuse("a number")
        if what == "results" and "." in number:
            self.refuse("a whole number of results")
        self._place += 1
        return Atom(what, float(number))

    def _takes(self, wanted: str) -> bool:
        taken = self.word == wanted
        self._place += taken
        return taken


def look(bench: Workbench, *, now: bool = False, scheduled: bool = True) -> Gate:
    """Return whether the campaign has something to do now, by its history alone.

    With `now` the results and hours that its schedule waits for are not waited for. Unless `scheduled`, it is as
    if it had no schedule: a round is due when the one before it is complete. A gate waits for no results that
    nobody is asked for any more.
    """
    history, campaign = bench.history, bench.history.campaigns.get(bench.campaign.id)
    if campaign.state is CampaignState.PAUSED:
        return Gate(False, "paused", f"campaign {campaign.name!r} is paused; `flowscout resume` lets it go on")
    under_way = history.rounds.under_way(campaign.id)
    record = next_work(bench, under_way)
    if record is not None:
        elsewhere = _trained_elsewhere(bench, record)
        why, again = f"round {record.number} is {record.state}", _failed_altogether(bench, record)
        return elsewhere or Gate(True, "running", why, again=again)
    asked = awaiting_approval(under_way)
    if asked is not None:
        why = "" if asked.message is None else f": {asked.message}"
        return Gate(False, "approval", f"the batch of round {asked.number} waits for approval{why}")
    schedule = history.schedules.get(campaign.id) if scheduled else None
    when = None if schedule is None or schedule.gate is None else parse_when(schedule.gate)
    ended = why_finished(bench)
    if ended is not None and not under_way:
        return Gate(False, "budget" if ended.rule in BUDGET_RULES else "finished", ended.why)
    if under_way and (ended is not None or not (now or when is not None)):
        numbers = ", ".join(str(one.number) for one in under_way)
        rounds = "round" if len(under_way) == 1 else "rounds"
        left = _waiting(bench, under_way)
        beside = "" if ended is None else f"; no other starts then: {ended.why}"
        return Gate(False, "results", f"{left} results of {rounds} {numbers} are waited for{beside}")
    if when is not None and not now:
        found = _found(bench, waiting=bool(under_way))
        missing = when.missing(found)
        if missing:
            came = ", ".join(f"{atom}, now {found[atom.what]:.3g}" for atom in missing)
            return Gate(False, missing[0].what, f"the gate {str(when)!r} is closed: {came}")
    number = 1 + max((one.number for one in history.rounds.all(campaign.id)), default=0)
    return Gate(True, "due", f"round {number} may start")


def next_work(bench: Workbench, under_way: Sequence[RoundRecord]) -> RoundRecord | None:
    """Return the round under way that has something to do now; None where all wait for results or people.

    First the one whose batch is not handed out yet, then one that has something to be called or completed, then
    one whose measurements failed altogether.
    """
    for record in under_way:
        if record.state in _UNDECIDED:
            return record
    for record in under_way:
        if record.state is RoundState.DISPATCHED and _has_work(bench, record):
            return record
    return next((record for record in under_way if record.state is RoundState.FAILED), None)


def completable(bench: Workbench) -> list[RoundRecord]:
    """Return the rounds that were handed out and in which nothing waits any more, in order."""
    under_way = bench.history.rounds.under_way(bench.campaign.id)
    handed_out = [record for record in under_way if record.state is RoundState.DISPATCHED]
    return [record for record in handed_out if not _waiting(bench, [record])]


def awaiting_approval(under_way: Sequence[RoundRecord]) -> RoundRecord | None:
    """Return the round whose batch waits for approval; there is one at most."""
    return next((one for one in under_way if one.state is RoundState.AWAITING_APPROVAL), None)


def waits_for_people(bench: Workbench) -> bool:
    """Return whether nobody is called: people measure, and tell. The oracle itself may be on another machine.

    Raises:
        OracleImportError, ConfigError: it is not one of a kind that is known, and not on this machine.
    """
    section = bench.config.oracle
    if isinstance(section, PlugInSection):
        return bench.oracle.info.waits_for_people
    return isinstance(section, LabSection)


def _has_work(bench: Workbench, record: RoundRecord) -> bool:
    counts = bench.history.experiments.counts(bench.campaign.id, round_id=record.id)
    queued, running = counts.get(EvaluationState.QUEUED, 0), counts.get(EvaluationState.RUNNING, 0)
    if not queued:
        return not running  # it is to be completed
    return not waits_for_people(at_version(bench, record.config_version_id))


def _failed_altogether(bench: Workbench, record: RoundRecord) -> bool:
    if record.state is not RoundState.FAILED:
        return False
    counts = bench.history.experiments.counts(bench.campaign.id, round_id=record.id)
    return counts.get(EvaluationState.FAILED, 0) > 0  # else it was told since, and is to be completed


def _waiting(bench: Workbench, under_way: Sequence[RoundRecord]) -> int:
    counts = [bench.history.experiments.counts(bench.campaign.id, round_id=one.id) for one in under_way]
    return sum(one.get(state, 0) for one in counts for state in (EvaluationState.QUEUED, EvaluationState.RUNNING))


def _found(bench: Workbench, *, waiting: bool) -> dict[str, float]:
    """Return what a gate looks at; where nothing is `waiting`, no results are short."""
    gauges, number = bench.history.gauges, bench.campaign.id
    hours = gauges.hours(number)
    results = float(gauges.results(number, bench.config.objective.name)) if waiting else inf
    return {"results": results, "hours": inf if hours is None else hours}


def _trained_elsewhere(bench: Workbench, record: RoundRecord) -> Gate | None:
    """Return the closed gate of a round whose training was handed over and is not given up yet."""
    history = bench.history
    if record.state is not RoundState.TRAINING or history.rounds.sampler(record.id) is not None:
        return None
    ago_s = history.gauges.handed_over_s(bench.campaign.id, record.id)
    if ago_s is None or ago_s >= HANDED_OVER_S:
        return None
    why = f"the sampler of round {record.number} was handed over {ago_s:.0f} s ago, to be trained on a GPU"
    return Gate(False, "training", why)
