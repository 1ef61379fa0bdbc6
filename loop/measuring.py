"""Have claimed evaluations measured: call the oracle, and turn what it answers into outcomes.

When it is called belongs in `loop.stages`; what is stored, in `db`.
"""

import logging
import math
import numbers
from collections.abc import Sequence
from typing import Any

from flowscout.db import Claim, FailureClass, MeasurementRecord, Outcome, Qualifier
from flowscout.errors import OracleError
from flowscout.loop.oracles import Request, Result
from flowscout.loop.workbench import Workbench

logger = logging.getLogger(__name__)


def measure(bench: Workbench, claims: Sequence[Claim]) -> list[Outcome]:
    """Call the oracle once for all claims and return what came of each."""
    requests = [Request(c.object, c.candidate_id, c.idempotency_key, c.replicate, c.fidelity) for c in claims]
    try:
        results = bench.oracle(requests)
    except OracleError as error:  # it broke its contract: the same call would break it again
        return [_failed(claim, FailureClass.PERMANENT, str(error)) for claim in claims]
    except Exception as error:
        logger.info("oracle %s raised", bench.oracle.info.name, exc_info=True)
        reason = " ".join(str(error).split())  # a message is one line
        message = f"oracle {bench.oracle.info.name!r} raised {type(error).__name__}: {reason}."
        return [_failed(claim, FailureClass.TRANSIENT, message) for claim in claims]
    return [_outcome(bench, claim, result) for claim, result in zip(claims, results, strict=True)]


def _failed(claim: Claim, failure: FailureClass, message: str) -> Outcome:
    return Outcome(claim=claim, failure=failure, message=message)


def _outcome(bench: Workbench, claim: Claim, result: Result) -> Outcome:
    cost_minor = None if result.cost_usd is None else round(result.cost_usd * 100)
    if result.failure is not None:
        return Outcome(
            claim=claim,
            failure=FailureClass(result.failure),
            message=result.message or "no message",
            cost_minor=cost_minor,
        )
    wanted = bench.config.objective.name
    wrong = {name: value for name, value in result.values.items() if not _is_finite(value)}
    if wrong or wanted not in result.values:
        came = f"{wrong}" if wrong else f"values of {', '.join(result.values) or 'nothing'}"
        message = f"oracle {bench.oracle.info.name!r} returned {came}, expected a finite {wanted!r}."
        return Outcome(claim=claim, failure=FailureClass.PERMANENT, message=message, cost_minor=cost_minor)
    measurements = [
        MeasurementRecord(
            key=bench.space.key(claim.object),
            object=claim.object,
            property=name,
            value=float(value),
            source=f"oracle:{bench.oracle.info.name}",
            row_id=claim.idempotency_key,
            qualifier=Qualifier(result.qualifier),
            sem=result.sem,
            n=result.n,
            unit=result.unit,
            as_run=result.as_run,
        )
        for name, value in result.values.items()
    ]
    return Outcome(claim=claim, measurements=measurements, cost_minor=cost_minor)


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)
