"""What `flowscout init` asks on a terminal, and what the answers, or options in their place, mean.

The files that are written of them belong in `flowscout.loop.drafts`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flowscout.cli.output import complain, say
from flowscout.errors import ConfigError, InputError

if TYPE_CHECKING:
    from flowscout.loop.drafts import CampaignPlan, ListPlan, OraclePlan, SequencePlan

_BUILT = {
    "dna": "DNA sequences",
    "rna": "RNA sequences",
    "protein": "protein sequences",
    "letters": "sequences of other letters",
    "list": "a list in a CSV file: compounds, clones, recipes",
}
_MEASURES = {
    "callable": "a Python function",
    "process": "a program on this machine",
    "http": "a web service",
    "lab": "people at a bench",
    "table": "nobody: the values stand in a CSV file",
}
_DIRECTIONS = {"maximize": "large values are good", "minimize": "small values are good"}
USUAL_LENGTH = 8


@dataclass(frozen=True)
class Answers:
    """What is known of a campaign that is to begin; None: not said."""

    space: str | None = None
    column: str | None = None
    wild_type: str | None = None
    mutations: int | None = None
    oracle: str | None = None
    url: str | None = None
    table: Path | None = None
    value: str | None = None
    price: float | None = None
    objective: str | None = None
    direction: str | None = None
    unit: str | None = None
    batch: int | None = None
    rounds: int | None = None
    cost: float | None = None


def plan_of(said: Answers, *, name: str) -> "CampaignPlan":
    """Return the plan that answers or options make; what is not said is as in the example.

    Raises:
        ConfigError: an answer is none that is known, or two do not go together.
    """
    from flowscout.loop.drafts import CampaignPlan

    found = CampaignPlan(name, _space_of(said), _oracle_of(said))
    changes: dict[str, Any] = {
        "objective": said.objective,
        "direction": said.direction and _known("direction", said.direction, _DIRECTIONS),
        "unit": said.unit,
        "batch": said.batch,
        "rounds": said.rounds,
        "cost": said.cost,
    }
    return replace(found, **{key: value for key, value in changes.items() if value is not None})


def _space_of(said: Answers) -> "SequencePlan | ListPlan":
    from flowscout.loop.drafts import ListPlan, SequencePlan, read_space

    wild_type, text = said.wild_type, said.space or "protein"
    if wild_type is None:
        if said.mutations is not None:
            raise ConfigError("--mutations came without --wild-type, whose changes they are; give both.")
        text = f"{text}:{USUAL_LENGTH}" if said.space is None else text
    elif text.isalpha():
        text = f"{text}:{len(wild_type)}"
    found = read_space(text)
    if isinstance(found, ListPlan):
        if wild_type is not None:
            raise ConfigError(f"a wild type came with the list {text!r}, which has none; leave one of them out.")
        return replace(found, object=said.column)
    if said.column is not None:
        raise ConfigError(f"--column came with the space {text!r}, and only a list has columns; leave it out.")
    if wild_type is None:
        return found
    return SequencePlan(found.alphabet, found.length, wild_type, said.mutations or min(3, found.length))


def _oracle_of(said: Answers) -> "OraclePlan":
    from flowscout.loop.drafts import OraclePlan

    implied = "http" if said.url is not None else "table" if said.table is not None else "callable"
    kind: Any = _known("oracle", said.oracle or implied, _MEASURES)
    if said.url is not None and kind != "http":
        raise ConfigError(f"--url came with the oracle {kind!r}, and only http has an address; leave it out.")
    if (said.table, said.value) != (None, None) and kind != "table":
        raise ConfigError(
            f"--table or --value came with the oracle {kind!r}; they are of a table: leave them out."
        )
    return OraclePlan(kind, said.url, said.table, said.value, said.price)


def _known(what: str, word: str, words: Mapping[str, str]) -> str:
    if word not in words:
        raise ConfigError(f"the {what} is {word!r}, expected one of {', '.join(words)}; write one of these.")
    return word


def ask(given: Answers) -> Answers:
    """Ask for what is not given, one question after the other; an answer that cannot be is asked for again."""
    say(
        "A campaign begins with what can be built, who measures it, and what is wanted. Enter takes the [default]."
    )
    for question in (_ask_space, _ask_oracle, _ask_objective, _ask_budget):
        given = _insist(question, given)
    return given


def _check(said: Answers) -> None:
    """Refuse what no campaign could be made of."""
    from flowscout.loop.drafts import draft

    draft(plan_of(said, name="draft"), Path())


def _insist(question: Callable[[Answers], Answers], said: Answers) -> Answers:
    while True:
        answer = question(said)
        try:
            _check(answer)
        except InputError as error:
            if answer == said:  # nothing was asked: the options are wrong
                raise
            complain(f"{error} Once more.")
        else:
            return answer


def _ask_space(said: Answers) -> Answers:
    if said.space is not None or said.wild_type is not None:
        return said
    kind = _choose("What can be built?", _BUILT, default="protein")
    if kind == "list":
        return replace(said, space=_text("  the CSV file"))
    letters = _text("  the letters, such as ABCD") if kind == "letters" else kind
    wild_type = _text("  a wild type to vary (Enter: none)", default="").strip()
    if wild_type:
        mutations = _number("  at most how many mutations", default=min(3, len(wild_type)))
        return replace(said, space=letters, wild_type=wild_type, mutations=mutations)
    return replace(said, space=f"{letters}:{_number('  how many letters', default=USUAL_LENGTH)}")


def _ask_oracle(said: Answers) -> Answers:
    from flowscout.loop.skeletons import SERVICE_URL

    kind = said.oracle or ("http" if said.url else "table" if said.table else None)
    if kind is None:
        kind = _choose("Who measures?", _MEASURES, default="callable")
    said = replace(said, oracle=kind)
    if kind == "http" and said.url is None:
        said = replace(said, url=_text("  its address", default=SERVICE_URL))
    if kind == "table" and said.table is None:
        table, value = (
            Path(_text("  the CSV file")),
            _text("  the column of values (Enter: the second)", default=""),
        )
        said = replace(said, table=table, value=value or None)
    if said.price is None and kind != "table":
        said = replace(said, price=_amount("  US dollars a measurement", default=0.0))
    return said


def _ask_objective(said: Answers) -> Answers:
    if said.objective is None:
        said = replace(said, objective=_text("What is measured, in a word", default="score"))
    if said.direction is None:
        said = replace(said, direction=_choose("What is wanted of it?", _DIRECTIONS, default="maximize"))
    if said.unit is None:
        said = replace(said, unit=_text("  its unit (Enter: none)", default="").strip() or None)
    return said


def _ask_budget(said: Answers) -> Answers:
    from flowscout.loop.drafts import completed

    if said.batch is None:
        usual = completed(plan_of(said, name="draft")).batch
        said = replace(said, batch=_number("How many are measured in a round", default=usual))
    if said.rounds is None:
        said = replace(said, rounds=_number("How many rounds", default=5))
    if said.cost is None and said.price:
        limit = _amount("US dollars in all (0: no limit)", default=0.0)
        said = replace(said, cost=limit or None)
    return said


def _choose(question: str, choices: Mapping[str, str], *, default: str) -> str:
    """Return the word that a person chose, by its number or itself."""
    say(question)
    words = list(choices)
    for number, (word, meaning) in enumerate(choices.items(), start=1):
        say(f"  {number}  {meaning} ({word})")
    while True:
        answer = _text("  number or word", default=default).strip()
        if answer in words:
            return answer
        if answer.isdecimal() and 1 <= int(answer) <= len(words):
            return words[int(answer) - 1]
        complain(
            f"{answer!r} is none of them; type a number from 1 to {len(words)}, or one of {', '.join(words)}."
        )


def _text(question: str, *, default: str | None = None) -> str:
    answer: str = typer.prompt(question, default=default, show_default=bool(default))
    return answer


def _number(question: str, *, default: int | None) -> int:
    while True:
        answer: int = typer.prompt(question, default=default, type=int)
        if answer >= 1:
            return answer
        complain(f"{answer} came, expected a whole number of at least 1. Once more.")


def _amount(question: str, *, default: float) -> float:
    while True:
        answer: float = typer.prompt(question, default=default, type=float)
        if 0 <= answer < float("inf"):
            return answer
        complain(f"{answer:g} came, expected an amount of at least 0. Once more.")
