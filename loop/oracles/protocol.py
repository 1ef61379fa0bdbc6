"""What an oracle is asked and what it answers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from flowscout.errors import OracleImportError

Failure = Literal["transient", "permanent", "infeasible", "unknown"]

MARK = "__flowscout_oracle__"
"""The attribute by which a function says that it takes requests and returns results."""

LOOKUP_MARK = "__flowscout_lookup__"
"""The attribute that holds the look-up of such a function, where it has one."""


@dataclass(frozen=True)
class Request:
    """One object to be measured. `key` is the idempotency key: the same at every attempt at this measurement."""

    object: str
    candidate_id: int
    key: str
    replicate: int = 1
    fidelity: str = "default"


@dataclass(frozen=True)
class Result:
    """What came of a request: a number for each property, or why there is none.

    `sem` and `n` belong to the values; `qualifier` is `=`, `<` or `>`; `cost_usd` is the bill where it is not
    the oracle's price. `unit` is the objective's, which must be the one that the campaign file names, if it names
    one: nothing is converted. A `failure` is `transient` (try again), `permanent` (never will), `infeasible`
    (the object cannot exist) or `unknown` (nobody can say whether it was measured: an idempotent oracle is called
    again, any other is not); a failed result has no values. `pending_s` says that the call was accepted and its
    answer will come by itself within so many seconds, to `flowscout serve-results` or `tell`; it has no values
    yet.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    sem: float | None = None
    n: int | None = None
    qualifier: str = "="
    unit: str | None = None
    as_run: Mapping[str, Any] | None = None
    cost_usd: float | None = None
    failure: Failure | None = None
    message: str | None = None
    pending_s: float | None = None


@dataclass(frozen=True)
class OracleInfo:
    """What must be known of an oracle before it is called.

    `idempotent` means: called again with the same key, it neither acts nor bills again. Without that, a call
    that was cut off is left for a person to settle, unless there is a `lookup` to ask. `waits_for_people` means:
    nothing is called; results are told.
    """

    name: str
    version: str = "1"
    fidelity: str = "default"
    cost_usd: float = 0.0
    idempotent: bool = True
    lookup: bool = False
    waits_for_people: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cost_usd) and (self.cost_usd == 0 or self.cost_usd >= 0.01)):
            raise OracleImportError(
                f"oracle {self.name!r} costs {self.cost_usd!r} USD a call, expected 0 or at least 0.01: money is "
                "counted in cents. Price a batch of calls in cents, or leave the price out."
            )


@runtime_checkable
class Oracle(Protocol):
    """Whatever measures. One result for each request, in their order."""

    @property
    def info(self) -> OracleInfo:
        """Say who measures, at what price, and whether a call may be repeated."""
        ...

    def __call__(self, requests: Sequence[Request]) -> Sequence[Result]:
        """Measure. An exception counts as a transient failure of every request."""
        ...


@dataclass(frozen=True)
class NotKnown:
    """What a look-up answers where it cannot say, or not yet, what came of a call."""


NOT_KNOWN = NotKnown()

Answer = Result | NotKnown | None
"""What a look-up says of a key: what the call gave, that nobody can say, or None: it never happened."""


@runtime_checkable
class LookUp(Protocol):
    """An oracle that can say afterwards what came of its calls."""

    def lookup(self, keys: Sequence[str]) -> Mapping[str, Answer]:
        """Say what came of the calls with these idempotency keys. A key that is left out is not known.

        None promises that the call has not acted and never will, however late it arrives: the measurement is
        made again with another key.
        """
        ...


F = TypeVar("F", bound=Callable[..., Any])


def oracle(
    *,
    cost_usd: float = 0.0,
    idempotent: bool = False,
    name: str | None = None,
    version: str = "1",
    fidelity: str = "default",
    lookup: Callable[[list[str]], Mapping[str, Answer]] | None = None,
) -> Callable[[F], F]:
    """Mark a function from a list of `Request` to a list of `Result` as an oracle.

    `idempotent` is false unless you say that a repeated key neither acts nor bills again. `lookup` is a function
    that says what came of calls, by their keys: see `LookUp`. The marked function itself is returned unchanged.
    """

    def mark(function: F) -> F:
        info = OracleInfo(
            name=name or function.__name__,
            version=version,
            fidelity=fidelity,
            cost_usd=cost_usd,
            idempotent=idempotent,
            lookup=lookup is not None,
        )
        setattr(function, MARK, info)
        setattr(function, LOOKUP_MARK, lookup)
        return function

    return mark
