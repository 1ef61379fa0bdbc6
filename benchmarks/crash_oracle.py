"""An oracle that is a process of its own and keeps its own books. Nothing of Flowscout is imported here.

    python benchmarks/crash_oracle.py FOLDER --kind idempotent --lose 0.02 --pause-s 0.03

It listens on the loopback interface, at the port that it writes to FOLDER/oracle.port, and answers one line of
JSON with another. What it did stands in FOLDER/oracle.db, which is written before the answer. Of three kinds:

- `idempotent`: a key that it knows neither acts nor is billed again;
- `lookup`: it acts at every call, and says afterwards what came of a key. Asked about one that it does not know,
  it promises that this key never will act;
- `neither`: it acts and bills at every call.

With `--lose` it hangs up without an answer after it has acted, with that probability.
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
from pathlib import Path
from typing import Any

KINDS = ("idempotent", "lookup", "neither")

PRICE_MINOR = 300
"""What a call costs each time it acts, in cents."""

TABLES = """
CREATE TABLE call (
    id INTEGER PRIMARY KEY, key TEXT, object TEXT, visit TEXT, pid INTEGER, entered REAL,
    billed INTEGER DEFAULT 0, value REAL, answered REAL, lost INTEGER DEFAULT 0
);
CREATE INDEX call_key ON call (key);
CREATE INDEX call_pid ON call (pid);
CREATE TABLE refused (key TEXT PRIMARY KEY);
"""


def value_of(text: str) -> float:
    """Return what is measured of a sequence."""
    return sum("ACGT".index(letter) * (i + 1) for i, letter in enumerate(text)) + 5.0 * ("GA" in text)


class Books:
    """The ledger of the oracle, and what it does."""

    def __init__(self, path: Path, *, kind: str, lose: float, pause_s: float, seed: int) -> None:
        self.kind, self.lose, self.pause_s = kind, lose, pause_s
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.executescript(TABLES)

    def measure(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """Act, unless the kind of oracle forbids it; None where the answer is to be lost."""
        values = (question["key"], question["object"], question["visit"], question["pid"], time.time())
        with self._lock:
            number = self._file.execute(
                "INSERT INTO call (key, object, visit, pid, entered) VALUES (?, ?, ?, ?, ?)", values
            ).lastrowid
        time.sleep(self.pause_s)
        with self._lock:
            if self._has("SELECT 1 FROM refused WHERE key = ?", question["key"]):
                return {"refused": question["key"]}
            acts = self.kind != "idempotent" or not self._has(
                "SELECT 1 FROM call WHERE key = ? AND billed", question["key"]
            )
            value = value_of(question["object"])
            lost = acts and self._rng.random() < self.lose
            bill = PRICE_MINOR if acts else 0
            self._file.execute(
                "UPDATE call SET billed = ?, value = ?, lost = ? WHERE id = ?", (bill, value, lost, number)
            )
        time.sleep(self.pause_s)
        with self._lock:
            self._file.execute("UPDATE call SET answered = ? WHERE id = ?", (time.time(), number))
        return None if lost else {"value": value}

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

    def _has(self, query: str, key: str) -> bool:
        return self._file.execute(query, (key,)).fetchone() is not None


def _end_with_the_caller() -> None:
    """End when whoever holds the other end of our standard input does."""
    sys.stdin.read()
    os._exit(0)


class _Answer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        books: Books = self.server.books  # type: ignore[attr-defined]
        line = self.rfile.readline()
        if not line:
            return
        question = json.loads(line)
        answer: Any
        match question["do"]:
            case "measure":
                answer = books.measure(question)
            case "look up":
                answer = books.look_up(question["keys"])
            case "lose nothing":
                books.lose, answer = 0.0, {}
        if answer is not None:
            try:
                self.wfile.write(json.dumps(answer).encode() + b"\n")
            except OSError:  # whoever asked was killed
                return


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer until told to end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="idempotent")
    parser.add_argument("--lose", type=float, default=0.0, help="how often an answer is lost after it has acted")
    parser.add_argument("--pause-s", type=float, default=0.03, help="how long acting takes, before and after it")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    books = Books(
        options.folder / "oracle.db",
        kind=options.kind,
        lose=options.lose,
        pause_s=options.pause_s,
        seed=options.seed,
    )
    with _Server(("127.0.0.1", 0), _Answer) as server:
        server.books = books  # type: ignore[attr-defined]
        whole = options.folder / "oracle.port.part"
        whole.write_text(str(server.server_address[1]), encoding="utf-8")
        whole.rename(options.folder / "oracle.port")
        threading.Thread(target=_end_with_the_caller, daemon=True).start()
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
