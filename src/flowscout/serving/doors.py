"""Doors: who posts is told by a token of the oracle, or by a signature made with it.

What may be done behind a door belongs in `flowscout.loop.receiving`.
"""

import hashlib
import hmac
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flowscout.loop.receiving import Desk

WINDOW_S = 300
"""How far the time of a signature may be from ours."""

PREFIX = "sha256="


class RefusedError(Exception):
    """A request that is answered with `status` and a message, and changes nothing."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Door:
    """The desk of an oracle, and the token that opens it."""

    desk: Desk
    token: str = field(repr=False)


class Seen:
    """The signatures that were used, in a file: a replay is refused by every process, and after a restart too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS seen (digest TEXT PRIMARY KEY, until REAL NOT NULL)")

    def use(self, signature: str, *, until: float) -> bool:
        """Note a signature until it is too old to be taken; return whether it is new."""
        with self._open() as connection:
            connection.execute("DELETE FROM seen WHERE until < ?", (time.time(),))
            done = connection.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (_digest(signature), until))
            return done.rowcount == 1

    def forget(self, signature: str) -> None:
        """Let a signature be used again: what it came with was not taken."""
        with self._open() as connection:
            connection.execute("DELETE FROM seen WHERE digest = ?", (_digest(signature),))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=5.0)
        try:
            with connection:
                yield connection
        finally:
            connection.close()


class Doors:
    """All doors of an endpoint."""

    def __init__(self, doors: Sequence[Door], seen: Seen) -> None:
        self._doors, self._seen = tuple(doors), seen

    @property
    def desks(self) -> list[Desk]:
        """The desks behind the doors."""
        return [door.desk for door in self._doors]

    def by_token(self, header: str | None) -> Door:
        """Return the door that `Authorization: Bearer TOKEN` opens.

        Raises:
            RefusedError: it opens none; what is said does not depend on why.
        """
        scheme, _, token = (header or "").partition(" ")
        found = self._opened([(door, door.token) for door in self._doors], token.strip())
        if scheme.lower() != "bearer" or found is None:
            raise RefusedError(
                401, "no token of an oracle came, expected the header Authorization: Bearer TOKEN, or a signature."
            )
        return found

    def by_signature(self, timestamp: str | None, signature: str, body: bytes) -> Door:
        """Return the door whose token signed a body with its time; the signature is used up.

        Raises:
            RefusedError: nobody's token did, it was signed too long ago, or it was used before.
        """
        stamp = timestamp or ""
        right = stamp.isascii() and stamp.isdecimal() and len(stamp) <= 12
        signed = [(door, sign(door.token, stamp, body)) for door in self._doors]
        found = self._opened(signed, signature)
        if not right or found is None:
            raise RefusedError(
                401,
                "the signature is of no oracle, expected X-Flowscout-Signature: sha256= and the HMAC-SHA256, by "
                "the token, of X-Flowscout-Timestamp (seconds since 1970), a point and the body.",
            )
        late = time.time() - int(stamp)
        if abs(late) > WINDOW_S:
            raise RefusedError(
                401, f"signed {late:.0f} s ago, expected at most {WINDOW_S} s; sign again, and check the clock."
            )
        if not self._seen.use(signature, until=int(stamp) + WINDOW_S + 1):
            raise RefusedError(409, "this signature was used before; sign again with the time of now.")
        return found

    def forget(self, signature: str) -> None:
        """Let a signature be used again, as what it came with was not taken."""
        self._seen.forget(signature)

    def _opened(self, expected: Sequence[tuple[Door, str]], came: str) -> Door | None:
        """Return the door whose text is the one that came; every one is compared, in the same time."""
        found = None
        for door, text in expected:
            if hmac.compare_digest(_digest(text), _digest(came)):
                found = door
        return found


def sign(token: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a body at a time."""
    return PREFIX + hmac.new(token.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
