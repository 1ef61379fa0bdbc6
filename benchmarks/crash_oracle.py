"""An oracle that is a process of its own and keeps its own books. Nothing of Flowscout is imported here.

    python benchmarks/crash_oracle.py FOLDER --kind idempotent --lose 0.02 --pause-s 0.03

It listens on the loopback interface, at the port that it writes to FOLDER/oracle.port, and answers one line of
JSON with another. What it did stands in FOLDER/oracle.db, which is written before the answer. Of three kinds:

- `idempotent`: a key that it knows neither acts nor is billed again;
- `lookup`: it acts at every call, and says afterwards what came of a key. Asked about one that it does not know,
  it promises that this key never will act;
- `neither`: it acts and bills at every call.

After it has acted it misbehaves, each with a probability of its own: with `--lose` it hangs up without an answer;
`--late`, `--garbage` and `--twice` bid whoever passes the answer on to do so too late, spoiled, or twice. That is
`crash_program`, a program that is asked through its standard input; `crash_service` keeps the same books as a
service and does all that itself.
"""

import argparse
import json
import os
import random
import socketserver
import sqlite3
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

KINDS = ("idempotent", "lookup", "neither")

PRICE_MINOR = 300
"""What a call costs each time it acts, in cents."""

REFUSED = "this key was looked up before it acted, and never will"

TABLES = """
CREATE TABLE call (
    id INTEGER PRIMARY KEY, key TEXT, object TEXT, visit TEXT, callers TEXT, entered REAL,
    billed INTEGER DEFAULT 0, value REAL, answered REAL, fault TEXT
);
CREATE INDEX call_key ON call (key);
CREATE INDEX call_visit ON call (visit);
CREATE TABLE refused (key TEXT PRIMARY KEY);
CREATE TABLE turned_away (at REAL);
"""


@dataclass(frozen=True)
class Manners:
    """How often an oracle that has acted misbehaves, and how often it asks to come again later (`busy`)."""

    lose: float = 0.0
    late: float = 0.0
    garbage: float = 0.0
    twice: float = 0.0
    busy: float = 0.0

    def choose(self, rng: random.Random) -> str | None:
        """Return what is done wrong this time, if anything."""
        drawn = rng.random()
        for name in ("lose", "late", "garbage", "twice"):
            drawn -= getattr(self, name)
            if drawn < 0:
                return name
        return None


CUTTING = ("lose", "late", "garbage")
"""What keeps an answer from whoever asked. An answer that comes twice has come."""


def value_of(text: str) -> float:
    """Return what is measured of a sequence."""
    return sum("ACGT".index(letter) * (i + 1) for i, letter in enumerate(text)) + 5.0 * ("GA" in text)


class Books:
    """The ledger of the oracle, and what it does."""

    def __init__(
        self, path: Path, *, kind: str, manners: Manners, pause_s: float, late_s: float, seed: int
    ) -> None:
        self.kind, self.manners, self.pause_s, self.late_s = kind, manners, pause_s, late_s
        self.rng = random.Random(seed)
        self._lock = threading.Lock()
        self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.executescript(TABLES)

    def turns_away(self) -> bool:
        """Say whether the next call is to come again later."""
        with self._lock:
            away = self.rng.random() < self.manners.busy
            if away:
                self._file.execute("INSERT INTO turned_away VALUES (?)", (time.time(),))
        return away

    def enter(
        self,
        requests: Sequence[dict[str, Any]],
        *,
        visit: str,
        callers: Sequence[int] = (),
        fault: str | None = None,
    ) -> list[int]:
        """Note that requests have come in one visit; return the numbers of their calls.

        `callers` are the processes that wait for the answers, the one that asks and its ancestors.
        """
        more = (visit, json.dumps([*callers]), time.time(), fault)
        rows = [(request["key"], request["object"], *more) for request in requests]
        columns = "key, object, visit, callers, entered, fault"
        insert = f"INSERT INTO call ({columns}) VALUES (?, ?, ?, ?, ?, ?) RETURNING id"
        with self._lock, self._file:
            self._file.execute("BEGIN IMMEDIATE")
            return [self._file.execute(insert, row).fetchone()[0] for row in rows]

    def act(self, requests: Sequence[dict[str, Any]], numbers: Sequence[int]) -> tuple[list[Any], str | None]:
        """Act, unless the kind of oracle forbids it; return the answers, and what is to be done wrong."""
        answers = []
        with self._lock, self._file:
            self._file.execute("BEGIN IMMEDIATE")
            fault = self.manners.choose(self.rng) if any(map(self._acts, requests)) else None
            for request, number in zip(requests, numbers, strict=True):
                key, value = request["key"], value_of(request["object"])
                if self._has("SELECT 1 FROM refused WHERE key = ?", key):
                    answers.append({"key": key, "failure": "transient", "message": REFUSED})
                    continue
                bill = PRICE_MINOR if self._acts(request) else 0
                self._file.execute(
                    "UPDATE call SET billed = ?, value = ?, fault = coalesce(fault, ?) WHERE id = ?",
                    (bill, value, fault, number),
                )
                answers.append({"key": key, "value": value})
        return answers, fault

    def answer(self, numbers: Sequence[int]) -> None:
        """Note that a right answer is about to go out."""
        with self._lock, self._file:
            self._file.execute("BEGIN IMMEDIATE")
            for number in numbers:
                self._file.execute("UPDATE call SET answered = ? WHERE id = ?", (time.time(), number))

    def measure(
        self, requests: Sequence[dict[str, Any]], *, visit: str, callers: Sequence[int] = ()
    ) -> tuple[list[Any], str | None]:
        """Do all of it in turn and as slowly as wanted; return the answers and what is to be done wrong."""
        numbers = self.enter(requests, visit=visit, callers=callers)
        time.sleep(self.pause_s)
        answers, fault = self.act(requests, numbers)
        time.sleep(self.pause_s)
        if fault not in CUTTING:
            self.answer(numbers)
        return answers, fault

    def look_up(self, keys: Sequence[str]) -> dict[str, float | None]:
        """Say what came of calls; a key that has not acted never will."""
        found: dict[str, float | None] = {}
        with self._lock:
            for key in keys:
                row = self._file.execute("SELECT value FROM call WHERE key = ? AND billed", (key,)).fetchone()
                found[key] = None if row is None else row[0]
                if row is None:
                    self._file.execute("INSERT OR IGNORE INTO refused VALUES (?)", (key,))
        return found

    def _acts(self, request: dict[str, Any]) -> bool:
        if self.kind == "idempotent":
            return not self._has("SELECT 1 FROM call WHERE key = ? AND billed", request["key"])
        return not self._has("SELECT 1 FROM refused WHERE key = ?", request["key"])

    def _has(self, query: str, key: str) -> bool:
        return self._file.execute(query, (key,)).fetchone() is not None


class _Answer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        books: Books = self.server.books  # type: ignore[attr-defined]
        line = self.rfile.readline()
        if not line:
            return
        question = json.loads(line)
        answer: Any = {}
        match question["do"]:
            case "measure":
                found, fault = books.measure(
                    [question], visit=question["visit"], callers=question.get("callers", ())
                )
                if fault == "lose":
                    return
                answer = found[0] | {"fault": fault, "late_s": books.late_s}
            case "look up":
                answer = books.look_up(question["keys"])
            case "behave":
                books.manners = Manners()
        try:
            self.wfile.write(json.dumps(answer).encode() + b"\n")
        except OSError:  # whoever asked was killed
            return


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the options that every process which keeps these books has."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    found.add_argument("folder", type=Path)
    found.add_argument("--kind", choices=KINDS, default="idempotent")
    for one in fields(Manners):
        found.add_argument(f"--{one.name}", type=float, default=0.0, help=f"how often: {one.name}")
    found.add_argument("--pause-s", type=float, default=0.03, help="how long acting takes, before and after it")
    found.add_argument("--late-s", type=float, default=3.0, help="how late an answer is that comes late")
    found.add_argument("--seed", type=int, default=0)
    return found


def open_books(options: argparse.Namespace) -> Books:
    """Return the books that the options describe, new."""
    manners = Manners(**{name: getattr(options, name) for name in asdict(Manners())})
    return Books(
        options.folder / "oracle.db",
        kind=options.kind,
        manners=manners,
        pause_s=options.pause_s,
        late_s=options.late_s,
        seed=options.seed,
    )


def serve(server: socketserver.TCPServer, folder: Path) -> None:
    """Say which port a server has, and let it answer until whoever holds our standard input ends."""
    whole = folder / "oracle.port.part"
    whole.write_text(str(server.server_address[1]), encoding="utf-8")
    whole.rename(folder / "oracle.port")
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    server.serve_forever()


def _end_with_the_caller() -> None:
    sys.stdin.read()
    os._exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer until told to end."""
    options = parser(__doc__).parse_args(arguments)
    with _Server(("127.0.0.1", 0), _Answer) as server:
        server.books = open_books(options)  # type: ignore[attr-defined]
        serve(server, options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
