"""What is stored of an objective of the campaign file.

What its words mean belongs in `loop.config`.
"""

from flowscout.db import ObjectiveRecord
from flowscout.loop.config import ObjectiveSection
from flowscout.loop.scales import Scale


def objective_record(section: ObjectiveSection) -> ObjectiveRecord:
    """Return an objective as the history stores it."""
    transform = None if section.transform == "none" else section.transform
    return ObjectiveRecord(section.name, section.direction, section.unit, transform)


def label_of(section: ObjectiveSection) -> str:
    """Return what is learned and predicted of an objective, such as -log10(ic50 [nM])."""
    return Scale.of(section.transform, section.direction).label(section.name, section.unit)
