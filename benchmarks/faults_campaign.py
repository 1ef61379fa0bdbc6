"""The campaign of `faults`: its file, what a user would write for it, and the clock that its processes go by.

What is done to them belongs in `faults`, who runs them in `faults_place`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from crash_campaign import ASSAY, Layout
from crash_campaign import BELIEF as NOTHING
from crash_oracle import PRICE_MINOR

NAME, BATCH, LENGTH = "faults", 24, 16
EVERY_S = 30
"""How often a round may start."""

CAMPAIGN = """\
campaign: {name}
seed: {seed}
space: {{type: sequence, alphabet: dna, length: {length}}}
objectives: [{{name: y, direction: maximize}}]
oracle: assay:measure
surrogate: {{type: belief:memory}}
proposer: {{type: random}}
batch: {{size: {batch}, select: top}}
budget: {{rounds: 100000, cost: 10000000}}
artefacts: "file://{artefacts}"
device: cpu
"""

# Keeps what it has seen: every round has a file of its own.
BELIEF = (
    NOTHING
    + """

class Memory(Nothing):
    seen = torch.zeros(1, 1, dtype=torch.float64)

    def fit(self, X, Y):
        self.seen = torch.cat([X, Y], dim=1).repeat(1, 4)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state, X, Y):
        self.seen = state["seen"]


def memory(space):
    return Memory()
"""
)

# libfaketime cannot leave monotonic clocks alone and let clock_nanosleep work: a sleep waits for nobody instead.
SITE = """\
import select
import time

time.sleep = lambda seconds: select.select([], [], [], max(seconds, 0.0)) and None
"""

LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/local/lib/faketime/libfaketimeMT.so.1")


@dataclass(frozen=True)
class Clock:
    """The clock of the processes that are started with its `environment`: it can be made to jump."""

    folder: Path
    library: Path

    @classmethod
    def found(cls, folder: Path) -> "Clock | None":
        """Return a clock; None where libfaketime is not installed."""
        places = [path for pattern in LIBRARIES for path in Path("/").glob(pattern.lstrip("/"))]
        if not places:
            return None
        (folder / "site").mkdir(parents=True)
        (folder / "site" / "sitecustomize.py").write_text(SITE, encoding="utf-8")
        clock = cls(folder, places[0])
        clock.jump(0)
        return clock

    def environment(self, python_path: str | None) -> dict[str, str]:
        """Return what makes a process go by this clock; its monotonic clocks stay the machine's."""
        paths = [str(self.folder / "site"), *([python_path] if python_path else [])]
        return {
            "LD_PRELOAD": str(self.library),
            "FAKETIME_TIMESTAMP_FILE": str(self.folder / "offset"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": ":".join(paths),
        }

    def jump(self, seconds: int) -> None:
        """Set the clock so many seconds off the machine's."""
        whole = self.folder / "offset.part"
        whole.write_text(f"{seconds:+d}\n", encoding="utf-8")
        whole.rename(self.folder / "offset")


def write(layout: Layout, *, artefacts: Path) -> None:
    """Write the campaign file and what it imports."""
    text = CAMPAIGN.format(name=NAME, seed=layout.seed, length=LENGTH, batch=BATCH, artefacts=artefacts)
    (layout.folder / "campaign.yaml").write_text(text, encoding="utf-8")
    text = ASSAY.format(
        pause_s=layout.pause_s,
        cost_usd=PRICE_MINOR / 100,
        idempotent=layout.kind == "idempotent",
        lookup="looked_up" if layout.kind == "lookup" else None,
    )
    (layout.folder / "assay.py").write_text(text, encoding="utf-8")
    (layout.folder / "belief.py").write_text(BELIEF, encoding="utf-8")


def flowscout(*arguments: str) -> list[str]:
    """Return a command line."""
    return [sys.executable, "-m", "flowscout", *arguments]
