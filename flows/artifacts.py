"""What people see of a round in Prefect's page: one artifact a stage, with the pictures in the page itself.

What is in them belongs in `loop.showing`. An artifact of a key that stands already is a new version of it.
"""

import logging
from collections.abc import Callable
from typing import Literal

from prefect.artifacts import Artifact, MarkdownArtifact, ProgressArtifact, TableArtifact

from flowscout.flows.links import artifact_key, description
from flowscout.loop import showing
from flowscout.loop.workbench import Workbench

logger = logging.getLogger(__name__)

What = Literal["surrogate", "sampler", "batch", "results", "best"]


def show(bench: Workbench, number: int, what: What) -> None:
    """Put what there is to see of a stage of a round into the page. Where that fails the round goes on."""
    try:
        _MAKERS[what](bench, number).create()
    except Exception:
        logger.warning("round %d of %s: its %s is not shown", number, bench.campaign.name, what, exc_info=True)


def _surrogate(bench: Workbench, number: int) -> Artifact:
    key, said = artifact_key(bench.campaign.name, "surrogate", number), description(bench.campaign, number)
    return MarkdownArtifact(key=key, description=said, markdown=showing.surrogate_page(bench, number))


def _sampler(bench: Workbench, number: int) -> Artifact:
    key, said = artifact_key(bench.campaign.name, "sampler", number), description(bench.campaign, number)
    return MarkdownArtifact(key=key, description=said, markdown=showing.sampler_page(bench, number))


def _batch(bench: Workbench, number: int) -> Artifact:
    key, said = artifact_key(bench.campaign.name, "batch", number), description(bench.campaign, number)
    return TableArtifact(key=key, description=said, table=showing.batch_table(bench, number))


def _results(bench: Workbench, number: int) -> Artifact:
    key, said = artifact_key(bench.campaign.name, "results", number), description(bench.campaign, number)
    return ProgressArtifact(key=key, description=said, progress=showing.settled_percent(bench, number))


def _best(bench: Workbench, number: int) -> Artifact:
    key, said = artifact_key(bench.campaign.name, "best so far"), description(bench.campaign, number)
    return MarkdownArtifact(key=key, description=said, markdown=showing.progress_page(bench))


_MAKERS: dict[What, Callable[[Workbench, int], Artifact]] = {
    "surrogate": _surrogate,
    "sampler": _sampler,
    "batch": _batch,
    "results": _results,
    "best": _best,
}
