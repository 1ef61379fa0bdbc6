"""What a campaign file may say of its space: what can be built."""

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from flowscout.loop.section import Section
from flowscout.loop.spaces.alphabets import MAX_LENGTH, SequenceRules
from flowscout.loop.spaces.constraints import Constraints


class SequenceSection(Section):
    """All sequences of one length over an alphabet; `strand: double` makes a reverse complement the same.

    `letters` says which letters some positions may have, counted from 1. The rules from `wild_type` on are those
    of `flowscout.loop.spaces.constraints.Constraints`.
    """

    type: Literal["sequence"]
    alphabet: str | list[str]
    length: int = Field(ge=1, le=MAX_LENGTH)
    strand: Literal["single", "double"] = "single"
    letters: dict[int, str] = Field(default_factory=dict)
    wild_type: str | None = None
    max_mutations: int | None = Field(default=None, ge=0, le=MAX_LENGTH)
    forbid: list[str] = Field(default_factory=list)
    gc: list[float] | None = Field(default=None, min_length=2, max_length=2)
    homopolymer: int | None = Field(default=None, ge=1, le=MAX_LENGTH)

    @field_validator("letters", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        """Read a list of letters as their text."""
        if not isinstance(value, dict):
            return value
        return {
            place: "".join(map(str, some)) if isinstance(some, list) else some for place, some in value.items()
        }

    @model_validator(mode="after")
    def _has_these_positions(self) -> "SequenceSection":
        odd = [place for place in self.letters if not 1 <= place <= self.length]
        if odd:
            raise ValueError(
                f"space.letters names position {odd[0]}, expected one from 1 to {self.length}, the length; "
                "positions are counted from 1"
            )
        return self

    @cached_property
    def rules(self) -> SequenceRules:
        """What is in the space, without tensors."""
        given = Constraints(self.wild_type, self.max_mutations, tuple(self.forbid), self.gc, self.homopolymer)
        plain = SequenceRules(self.alphabet, self.length, self.strand)
        if not (self.letters or given):
            return plain
        choices = [self.letters.get(place, plain.letters) for place in range(1, self.length + 1)]
        return SequenceRules(
            self.alphabet, self.length, self.strand, choices=choices if self.letters else None, constraints=given
        )


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
