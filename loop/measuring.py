"""Have claimed evaluations measured: call the oracle, and turn what it answers into outcomes.

When it is called belongs in `loop.stages`; what is stored, in `db`.
"""

import json
import logging
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flowscout.db import Claim, FailureClass, MeasurementRecord, Outcome, Qualifier
from flowscout.errors import OracleError
from flowscout.loop.oracles import Request, Result
from flowscout.loop.workbench import Workbench

logger = logging.getLogger(__name__)

QUALIFIERS = ("=", "<", ">")
MAX_SOURCE, MAX_UNIT = 200, 50  # what the history's columns hold


@dataclass(frozen=True)
class Answer:
    """What an oracle's result says, in the words of the history."""

    measurements: Sequence[MeasurementRecord] = ()
    failure: FailureClass | None = None
    message: str | None = None
    cost_minor: int | None = None


def measure(bench: Workbench, claims: Sequence[Claim]) -> list[Outcome]:
    """Call the oracle once for all claims and return what came of each.

    An exception or an answer that breaks the contract is a failure of an idempotent oracle's calls. Of any
    other oracle nobody can say then whether it acted, so its calls are unknown and are never made again.
    """
    info = bench.oracle.info
    requests = [Request(c.object, c.candidate_id, c.idempotency_key, c.replicate, c.fidelity) for c in claims]
    try:
        results = bench.oracle(requests)
    except OracleError as error:  # it broke its contract: the same call would break it again
        failure, message = FailureClass.PERMANENT, str(error)
    except Exception as error:
        logger.info("oracle %s raised", info.name, exc_info=True)
        reason = " ".join(str(error).split())  # a message is one line
        failure, message = FailureClass.TRANSIENT, f"oracle {info.name!r} raised {type(error).__name__}: {reason}."
    else:
        return [_outcome(bench, claim, result) for claim, result in zip(claims, results, strict=True)]
    if info.idempotent:
        return [Outcome(claim=claim, failure=failure, message=message) for claim in claims]
    return [Outcome(claim=claim, unknown=True, message=message) for claim in claims]


def _outcome(bench: Workbench, claim: Claim, result: Result) -> Outcome:
    answer = read_result(bench, claim.object, claim.idempotency_key, result)
    return Outcome(claim, answer.measurements, answer.failure, answer.message, answer.cost_minor)


def read_result(bench: Workbench, text: str, key: str, result: Result) -> Answer:
    """Return what came of the call for an object with this idempotency key.

    A number that was paid for is kept, whatever else is odd about it.
    """
    cost_minor = _minor(result.cost_usd)
    if result.failure is not None:
        known = result.failure in tuple(FailureClass)
        return Answer(
            failure=FailureClass(result.failure) if known else FailureClass.PERMANENT,
            message=result.message or f"failed ({result.failure}) without a message",
            cost_minor=cost_minor,
        )
    name, wanted = bench.oracle.info.name, bench.config.objective.name
    values = {prop: float(value) for prop, value in result.values.items() if _is_finite(value)}
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
            n=int(result.n) if isinstance(result.n, numbers.Integral) else None,
            unit=None if unit is None else str(unit)[:MAX_UNIT],
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


def _minor(cost_usd: Any) -> int | None:
    """Return a bill in minor units; None, the oracle's price, where the bill is no amount of money."""
    return round(cost_usd * 100) if _is_finite(cost_usd) and cost_usd >= 0 else None


def _as_json(as_run: Any) -> dict[str, Any] | None:
    """Return conditions as JSON can hold them: what it cannot is written as text."""
    if not isinstance(as_run, Mapping):
        return None if as_run is None else {"as_run": str(as_run)}
    kept: dict[str, Any] = json.loads(json.dumps({str(k): v for k, v in as_run.items()}, default=str))
    return kept
