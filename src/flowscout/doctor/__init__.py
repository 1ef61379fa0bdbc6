"""What may be wrong with an installation, a machine or the things that a campaign needs, and how it is mended.

What may be wrong with the facts of a history belongs in `flowscout.db.checks`. Nothing is changed here.
"""

from flowscout.doctor.checks import Check, State
from flowscout.doctor.examination import examine

__all__ = ["Check", "State", "examine"]
