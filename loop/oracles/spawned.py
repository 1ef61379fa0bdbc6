"""A function that is called in processes of their own, which are killed where it takes too long.

This module is both ends: an oracle here, `serve` in the process that it starts. What a function may return
belongs in `function.py`.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flowscout.errors import OracleError, OracleTimeoutError
from flowscout.loop.oracles.programs import Programs
from flowscout.loop.oracles.protocol import Answer, Calling, OracleInfo, Request, Result
from flowscout.loop.oracles.wire import Answers, parse, write_answer, write_request

IMPORT_S = 600.0
"""How long a new process may take to import the function."""

_START = "from flowscout.loop.oracles.spawned import serve; serve()"


@dataclass(frozen=True)
class SpawnedOracle:
    """A function in processes that are started once and called again and again, one for each call at a time."""

    function: str
    info: OracleInfo
    property: str
    folder: Path
    looks_up: Callable[[Sequence[str]], Mapping[str, Answer]]
    programs: Programs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "programs", Programs([sys.executable, "-c", _START], folder=self.folder))

    def __call__(self, requests: Sequence[Request]) -> list[Result]:
        """Have the function called in a process.

        Raises:
            OracleError: it did not return one result for each request.
            OracleTimeoutError: it took longer than it may, and its process was killed.
        """
        if not requests:
            return []
        answers = Answers(requests, property=self.property, oracle=self.info.name)
        said: dict[str, Any] = {}

        def take(line: bytes) -> bool:
            said.update(parse(line))
            return True

        timeout_s = self.info.calling.timeout_s
        content = json.dumps([write_request(request) for request in requests])
        with self.programs.one(keep=True) as (program, new):
            hello = f"{self._hello()}\n" if new else ""
            # Importing is no part of the call, which may be allowed less time than that takes.
            if new and not program.exchange(hello.encode(), lambda _line: True, timeout_s=IMPORT_S, last=False):
                program.interrupt()
            in_time = program.exchange(f"{content}\n".encode(), take, timeout_s=timeout_s, last=False)
            if not in_time:
                program.interrupt()
            words = "" if said else program.last_words()
        if not in_time:
            raise OracleTimeoutError(
                f"oracle {self.info.name!r} took longer than {timeout_s:g} s (timeout_s), and its process was "
                "killed."
            )
        if "broke" in said:
            raise OracleError(said["broke"])
        answers.add(said.get("answers", []))
        return answers.results(said.get("raised", words))

    def lookup(self, keys: Sequence[str]) -> Mapping[str, Answer]:
        """Ask what came of the calls with these keys, in this process."""
        return self.looks_up(keys)

    def close(self) -> None:
        """End the processes."""
        self.programs.close()

    def _hello(self) -> str:
        return json.dumps(
            {"function": self.function, "folder": str(self.folder), "property": self.property, "path": sys.path}
        )


def serve() -> None:
    """Answer calls of a function, a line each, until standard input ends.

    What the function prints goes to standard error, and it finds nothing to read.
    """
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    hello = json.loads(calls.readline())
    sys.path[:] = hello.pop("path")
    build = importlib.import_module("flowscout.loop.oracles.function").function_oracle
    oracle = build(hello["function"], folder=Path(hello["folder"]), property=hello["property"])
    oracle = replace(oracle, info=replace(oracle.info, calling=Calling()))  # its time is limited from outside
    print("{}", file=answers, flush=True)
    for line in calls:
        print(json.dumps(_said(oracle, [Request(**one) for one in json.loads(line)])), file=answers, flush=True)


def _said(oracle: Callable[[Sequence[Request]], Sequence[Result]], requests: Sequence[Request]) -> dict[str, Any]:
    """Return what is said of a call: its answers, or what went wrong."""
    try:
        results = oracle(requests)
        return {"answers": [write_answer(q.key, result) for q, result in zip(requests, results, strict=True)]}
    except OracleError as error:
        return {"broke": str(error)}
    except BaseException as error:  # noqa: BLE001 - the user's own code, which must not end the process
        return {"raised": f"It raised {type(error).__name__}: {' '.join(str(error).split())}."}
