"""An oracle from a Python function: `module:function` in the campaign's folder or any installed package."""

import importlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from flowscout.errors import FlowscoutError, OracleError, OracleImportError
from flowscout.loop.oracles.protocol import LOOKUP_MARK, MARK, Answer, NotKnown, OracleInfo, Request, Result

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
    """A plain function from a list of objects to a list of numbers, order kept.

    It is taken for a simulator: calling it again for the same object is harmless.
    """

    function: Callable[[list[str]], Sequence[float]]
    info: OracleInfo
    property: str

    def __call__(self, requests: Sequence[Request]) -> list[Result]:
        """Call the function once for all requests.

        Raises:
            OracleError: it did not return one value for each object.
        """
        values = _listed(self.function([request.object for request in requests]), self.info.name)
        if len(values) != len(requests):
            raise OracleError(
                f"oracle {self.info.name!r} returned {len(values)} values for {len(requests)} objects, "
                "expected one for each, in order; return a list as long as the one that came."
            )
        return [self._result(request, value) for request, value in zip(requests, values, strict=True)]

    def _result(self, request: Request, value: Any) -> Result:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number):
            return Result(values={self.property: number})
        return Result(
            failure="permanent",
            message=f"oracle {self.info.name!r} returned {value!r} for {request.object!r}, expected a finite "
            "number; a failed measurement is Result(failure=...), not a number.",
        )


@dataclass(frozen=True)
class RequestOracle:
    """A function marked with `@oracle`: from a list of requests to a list of results."""

    function: Callable[[list[Request]], Sequence[Result]]
    info: OracleInfo
    looks_up: Callable[[list[str]], Mapping[str, Answer]] | None = None

    def __call__(self, requests: Sequence[Request]) -> list[Result]:
        """Call the function once for all requests.

        Raises:
            OracleError: it did not return one `Result` for each request.
        """
        results = _listed(self.function(list(requests)), self.info.name)
        wrong = [result for result in results if not isinstance(result, Result)]
        if wrong or len(results) != len(requests):
            came = f"a {type(wrong[0]).__name__}" if wrong else f"{len(results)} results"
            raise OracleError(
                f"oracle {self.info.name!r} returned {came} for {len(requests)} requests, expected one "
                "flowscout.Result for each, in order."
            )
        return results

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


def _listed(returned: Any, name: str) -> list[Any]:
    """Return what a function returned as a list.

    Raises:
        OracleError: it has no order (a mapping, a set), is text, or is nothing to go through.
    """
    if isinstance(returned, str | bytes | Mapping | Set) or not isinstance(returned, Iterable):
        raise OracleError(
            f"oracle {name!r} returned a {type(returned).__name__}, expected a list with one entry for each "
            "object, in the order they came; return a list."
        )
    return list(returned)


def function_oracle(
    function: str,
    *,
    folder: Path,
    property: str,  # noqa: A002
    cost_usd: float | None = None,
) -> ScoreOracle | RequestOracle:
    """Return the oracle that `module:function` names; `cost_usd` overrides the price it declares.

    Raises:
        OracleImportError: it cannot be imported.
    """
    found = import_function(function, folder=folder)
    declared = getattr(found, MARK, None)
    if declared is None:
        info = OracleInfo(name=function, cost_usd=cost_usd or 0.0)
        return ScoreOracle(found, info, property)
    if cost_usd is not None:
        declared = OracleInfo(**{**vars(declared), "cost_usd": cost_usd})
    return RequestOracle(found, declared, getattr(found, LOOKUP_MARK, None))
