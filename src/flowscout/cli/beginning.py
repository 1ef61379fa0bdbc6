"""The command that begins a campaign: init. What it asks on a terminal stands in `cli.questions`."""

import sys
from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from flowscout.cli.output import say
from flowscout.cli.questions import Answers, ask, plan_of
from flowscout.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: flowscout init my-campaign --space dna:8 --oracle lab --unit nM")(init)


def init(
    folder: Annotated[Path, typer.Argument(help="A folder to write to; made if it is not there.")] = Path(),
    space: Annotated[
        str | None, typer.Option(help="dna:8, rna:20, protein:12, your own letters ABCD:6, or a list.csv.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Of a list: the column of names; else the first.")] = None,
    wild_type: Annotated[str | None, typer.Option(help="A sequence to vary; it tells the length too.")] = None,
    mutations: Annotated[int | None, typer.Option(min=1, help="At most so many changes of the wild type.")] = None,
    oracle: Annotated[
        str | None, typer.Option(help="callable (Python), process (a program), http (a service), lab, or table.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Of a service: its address.")] = None,
    table: Annotated[Path | None, typer.Option(help="Of a table: its CSV file.")] = None,
    value: Annotated[str | None, typer.Option(help="Of a table: the column of values.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="US dollars a measurement.")] = None,
    objective: Annotated[str | None, typer.Option(help="What is measured, in a word.")] = None,
    direction: Annotated[str | None, typer.Option(help="maximize or minimize.")] = None,
    unit: Annotated[str | None, typer.Option(help="The unit of the values.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="How many are measured in a round.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How many rounds.")] = None,
    cost: Annotated[float | None, typer.Option(min=0, help="US dollars in all.")] = None,
    name: Annotated[str | None, typer.Option(help="The campaign's name; else the folder's.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask nothing: what is not given is as in the example.")
    ] = False,
) -> None:
    """Write a campaign file for what you have, an oracle to begin with, and the schema for your editor.

    On a terminal it asks what the options do not say. Nothing that is there is overwritten.
    """
    from flowscout.loop.drafts import CAMPAIGN_FILE, draft
    from flowscout.loop.schema import SCHEMA_FILE, schema_text

    _refuse_present([folder / CAMPAIGN_FILE])
    given = Answers(
        space, column, wild_type, mutations, oracle, url, table, value, price, objective, direction, unit, batch,
        rounds, cost,
    )  # fmt: skip
    if not yes and sys.stdin.isatty() and sys.stdout.isatty():
        given = ask(given)
    plan = plan_of(given, name=name or _name_of(folder))
    files = draft(plan, folder)
    editor, text = folder / SCHEMA_FILE, schema_text()
    if not (editor.is_file() and editor.read_text(encoding="utf-8", errors="replace") == text):
        files[editor] = text
    _refuse_present(files)
    _write(files, folder)
    say(f"wrote {' and '.join(map(str, files))}")
    for line in _next_steps(plan.oracle.type, folder / CAMPAIGN_FILE, service=folder / "service.py"):
        say(line)


def _next_steps(oracle: str, file: Path, *, service: Path) -> list[str]:
    """Return what is to be typed next."""
    path = quote(str(file))
    if oracle == "lab":
        return [
            f"next: flowscout ask {path}",
            f"then: flowscout export {path} --plate 96 --to plate.csv, if you work with plates",
            f"then: flowscout tell {path} RESULTS.csv",
        ]
    start = f"next: flowscout run {path}"
    if oracle == "http" and service.exists():
        return [f"first, in a terminal of its own: python {quote(str(service))}", start]
    return [start]


def _refuse_present(paths: Iterable[Path]) -> None:
    present = [str(path) for path in paths if path.exists()]
    if present:
        raise ConfigError(f"{' and '.join(present)} already there; nothing was written. Name another folder.")


def _write(files: dict[Path, str], folder: Path) -> None:
    """Write all files or none; a file that somebody else has made meanwhile is left alone."""
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise ConfigError(f"{str(folder)!r} cannot be written to ({error.strerror}); name another.") from error


def _name_of(folder: Path) -> str:
    """Return a campaign name from a folder's name."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in folder.resolve().name)
    return kept.strip("._-")[:200] or "my-campaign"
