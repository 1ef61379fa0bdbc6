"""The sections of a campaign file that say when a campaign stops by itself.

What they do belongs in `loop.stopping`.
"""

from pydantic import Field

from flowscout.loop.section import Section


class StopSection(Section):
    """What ends a campaign before its budget does; each is looked at before a round starts.

    `target` is a value of the objective as it is measured. `no_improvement` is so many rounds without a new best.
    Below `acquisition_below` nothing that the latest batch held was worth measuring, see `loop.stopping.gain`.
    """

    target: float | None = None
    no_improvement: int | None = Field(default=None, ge=1)
    acquisition_below: float | None = Field(default=None, gt=0)
