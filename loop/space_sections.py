"""What a campaign file may say of its space: what can be built."""

from typing import Annotated, Literal

from pydantic import Field

from flowscout.loop.section import Section
from flowscout.loop.spaces.alphabets import SequenceRules


class SequenceSection(Section):
    """All sequences of one length over an alphabet; `strand: double` makes a reverse complement the same."""

    type: Literal["sequence"]
    alphabet: str | list[str]
    length: int = Field(ge=1)
    strand: Literal["single", "double"] = "single"

    @property
    def rules(self) -> SequenceRules:
        """What is in the space, without tensors."""
        return SequenceRules(self.alphabet, self.length, self.strand)


class CatalogueSection(Section):
    """A list that can be bought, a CSV file beside the campaign file; `object` is its column of names.

    `features` are the columns that the surrogate learns from: by default every numeric one but the objective's.
    `metric: tanimoto` is for counts and fingerprints.
    """

    type: Literal["catalogue"]
    path: str
    object: str | None = None
    features: list[str] | None = Field(default=None, min_length=1)
    metric: Literal["euclid", "tanimoto"] = "euclid"


SpaceSection = Annotated[SequenceSection | CatalogueSection, Field(discriminator="type")]
