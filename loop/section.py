"""What every section of a campaign file has in common."""

from pydantic import BaseModel, ConfigDict

MAX_USD = 1e12
"""The largest price or budget: in cents it is a whole number that every database and float64 hold exactly."""


class Section(BaseModel):
    """A part of a campaign file: no key that is not known, nothing infinite, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
