"""Reading what is posted: JSON that says one thing, with numbers that are numbers. Nothing is guessed."""

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from flowscout.errors import OracleError
from flowscout.loop.oracles.cleaning import clean
from flowscout.serving.doors import RefusedError

MAX_ANSWERS = 1000
"""Answers in one post at most."""


def read_answers(body: bytes, *, secret: str) -> list[Any]:
    """Return the answers of a body: one, a list, or `{"answers": [...]}`. The token is taken out of all texts.

    Raises:
        RefusedError: it is no JSON, or not of this form.
    """
    try:
        text = body.decode("utf-8")
        content = clean(
            json.loads(
                text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole, object_pairs_hook=_once
            ),
            secret=secret,
        )
    except (ValueError, RecursionError, OracleError) as error:
        what = str(error) if isinstance(error, _OddError | OracleError) else type(error).__name__
        raise RefusedError(400, f"the body is no JSON in UTF-8 that can be read: {what}") from None
    answers = content
    if isinstance(content, dict):
        answers = [content] if "key" in content else content.get("answers")
    if not isinstance(answers, list) or not answers:
        raise RefusedError(
            422, 'the body holds no answers, expected {"answers": [{"key": "...", "value": 1.5}]} or one of them.'
        )
    if len(answers) > MAX_ANSWERS:
        raise RefusedError(
            422, f"{len(answers)} answers came, expected at most {MAX_ANSWERS} in one post; split them."
        )
    return answers


class _OddError(ValueError):
    """What JSON should not say."""


def _no_number(text: str) -> NoReturn:
    raise _OddError(f"{text} is no number of JSON; leave the value out and say why with a failure.")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _OddError(f"{text[:40]} is larger than any number that is kept.")
    return number


def _whole(text: str) -> int:
    if len(text) > 300:
        raise _OddError(f"{text[:40]}... is larger than any number that is kept.")
    return int(text)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _OddError("a name is given twice in one object; say it once.")
    return found
