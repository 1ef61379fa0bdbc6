"""Dispatching: claim evaluations, have them measured, settle them; and what to do about calls that were cut off.

Which round is due belongs in `loop.stages`, what one call is answered in `loop.measuring`.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from queue import Empty, SimpleQueue
from types import TracebackType
from weakref import WeakKeyDictionary

from flowscout.db import (
    ATTEMPT_LEASE_S,
    Claim,
    EvaluationState,
    FailureClass,
    History,
    Outcome,
    RoundRecord,
    Ruling,
    UnknownRecord,
    Verdict,
    passing,
)
from flowscout.errors import FlowscoutError
from flowscout.loop.lanes import GATHER_S, Ended, Lane
from flowscout.loop.leases import HeldClaims
from flowscout.loop.measuring import Late, read_result
from flowscout.loop.oracles import LookUp, Result
from flowscout.loop.workbench import Workbench, at_version

logger = logging.getLogger(__name__)

RETRY_PAUSE_S = 0.2
POLL_S = 0.5
"""How often is looked whether others have settled what they claimed."""


PASSING_S = 5.0
"""The pause after a database was away or full."""

STORE_AGAIN_S = (0.2, 1.0, 5.0)
"""The pauses before an answer is stored again that could not be."""

_late: "WeakKeyDictionary[History, Late]" = WeakKeyDictionary()
"""What has come of calls that were given up, for each history that this process has open."""


@dataclass(frozen=True)
class Turn:
    """What came of a turn: how many evaluations were called, and how many values were new.

    `idle` means: nothing is under way, and nothing is to be had.
    """

    called: int = 0
    added: int = 0
    idle: bool = False


class Dispatcher:
    """Calls oracles for a campaign, each evaluation by the file that its round began with.

    It claims no more than is called at once, and a second's work ahead of an oracle that may be called again.
    All is stored by the thread that takes the turns. Where the block breaks off, what has ended is settled and
    the other claims are given up.
    """

    def __init__(
        self, bench: Workbench, *, owner: str, lease_s: float = ATTEMPT_LEASE_S, shares: bool = False
    ) -> None:
        """Call for `bench`; who `shares` takes one at a time where a call takes as many as there are."""
        self.bench, self.owner, self._lease_s, self._shares = bench, owner, lease_s, shares
        self._benches = {bench.version.id: bench}
        self._lanes: dict[int, Lane] = {}
        self._ended: SimpleQueue[Ended] = SimpleQueue()
        self._unsettled: list[Ended] = []
        self._held = HeldClaims(bench.history, lease_s=lease_s)
        self._late = _late.setdefault(bench.history, Late())
        self._failures, self._not_before = 0, 0.0
        self._unheard = False
        """Whether a claim was broken off, so that nobody knows whether it was made."""

    @property
    def in_hand(self) -> int:
        """How many evaluations are claimed and not settled."""
        return sum(lane.in_hand for lane in self._lanes.values())

    def turn(self, *, limit: int | None = None) -> Turn:
        """Claim what there is room for, have it called, and settle what has ended.

        `limit` is how many evaluations are in hand at most; None: as many as are called at once, and where a
        call takes all there are, all. It waits for calls that are under way, but not for long: whoever takes
        turns has other things to look after.
        """
        pause_s = self._not_before - time.monotonic()
        claimed = self._claim(limit) if pause_s <= 0 else 0
        if claimed or self.in_hand:
            self._gather()
            return self._settle()
        if pause_s > 0:
            time.sleep(min(pause_s, POLL_S))
        return Turn(added=self._record_late(), idle=pause_s <= 0)

    def drain(self) -> Turn:
        """Claim nothing more; wait for what is under way and settle it. What was claimed ahead is handed back."""
        self._hand_back([claim for lane in self._lanes.values() for claim in lane.drop()])
        called, added = 0, 0
        while self.in_hand:
            self._gather()
            turn = self._settle()
            called, added = called + turn.called, added + turn.added
        return Turn(called, added, idle=True)

    def hurry(self) -> None:
        """Let calls end that pause before they try again; any thread may say so."""
        for lane in list(self._lanes.values()):
            lane.hurry()

    def _hand_back(self, claims: Sequence[Claim]) -> None:
        if claims:
            self._held.let_go(claims)
            self.bench.history.experiments.renew(claims, lease_s=0)
            self.recover(ask=False)

    def _claim(self, limit: int | None) -> int:
        """Claim as much as there is room for, the oldest first; return how many evaluations."""
        found = 0
        experiments, campaign_id = self.bench.history.experiments, self.bench.campaign.id
        if self._unheard:  # what was claimed as the database went away is nobody's, and would wait for its lease
            experiments.give_up(campaign_id, owner=self.owner, but=HeldClaims.all_held())
            self.recover(ask=False)
            self._unheard = False
        for version_id in experiments.versions_queued(campaign_id):
            lane = self._lane(version_id)
            rooms = [lane.room(), None if limit is None else limit - self.in_hand]
            if self._shares and rooms[0] is None:
                rooms[0] = 1
            room = min((room for room in rooms if room is not None), default=None)
            if (room is not None and room <= 0) or lane.bench.oracle.info.waits_for_people:
                continue
            self._unheard = True
            claims = experiments.claim_any(
                campaign_id, owner=self.owner, limit=room, lease_s=self._lease_s, version_id=version_id
            )
            self._unheard = False
            self._held.hold(claims)
            lane.take(claims)
            found += len(claims)
        return found

    def _gather(self) -> None:
        """Begin what may begin, and take calls that have ended: at once where others are to be claimed.

        Raises:
            KeyboardInterrupt: a call was broken off.
        """
        until = time.monotonic() + GATHER_S
        while True:
            for lane in self._lanes.values():
                lane.begin()
            waits = [lane.wait_s() for lane in self._lanes.values() if lane.waits]
            with suppress(Empty):
                self._take(timeout_s=max(0.0, min([until - time.monotonic(), *waits])))
            ended = bool(self._unsettled) and not any(one.lane.ahead for one in self._unsettled)
            if ended or time.monotonic() >= until:
                return

    def _take(self, *, timeout_s: float = 0.0) -> None:
        """Take what has ended; it is unsettled until it is stored, whatever breaks off in between.

        Raises:
            Empty: nothing has ended in that time.
        """
        self._unsettled.append(self._ended.get(timeout=timeout_s))
        while not self._ended.empty():
            self._unsettled.append(self._ended.get())
        for one in self._unsettled:
            if one.error is not None:
                raise one.error

    def _settle(self) -> Turn:
        """Store what came of calls, together where they are of one oracle."""
        called, added, classes = 0, self._record_late(), set()
        for lane in dict.fromkeys(one.lane for one in self._unsettled):
            ended = [one for one in self._unsettled if one.lane is lane]
            claims = [claim for one in ended for claim in one.claims]
            outcomes = [outcome for one in ended for outcome in one.outcomes]
            self._held.let_go(claims)
            try:
                added += store(lane.bench, outcomes)
            except BaseException:  # what was answered is kept, and stored in a later turn
                self._held.hold(claims)
                raise
            self._unsettled = [one for one in self._unsettled if one.lane is not lane]
            lane.settled(len(claims))
            called += len(outcomes)
            classes |= {outcome.failure for outcome in outcomes}
        if FailureClass.TRANSIENT in classes:  # what fails for a while is not called again at once
            self._failures = self._failures + 1 if classes == {FailureClass.TRANSIENT} else 0
            self._not_before = time.monotonic() + RETRY_PAUSE_S * 2 ** min(self._failures, 8)
        elif called:
            self._failures = 0
        return Turn(called, added)

    def _record_late(self) -> int:
        """Record the values of calls that were given up; they change nothing else. What is not stored is kept."""
        added, found = 0, self._late.taken()
        for place, (bench, outcomes) in enumerate(found):
            try:
                added += store(bench, outcomes)
            except BaseException:  # a database that is away; no call will bring the value again
                for left in found[place:]:
                    self._late.keep(*left)
                raise
        return added

    def _lane(self, version_id: int) -> Lane:
        if version_id not in self._lanes:
            bench = self._bench(version_id)
            self._lanes[version_id] = Lane(bench, held=self._held, ended=self._ended, late=self._late)
        return self._lanes[version_id]

    def __enter__(self) -> "Dispatcher":
        self._held.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for lane in self._lanes.values():
                lane.close()
            while not self._ended.empty():
                self._unsettled.append(self._ended.get())
            self._unsettled = [one for one in self._unsettled if one.error is None]
            self._settle()
        finally:
            self._held.__exit__(kind, error, trace)

    def recover(self, *, ask: bool = True) -> None:
        """End the calls of the dead, and `ask` oracles that have a look-up what came of those that are unknown.

        Where not `ask`, they are asked only about calls that have become unknown now.
        """
        found = self.bench.history.experiments.recover(self.bench.campaign.id, actor=self.owner)
        if ask or found["unknown"]:
            self._look_up()

    def _look_up(self) -> None:
        unknown = self.bench.history.experiments.unknown(self.bench.campaign.id)
        for version_id in dict.fromkeys(row.version_id for row in unknown):
            bench = self._bench(version_id)
            rows = [row for row in unknown if row.version_id == version_id]
            rulings = look_up(bench, rows)
            if rulings:
                actor = f"oracle:{bench.oracle.info.name}"
                bench.history.experiments.reconcile(bench.campaign.id, rulings, actor=actor, strict=False)

    def _bench(self, version_id: int | None) -> Workbench:
        if version_id is None:
            return self.bench
        if version_id not in self._benches:
            self._benches[version_id] = at_version(self.bench, version_id)
        return self._benches[version_id]


def look_up(bench: Workbench, unknown: Sequence[UnknownRecord]) -> list[Ruling]:
    """Ask the oracle what came of unknown calls; return what it knows, which is nothing without a look-up."""
    oracle, rows = bench.oracle, [row for row in unknown if row.oracle == bench.oracle.info.name]
    if not (rows and oracle.info.lookup and isinstance(oracle, LookUp)):
        return []
    try:
        answers = oracle.lookup([row.idempotency_key for row in rows])
    except Exception as error:  # noqa: BLE001 - the user's own code; the calls stay unknown
        logger.warning("the look-up of oracle %s raised %s: %s", oracle.info.name, type(error).__name__, error)
        return []
    rulings = []
    for row in rows:
        if row.idempotency_key not in answers:
            continue
        answer = answers[row.idempotency_key]
        if answer is None:
            rulings.append(Ruling(row.evaluation_id, Verdict.NEVER, message="looked up", attempt=row.attempt))
        elif isinstance(answer, Result):
            read = read_result(bench, row.object, row.idempotency_key, answer)
            if read.unknown:
                continue
            rulings.append(
                Ruling(
                    row.evaluation_id,
                    Verdict.DONE,
                    read.measurements,
                    failure=read.failure,
                    message=read.message or "looked up",
                    cost_minor=read.cost_minor,
                    attempt=row.attempt,
                )
            )
    return rulings


def store(bench: Workbench, outcomes: Sequence[Outcome]) -> int:
    """Settle outcomes together; return how many values were new.

    What was measured was paid for: one that cannot be stored keeps no other from it, and is tried again for a
    while. What the history refuses for good is settled as a failure that says so.

    Raises:
        Exception: the database is away or its disk is full (`passing`); what was stored before may be again.
    """
    actor = f"oracle:{bench.oracle.info.name}"
    settle = bench.history.experiments.settle
    try:
        return settle(outcomes, actor=actor) if outcomes else 0
    except Exception as error:
        if passing(error) is not None:
            raise
        logger.warning("%d answers of %s cannot be stored together", len(outcomes), actor, exc_info=True)
        if len(outcomes) > 1:
            return sum(store(bench, [outcome]) for outcome in outcomes)
    [outcome] = outcomes
    for pause_s in STORE_AGAIN_S:
        time.sleep(pause_s)
        try:
            return settle(outcomes, actor=actor)
        except FlowscoutError as error:
            refused: Exception = error
            break
        except Exception as error:  # a database that is busy may not be so then
            if passing(error) is not None:
                raise
            refused = error
    values = {record.property: record.value for record in outcome.measurements}
    reason = " ".join(str(refused).split())[:500]
    message = f"{actor} returned {values} for {outcome.claim.object!r}, which cannot be stored: {reason}"
    logger.error("%s", message)
    failed = Outcome(outcome.claim, failure=FailureClass.PERMANENT, message=message, cost_minor=outcome.cost_minor)
    return settle([failed], actor=actor)


@contextmanager
def riding_out(bench: Workbench, what: str, *, until: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Pause where the block is broken off by a database that is away or full: what it does is to be done again.

    It says so each time. Whoever repeats it looks at `until`, the end of the pause at the latest.
    """
    try:
        yield
    except Exception as error:
        why = passing(error)
        if why is None:
            raise
        logger.warning(
            "campaign %s: %s was broken off (%s); nothing is lost, and it goes on when the database does",
            bench.campaign.name,
            what,
            why,
        )
        end = time.monotonic() + PASSING_S
        while time.monotonic() < end and not until():
            time.sleep(POLL_S)


def finish(bench: Workbench, record: RoundRecord) -> int:
    """Have everything of a round measured, beside any workers; return how many measurements came back.

    What workers have claimed is waited for, what a service has accepted is not. What the budget does not reach is
    cancelled, once no answer can free any money for it.
    """
    added = 0
    with Dispatcher(bench, owner=bench.held.owner, lease_s=bench.attempt_lease_s) as dispatcher:
        dispatcher.recover()
        while True:
            with riding_out(bench, f"round {record.number}"):
                waiting = _waiting(bench, record)
                if not waiting:
                    break
                turn = dispatcher.turn(limit=_share(bench, sum(waiting.values())))
                added += turn.added
                under_way = waiting.get(EvaluationState.RUNNING, 0)
                if turn.idle and under_way and under_way == bench.history.experiments.accepted(record.id):
                    break  # their answers may take days, and free what the budget does not reach until then
                if turn.idle and not _settle_rest(bench, record):
                    time.sleep(POLL_S)
                dispatcher.recover(ask=False)
        added += dispatcher.drain().added
    return added


def _waiting(bench: Workbench, record: RoundRecord) -> dict[EvaluationState, int]:
    """Return how many evaluations of a round are queued and how many under way; nothing where none are."""
    counts = bench.history.experiments.counts(bench.campaign.id, round_id=record.id)
    return {state: counts[state] for state in (EvaluationState.QUEUED, EvaluationState.RUNNING) if state in counts}


def _share(bench: Workbench, waiting: int) -> int | None:
    """Return how many to claim at once: all, or an equal share where there are workers."""
    workers = len(bench.history.workers.living(bench.campaign.uuid))
    return None if workers == 0 else ceil(waiting / (1 + workers))


def _settle_rest(bench: Workbench, record: RoundRecord) -> bool:
    """Cancel what the budget does not reach, once nobody calls any more; return whether anything was."""
    experiments = bench.history.experiments
    counts = experiments.counts(bench.campaign.id, round_id=record.id)
    if counts.get(EvaluationState.RUNNING, 0):
        return False  # what is released then may be spent
    return experiments.cancel_queued(record.id, actor=bench.held.owner) > 0
