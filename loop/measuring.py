"""Have claimed evaluations measured: call the oracle, and turn what it answers into outcomes.

When it is called belongs in `loop.stages`; what is stored, in `db`.
"""

import json
import logging
import math
import numbers
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from decimal import Decimal
from queue import SimpleQueue
from typing import Any

from flowscout.db import Claim, FailureClass, MeasurementRecord, Outcome, Qualifier
from flowscout.errors import OracleError, OracleTimeoutError
from flowscout.loop.oracles import Request, Result, raised
from flowscout.loop.oracles.cleaning import clean, plain
from flowscout.loop.section import MAX_USD
from flowscout.loop.workbench import Workbench

logger = logging.getLogger(__name__)

QUALIFIERS = ("=", "<", ">")
MAX_SOURCE, MAX_PROPERTY, MAX_UNIT, MAX_N = 200, 200, 50, 2**31 - 1  # what the history's columns hold
MAX_MESSAGE = 10_000


@dataclass(frozen=True)
class Answer:
    """What an oracle's result says, in the words of the history; `unknown`: nobody can say what came of a call."""

    measurements: Sequence[MeasurementRecord] = ()
    failure: FailureClass | None = None
    message: str | None = None
    cost_minor: int | None = None
    unknown: bool = False


class Late:
    """Outcomes of calls that were given up before they ended: their values are recorded, and change no state.

    One for each history, for as long as this process has it open; any thread may keep something here.
    """

    def __init__(self) -> None:
        self._kept: SimpleQueue[tuple[Workbench, Sequence[Outcome]]] = SimpleQueue()

    def keep(self, bench: Workbench, outcomes: Sequence[Outcome]) -> None:
        """Keep those that bring a value."""
        brought = [outcome for outcome in outcomes if outcome.measurements]
        if brought:
            self._kept.put((bench, brought))

    def taken(self) -> list[tuple[Workbench, Sequence[Outcome]]]:
        """Return what has come, once."""
        found = []
        while not self._kept.empty():
            found.append(self._kept.get())
        return found


def measure(bench: Workbench, claims: Sequence[Claim], *, late: Late | None = None) -> list[Outcome]:
    """Call the oracle once for all claims and return what came of each.

    An exception, a time-out or an answer that breaks the contract is a failure of an idempotent oracle's calls.
    Of any other oracle nobody can say then whether it acted, so its calls are unknown and are never made again.
    What comes after a time-out is kept in `late`. Only KeyboardInterrupt breaks off: that a function ends the
    process (SystemExit) is a failure of its call.
    """
    info = bench.oracle.info
    requests = [Request(c.object, c.candidate_id, c.idempotency_key, c.replicate, c.fidelity) for c in claims]
    try:
        results = bench.oracle(requests)
        if len(results) != len(claims):
            raise OracleError(
                f"oracle {info.name!r} returned {len(results)} results for {len(claims)} requests, expected one "
                "for each."
            )
    except OracleTimeoutError as error:
        failure, message = FailureClass.TRANSIENT, str(error)
        if error.late is not None and late is not None:
            error.late.add_done_callback(lambda future: _keep_late(bench, claims, future, late))
    except OracleError as error:  # it broke its contract: the same call would break it again
        failure, message = FailureClass.PERMANENT, str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        logger.info("oracle %s raised", info.name, exc_info=True)
        failure, message = FailureClass.TRANSIENT, raised(info.name, error)
    else:
        return [_outcome(bench, claim, result) for claim, result in zip(claims, results, strict=True)]
    if info.idempotent:
        return [Outcome(claim=claim, failure=failure, message=message) for claim in claims]
    return [Outcome(claim=claim, unknown=True, message=message) for claim in claims]


def _outcome(bench: Workbench, claim: Claim, result: Result) -> Outcome:
    try:
        return _read(bench, claim, result)
    except Exception as error:  # noqa: BLE001 - the user's own objects, whatever they are
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        message = f"oracle {bench.oracle.info.name!r} returned a result that cannot be read ({reason}): "
        return Outcome(claim, failure=FailureClass.PERMANENT, message=plain(message + repr(result)[:300]))


def _keep_late(bench: Workbench, claims: Sequence[Claim], future: "Future[Any]", late: Late) -> None:
    """Keep what a call has returned that was given up; that it failed in the end is nothing new."""
    if future.cancelled() or future.exception() is not None or len(future.result()) != len(claims):
        return
    outcomes = [_outcome(bench, claim, result) for claim, result in zip(claims, future.result(), strict=True)]
    late.keep(bench, outcomes)


def _read(bench: Workbench, claim: Claim, result: Result) -> Outcome:
    if _is_finite(result.pending_s) and result.failure is None and not result.values:
        return Outcome(claim, message=result.message, pending_s=max(0.0, float(result.pending_s or 0.0)))
    answer = read_result(bench, claim.object, claim.idempotency_key, result)
    message = None if answer.message is None else plain(str(answer.message)[:MAX_MESSAGE])
    return Outcome(claim, answer.measurements, answer.failure, message, answer.cost_minor, unknown=answer.unknown)


def read_result(bench: Workbench, text: str, key: str, result: Result) -> Answer:
    """Return what came of the call for an object with this idempotency key.

    A number that was paid for is kept, whatever else is odd about it.
    """
    cost_minor = _minor(result.cost_usd)
    if result.failure == "unknown":  # with a key it may be asked again, without one nobody may
        message = result.message or "nobody can say whether it was measured"
        if bench.oracle.info.idempotent:
            return Answer(failure=FailureClass.TRANSIENT, message=message, cost_minor=cost_minor)
        return Answer(unknown=True, message=message)
    if result.failure is not None:
        known = result.failure in tuple(FailureClass)
        return Answer(
            failure=FailureClass(result.failure) if known else FailureClass.PERMANENT,
            message=result.message or f"failed ({result.failure}) without a message",
            cost_minor=cost_minor,
        )
    name, wanted = bench.oracle.info.name, bench.config.objective.name
    values = {
        prop: float(value)
        for prop, value in result.values.items()
        if _is_finite(value) and isinstance(prop, str) and len(prop) <= MAX_PROPERTY and plain(prop) == prop
    }
    if wanted not in values or result.qualifier not in QUALIFIERS:
        message = (
            f"oracle {name!r} returned values {dict(result.values)!r} with qualifier {result.qualifier!r}, "
            f"expected a finite {wanted!r} and a qualifier of {', '.join(QUALIFIERS)}."
        )
        return Answer(failure=FailureClass.PERMANENT, message=message, cost_minor=cost_minor)
    units = {one.name: one.unit for one in bench.config.measured}
    if None not in (result.unit, units[wanted]) and result.unit != units[wanted]:
        message = (
            f"oracle {name!r} returned {wanted!r} = {values[wanted]:g} in {result.unit!r}, expected "
            f"{units[wanted]!r}, the campaign's unit. Convert the values in the oracle: that is not done here."
        )
        price = _minor(bench.oracle.info.cost_usd) if cost_minor is None else cost_minor  # it was measured
        return Answer(failure=FailureClass.PERMANENT, message=message, cost_minor=price)
    without_place = bench.scale.refusal(values[wanted])
    if without_place is not None:
        price = _minor(bench.oracle.info.cost_usd) if cost_minor is None else cost_minor  # it was measured
        message = f"oracle {name!r} returned {wanted!r} = {values[wanted]:g}, {without_place}."
        return Answer(failure=FailureClass.PERMANENT, message=message, cost_minor=price)
    odd = sorted(set(map(str, result.values)) - set(values))
    measurements = [
        MeasurementRecord(
            key=bench.tools.rules.key(text),
            object=text,
            property=prop,
            value=value,
            source=source_of(name),
            row_id=key,
            qualifier=Qualifier(result.qualifier),
            sem=_number(result.sem),
            n=_count(result.n),
            unit=None if unit is None else plain(str(unit))[:MAX_UNIT],
            as_run=_as_json(result.as_run),
        )
        for prop, value in values.items()
        for unit in [result.unit if prop == wanted else units.get(prop)]
    ]
    note = f"no finite number for {', '.join(odd)}" if odd else None
    return Answer(measurements, message=note, cost_minor=cost_minor)


def source_of(oracle: str) -> str:
    """Return the source of what an oracle of this name measured; the key of the call is the row."""
    return f"oracle:{oracle}"[-MAX_SOURCE:]


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real | Decimal) and math.isfinite(value)


def _number(value: Any) -> float | None:
    """Return a plain number, as every database driver knows it; None where there is none."""
    return float(value) if _is_finite(value) else None


def _count(n: Any) -> int | None:
    """Return a number of readings; None where it is none that the history can hold."""
    return int(n) if isinstance(n, numbers.Integral) and 0 < int(n) <= MAX_N else None


def _minor(cost_usd: Any) -> int | None:
    """Return a bill in minor units; None, the oracle's price, where the bill is no amount of money."""
    return round(cost_usd * 100) if _is_finite(cost_usd) and 0 <= cost_usd <= MAX_USD else None


def _as_json(as_run: Any) -> dict[str, Any] | None:
    """Return conditions as JSON can hold them: what it cannot is written as text."""
    if not isinstance(as_run, Mapping):
        return None if as_run is None else {"as_run": plain(str(as_run))}
    kept: dict[str, Any] = clean(json.loads(json.dumps({str(k): v for k, v in as_run.items()}, default=str)))
    return kept
