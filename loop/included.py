"""A user's own candidates for the next batch: checked whole before anything is written.

How they get their places belongs in `loop.pools`.
"""

from collections import Counter
from collections.abc import Sequence

from flowscout.db import RoundRecord, RoundState
from flowscout.errors import ConfigError, ObjectError, StateError
from flowscout.loop.workbench import Workbench, at_version

_UNDECIDED = (RoundState.PLANNED, RoundState.FITTING, RoundState.TRAINING)


def check_included(bench: Workbench, objects: Sequence[str]) -> list[str]:
    """Return the objects that are to join the next batch, as the space writes them.

    None is left to join where the batch that waits holds them all: asking again changes nothing.

    Raises:
        ObjectError: an object is not in the space, comes twice, was measured or vetoed, or is awaited.
        ConfigError: they are more than the batch has places.
        StateError: a batch waits that holds not all of them.
    """
    rules = bench.tools.rules
    texts = [rules.require(text) for text in objects]
    keys = [rules.key(text) for text in texts]
    repeated = [text for text, key in zip(texts, keys, strict=True) if Counter(keys)[key] > 1]
    if repeated:
        raise ObjectError(
            f"{' and '.join(map(repr, repeated[:2]))} are one object, expected each object to be included once; "
            "nothing was written. Leave one out."
        )
    under_way = bench.history.rounds.under_way(bench.campaign.id)
    waiting = under_way[-1] if under_way else None  # those before it were handed out
    if waiting is not None and waiting.state not in _UNDECIDED:
        _refuse_beside_a_batch(bench, waiting, dict(zip(keys, texts, strict=True)))
        return []
    turn = bench if waiting is None else at_version(bench, waiting.config_version_id)
    if len(texts) > turn.config.batch.size:
        raise ConfigError(
            f"{len(texts)} objects are to be included in a batch of {turn.config.batch.size}, expected no more "
            "than it has places; nothing was written. Ask for a larger batch, or include fewer."
        )
    _refuse_known(bench, dict(zip(keys, texts, strict=True)))
    return texts


def _refuse_beside_a_batch(bench: Workbench, waiting: RoundRecord, wanted: dict[str, str]) -> None:
    batch = {one.key for one in bench.history.rounds.proposals(waiting.id, selected=True)}
    others = [text for key, text in wanted.items() if key not in batch]
    if others:
        raise StateError(
            f"{others[0]!r} cannot join the batch of round {waiting.number}, which waits for its results; nothing "
            "was written. Tell these, or veto what is not to be measured, and include it in the next batch."
        )


def _refuse_known(bench: Workbench, wanted: dict[str, str]) -> None:
    vetoed = bench.history.vetoes.keys(bench.campaign.id)
    known = bench.history.measurements.known_keys(bench.campaign.id)
    for key, text in wanted.items():
        if key in known:
            why = "was vetoed" if key in vetoed else "was measured or is awaited already"
            raise ObjectError(
                f"{text!r} {why}, expected an object that is new; nothing was written. Leave it out."
            )
