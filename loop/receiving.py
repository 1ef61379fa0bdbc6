"""Receiving: what an oracle posts by itself, checked one by one and recorded together.

How it travels and who may post belongs in `flowscout.serving`, what is stored in `db.answering`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flowscout.db import (
    AwaitedRecord,
    EvaluationState,
    FailureClass,
    MeasurementRecord,
    Qualifier,
    Received,
    Reply,
)
from flowscout.errors import OracleError
from flowscout.loop.due import announce_due
from flowscout.loop.measuring import read_result, source_of
from flowscout.loop.notices import deliver_quietly
from flowscout.loop.oracles import Request
from flowscout.loop.oracles.cleaning import MAX_TEXT
from flowscout.loop.oracles.wire import read_answer, write_request
from flowscout.loop.workbench import Workbench, at_version
from flowscout.loop.working import complete_if_possible

logger = logging.getLogger(__name__)

MAX_KEY = 64  # as the column that holds them

UNKNOWN_KEY, REFUSED = "unknown_key", "refused"
"""What is said of an answer that was not recorded: its key names nothing here, or nobody can read it."""

_EXTREMES = {FailureClass.INFEASIBLE: Qualifier.INFEASIBLE, FailureClass.PERMANENT: Qualifier.MISSING}


@dataclass(frozen=True)
class Word:
    """What is said of one answer: `recorded`, `known`, `conflict`, `unknown_key` or `refused`, and why."""

    key: str | None
    status: str
    message: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the answer is in the history now."""
        return self.status not in (UNKNOWN_KEY, REFUSED)


class Desk:
    """Where one oracle's answers for one or more campaigns are taken."""

    def __init__(self, oracle: str, benches: Sequence[Workbench]) -> None:
        self.oracle = oracle
        self._benches = list(benches)
        self._versions: dict[tuple[int, int], Workbench] = {}

    def waiting(self) -> list[dict[str, Any]]:
        """Return what the oracle is to measure, as requests are written; of each campaign in turn."""
        found = []
        for bench in self._benches:
            for row in bench.history.answers.waiting(bench.campaign.id, oracle=self.oracle):
                found.append({**write_request(_request(row)), "campaign": bench.campaign.name})
        return found

    def receive(self, answers: Sequence[Any]) -> list[Word]:
        """Record answers in their order; return what is said of each. The same again changes nothing."""
        words: list[Word | None] = [None] * len(answers)
        keys = [_key(answer) for answer in answers]
        for bench in self._benches:
            left = {key for key, word in zip(keys, words, strict=True) if word is None and key is not None}
            named = bench.history.answers.find(bench.campaign.id, left, oracle=self.oracle) if left else {}
            mine = {place: keys[place] for place, key in enumerate(keys) if key in named and words[place] is None}
            if mine:
                for place, word in self._record(bench, answers, mine, named).items():
                    words[place] = word
        return [word or _nobodys(answer, key) for word, answer, key in zip(words, answers, keys, strict=True)]

    def settle(self) -> bool:
        """Complete the rounds that wait for nothing any more, and tell the hooks; what goes wrong is logged.

        Return whether all that may be complete was looked after: not while somebody else holds a campaign.
        """
        done = True
        for bench in self._benches:
            try:
                done = complete_if_possible(bench) and done
            except Exception:
                logger.warning("campaign %s could not be brought on", bench.campaign.name, exc_info=True)
            deliver_quietly(bench.history, bench.campaign, bench.config, folder=bench.tools.folder)
            announce_due(bench)
        return done

    def _record(
        self,
        bench: Workbench,
        answers: Sequence[Any],
        mine: Mapping[int, str | None],
        named: Mapping[str, AwaitedRecord],
    ) -> dict[int, Word]:
        """Record the answers of one campaign, by their places; return what is said of each."""
        words: dict[int, Word] = {}
        replies: dict[int, Reply] = {}
        for place, key in mine.items():
            assert key is not None
            read = self._read(bench, answers[place], named[key], key)
            if isinstance(read, Word):
                words[place] = read
            else:
                replies[place] = read
        if replies:
            said = bench.history.answers.receive(
                bench.campaign.id, list(replies.values()), oracle=self.oracle, actor=source_of(self.oracle)
            )
            for (place, reply), word in zip(replies.items(), said, strict=True):
                words[place] = Word(reply.idempotency_key, str(word), _advice(word, reply))
        return words

    def _read(self, bench: Workbench, answer: Any, row: AwaitedRecord, key: str) -> "Reply | Word":
        """Return what an answer says in the words of the history, or why nobody can read it."""
        then = self._at(bench, row)
        try:
            _, result = read_answer(answer, then.config.objective.name)
        except OracleError as error:
            return Word(key, REFUSED, str(error))
        if result.message is not None:
            result = replace(result, message=result.message[:MAX_TEXT])
        read = read_result(then, row.object, key, result)
        if read.unknown or result.failure == "unknown":
            return Word(key, str(Received.KNOWN), "nothing is recorded of an answer that says nothing")
        if read.failure is not None and answer.get("failure") != read.failure:
            return Word(key, REFUSED, read.message)  # no number in it, of another unit, no failure that is known
        reply = Reply(key, read.measurements, read.failure, read.message, read.cost_minor)
        return _of_people(then, row, reply) if then.oracle.info.waits_for_people else reply

    def _at(self, bench: Workbench, row: AwaitedRecord) -> Workbench:
        """Return the bench as the file lays it out that the evaluation's round began with."""
        if row.version_id is None or row.version_id == bench.version.id:
            return bench
        known = (bench.campaign.id, row.version_id)
        if known not in self._versions:
            self._versions[known] = at_version(bench, row.version_id)
        return self._versions[known]


def _of_people(bench: Workbench, row: AwaitedRecord, reply: Reply) -> Reply:
    """Return a failure of what nobody calls as what a person tells of it: it is missing, or cannot exist."""
    if reply.failure not in _EXTREMES or row.state is EvaluationState.DONE:
        return reply
    record = MeasurementRecord(
        key=bench.tools.rules.key(row.object),
        object=row.object,
        property=bench.config.objective.name,
        value=None,
        source=source_of(bench.oracle.info.name),
        row_id=reply.idempotency_key,
        qualifier=_EXTREMES[reply.failure],
        unit=bench.config.objective.unit,
    )
    cost = 0 if reply.cost_minor is None else reply.cost_minor
    return replace(reply, measurements=[record], failure=None, cost_minor=cost)


def _advice(word: Received, reply: Reply) -> str | None:
    if word is Received.CONFLICT:
        return "another value is stored; `flowscout conflicts` lists both, a person says which counts"
    if word is Received.KNOWN and reply.failure is not None:
        return "no call waits for this failure; nothing was changed"
    return None


def _nobodys(answer: Any, key: str | None) -> Word:
    """Return what is said of an answer whose key names nothing here, or that has none."""
    if key is None:
        came = type(answer).__name__ if not isinstance(answer, Mapping) else "one without a key"
        return Word(None, REFUSED, f"{came} came, expected an answer such as {{'key': '...', 'value': 1.5}}")
    return Word(key, UNKNOWN_KEY, "no evaluation of this oracle has this key; send the key of the request")


def _key(answer: Any) -> str | None:
    """Return the key that an answer names; None if it names none."""
    key = answer.get("key") if isinstance(answer, Mapping) else None
    return key if isinstance(key, str) and 0 < len(key) <= MAX_KEY else None


def _request(row: AwaitedRecord) -> Request:
    return Request(row.object, row.candidate_id, row.idempotency_key, row.replicate, row.fidelity)
