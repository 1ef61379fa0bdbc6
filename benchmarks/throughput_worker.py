"""A campaign that makes the calls of `throughput.py`, or with `--bare` the function alone.

What is printed of it belongs in `throughput`.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from crash_campaign import BELIEF
from peers.loop_protocol import CALL_S, Watch, call, options, report

CAMPAIGN = """\
campaign: throughput
space: {{type: sequence, alphabet: dna, length: 24}}
objectives: [{{name: y, direction: maximize}}]
oracle: {oracle}
surrogate: {{type: belief:nothing}}
proposer: {{type: random}}
batch: {{size: {batch}, select: top, drift: 0}}
budget: {{rounds: {rounds}}}
device: cpu
"""

ASSAY = '''\
"""A simulator that takes a millisecond for each object."""

import asyncio
import time


def listed(objects: list[str]) -> list[float]:
    return [single(text) for text in objects]


def single(text: str) -> float:
    time.sleep({call_s})
    return float(text.count("A"))


async def waiting(text: str) -> float:
    await asyncio.sleep({call_s})
    return float(text.count("A"))
'''

FUNCTIONS = {"list": "listed", "single": "single", "async": "waiting"}

CHOOSING = ("fit_surrogate", "train_sampler", "propose_batch")
"""What `loop.stages` calls to pick the objects; all else of it is the path."""


@contextmanager
def choosing(watch: Watch) -> Iterator[None]:
    """Count what picks the objects while the block lasts."""
    from flowscout.loop import stages

    def timed(function: Any) -> Any:
        def run(*arguments: Any, **named: Any) -> Any:
            with watch.running():
                return function(*arguments, **named)

        return run

    with ExitStack() as stack:
        for name in CHOOSING:
            stack.enter_context(patch.object(stages, name, timed(getattr(stages, name))))
        yield


def run_campaign(folder: Path, url: str, *, calls: int, batch: int, oracle: str) -> tuple[Watch, Watch]:
    """Make so many calls and return how long they took, and how long of this it took to pick the objects."""
    from flowscout import Campaign

    text = CAMPAIGN.format(oracle=oracle, batch=batch, rounds=calls // batch)
    (folder / "campaign.yaml").write_text(text, encoding="utf-8")
    (folder / "assay.py").write_text(ASSAY.format(call_s=CALL_S), encoding="utf-8")
    (folder / "belief.py").write_text(BELIEF, encoding="utf-8")
    watch, whole = Watch(), Watch()
    with Campaign.from_yaml(folder / "campaign.yaml", db=url) as campaign:
        with choosing(watch), whole.running():
            while campaign.run_round() is not None:
                pass
        done = campaign.status().evaluations
    assert {str(state): count for state, count in done.items()} == {"done": calls}, done
    return whole, watch


def main() -> None:
    """Run a window."""
    from flowscout.version import __version__

    wanted = options(own=True)
    if wanted.bare:
        bare = Watch()
        with bare.running():
            for _ in range(wanted.calls):
                call(1.0)
        report(system="bare loop", calls=wanted.calls, whole=bare, choosing=Watch())
        return
    oracle = f"assay:{FUNCTIONS[wanted.form]}"
    if wanted.concurrency > 1:
        oracle = f"{{type: callable, function: {oracle}, concurrency: {wanted.concurrency}}}"
    with tempfile.TemporaryDirectory() as warm:  # what a process imports and prepares once is none of the path
        run_campaign(Path(warm), f"sqlite:///{warm}/warm.db", calls=8, batch=4, oracle=oracle)
    with tempfile.TemporaryDirectory() as folder:
        whole, watch = run_campaign(Path(folder), wanted.url, calls=wanted.calls, batch=wanted.ask, oracle=oracle)
    system = f"flowscout {__version__}, {wanted.form}"
    report(system=system, calls=wanted.calls, whole=whole, choosing=watch)


if __name__ == "__main__":
    main()
