"""What comes from outside as JSON, made fit to be kept: no secret, no character that a database refuses.

What an answer means belongs in `loop.oracles.wire`.
"""

from collections.abc import Mapping
from typing import Any

from flowscout.errors import OracleError

MAX_DEPTH = 32
"""Lists and mappings inside each other at most; the conditions of a measurement need two."""

MAX_TEXT = 1000
"""Characters of a message that are kept at most."""

REDACTED = "[secret]"


def redact(text: str, secret: str | None) -> str:
    """Return a text without the secret."""
    return text.replace(secret, REDACTED) if secret else text


def clean(content: Any, *, secret: str | None = None) -> Any:
    """Return parsed JSON whose texts hold no secret, no NUL and no half characters.

    PostgreSQL keeps no NUL, and no database a surrogate that stands alone.

    Raises:
        OracleError: it is nested deeper than anything that is kept.
    """
    return _clean(content, secret, MAX_DEPTH)


def _clean(content: Any, secret: str | None, depth: int) -> Any:
    if depth == 0:
        raise OracleError(f"the JSON is nested deeper than {MAX_DEPTH}, expected flat answers; nothing was read.")
    if isinstance(content, str):
        return redact(plain(content), secret)
    if isinstance(content, list):
        return [_clean(one, secret, depth - 1) for one in content]
    if isinstance(content, Mapping):
        return {_clean(key, secret, depth): _clean(value, secret, depth - 1) for key, value in content.items()}
    return content


def plain(text: str) -> str:
    """Return a text as every database can hold it."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def first_line(body: bytes, *, secret: str | None = None) -> str:
    """Return what a body says first, as a message shows it: one line, not too long, without the secret."""
    text = redact(plain(body[:65_536].decode(errors="replace")), secret)
    lines = (" ".join("".join(c if c.isprintable() else " " for c in line).split()) for line in text.splitlines())
    return next((line[:200] for line in lines if line), "nothing")
