"""What a campaign file may say of its oracle: who measures, at what price, and how it is called."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from flowscout.loop.oracles import plug_ins
from flowscout.loop.section import MAX_USD, Section

Price = Annotated[float, Field(ge=0, le=MAX_USD)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Positive = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(min_length=1, max_length=100)]
ShortName = Annotated[str, Field(min_length=1, max_length=50)]


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
    cost_usd: Price = 0.0


class CallableSection(Section):
    """A Python function, `module:function`; what is left out is as the function declares it."""

    type: Literal["callable"]
    function: str
    cost_usd: Price | None = None
    batch: Count | None = None
    concurrency: Count | None = None
    run_in: Literal["thread", "process"] = "thread"
    timeout_s: Positive | None = None
    rate_per_s: Positive | None = None
    idempotent: bool | None = None
    name: Name | None = None
    version: Name | None = None
    fidelity: Name | None = None


class ProcessSection(Section):
    """A command: requests go in as lines of JSON and answers come out, or one start for each `{object}`."""

    type: Literal["process"]
    command: list[str] = Field(min_length=1)
    cost_usd: Price = 0.0
    batch: Count | None = None
    concurrency: Count = 1
    timeout_s: Positive | None = 3600.0
    rate_per_s: Positive | None = None
    keep: bool = False
    idempotent: bool = True
    name: Name | None = None
    version: Name = "1"
    fidelity: Name = "default"


class LabSection(Section):
    """A laboratory: nothing is called, results are told."""

    type: Literal["lab"]
    name: str = "lab"
    cost_usd: Price = 0.0
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
    name: Name | None = None
    version: ShortName = "1"
    fidelity: ShortName = "default"
    cost_usd: Price = 0.0
    idempotent: bool = False
    answers: Literal["at_once", "poll", "call_back"] = "at_once"
    secret_env: EnvironmentName | None = None
    token_env: EnvironmentName | None = None
    lookup_url: str | None = None
    batch: int = Field(default=24, ge=1, le=10_000)
    concurrency: int = Field(default=1, ge=1, le=256)
    timeout_s: float = Field(default=60.0, gt=0, le=MAX_WAIT_S)
    rate_per_s: Positive | None = None
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


class PlugInSection(Section):
    """An oracle of another package: whatever keys its builder takes."""

    model_config = ConfigDict(extra="allow")

    type: str

    @model_validator(mode="after")
    def _is_installed(self) -> "PlugInSection":
        installed = plug_ins()
        if self.type not in installed:
            known = ", ".join([*_BUILT_IN, *sorted(installed)])
            raise ValueError(
                f"oracle.type is {self.type!r}, expected one of {known}; correct it, or install the package that "
                "brings it"
            )
        return self


_BUILT_IN = ("table", "callable", "process", "http", "lab")


def _kind(section: Any) -> str | None:
    """Return which section an oracle's is: that of its type, or else a plug-in's; None if it names no type."""
    kind = section.get("type") if isinstance(section, dict) else getattr(section, "type", None)
    return None if kind is None else kind if kind in _BUILT_IN else "plug-in"


OracleSection = Annotated[
    Annotated[TableSection, Tag("table")]
    | Annotated[CallableSection, Tag("callable")]
    | Annotated[ProcessSection, Tag("process")]
    | Annotated[HttpSection, Tag("http")]
    | Annotated[LabSection, Tag("lab")]
    | Annotated[PlugInSection, Tag("plug-in")],
    Discriminator(
        _kind,
        custom_error_type="oracle_type",
        custom_error_message=f"Expected module:function, or a type of {', '.join(_BUILT_IN)}; name one",
    ),
]
