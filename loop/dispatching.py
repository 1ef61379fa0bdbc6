"""Dispatching: claim evaluations, have them measured, settle them; and what to do about calls that were cut off.

Which round is due belongs in `loop.stages`, what one call is answered in `loop.measuring`.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from flowscout.db import (
    ATTEMPT_LEASE_S,
    EvaluationState,
    FailureClass,
    RoundRecord,
    Ruling,
    UnknownRecord,
    Verdict,
)
from flowscout.loop.leases import held_claims
from flowscout.loop.measuring import measure, read_result
from flowscout.loop.oracles import LookUp, Result
from flowscout.loop.workbench import Workbench, at_version

logger = logging.getLogger(__name__)

RETRY_PAUSE_S = 0.2
POLL_S = 0.5
"""How often is looked whether others have settled what they claimed."""


@dataclass(frozen=True)
class Turn:
    """What came of claims that were taken together: how many, how many values were new, whether to pause."""

    claimed: int
    added: int
    transient: bool


class Dispatcher:
    """Calls oracles for a campaign, each evaluation by the file that its round began with."""

    def __init__(self, bench: Workbench, *, owner: str, lease_s: float = ATTEMPT_LEASE_S) -> None:
        self.bench, self.owner, self._lease_s = bench, owner, lease_s
        self._benches = {bench.version.id: bench}

    def turn(self, *, limit: int | None = None) -> Turn:
        """Claim up to `limit` evaluations, call their oracle and settle them; none where nothing is to be had."""
        experiments = self.bench.history.experiments
        claims = experiments.claim_any(
            self.bench.campaign.id, owner=self.owner, limit=limit, lease_s=self._lease_s
        )
        if not claims:
            return Turn(claimed=0, added=0, transient=False)
        added, transient = 0, False
        settling = threading.Event()
        with held_claims(self.bench.history, claims, lease_s=self._lease_s, settling=settling):
            for version_id in dict.fromkeys(claim.version_id for claim in claims):
                bench = self._bench(version_id)
                mine = [claim for claim in claims if claim.version_id == version_id]
                outcomes = measure(bench, mine)
                settling.set()
                added += experiments.settle(outcomes, actor=f"oracle:{bench.oracle.info.name}")
                transient |= any(outcome.failure is FailureClass.TRANSIENT for outcome in outcomes)
        return Turn(len(claims), added, transient)

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


def finish(bench: Workbench, record: RoundRecord) -> int:
    """Have everything of a round measured, beside any workers; return how many measurements came back.

    What workers have claimed is waited for. What the budget does not reach is cancelled.
    """
    dispatcher = Dispatcher(bench, owner=bench.held.owner, lease_s=bench.attempt_lease_s)
    dispatcher.recover()
    added, tries = 0, 0
    while waiting := _waiting(bench, record):
        turn = dispatcher.turn(limit=_share(bench, waiting))
        added += turn.added
        tries = tries + 1 if turn.transient else 0
        if turn.transient:
            time.sleep(RETRY_PAUSE_S * 2**tries)
        elif not turn.claimed and not _settle_rest(bench, record):
            time.sleep(POLL_S)
        dispatcher.recover(ask=False)
    return added


def _waiting(bench: Workbench, record: RoundRecord) -> int:
    counts = bench.history.experiments.counts(bench.campaign.id, round_id=record.id)
    return counts.get(EvaluationState.QUEUED, 0) + counts.get(EvaluationState.RUNNING, 0)


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
