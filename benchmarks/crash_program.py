"""A command-line program that measures: a request a line in, an answer a line out. Nothing of Flowscout is here.

    python benchmarks/crash_program.py FOLDER < requests.jsonl

It has the oracle of `crash_oracle` act and passes its answers on, as that bids it: once, twice, or spoiled. Where
the answer is to come too late, it does what a program may do that hangs: it waits for a helper of its own, and the
helper acts once more under the same key. It never does where the program is killed with its children.
"""

import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GARBAGE = ("Segmentation fault", '{"key": ', '{"value": 1.5}', "\x00\x01\x02", "[]", "NaN")


def ask(folder: Path, **question: Any) -> dict[str, Any]:
    """Ask the oracle; a program that it does not answer ends."""
    port = int((folder / "oracle.port").read_text())
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(json.dumps(question).encode() + b"\n")
        line = connection.makefile().readline()
    if not line:
        sys.exit("the laboratory has hung up")
    answer: dict[str, Any] = json.loads(line)
    return answer


def ancestors() -> list[int]:
    """Return this process and those it was started by, where the system says who they are."""
    found = [os.getpid(), os.getppid()]
    while found[-1] > 1:
        try:
            # pid (name) state parent ...; the name may hold anything
            said = Path(f"/proc/{found[-1]}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            break
        found.append(int(said.rpartition(")")[2].split()[1]))
    return found


def hang(folder: Path, question: dict[str, Any], late_s: float) -> None:
    """Wait for a helper that acts once more, after the time that we are given."""
    helper = os.fork()
    if helper == 0:
        time.sleep(late_s)
        ask(folder, **question)
        os._exit(0)
    os.waitpid(helper, 0)


def main(arguments: Sequence[str]) -> int:
    """Answer each request that comes."""
    folder = Path(arguments[0])
    visit, callers = str(uuid.uuid4()), ancestors()
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        question = {"do": "measure", "key": request["key"], "object": request["object"], "visit": visit}
        answer = ask(folder, **question, callers=callers)
        fault, late_s = answer.pop("fault"), answer.pop("late_s")
        if fault == "late":
            hang(folder, question | {"callers": callers}, late_s)
        said = GARBAGE[number % len(GARBAGE)] if fault == "garbage" else json.dumps(answer)
        for _ in range(2 if fault == "twice" else 1):
            print(said, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
