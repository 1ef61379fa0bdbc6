"""Handing the training of a round over to a process with a GPU, and taking it up there.

The history decides who trains: whoever holds the campaign's lease, while the round has no sampler. A training that
was handed over and is not there when it should be is done by the next round itself, see `loop.gates`.
"""

from flowscout.db import EventKind, RoundState, this_owner
from flowscout.loop.workbench import Workbench

_TRAINED = ("auto", "gflownet", "mixture")
"""Proposers that a GPU makes faster."""


def wants_gpu(bench: Workbench, number: int) -> bool:
    """Return whether a GPU elsewhere would train a round's sampler faster than this process.

    It is asked for once a round: what came back without a sampler is trained by whoever holds the campaign.
    """
    history, section = bench.history, bench.config.proposer
    if bench.config.device == "cpu" or section.type not in _TRAINED:
        return False
    if section.type == "mixture" and section.shares is not None and "gflownet" not in section.shares:
        return False
    record = history.rounds.get(bench.campaign.id, number)
    fitted = history.rounds.fit(record.id)
    if not needs_training(bench, number) or fitted is None or fitted.kind == "none":
        return False
    handed = history.events.read(bench.campaign.id, kinds=[EventKind.TRAINING_HANDED_OVER])
    if any(one.round == number for one in handed):
        return False
    import torch

    return not torch.cuda.is_available()


def needs_training(bench: Workbench, number: int) -> bool:
    """Return whether a round is fitted, and has no sampler yet."""
    record = bench.history.rounds.get(bench.campaign.id, number)
    return record.state is RoundState.TRAINING and bench.history.rounds.sampler(record.id) is None


def hand_over(bench: Workbench, number: int) -> None:
    """Write that another process is to train a round's sampler; it is started once the lease is given back.

    The log says so before anybody is asked: where nobody comes, the next round knows since when.
    """
    record = bench.history.rounds.get(bench.campaign.id, number)
    bench.history.events.add(
        bench.campaign.id, EventKind.TRAINING_HANDED_OVER, actor=bench.held.owner, round_id=record.id
    )


def link(bench: Workbench, number: int | None, *, flow: str, run_id: str | None, stage: str) -> None:
    """Write which run of a flow works for a round from now on, or for all; so its process is found again."""
    if run_id is None:
        return
    record = None if number is None else bench.history.rounds.get(bench.campaign.id, number)
    bench.history.events.add(
        bench.campaign.id,
        EventKind.FLOW_RUN,
        actor=this_owner(),
        round_id=None if record is None else record.id,
        detail={"flow": flow, "run_id": run_id, "stage": stage},
    )
