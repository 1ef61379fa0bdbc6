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
class Calling:
    """How an oracle is called: `batch` requests in one call at most (None: all that wait in one call).

    `concurrency` is how many calls go on at the same time, `rate_per_s` how many are begun in a second, both in
    each process that calls. A call takes `timeout_s` at most: the oracle itself sees to that, and raises
    `OracleTimeoutError`, or answers that what is left is of unknown end.
    """

    batch: int | None = None
    concurrency: int = 1
    timeout_s: float | None = None
    rate_per_s: float | None = None

    def __post_init__(self) -> None:
        for name, count in (("batch", self.batch), ("concurrency", self.concurrency)):
            if count is not None and (not isinstance(count, int) or count < 1):
                raise OracleImportError(f"{name} is {count!r}, expected a whole number from 1; correct it.")
        for name, amount in (("timeout_s", self.timeout_s), ("rate_per_s", self.rate_per_s)):
            if amount is not None and not (math.isfinite(amount) and amount > 0):
                raise OracleImportError(f"{name} is {amount!r}, expected a number above 0; correct it.")


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
    calling: Calling = Calling()

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
        """Measure. An exception counts as a transient failure of every request of the call.

        It is called from several threads at once where `info.calling.concurrency` is above 1.
        """
        ...


@runtime_checkable
class Closing(Protocol):
    """An oracle that keeps something between calls, such as a running program."""

    def close(self) -> None:
        """End what is running, calls under way included. A later call starts it anew."""
        ...


@runtime_checkable
class Hurrying(Protocol):
    """An oracle that may pause for long in a call, as where a service asks to be left alone for a while."""

    def hurry(self) -> None:
        """Let calls end that pause before another try, as failures that are tried again later."""
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
    batch: int | None = None,
    concurrency: int = 1,
    timeout_s: float | None = None,
    rate_per_s: float | None = None,
) -> Callable[[F], F]:
    """Mark a function from a list of `Request` to a list of `Result` as an oracle.

    `idempotent` is false unless you say that a repeated key neither acts nor bills again. `lookup` is a function
    that says what came of calls, by their keys: see `LookUp`. The others are those of `Calling`, and what the
    campaign file says of them counts first. A function whose first parameter is annotated `Request` is called
    with one request at a time, and returns one `Result`. The marked function itself is returned unchanged.
    """

    def mark(function: F) -> F:
        info = OracleInfo(
            name=name or function.__name__,
            version=version,
            fidelity=fidelity,
            cost_usd=cost_usd,
            idempotent=idempotent,
            lookup=lookup is not None,
            calling=Calling(batch, concurrency, timeout_s, rate_per_s),
        )
        setattr(function, MARK, info)
        setattr(function, LOOKUP_MARK, lookup)
        return function

    return mark
