"""One exchange with a service over HTTP: bounded in time and size, no redirect followed, no secret in an error.

What is asked, and how often, belongs in `loop.oracles.http`.
"""

import math
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flowscout.errors import OracleError

if TYPE_CHECKING:
    import httpx

MAX_BODY = 16 * 2**20
"""Bytes of an answer that are read at most."""


class NotSentError(OracleError):
    """A request that never reached the service: whatever it asks for was not done."""


class LostError(OracleError):
    """A request without a whole answer: nobody can say whether the service acted."""


@dataclass(frozen=True)
class Answered:
    """What a service answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after_s(self) -> float | None:
        """How long the service asks to be left alone, by its `Retry-After`; None where it does not say."""
        text = self.headers.get("retry-after", "").strip()
        try:
            seconds = float(text)
        except ValueError:
            try:
                until = parsedate_to_datetime(text)
            except ValueError:
                return None
            until = until if until.tzinfo else until.replace(tzinfo=UTC)
            seconds = (until - datetime.now(UTC)).total_seconds()
        return max(0.0, seconds) if math.isfinite(seconds) else None


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port of an address: who a secret is told to."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


@dataclass(frozen=True)
class Line:
    """A line to one service. Connections are kept only where a request may be sent again.

    A connection that the service closes just when it is used again looks as if the request were lost.
    """

    keeps_connections: bool

    @cached_property
    def _client(self) -> "httpx.Client":
        import httpx

        client = httpx.Client(
            follow_redirects=False,
            trust_env=False,  # nothing in the environment decides where a secret is sent
            limits=httpx.Limits(max_keepalive_connections=None if self.keeps_connections else 0),
        )
        weakref.finalize(self, client.close)  # an oracle has no end of its own
        return client

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> Answered:
        """Send a request and return the whole answer, whatever its status is.

        Raises:
            NotSentError: the service was not reached.
            LostError: the answer did not come in time, broke off, or is too large.
        """
        import httpx

        host = urlsplit(url).hostname  # what follows the host may be a secret
        end = time.monotonic() + timeout_s
        sent = {"Accept-Encoding": "identity", **headers}  # nothing is unpacked: a small answer may be a large one
        try:
            with self._client.stream(method, url, headers=sent, content=body, timeout=timeout_s) as response:
                return Answered(
                    response.status_code, dict(response.headers), _body(response, host, end, timeout_s)
                )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            # From None: an error of httpx holds its request, and that the secret.
            raise NotSentError(f"the service at {host} cannot be reached ({type(error).__name__})") from None
        except httpx.TimeoutException:
            raise LostError(f"the service at {host} did not answer within {timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise LostError(f"the service at {host} gave no whole answer ({type(error).__name__})") from None


def _body(response: "httpx.Response", host: str | None, end: float, timeout_s: float) -> bytes:
    """Return the body of an answer.

    Raises:
        LostError: it is packed, too large, or takes too long, however small its pieces are.
    """
    packing = response.headers.get("content-encoding", "identity").strip().lower()
    if packing not in ("", "identity"):
        raise LostError(f"the service at {host} answered in the encoding {packing[:40]!r}, expected none")
    read = bytearray()
    for piece in response.iter_raw():
        read += piece
        if len(read) > MAX_BODY:
            raise LostError(f"the service at {host} answered more than {MAX_BODY:,} bytes")
        if time.monotonic() > end:
            raise LostError(f"the service at {host} did not answer whole within {timeout_s:g} s")
    return bytes(read)
