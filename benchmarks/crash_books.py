"""What a campaign's history and its oracle's own ledger say, and whether the two agree.

Killing is the work of `crash`. Both are read by plain SQL over the databases' own drivers: an audit that used the
code under test would believe what it believes.
"""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import fsum, inf
from pathlib import Path
from typing import Any

from crash_campaign import CALLS, TELLING, TIMEOUT_S, Layout, table_of
from crash_oracle import CUTTING, PRICE_MINOR, value_of

Row = tuple[Any, ...]

GRACE_S = 0.5
"""How long after the death of a process what it has started may still call: the oracle sees it as late as that."""

CLOCKS_S = 0.1
"""By how much the clocks of the history and of a process may differ when a time-out is measured."""


class Books:
    """A connection that reads the history or the ledger, whatever database it is."""

    def __init__(self, where: str | Path) -> None:
        self._postgresql = isinstance(where, str) and where.startswith("postgresql")
        if self._postgresql:
            import psycopg

            self._connection: Any = psycopg.connect(str(where).replace("+psycopg", ""), autocommit=True)
        else:
            self._connection = sqlite3.connect(f"file:{where}?mode=ro", uri=True, timeout=60, isolation_level=None)

    def rows(self, query: str, *values: Any) -> list[Row]:
        """Return the rows of a query, whose values stand as `?`."""
        if self._postgresql:
            query = query.replace("%", "%%").replace("?", "%s")
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(query, values)
            return [tuple(row) for row in cursor.fetchall()]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@dataclass
class Deeds:
    """What was done to the processes: who was killed when, and who stood still from when to when (Unix time)."""

    killed: dict[int, float] = field(default_factory=dict)
    stopped: list[tuple[int, float, float]] = field(default_factory=list)

    def cut_off(self, e: "Evaluation") -> bool:
        """Whether others ended the last attempt because its process had been killed, and not its lease."""
        return e.expired and e.pid in self.killed and e.lease_until > (e.ended or 0.0)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation with its last attempt, and the value that the history holds of its call.

    `pid` is 0 of an attempt that no process holds: of nobody, or of a service that will call back. `expired`
    means that others ended the attempt, whose owner was dead or late.
    """

    object: str
    key: str
    state: str
    value: float | None
    attempts: int
    pid: int
    begun: float
    ended: float | None
    lease_until: float
    expired: bool


@dataclass(frozen=True)
class Call:
    """A call in the ledger of the oracle. `answered` is when a right answer went out, if one did."""

    key: str
    object: str
    visit: str
    callers: Sequence[int]
    entered: float
    billed: int
    value: float | None
    answered: float | None
    fault: str | None

    @property
    def cut(self) -> bool:
        """Whether the oracle itself kept the answer from whoever asked."""
        return self.fault in CUTTING


@dataclass
class Audit:
    """What was found; `faults` says in words what is wrong."""

    calls: int = 0
    lost: int = 0
    paid_twice: int = 0
    unknown: int = 0
    faults: list[str] = field(default_factory=list)


def evaluations_of(history: Books) -> list[Evaluation]:
    """Return the evaluations of the history in order."""
    attempts: dict[int, list[Row]] = defaultdict(list)
    query = "SELECT evaluation_id, owner, started_at, ended_at, lease_until, id FROM attempt ORDER BY id"
    for number, *rest in history.rows(query):
        attempts[number].append((*rest,))
    details = history.rows("SELECT detail FROM event WHERE kind = 'attempt_expired'")
    expired = {(json.loads(one) if isinstance(one, str) else one)["attempt_id"] for (one,) in details}
    nobody = ("|0|", None, None, None, None)
    values = dict(history.rows("SELECT evaluation_id, value FROM measurement WHERE evaluation_id IS NOT NULL"))
    rows = history.rows(
        """SELECT e.id, c.object, e.idempotency_key, e.state FROM evaluation e
        JOIN candidate c ON c.id = e.candidate_id ORDER BY e.id"""
    )
    found = []
    for number, text, key, state in rows:
        tries = attempts[number]
        owner, begun, ended, until, attempt = tries[-1] if tries else nobody
        times = (seconds(begun) or 0.0, seconds(ended), seconds(until) or 0.0)
        pid = int(owner.split("|")[1]) if "|" in owner else 0
        last = (pid, *times, attempt in expired)
        found.append(Evaluation(text, key, state, values.get(number), len(tries), *last))
    return found


def calls_of(ledger: Books) -> list[Call]:
    """Return the calls in the ledger in order."""
    rows = ledger.rows(
        "SELECT key, object, visit, callers, entered, billed, value, answered, fault FROM call ORDER BY id"
    )
    return [Call(*row[:3], json.loads(row[3]), *row[4:]) for row in rows]


def audit(layout: Layout, deeds: Deeds, *, settled: bool, retried: Sequence[str] = ()) -> Audit:
    """Compare the history with the ledger; where not `settled`, calls may be unknown, but only cut off ones.

    `retried` are objects that a person has had called again.
    """
    history, ledger = Books(layout.url), Books(layout.folder / "oracle.db")
    try:
        evaluations, calls = evaluations_of(history), calls_of(ledger)
        billed = Counter(call.object for call in calls if call.billed)
        found = Audit(calls=len(calls))
        found.unknown = sum(e.state == "unknown" for e in evaluations)
        found.lost = len(list(_lost(evaluations, calls)))
        found.paid_twice = sum(n > 1 + (text in retried) for text, n in billed.items())
        counts = {"results lost": found.lost, "evaluations paid twice": found.paid_twice}
        found.faults += [f"{n} {what}" for what, n in counts.items() if n]
        found.faults += _states(evaluations)
        if settled or layout.kind != "neither":
            found.faults += [f"{found.unknown} calls are unknown"] if found.unknown else []
        else:
            found.faults += _wrongly_unknown(evaluations, calls, deeds, layout)
            found.faults += _too_many_at_once(evaluations, deeds, layout)
        found.faults += _orphans(calls, deeds)
        found.faults += _money(history, evaluations, calls)
        found.faults += _rounds(history, layout.batch)
        found.faults += _current_values(history)
        found.faults += _told(history, layout)
        return found
    finally:
        history.close()
        ledger.close()


def _lost(evaluations: Sequence[Evaluation], calls: Sequence[Call]) -> Iterator[str]:
    """Yield the objects whose result is nowhere: billed and without a value, or selected and never measured."""
    states = {e.object: e for e in evaluations}
    for call in calls:
        if call.object not in states:
            yield call.object
    for e in evaluations:
        if e.state != "unknown" and (e.state != "done" or e.value != value_of(e.object)):
            yield e.object


def _states(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    left = Counter(e.state for e in evaluations if e.state not in ("done", "unknown"))
    if left:
        yield f"evaluations left {dict(left)}"


def _wrongly_unknown(
    evaluations: Sequence[Evaluation], calls: Sequence[Call], deeds: Deeds, layout: Layout
) -> Iterator[str]:
    """Say which calls are unknown though nothing has cut them off, and which are not though something has.

    Cut off is what a killed process had in hand; an answer that the oracle itself has kept back, or has given
    so late that nobody may have waited for it; the calls beside one in a function or program that broke down by
    it; and what a process held whose lease ran out.
    """
    by_key = {call.key: call for call in calls}
    owners = {e.key: e.pid for e in evaluations}
    last = _last_visits(calls, owners, 1 if layout.oracle == "callable" else CALLS["concurrency"])
    patience = (TIMEOUT_S[layout.oracle] or inf) - CLOCKS_S
    dropped: dict[int, list[float]] = defaultdict(list)
    for call in calls:
        if call.cut:
            dropped[owners.get(call.key, 0)].append(call.entered)
    for e in evaluations:
        made = by_key.get(e.key)
        if e.state == "done":
            if made is None or made.answered is None:
                why = "call was never made" if made is None else "answer was never given"
                yield f"{e.object} is done, though its {why}"
            continue
        in_hand = made is None or made.answered is None or made.visit in last.get(e.pid, ())
        ended = e.ended or 0.0
        killed = deeds.cut_off(e) and in_hand
        beside = made is None or layout.oracle == "callable"
        hung_up = beside and any(e.begun - 0.1 <= when <= ended for when in dropped[e.pid])
        # On a busy machine, and in a process that was stopped, the time is over without anybody's fault.
        kept_back = made is not None and (made.cut or ended - e.begun >= patience)
        # By the database's clock. Whoever is stopped while it holds a lock keeps others from renewing theirs.
        # A service that calls back is nobody's process: where its lease runs out, it must have kept silent.
        expired = e.pid != 0 and e.lease_until <= ended
        if not (killed or hung_up or kept_back or expired):
            yield (
                f"{e.object} is unknown, though nothing cut its call off (process {e.pid}, attempt {e.attempts}, "
                f"call {made})"
            )


def _last_visits(calls: Sequence[Call], owners: Mapping[str, int], count: int) -> dict[int, set[str]]:
    """Return the visits that each process made last, as many as it makes at the same time."""
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for call in calls:
        when = found[owners.get(call.key, 0)]
        when[call.visit] = max(when.get(call.visit, 0.0), call.answered or call.entered)
    return {pid: set(sorted(when, key=when.__getitem__)[-count:]) for pid, when in found.items()}


def _too_many_at_once(evaluations: Sequence[Evaluation], deeds: Deeds, layout: Layout) -> Iterator[str]:
    """Say who had more in hand when it was killed than is called at once."""
    held = Counter(e.pid for e in evaluations if e.state == "unknown" and deeds.cut_off(e))
    for pid, count in held.items():
        if count > layout.at_once:
            yield f"process {pid} was killed and left {count} unknown, expected {layout.at_once} at most"


def _orphans(calls: Sequence[Call], deeds: Deeds) -> Iterator[str]:
    """Say what was called on behalf of a process that was dead by then, by something that it had started."""
    late = [
        (call, pid) for call in calls for pid in call.callers
        if call.entered > deeds.killed.get(pid, call.entered) + GRACE_S
    ]  # fmt: skip
    if late:
        call, pid = late[0]
        after = call.entered - deeds.killed[pid]
        yield f"{len(late)} calls by children of killed processes, the first {after:.1f} s after {pid} was killed"


def _money(history: Books, evaluations: Sequence[Evaluation], calls: Sequence[Call]) -> Iterator[str]:
    """Say where the balance, its ledger and the oracle's bill disagree. What is unknown stays reserved."""
    ((reserved, spent),) = history.rows("SELECT reserved_minor, spent_minor FROM balance")
    rows = dict(history.rows("SELECT kind, sum(amount_minor) FROM ledger GROUP BY kind"))
    booked = {kind: int(amount) for kind, amount in rows.items()}
    unknown = {e.object for e in evaluations if e.state == "unknown"}
    bill = sum(call.billed for call in calls if call.object not in unknown)
    if spent != bill:
        yield f"the balance says {spent} spent, the oracle's bill {bill}"
    if reserved != len(unknown) * PRICE_MINOR:
        yield f"the balance says {reserved} reserved, expected {len(unknown) * PRICE_MINOR}"
    if booked.get("spend", 0) != spent or booked.get("reserve", 0) - booked.get("release", 0) != reserved:
        yield f"the ledger {booked} does not sum up to a balance of {reserved} reserved and {spent} spent"


def _rounds(history: Books, batch: int) -> Iterator[str]:
    rounds = history.rows("SELECT number, state, id FROM round ORDER BY number")
    if [number for number, _, _ in rounds] != list(range(1, len(rounds) + 1)):
        yield f"the rounds are numbered {[number for number, _, _ in rounds]}"
    open_rounds = [(number, state) for number, state, _ in rounds if state != "complete"]
    if open_rounds:
        yield f"rounds not complete: {open_rounds}"
    selected = dict(
        history.rows("SELECT round_id, count(*) FROM proposal WHERE decision = 'selected' GROUP BY round_id")
    )
    queued = dict(history.rows("SELECT round_id, count(*) FROM evaluation GROUP BY round_id"))
    odd = [n for n, _, number in rounds if (selected.get(number), queued.get(number)) != (batch, batch)]
    if odd:
        yield f"rounds without {batch} selected and as many evaluations: {odd}"
    ((running,),) = history.rows("SELECT count(*) FROM attempt WHERE state = 'running'")
    if running:
        yield f"{running} attempts are left running"
    ((conflicts,),) = history.rows("SELECT count(*) FROM event WHERE kind = 'conflict'")
    if conflicts:
        yield f"{conflicts} conflicts, though the oracle never answers differently"


def _current_values(history: Books) -> Iterator[str]:
    """Say where the projection is not what its measurements give."""
    values: dict[tuple[int, str], list[tuple[float, int]]] = defaultdict(list)
    rows = history.rows(
        "SELECT candidate_id, property, value, seq FROM measurement WHERE qualifier = '=' ORDER BY seq"
    )
    for candidate, prop, value, seq in rows:
        values[candidate, prop].append((value, seq))
    wanted = {
        key: (fsum(value for value, _ in found) / len(found), len(found), found[-1][1])
        for key, found in values.items()
    }
    stored = {
        (candidate, prop): (value, count, seq)
        for candidate, prop, value, count, seq in history.rows(
            "SELECT candidate_id, property, value, count, seq FROM current_value"
        )
    }
    if stored != wanted:
        odd = [key for key in stored.keys() | wanted.keys() if stored.get(key) != wanted.get(key)]
        yield f"{len(odd)} current values are not those of their measurements"
    seqs = [seq for *_, seq in rows]
    ((clock,),) = history.rows("SELECT clock FROM campaign")
    if seqs != list(range(1, clock + 1)):
        yield f"the clock says {clock}, but the measurements have {len(seqs)} numbers"


def _told(history: Books, layout: Layout) -> Iterator[str]:
    """Say which told values are missing, or there more than once."""
    lines = (layout.folder / TELLING).read_text(encoding="utf-8").splitlines()
    begun, ended = ({line.split()[1] for line in lines if line.startswith(word)} for word in ("begin", "end"))
    if begun != ended:
        yield f"{len(begun - ended)} tables were never told to their end"
    wanted = Counter(
        (f"table {number}", text, value)
        for number in ended
        for text, value in table_of(int(number), seed=layout.seed)
    )
    found = Counter(
        history.rows(
            """SELECT m.source, c.object, m.value FROM measurement m JOIN candidate c ON c.id = m.candidate_id
            WHERE m.evaluation_id IS NULL"""
        )
    )
    if found != wanted:
        yield f"{(wanted - found).total()} told values are missing, {(found - wanted).total()} too many"


def seconds(when: Any) -> float | None:
    """Return a time of the database as Unix time."""
    if when is None or isinstance(when, datetime):
        return None if when is None else when.timestamp()
    return datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp()
