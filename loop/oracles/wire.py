"""Requests and answers as JSON, the same for programs, services and whoever posts results.

How they travel belongs in the oracle that sends them, what is stored of them in `loop.measuring`.

A request is `{"key", "object", "candidate_id", "replicate", "fidelity"}`. An answer names the `key` of its
request and holds what a `Result` does, `{"key": "3f..", "values": {"affinity": -7.2}, "sem": 0.1}`, or in short
`{"key": "3f..", "value": -7.2}`: the number of the objective. Answers may come in any order.
"""

import json
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, get_args

from flowscout.errors import OracleError
from flowscout.loop.oracles.protocol import Failure, Request, Result

MAX_SHOWN = 80
"""Characters of an answer that cannot be understood that a message shows at most."""

_FIELDS = frozenset(
    {"key", "value", "values", "sem", "n", "qualifier", "unit", "as_run", "cost_usd", "failure", "message"}
)


def write_request(request: Request) -> dict[str, Any]:
    """Return a request as JSON can hold it."""
    return {
        "key": request.key,
        "object": request.object,
        "candidate_id": request.candidate_id,
        "replicate": request.replicate,
        "fidelity": request.fidelity,
    }


def write_answer(key: str, result: Result) -> dict[str, Any]:
    """Return the answer that says what a result does; what is left out is as in a new `Result`.

    Raises:
        TypeError, ValueError: it holds what JSON cannot.
    """
    answer: dict[str, Any] = {name: value for name, value in vars(result).items() if value is not None}
    answer["key"] = key
    answer["values"] = {str(name): _plain(value) for name, value in result.values.items()}
    for name in ("sem", "n", "cost_usd"):
        if name in answer:
            answer[name] = _plain(answer[name])
    if result.as_run is not None:
        answer["as_run"] = json.loads(json.dumps(result.as_run, default=str))
    if result.message is not None:
        answer["message"] = str(result.message)
    return answer


def parse(text: str | bytes) -> Any:
    """Return what a JSON text says. NaN and infinities are read: no number is taken for one that is not.

    Raises:
        OracleError: it is no JSON in UTF-8, or nested or long beyond reading.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, as is a number too long
        raise OracleError(
            f"{shown(text)} is no JSON ({type(error).__name__}), expected an answer such as "
            '{"key": "...", "value": 1.5} in UTF-8.'
        ) from error


def read_answer(answer: Any, property: str) -> tuple[str, Result]:  # noqa: A002
    """Return the key that an answer names, and the result; `property` is what a short answer is a value of.

    An answer without a finite number is a permanent failure. A number that was paid for is kept, whatever else
    is odd about its answer.

    Raises:
        OracleError: it names no key, so that nobody can say whose answer it is.
    """
    if not isinstance(answer, Mapping) or not isinstance(answer.get("key"), str):
        raise OracleError(
            f"the answer {shown(answer)} names no key, expected one such as "
            '{"key": "...", "value": 1.5} with the key of the request.'
        )
    return answer["key"], _result(answer, property)


class Answers:
    """The answers to the requests of one call, gathered one by one in any order; bounded, whatever comes.

    The answer to a lone request need name no key. The same answer twice is one. An answer to no request is left
    out.
    """

    def __init__(self, requests: Sequence[Request], *, property: str, oracle: str) -> None:  # noqa: A002
        self._requests, self._property, self._oracle = requests, property, oracle
        self._found: dict[str, list[Result]] = {request.key: [] for request in requests}
        self._missing = len(self._found)
        self._odd: list[str] = []

    @property
    def complete(self) -> bool:
        """Whether every request has an answer."""
        return self._missing == 0

    def add(self, answer: Any) -> None:
        """Take a parsed answer, or a list of them."""
        if isinstance(answer, list):
            for one in answer:
                self.add(one)
            return
        alone = len(self._requests) == 1 and isinstance(answer, Mapping) and answer.get("key") is None
        try:
            key, result = read_answer(
                {**answer, "key": self._requests[0].key} if alone else answer, self._property
            )
        except OracleError as error:
            self.note(str(error))
            return
        found = self._found.get(key)
        if found is None:
            self.note(f"An answer came to the key {shown(key)}, which is of no request in this call.")
        elif len(found) < 2 and result not in found:
            self._missing -= not found
            found.append(result)

    def add_line(self, line: bytes) -> None:
        """Take a line of JSON; one that is none is noted, as programs print other things too."""
        if not line.strip():
            return
        try:
            answer = parse(line)
        except OracleError as error:
            self.note(str(error))
        else:
            self.add(answer)

    def note(self, reason: str) -> None:
        """Keep a reason why answers may be missing; the first few are told."""
        if len(self._odd) < 2:
            self._odd.append(reason)

    def results(self, reason: str = "") -> list[Result]:
        """Return the result of each request, in their order.

        One without an answer, or with two that differ, is of unknown end: whether it was measured, nobody can
        say. `reason` is what is known of why answers may be missing.
        """
        return [self._only(request, reason) for request in self._requests]

    def _only(self, request: Request, reason: str) -> Result:
        found = self._found[request.key]
        if len(found) == 1:
            return found[0]
        if found:
            values = " and ".join(shown(dict(one.values) or one.message) for one in found)
            message = f"oracle {self._oracle!r} answered twice for {request.object!r}, with {values}"
        else:
            message = f"oracle {self._oracle!r} gave no answer for {request.object!r}"
        more = "".join(f" {one}" for one in [reason, *self._odd] if one)
        return Result(
            failure="unknown", message=f"{message}, expected one answer with the key {request.key[:12]}....{more}"
        )


def match_answers(
    requests: Sequence[Request],
    answers: Iterable[Any],
    *,
    property: str,  # noqa: A002
    oracle: str,
    reason: str = "",
) -> list[Result]:
    """Return the result of each request, in their order, of parsed answers that came in any; see `Answers`."""
    found = Answers(requests, property=property, oracle=oracle)
    for answer in answers:
        found.add(answer)
    return found.results(reason)


def shown(content: Any) -> str:
    """Return what came as a message shows it: on one line, not too long, no text taken for another."""
    text = repr(content[: MAX_SHOWN + 1] if isinstance(content, str | bytes) else content)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _result(answer: Mapping[str, Any], property: str) -> Result:  # noqa: A002
    told = None if answer.get("message") is None else str(answer["message"])
    if answer.get("failure") is not None:
        return _failed(answer["failure"], told, _number(answer.get("cost_usd")))
    values = _values(answer, property)
    if values.get(property) is None or not isinstance(answer.get("qualifier", "="), str):
        unread = sorted(map(str, set(answer) - _FIELDS))
        hint = f" (it has {', '.join(unread)}, which nobody reads)" if unread else ""
        return Result(
            failure="permanent",
            message=f"the answer {shown(dict(answer))} has no finite number for {property!r}{hint}, expected "
            f'"value": 1.5 or "values": {{"{property}": 1.5}}; a measurement that failed has a "failure".',
            cost_usd=_number(answer.get("cost_usd")),
        )
    n, unit = answer.get("n"), answer.get("unit")
    return Result(
        values={name: value for name, value in values.items() if value is not None},
        sem=_number(answer.get("sem")),
        n=n if isinstance(n, int) and not isinstance(n, bool) else None,
        qualifier=answer.get("qualifier", "="),
        unit=None if unit is None else str(unit),
        as_run=answer.get("as_run"),
        cost_usd=_number(answer.get("cost_usd")),
        message=told,
    )


def _failed(failure: Any, message: str | None, cost_usd: float | None) -> Result:
    """Return a failure of the kind that an answer names; a permanent one where it names no kind that is known."""
    kinds: tuple[Failure, ...] = get_args(Failure)
    for kind in kinds:
        if kind == failure:
            return Result(failure=kind, message=message, cost_usd=cost_usd)
    why = f"failure is {shown(failure)}, expected one of {', '.join(kinds)}"
    told = why if message is None else f"{message} ({why})"
    return Result(failure="permanent", message=told, cost_usd=cost_usd)


def _values(answer: Mapping[str, Any], property: str) -> dict[str, float | None]:  # noqa: A002
    """Return the numbers of an answer; None for what is none."""
    values = answer.get("values")
    found = {name: _number(value) for name, value in values.items()} if isinstance(values, Mapping) else {}
    return {property: _number(answer["value"]), **found} if "value" in answer else found


def _plain(value: Any) -> Any:
    """Return numbers of NumPy, decimals and others as Python's own; anything else as it is."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real | Decimal) else str(value)


def _number(value: Any) -> float | None:
    """Return a finite number; None for text, truth values, NaN, infinities and what no float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
