"""What a campaign file may say of its oracle: who measures, and at what price."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator

from flowscout.loop.section import MAX_USD, Section


def _is_a_name(value: str) -> str:
    """Refuse what is no name of an environment variable; it may be the secret itself, so it is not repeated."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", value):
        raise ValueError(
            "secret_env and token_env name an environment variable, expected a name such as ASSAY_TOKEN, and what "
            "came is none. Set the variable to the secret where rounds run, and write its name here"
        )
    return value


EnvironmentName = Annotated[str, AfterValidator(_is_a_name)]
"""The name of an environment variable, not what it holds."""


class TableSection(Section):
    """Values measured before, in a CSV file beside the campaign file or shipped (`flowscout:NAME`)."""

    type: Literal["table"]
    path: str
    object: str | None = None
    value: str | None = None
    cost_usd: float = Field(default=0.0, ge=0, le=MAX_USD)


class CallableSection(Section):
    """A Python function, `module:function`."""

    type: Literal["callable"]
    function: str
    cost_usd: float | None = Field(default=None, ge=0, le=MAX_USD)


class LabSection(Section):
    """A laboratory: nothing is called, results are told."""

    type: Literal["lab"]
    name: str = "lab"
    cost_usd: float = Field(default=0.0, ge=0, le=MAX_USD)
    token_env: EnvironmentName | None = None


MAX_WAIT_S = 366 * 86400.0
"""How long an answer may take at most."""


class HttpSection(Section):
    """A service that requests are posted to.

    `secret_env` names the environment variable with the secret that it asks for, `token_env` that with the token
    that it posts results with.
    """

    type: Literal["http"]
    url: str
    name: str | None = Field(default=None, min_length=1, max_length=200)
    version: str = Field(default="1", min_length=1, max_length=50)
    fidelity: str = Field(default="default", min_length=1, max_length=50)
    cost_usd: float = Field(default=0.0, ge=0, le=MAX_USD)
    idempotent: bool = False
    answers: Literal["at_once", "poll", "call_back"] = "at_once"
    secret_env: EnvironmentName | None = None
    token_env: EnvironmentName | None = None
    lookup_url: str | None = None
    batch: int = Field(default=24, ge=1, le=10_000)
    concurrency: int = Field(default=1, ge=1, le=256)
    timeout_s: float = Field(default=60.0, gt=0, le=MAX_WAIT_S)
    tries: int = Field(default=5, ge=1, le=20)

    @field_validator("url", "lookup_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None:
            _refuse_odd_address(value)
        return value


def _refuse_odd_address(url: str) -> None:
    """Refuse what is no address of a service; the message does not repeat what may be a password."""
    try:
        parts = urlsplit(url)
        strange = any(not character.isprintable() or character == " " for character in url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not strange
    except ValueError:
        right = False
    if not right:
        raise ValueError(
            "the address of the oracle is not of the form https://HOST/PATH, expected http or https, a host and "
            "no blanks; correct it"
        )
    if "@" in parts.netloc:
        raise ValueError(
            "the address of the oracle holds a user or a password, expected none: this file is kept in the "
            "history. Take it out, change it, and name an environment variable with the secret by `secret_env`"
        )
    if parts.fragment:
        raise ValueError("the address of the oracle has a part after '#', which is never sent; leave it out")


OracleSection = Annotated[TableSection | CallableSection | LabSection | HttpSection, Field(discriminator="type")]
