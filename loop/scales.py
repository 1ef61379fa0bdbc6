"""The scale on which an objective is learned: of its values as they are measured, or of their logarithms.

What is stored and ranked is always the value as it was measured; what is predicted is on this scale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from flowscout.db import BoundedRow, ObjectiveRecord, Reading, TrainingRow, TrainingSet
from flowscout.errors import LabelError

TransformName = Literal["none", "log10", "-log10", "ln"]

_FACTORS = {"log10": 1.0, "-log10": -1.0, "ln": math.log(10.0)}
"""By which each logarithm is the one to base 10."""


@dataclass(frozen=True)
class Scale:
    """How values of an objective are turned into what is learned. `sign` is -1 where that is to be small."""

    transform: TransformName = "none"
    sign: float = 1.0

    @classmethod
    def of(cls, transform: TransformName, direction: str) -> "Scale":
        """Return the scale of an objective; `direction` is of its values as they are measured."""
        raw = 1.0 if direction == "maximize" else -1.0
        return cls(transform, -raw if transform == "-log10" else raw)

    def value(self, value: float) -> float:
        """Return what is learned of a value, which must be above 0 where that is a logarithm."""
        if self.transform == "none":
            return value
        if self.transform == "ln":
            return math.log(value)
        return _FACTORS[self.transform] * math.log10(value)

    def refusal(self, value: float) -> str | None:
        """Return why a value has no place on the scale, None where it has one."""
        if self.transform == "none" or value > 0:
            return None
        return f"expected a number above 0: its logarithm is learned (transform: {self.transform})"

    def sem(self, value: float, sem: float) -> float:
        """Return the standard error on the scale, to first order: that of a logarithm is the relative one."""
        if self.transform == "none":
            return sem
        return sem / value if self.transform == "ln" else sem / (value * math.log(10.0))

    def label(self, name: str, unit: str | None = None) -> str:
        """Return what values on the scale are called, such as -log10(ic50 [nM])."""
        named = name if unit is None else f"{name} [{unit}]"
        return named if self.transform == "none" else f"{self.transform}({named})"

    def learned(self, data: TrainingSet) -> TrainingSet:
        """Return a training set as it is learned: replicates are pooled on the scale. Its hash stays.

        Raises:
            LabelError: a value has no logarithm.
        """
        if self.transform == "none":
            return data
        rows = tuple(self._row(row) for row in data.rows)
        bounded = tuple(one for row in data.bounded if (one := self._bounded(row)) is not None)
        return replace(data, rows=rows, bounded=bounded)

    def _row(self, row: TrainingRow) -> TrainingRow:
        for value in [one.value for one in row.readings] or [row.value]:
            if value <= 0:
                raise LabelError(
                    f"{row.object!r} is stored with the value {value:g}, expected more than 0: its logarithm is "
                    f"learned (transform: {self.transform}). Correct or retract the value, or take the transform "
                    "out of the campaign file."
                )
        if not row.readings:
            return replace(row, value=self.value(row.value))
        readings = tuple(self._reading(one) for one in row.readings)
        return replace(row, value=_mean([one.value for one in readings]), readings=readings)

    def _reading(self, one: Reading) -> Reading:
        sem = None if one.sem is None else self.sem(one.value, one.sem)
        return Reading(self.value(one.value), sem, one.n)

    def _bounded(self, row: BoundedRow) -> BoundedRow | None:
        """Return bounds on the scale; that a positive value lies above 0 or less says nothing."""
        lower, upper = (None if one is None or one <= 0 else self.value(one) for one in (row.lower, row.upper))
        if row.upper is not None and row.upper <= 0:
            raise LabelError(
                f"{row.object!r} is stored with a value below {row.upper:g}, expected a bound above 0: its "
                f"logarithm is learned (transform: {self.transform}). Correct or retract it, or take the "
                "transform out of the campaign file."
            )
        if lower is None and upper is None:
            return None
        return (
            replace(row, lower=upper, upper=lower)
            if self.transform == "-log10"
            else (replace(row, lower=lower, upper=upper))
        )


def scale_of(objective: ObjectiveRecord) -> Scale:
    """Return the scale of an objective as the history stores it."""
    return Scale.of(cast("TransformName", objective.transform or "none"), objective.direction)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
