"""What a campaign file may say of its oracle: who measures, at what price, and how it is called."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from flowscout.loop.oracles import plug_ins
from flowscout.loop.section import MAX_USD, Section

Price = Annotated[float, Field(ge=0, le=MAX_USD)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Positive = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(min_length=1, max_length=100)]


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


_BUILT_IN = ("table", "callable", "process", "lab")


def _kind(section: Any) -> str | None:
    """Return which section an oracle's is: that of its type, or else a plug-in's; None if it names no type."""
    kind = section.get("type") if isinstance(section, dict) else getattr(section, "type", None)
    return None if kind is None else kind if kind in _BUILT_IN else "plug-in"


OracleSection = Annotated[
    Annotated[TableSection, Tag("table")]
    | Annotated[CallableSection, Tag("callable")]
    | Annotated[ProcessSection, Tag("process")]
    | Annotated[LabSection, Tag("lab")]
    | Annotated[PlugInSection, Tag("plug-in")],
    Discriminator(
        _kind,
        custom_error_type="oracle_type",
        custom_error_message=f"Expected module:function, or a type of {', '.join(_BUILT_IN)}; name one",
    ),
]
