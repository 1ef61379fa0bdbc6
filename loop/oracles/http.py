"""An oracle that is a service: requests are posted as JSON, and answered at once, when asked again, or later.

How one exchange goes belongs in `loop.oracles.exchange`, what requests and answers look like in
`loop.oracles.wire`.
"""

import hashlib
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urljoin, urlsplit

from flowscout.errors import ConfigError, OracleError
from flowscout.loop.oracles.cleaning import MAX_TEXT, clean, first_line
from flowscout.loop.oracles.exchange import Answered, Line, LostError, NotSentError, origin
from flowscout.loop.oracles.protocol import Answer, Calling, Failure, OracleInfo, Request, Result
from flowscout.loop.oracles.wire import match_answers, parse, read_answer, shown, write_request
from flowscout.loop.secrets import read_token

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0
"""The pause before the second try; each is twice as long as the one before, up to the most."""
MAX_ASKED_S = 300.0
"""The longest `Retry-After` that is waited for; who asks for more is tried again in a later turn."""
MAX_EXCHANGE_S = 60.0
"""How long one exchange may take where the answer comes later anyway."""

MIN_POLL_S = 0.1
"""How soon is asked again at the soonest, whatever `Retry-After` says."""

TRY_AGAIN = frozenset({408, 425, 429})
"""The service has refused the request and not acted."""


class _Failed(Exception):  # noqa: N818 - it ends a conversation and is turned into results, never raised further
    """What a conversation with the service ended in: the same for each request of the call."""

    def __init__(self, failure: Failure, message: str, *, pause_s: float | None = None) -> None:
        super().__init__(message)
        self.failure, self.pause_s = failure, pause_s


Pause = Callable[[float], bool | None]
"""Waits for so many seconds; returns whether it was cut short."""


class Pauses:
    """The pauses of the conversations under way, each cut short when nobody wants to wait for it any more."""

    def __init__(self) -> None:
        self._tries, self._polls = threading.Event(), threading.Event()

    def begin(self) -> tuple[Pause, Pause]:
        """Return what a conversation that begins now waits with: before another try, and before a poll."""
        return self._tries.wait, self._polls.wait

    def cut(self, *, polls: bool) -> None:
        """Cut short those before another try, and the `polls`, of conversations that have begun."""
        tries, self._tries = self._tries, threading.Event()
        tries.set()
        if polls:
            before, self._polls = self._polls, threading.Event()
            before.set()


@dataclass(frozen=True)
class HttpOracle:
    """A service that measures.

    `timeout_s` is how long an answer may take from the call on: the exchange itself where `answers` is `at_once`,
    else until the poll has it or until it is called back.
    """

    info: OracleInfo
    url: str
    property: str
    answers: Literal["at_once", "poll", "call_back"] = "at_once"
    secret_env: str | None = None
    lookup_url: str | None = None
    timeout_s: float = 60.0
    tries: int = 5
    pauses: Pauses = field(default_factory=Pauses, repr=False, compare=False)
    line: Line = field(default=Line(keeps_connections=False), repr=False, compare=False)

    def __call__(self, requests: Sequence[Request]) -> list[Result]:
        """Post the requests, as many at a time as a call may have, and return what the service says of each."""
        size = self.info.calling.batch or max(1, len(requests))
        found: list[Result] = []
        for first in range(0, len(requests), size):
            found += self._call(requests[first : first + size])
        return found

    def hurry(self) -> None:
        """Let calls end that pause before another try; what was accepted is polled on."""
        self.pauses.cut(polls=False)

    def close(self) -> None:
        """Let all calls under way end at their next pause: nobody waits for them, and another may call."""
        self.pauses.cut(polls=True)

    def lookup(self, keys: Sequence[str]) -> Mapping[str, Answer]:
        """Ask the service what came of calls: it answers those it has, and names those that `never` came.

        Raises:
            OracleError: it does not say.
        """
        if self.lookup_url is None:
            return {}
        try:
            talk = self._talk()
            answered = talk.ask("POST", self.lookup_url, {"keys": list(keys)}, repeatable=True)
            said = talk.read(answered)
        except _Failed as error:
            raise OracleError(f"{error}; the calls stay unknown.") from None
        never = said.get("never", [])
        found: dict[str, Answer] = {key: None for key in keys if isinstance(never, list) and key in never}
        for one in said["answers"]:
            key, result = read_answer(one, self.property)
            if key in keys:
                found[key] = _short(result)
        return found

    def _call(self, requests: Sequence[Request]) -> list[Result]:
        try:
            return [_short(result) for result in self._converse(requests)]
        except _Failed as error:
            return [Result(failure=error.failure, message=str(error)[:MAX_TEXT])] * len(requests)

    def _converse(self, requests: Sequence[Request]) -> list[Result]:
        """Post requests and follow what the service says until there is an answer, or the time is over."""
        talk, end = self._talk(), time.monotonic() + self.timeout_s
        content = {"requests": [write_request(request) for request in requests]}
        answered = talk.ask("POST", self.url, content, repeatable=self.info.idempotent, key=_hash(requests))
        if answered.status == 202 and self.answers == "call_back":
            return self._pending(talk, requests, answered)
        if answered.status == 202:
            answered = talk.poll(talk.address(answered), end=end, first_s=answered.retry_after_s)
        return self._match(requests, talk.read(answered)["answers"])

    def _pending(self, talk: "_Talk", requests: Sequence[Request], answered: Answered) -> list[Result]:
        """Return what is answered already, and for all others that the answer will come."""
        early = talk.read(answered, needs_answers=False).get("answers") or []
        named = {one.get("key") for one in early if isinstance(one, Mapping) and isinstance(one.get("key"), str)}
        known = [request for request in requests if request.key in named]
        results = {request.key: result for request, result in zip(known, self._match(known, early), strict=True)}
        waits = Result(pending_s=self.timeout_s, message=f"accepted by {self.info.name}, which calls back")
        return [results.get(request.key, waits) for request in requests]

    def _match(self, requests: Sequence[Request], answers: Sequence[Any]) -> list[Result]:
        return match_answers(requests, answers, property=self.property, oracle=self.info.name)

    def _talk(self) -> "_Talk":
        """Return the means to talk to the service; the secret is read anew, so that it can be changed.

        Raises:
            _Failed: there is no secret: nothing was sent.
        """
        try:
            secret = None if self.secret_env is None else read_token(self.secret_env)
        except ConfigError as error:
            raise _Failed("transient", f"oracle {self.info.name!r} was not called: {error}") from None
        return _Talk(self, secret, *self.pauses.begin())


@dataclass(frozen=True)
class _Talk:
    """A conversation with the service: exchanges, the pauses between them, and what they end in."""

    oracle: HttpOracle
    secret: str | None = field(repr=False)
    before_try: Pause
    before_poll: Pause

    def ask(self, method: str, url: str, content: Any, *, repeatable: bool, key: str | None = None) -> Answered:
        """Send a request until it is answered with 2xx.

        Raises:
            _Failed: it is refused, the tries are used up, or nobody can say whether it was acted upon.
        """
        body = None if content is None else json.dumps(content).encode()
        limit = self.oracle.timeout_s
        limit_s = limit if self.oracle.answers == "at_once" else min(limit, MAX_EXCHANGE_S)
        for turn in range(1, self.oracle.tries + 1):
            try:
                return self._once(method, url, body, repeatable=repeatable, key=key, timeout_s=limit_s)
            except _Failed as error:
                asked_s = error.pause_s or 0.0
                again = error.failure == "transient" or (error.failure == "unknown" and repeatable)
                if not again or turn == self.oracle.tries or asked_s > MAX_ASKED_S:
                    raise
                logger.info("oracle %s, try %d of %d: %s", self.oracle.info.name, turn, self.oracle.tries, error)
                if self.before_try(max(asked_s, pause_s(turn))):
                    raise
        raise AssertionError("the last try returns or raises")

    def poll(self, url: str, *, end: float, first_s: float | None) -> Answered:
        """Ask again and again until the answer is there.

        Raises:
            _Failed: it is not there in time, or is not to be had. What was accepted may have been measured.
        """
        wait_s, turn = first_s, 0
        while True:
            turn += 1
            wait_s = pause_s(min(turn, 4)) if wait_s is None else max(wait_s, MIN_POLL_S)
            left_s = end - time.monotonic()
            if wait_s >= left_s:
                raise _Failed(
                    "unknown", f"{self._who} had no answer after {self.oracle.timeout_s:g} s, expected one by then"
                )
            if self.before_poll(wait_s):
                raise _Failed("unknown", f"{self._who} was not asked again: whoever waited for it broke off")
            try:
                answered = self._once(
                    "GET", url, None, repeatable=True, key=None, timeout_s=min(left_s, MAX_EXCHANGE_S)
                )
            except _Failed as error:
                if error.failure == "permanent":
                    raise _Failed("unknown", f"what was accepted is not to be had: {error}") from None
                wait_s = error.pause_s
                continue
            if answered.status != 202:
                return answered
            wait_s = answered.retry_after_s

    def address(self, answered: Answered) -> str:
        """Return where the answer to an accepted call is to be asked for.

        Raises:
            _Failed: the service does not say, or names another one: the secret is for it alone.
        """
        said = self.read(answered, needs_answers=False).get("poll") or answered.headers.get("location")
        if not isinstance(said, str) or not said:
            raise _Failed(
                "unknown",
                f"{self._who} answered 202 and not where to ask again, expected a header Location or "
                '{"poll": "..."}; where it calls back, say `answers: call_back`',
            )
        try:
            url = urljoin(self.oracle.url, said)
            foreign = origin(url) != origin(self.oracle.url) or "@" in urlsplit(url).netloc
        except ValueError:
            foreign = True
        if foreign:
            raise _Failed("unknown", f"{self._who} is to be polled elsewhere, expected an address of its own")
        return url

    def read(self, answered: Answered, *, needs_answers: bool = True) -> dict[str, Any]:
        """Return what an answer says.

        Raises:
            _Failed: it is no JSON, or has no list of answers where it `needs_answers`.
        """
        try:
            said = clean(parse(answered.body), secret=self.secret)
        except OracleError:
            if not needs_answers:
                return {}
            raise _Failed("unknown", f"{self._who} answered {self._shown(answered)}, expected JSON") from None
        if isinstance(said, list):
            said = {"answers": said}
        if not isinstance(said, dict) or (needs_answers and not isinstance(said.get("answers"), list)):
            if not needs_answers:
                return {}
            raise _Failed("unknown", f'{self._who} answered {shown(said)}, expected {{"answers": [...]}}')
        return said if isinstance(said.get("answers", []), list) else {**said, "answers": []}

    def _once(
        self, method: str, url: str, body: bytes | None, *, repeatable: bool, key: str | None, timeout_s: float
    ) -> Answered:
        """Send a request once; return an answer of 2xx that can be read.

        Raises:
            _Failed: there is none.
        """
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        if self.secret is not None:
            headers["Authorization"] = f"Bearer {self.secret}"
        try:
            answered = self.oracle.line.send(method, url, headers=headers, body=body, timeout_s=timeout_s)
        except NotSentError as error:
            raise _Failed("transient", f"oracle {self.oracle.info.name!r} was not called: {error}") from None
        except LostError as error:
            raise _Failed("unknown", f"oracle {self.oracle.info.name!r}: {error}") from None
        if 200 <= answered.status < 300:
            if answered.status != 202:
                self.read(answered)  # garbage is asked for again
            return answered
        failure = _failure_of(answered, repeatable=repeatable)
        message = f"{self._who} {_refusal(answered, self._shown(answered))}"
        raise _Failed(failure, message, pause_s=answered.retry_after_s)

    @property
    def _who(self) -> str:
        return f"oracle {self.oracle.info.name!r}"

    def _shown(self, answered: Answered) -> str:
        return repr(first_line(answered.body, secret=self.secret))


def _failure_of(answered: Answered, *, repeatable: bool) -> Failure:
    """Return what a status other than 2xx says of the call: not acted upon, refused for good, or nobody knows.

    Proxies answer 503 too where a service broke off in the middle; one that asks for patience has not acted.
    """
    if answered.status in TRY_AGAIN or (answered.status == 503 and answered.retry_after_s is not None):
        return "transient"
    if answered.status == 409 and repeatable:  # a call with the same key is still under way
        return "transient"
    return "permanent" if answered.status < 500 else "unknown"


def _refusal(answered: Answered, said: str) -> str:
    """Return what is said of an answer that is none, and what to do about it."""
    if 300 <= answered.status < 400:
        return f"answered {answered.status}, a redirect, which is not followed; put the right address in `url`"
    if answered.status in (401, 403):
        return f"answered {answered.status} {said}, expected 200; check the secret that `secret_env` names"
    asked = answered.retry_after_s
    later = f" and asks to be left alone for {asked:g} s" if asked else ""
    return f"answered {answered.status} {said}{later}, expected 200"


def pause_s(turn: int) -> float:
    """Return how long to wait after a try: twice as long each time, and never as long as anybody else."""
    return float(min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (turn - 1)) * random.uniform(0.5, 1.0))


def _short(result: Result) -> Result:
    """Return a result whose message can be shown."""
    return result if result.message is None else replace(result, message=result.message[:MAX_TEXT])


def _hash(requests: Sequence[Request]) -> str:
    """Return what a call is known again by: a hash of the keys of its requests."""
    return hashlib.sha256("\n".join(sorted(request.key for request in requests)).encode()).hexdigest()


def http_oracle(
    *,
    url: str,
    name: str | None = None,
    version: str = "1",
    fidelity: str = "default",
    cost_usd: float = 0.0,
    idempotent: bool = False,
    answers: Literal["at_once", "poll", "call_back"] = "at_once",
    secret_env: str | None = None,
    token_env: str | None = None,
    lookup_url: str | None = None,
    batch: int = 24,
    concurrency: int = 1,
    timeout_s: float = 60.0,
    rate_per_s: float | None = None,
    tries: int = 5,
    folder: Path,
    property: str,  # noqa: A002
) -> HttpOracle:
    """Return the oracle that posts to `url`. It needs no folder; `token_env` is for those who post results."""
    del folder, token_env
    info = OracleInfo(
        name=name or str(urlsplit(url).hostname),
        version=version,
        fidelity=fidelity,
        cost_usd=cost_usd,
        idempotent=idempotent,
        lookup=lookup_url is not None,
        calling=Calling(batch=batch, concurrency=concurrency, timeout_s=timeout_s, rate_per_s=rate_per_s),
    )
    return HttpOracle(
        info,
        url,
        property,
        answers=answers,
        secret_env=secret_env,
        lookup_url=lookup_url,
        timeout_s=timeout_s,
        tries=tries,
        line=Line(keeps_connections=idempotent),
    )
