"""The command line: what a person types, and what is said back. Only this package prints.

What a command does belongs in `flowscout.loop` and `flowscout.flows`; both are loaded when they are needed.
"""

import os
import sys

import typer

from flowscout.cli import (
    asking,
    beginning,
    campaigns,
    corrections,
    database,
    demo,
    doctoring,
    editing,
    events,
    gating,
    labels,
    money,
    plotting,
    running,
    scheduling,
    serving,
    serving_rounds,
    upkeep,
    validating,
    working,
)
from flowscout.cli.output import complain
from flowscout.errors import FlowscoutError, InputError

DONE, FAILED, WRONG_INPUT = 0, 1, 2

app = typer.Typer(
    name="flowscout",
    help="Run active-learning discovery campaigns: propose, measure, remember.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_ROOMS = (
    demo,
    beginning,
    validating,
    editing,
    campaigns,
    asking,
    running,
    scheduling,
    serving_rounds,
    working,
    serving,
    labels,
    gating,
    corrections,
    money,
    events,
    plotting,
    database,
    upkeep,
    doctoring,
)
for commands in _ROOMS:
    commands.add_to(app)


def main() -> None:
    """Run the command line and exit: 0 done, 1 the work failed, 2 the input was wrong."""
    sys.exit(run(sys.argv[1:]))


def passing_words(error: Exception) -> str | None:
    """Return what a person is told of a database that is away or full; None where that is not what happened."""
    from flowscout.db import passing

    why = passing(error)
    if why is None:
        return None
    name = ", ".join(getattr(error, "__notes__", ())) or "the database"
    return (
        f"{name} refused: {why}. Nothing of this was written, and what was stored before is whole. Make room, or "
        "see that its server runs; then the same command goes on."
    )


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        app(arguments)
    except SystemExit as end:  # how the parser ends, usage errors (2) included
        return end.code if isinstance(end.code, int) else DONE
    except InputError as error:
        complain(str(error))
        return WRONG_INPUT
    except FlowscoutError as error:
        complain(str(error))
        return FAILED
    except Exception as error:
        if os.environ.get("FLOWSCOUT_DEBUG"):
            raise
        if "sqlalchemy" in sys.modules and (why := passing_words(error)) is not None:
            complain(why)
            return FAILED
        complain(
            f"unexpected {type(error).__name__}: {error}. Nothing that was stored is lost; "
            "set FLOWSCOUT_DEBUG=1 to see where it happened."
        )
        return FAILED
    return DONE
