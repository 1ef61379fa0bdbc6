"""An oracle from a command: requests go in as lines of JSON, answers come out as lines of JSON, in any order.

A command with `{object}` in it is started once for each object instead, and the last number that it prints is
the value. How programs are started and killed belongs in `programs.py`.
"""

import json
import math
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowscout.errors import OracleImportError
from flowscout.loop.oracles.programs import Programs
from flowscout.loop.oracles.protocol import Calling, OracleInfo, Request, Result
from flowscout.loop.oracles.wire import Answers, shown, write_request

INTERPRETERS = ("python", "python3", "bash", "sh", "perl", "ruby", "node", "Rscript", "julia")
"""Commands that are named by what they run."""

PLACE = "{object}"

_WITH_COMMAS = re.compile(r"[-+]?\d+(,\d+)+(\.\d+)?")


@dataclass(frozen=True)
class ProcessOracle:
    """A command that reads requests and writes answers, a line each; where it is kept, call after call."""

    info: OracleInfo
    property: str
    command: Sequence[str]
    folder: Path
    keep: bool = False
    programs: Programs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "programs", Programs(self.command, folder=self.folder))

    def __call__(self, requests: Sequence[Request]) -> list[Result]:
        """Give the requests to the command and return its answers.

        What it has answered counts, however it ended. What it has not answered when it ended, or was ended for
        taking too long, is of unknown end.
        """
        if not requests:
            return []
        answers = Answers(requests, property=self.property, oracle=self.info.name)
        content = "".join(f"{json.dumps(write_request(request))}\n" for request in requests).encode()

        def take(line: bytes) -> bool:
            answers.add_line(line)
            return answers.complete

        timeout_s = self.info.calling.timeout_s
        try:
            with self.programs.one(keep=self.keep) as (program, _):
                in_time = program.exchange(content, take, timeout_s=timeout_s, last=not self.keep)
                if not in_time:
                    program.interrupt()
                words = "" if answers.complete else program.last_words()
        except OSError as error:
            return [self._not_started(error)] * len(requests)
        return answers.results(words if in_time else _too_long(timeout_s))

    def _not_started(self, error: OSError) -> Result:
        return not_started(self.info.name, self.command, error)

    def close(self) -> None:
        """End the programs that are running."""
        self.programs.close()


@dataclass(frozen=True)
class CommandOracle:
    """A command that is started once for each object; the last number that it prints is the value.

    The line that it stands in is kept beside the value, as `printed`.
    """

    info: OracleInfo
    property: str
    command: Sequence[str]
    folder: Path
    programs: Programs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "programs", Programs(self.command, folder=self.folder))

    def __call__(self, requests: Sequence[Request]) -> list[Result]:
        """Start the command for one object after another. Each may take as long as a call may."""
        return [self._measure(request) for request in requests]

    def _measure(self, request: Request) -> Result:
        lines = _LastNumber()
        command = [part.replace(PLACE, request.object) for part in self.command]
        timeout_s = self.info.calling.timeout_s
        try:
            with self.programs.one(keep=False, command=command) as (program, _):
                in_time = program.exchange(b"", lines.take, timeout_s=timeout_s)
                words = program.last_words()
        except OSError as error:
            return not_started(self.info.name, command, error)
        which = f"oracle {self.info.name!r} for {request.object!r}"
        if not in_time:
            return Result(failure="unknown", message=f"{which}: {_too_long(timeout_s)}")
        if not words.startswith("It ended with code 0."):
            return Result(failure="unknown", message=f"{which}: expected it to end with code 0. {words}")
        if lines.number is None or not math.isfinite(lines.number):
            came = "no number" if lines.number is None else f"{lines.number} as its last number"
            came = came if lines.comma is None else f"{lines.comma!r}, which may be one number or several,"
            return Result(
                failure="permanent",
                message=f"{which} printed {came}, expected a finite one at the end of its output, "
                f"whose last line was {shown(lines.last)}.",
            )
        return Result(values={self.property: lines.number}, as_run={"printed": lines.source})

    def close(self) -> None:
        """End the programs that are running."""
        self.programs.close()


class _LastNumber:
    """The last number in lines of output, NaN and infinities included: no earlier number stands for them.

    Nor does one for digits with commas between them, `comma`. `source` is the line that the number stands in.
    """

    def __init__(self) -> None:
        self.number: float | None = None
        self.comma: str | None = None
        self.last = self.source = ""

    def take(self, line: bytes) -> bool:
        """Look for numbers in a line."""
        text = line.decode(errors="replace").strip()
        self.last = text[:200] or self.last
        for word in reversed(text.replace("=", " ").replace(":", " ").split()):
            bare = word.strip(",;()[]{}\"'").rstrip(".")
            if _WITH_COMMAS.fullmatch(bare):
                self.number, self.comma, self.source = None, bare, self.last
                break
            try:
                number = float(bare) if "_" not in bare else None
            except ValueError:
                continue
            if number is not None:
                self.number, self.comma, self.source = number, None, self.last
                break
        return False


def not_started(name: str, command: Sequence[str], error: OSError) -> Result:
    """Return the result of a request whose command cannot be started: nothing has been done."""
    return Result(
        failure="permanent",
        message=f"oracle {name!r}: command {command[0]!r} cannot be started ({error.strerror}). Check the command "
        "in the campaign file; a file in the campaign's folder is named ./NAME, and must be executable.",
    )


def _too_long(timeout_s: float | None) -> str:
    return f"It took longer than {timeout_s:g} s (timeout_s) and was ended, with all that it had started."


def process_oracle(
    command: Sequence[str],
    *,
    folder: Path,
    property: str,  # noqa: A002
    cost_usd: float = 0.0,
    batch: int | None = None,
    concurrency: int = 1,
    timeout_s: float | None = 3600.0,
    rate_per_s: float | None = None,
    keep: bool = False,
    idempotent: bool = True,
    name: str | None = None,
    version: str = "1",
    fidelity: str = "default",
) -> ProcessOracle | CommandOracle:
    """Return the oracle of a command, which runs in `folder`; no shell reads it.

    A program is taken for a simulator that may be called again for the same object, unless not `idempotent`.
    `keep` starts it once and feeds it call after call.

    Raises:
        OracleImportError: there is no such command, or it is to be both kept and started for each object.
    """
    single = any(PLACE in part for part in command)
    if single and keep:
        raise OracleImportError(
            f"command {' '.join(command)!r} names {PLACE}, so that it is started for each object, and `keep` "
            f"came, expected one of them. Leave out `keep`, or {PLACE} and let the program read lines of JSON."
        )
    found = [_executable(command[0], folder), *command[1:]]
    script = _script(command)
    if script is not None and Path(script).suffix and PLACE not in script and not (folder / script).is_file():
        raise OracleImportError(
            f"command {' '.join(command)!r} runs {script!r}, and no such file is in the campaign's folder "
            f"{str(folder)!r}. Check the oracle's `command`."
        )
    info = OracleInfo(
        name=name or _name(command),
        version=version,
        fidelity=fidelity,
        cost_usd=cost_usd,
        idempotent=idempotent,
        calling=Calling(1 if single and batch is None else batch, concurrency, timeout_s, rate_per_s),
    )
    if single:
        return CommandOracle(info, property, found, folder)
    return ProcessOracle(info, property, found, folder, keep)


def _executable(name: str, folder: Path) -> str:
    """Return what is started by a name: a file, relative to `folder`, or a command on the path.

    Raises:
        OracleImportError: there is none.
    """
    found = shutil.which(name if "/" not in name else str(folder / name))
    if found is None and name in ("python", "python3"):
        return sys.executable
    if found is None:
        raise OracleImportError(
            f"command {name!r} cannot be found, expected a program on the path, or one in the campaign's folder "
            f"{str(folder)!r} as ./NAME that is executable (chmod +x). Check the oracle's `command`."
        )
    return found


def _name(command: Sequence[str]) -> str:
    """Return what a command is called: the file name of the program, or of the script that one runs."""
    script = _script(command)
    return Path(command[0] if script is None else script).name


def _script(command: Sequence[str]) -> str | None:
    """Return the file that an interpreter is to run; None where the command runs no file by one."""
    if Path(command[0]).name not in INTERPRETERS or any(part in ("-c", "-m", "-e") for part in command):
        return None
    return next((part for part in command[1:] if not part.startswith("-")), None)
