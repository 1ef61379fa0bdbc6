"""What a campaign file may say of its oracle: who measures, and at what price."""

from typing import Annotated, Literal

from pydantic import Field

from flowscout.loop.section import MAX_USD, Section


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


OracleSection = Annotated[TableSection | CallableSection | LabSection, Field(discriminator="type")]
