"""An oracle from a Python function: `module:function` in the campaign's folder or any installed package."""

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from flowscout.errors import FlowscoutError, OracleError, OracleImportError, OracleTimeoutError
from flowscout.loop.oracles.protocol import (
    LOOKUP_MARK,
    MARK,
    Answer,
    Failure,
    NotKnown,
    OracleInfo,
    Request,
    Result,
)
from flowscout.loop.oracles.spawned import SpawnedOracle
from flowscout.loop.oracles.threads import awaited, in_time

_folders: set[Path] = set()
"""The folders that functions were imported from in this process."""


def import_function(name: str, *, folder: Path) -> Callable[..., Any]:
    """Return the function that `module:function` names, looking in `folder` first.

    `folder` is put on the path as Python does for a script, so that the function may import its neighbours.
    A module of the same name that was imported for another campaign's folder is not taken for this one's.

    Raises:
        OracleImportError: the name is not of that form, or cannot be imported, or is no function.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise OracleImportError(
            f"oracle {name!r} is not of the form module:function, for example assay:score for the function "
            "score in assay.py beside the campaign file."
        )
    _look_first_in(folder)
    try:
        module = importlib.import_module(module_name)
    except FlowscoutError:
        raise
    except (Exception, SystemExit) as error:  # a script without a guard may end the process when imported
        reason = " ".join(str(error).split())  # a message is one line
        raise OracleImportError(
            f"oracle {name!r} cannot be imported from {str(folder)!r}: {type(error).__name__}: {reason}. "
            f"Check that {module_name.split('.')[0]}.py stands there and that `python -c 'import "
            f"{module_name}'` works in this environment."
        ) from error
    function: Callable[..., Any] | None = getattr(module, attribute, None)
    if function is None or not callable(function):
        offered = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise OracleImportError(
            f"module {module_name!r} has no function {attribute!r}; it has {', '.join(offered) or 'none'}. "
            "Name one of them in the campaign file."
        )
    return function


def _look_first_in(folder: Path) -> None:
    """Let imports look in `folder` first, past what was imported under the same names from other folders."""
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    others = _folders - {folder}
    strangers = {name for name, module in list(sys.modules.items()) if "." not in name and _home(module) in others}
    strangers = {name for name in strangers if (folder / f"{name}.py").is_file() or (folder / name).is_dir()}
    for name in [name for name in sys.modules if name.partition(".")[0] in strangers]:
        del sys.modules[name]
    _folders.add(folder)


def _home(module: ModuleType) -> Path | None:
    """Return the folder that a top-level module or package stands in."""
    file = getattr(module, "__file__", None)
    if file is None:
        return None
    return Path(file).parent.parent if hasattr(module, "__path__") else Path(file).parent


@dataclass(frozen=True)
class ScoreOracle:
    """A plain function from a list of objects to a list of numbers, order kept; where `single`, of one object.

    It is taken for a simulator: calling it again for the same object is harmless. It may be asynchronous.
    """

    function: Callable[..., Any]
    info: OracleInfo
    property: str
    single: bool = False

    def __call__(self, requests: Sequence[Request]) -> list[Result]:
        """Call the function once for all requests, or where `single` for one after another.

        Raises:
            OracleError: it did not return one value for each object.
            OracleTimeoutError: it took longer than it may.
        """
        return _in_time(self, self._measure, requests)

    def _measure(self, requests: Sequence[Request]) -> list[Result]:
        if self.single:
            return _one_by_one(self, requests, self._read_one)
        objects = [request.object for request in requests]
        values = _listed(_called(self, objects), self.info.name)
        if len(values) != len(requests):
            raise OracleError(
                f"oracle {self.info.name!r} returned {len(values)} values for {len(requests)} objects, "
                "expected one for each, in order; return a list as long as the one that came."
            )
        return [self._read(request, value) for request, value in zip(requests, values, strict=True)]

    def _read_one(self, request: Request, call: Callable[[Any], Any]) -> Result:
        return self._read(request, call(request.object))

    def _read(self, request: Request, value: Any) -> Result:
        if isinstance(value, Result):
            return value
        if isinstance(value, Mapping):
            return Result(values=value)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return Result(values={self.property: number})
        return Result(
            failure="permanent",
            message=f"oracle {self.info.name!r} returned {str(value)[:80]!r} for {request.object!r}, expected a "
            "finite number; a failed measurement is Result(failure=...), not a number.",
        )


@dataclass(frozen=True)
class RequestOracle:
    """A function marked with `@oracle`: from a list of requests to a list of results; where `single`, of one."""

    function: Callable[..., Any]
    info: OracleInfo
    looks_up: Callable[[list[str]], Mapping[str, Answer]] | None = None
    single: bool = False

    def __call__(self, requests: Sequence[Request]) -> list[Result]:
        """Call the function once for all requests, or where `single` for one after another.

        Raises:
            OracleError: it did not return one `Result` for each request.
            OracleTimeoutError: it took longer than it may.
        """
        return _in_time(self, self._measure, requests)

    def _measure(self, requests: Sequence[Request]) -> list[Result]:
        if self.single:
            return _one_by_one(self, requests, self._read_one)
        results = _listed(_called(self, list(requests)), self.info.name)
        wrong = [result for result in results if not isinstance(result, Result)]
        if wrong or len(results) != len(requests):
            came = f"a {type(wrong[0]).__name__}" if wrong else f"{len(results)} results"
            raise OracleError(
                f"oracle {self.info.name!r} returned {came} for {len(requests)} requests, expected one "
                "flowscout.Result for each, in order."
            )
        return results

    def _read_one(self, request: Request, call: Callable[[Any], Any]) -> Result:
        result = call(request)
        if not isinstance(result, Result):
            raise OracleError(
                f"oracle {self.info.name!r} returned a {type(result).__name__} for one request, expected a "
                "flowscout.Result."
            )
        return result

    def lookup(self, keys: Sequence[str]) -> Mapping[str, Answer]:
        """Ask what came of the calls with these keys; nothing is known where there is no look-up.

        Raises:
            OracleError: the look-up answered with anything else than a mapping of keys to answers.
        """
        if self.looks_up is None:
            return {}
        answers = self.looks_up(list(keys))
        odd = not isinstance(answers, Mapping) or any(
            not isinstance(answer, Result | NotKnown | None) for answer in answers.values()
        )
        if odd:
            raise OracleError(
                f"the look-up of oracle {self.info.name!r} returned {str(answers)[:80]!r}, expected a mapping of "
                "keys to flowscout.Result, None (it never happened) or flowscout.NOT_KNOWN."
            )
        return answers


def _in_time(
    oracle: ScoreOracle | RequestOracle,
    measure: Callable[[Sequence[Request]], list[Result]],
    requests: Sequence[Request],
) -> list[Result]:
    """Return what comes of a call, in a thread that may be left behind; a coroutine is cancelled by itself."""
    limit = None if _is_async(oracle.function) else oracle.info.calling.timeout_s
    return in_time(lambda: measure(requests), timeout_s=limit, name=oracle.info.name)


def _called(oracle: ScoreOracle | RequestOracle, argument: Any) -> Any:
    """Return what a function returns, awaited if it is asynchronous."""
    returned = oracle.function(argument)
    if not inspect.iscoroutine(returned):
        return returned
    return awaited(returned, timeout_s=oracle.info.calling.timeout_s, name=oracle.info.name)


def _one_by_one(
    oracle: ScoreOracle | RequestOracle,
    requests: Sequence[Request],
    read: Callable[[Request, Callable[[Any], Any]], Result],
) -> list[Result]:
    """Return the result of each request by a call of its own: one that raises fails alone.

    A lone one raises, as whoever called knows best what to make of it.
    """
    if len(requests) == 1:
        return [read(requests[0], lambda argument: _called(oracle, argument))]
    results = []
    for request in requests:
        try:
            results.append(read(request, lambda argument: _called(oracle, argument)))
        except OracleTimeoutError as error:
            results.append(Result(failure="unknown", message=str(error)))
        except OracleError as error:
            failure: Failure = "permanent" if oracle.info.idempotent else "unknown"
            results.append(Result(failure=failure, message=str(error)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - the user's own code
            results.append(Result(failure="unknown", message=raised(oracle.info.name, error)))
    return results


def raised(name: str, error: BaseException) -> str:
    """Say on one line what an oracle raised."""
    reason = " ".join(str(error).split())
    return f"oracle {name!r} raised {type(error).__name__}: {reason[:2000]}."


def _is_async(function: Callable[..., Any]) -> bool:
    method = vars(type(function)).get("__call__")  # of an object that can be called
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(method)


def _takes_one(function: Callable[..., Any], *, of: type) -> bool:
    """Return whether a function says of its first parameter that it is one object or request, not a list."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some functions written in C do not tell
        return False
    said = parameters[0].annotation if parameters else None
    return said is of or (isinstance(said, str) and said.rpartition(".")[2] == of.__name__)


def _listed(returned: Any, name: str) -> list[Any]:
    """Return what a function returned as a list.

    Raises:
        OracleError: it has no order (a mapping, a set), is text, or is nothing to go through.
    """
    if isinstance(returned, str | bytes | Mapping | Set) or not isinstance(returned, Iterable):
        raise OracleError(
            f"oracle {name!r} returned a {type(returned).__name__}, expected a list with one entry for each "
            "object, in the order they came; return a list. A function of one object says so: "
            "def score(object: str) -> float."
        )
    return list(returned)


def function_oracle(
    function: str,
    *,
    folder: Path,
    property: str,  # noqa: A002
    cost_usd: float | None = None,
    batch: int | None = None,
    concurrency: int | None = None,
    run_in: str = "thread",
    timeout_s: float | None = None,
    rate_per_s: float | None = None,
    idempotent: bool | None = None,
    name: str | None = None,
    version: str | None = None,
    fidelity: str | None = None,
) -> ScoreOracle | RequestOracle | SpawnedOracle:
    """Return the oracle that `module:function` names; what is given overrides what it declares.

    Raises:
        OracleImportError: it cannot be imported.
    """
    found = import_function(function, folder=folder)
    marked: OracleInfo | None = getattr(found, MARK, None)
    single = _takes_one(found, of=str if marked is None else Request)
    declared = OracleInfo(name=function) if marked is None else marked
    said: dict[str, Any] = {
        "name": name,
        "version": version,
        "fidelity": fidelity,
        "cost_usd": cost_usd,
        "idempotent": idempotent,
    }
    calling: dict[str, Any] = {
        "batch": batch,
        "concurrency": concurrency,
        "timeout_s": timeout_s,
        "rate_per_s": rate_per_s,
    }
    called = replace(declared.calling, **{key: value for key, value in calling.items() if value is not None})
    if single and called.batch is None:
        called = replace(called, batch=1)
    info = replace(declared, calling=called, **{key: value for key, value in said.items() if value is not None})
    made = (
        ScoreOracle(found, info, property, single)
        if marked is None
        else RequestOracle(found, info, getattr(found, LOOKUP_MARK, None), single)
    )
    if run_in == "thread":
        return made
    looks_up = made.lookup if isinstance(made, RequestOracle) else _knows_nothing
    return SpawnedOracle(function, info, property, folder, looks_up)


def _knows_nothing(_keys: Sequence[str]) -> Mapping[str, Answer]:
    return {}
