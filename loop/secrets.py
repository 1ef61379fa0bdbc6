"""The one place where secrets are read from the environment. They are never stored, logged or shown."""

import os

from flowscout.errors import ConfigError

MIN_TOKEN = 16
"""Characters of a token that opens a door at least."""


def read_secret(name: str) -> bytes:
    """Return the secret that an environment variable holds.

    Raises:
        ConfigError: it is not set.
    """
    found = os.environ.get(name)
    if not found:
        raise ConfigError(
            f"the environment variable {name} is not set, expected a secret; set it where rounds run."
        )
    return found.encode(errors="surrogateescape")


def read_token(name: str, *, at_least: int = 1) -> str:
    """Return the secret that an environment variable holds, as a header can carry it.

    A line end that a file of secrets ends in is left out. What a header cannot carry is refused here: whoever
    sends it would show it in an error.

    Raises:
        ConfigError: it is not set, too short, or holds anything but visible ASCII characters.
    """
    try:
        text = read_secret(name).decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or not all("!" <= character <= "~" for character in text):
        raise ConfigError(
            f"the environment variable {name} holds what no header can carry, expected letters, digits and signs "
            "of ASCII without blanks between them. Set it to the token itself."
        )
    if len(text) < at_least:
        raise ConfigError(
            f"the environment variable {name} holds {len(text)} characters, expected at least {at_least}: it "
            "opens a door. Make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return text


def prefect_credentials() -> tuple[str | None, str | None, str | None]:
    """Return URL, `name:password` and key of a Prefect server, those of them that the environment has."""
    names = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY")
    url, basic, key = (os.environ.get(name) or None for name in names)
    return url, basic, key
