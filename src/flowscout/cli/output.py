"""How the command line speaks: tables for people, JSON for programs, one line for a mistake."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)

BORDER = 3
"""What a column of a table takes beside its text: a line and a space on both sides."""

SHORT_WORD = 10
"""So many letters has a date, and most of what has one meaning."""


def complain(message: str) -> None:
    """Say what is wrong, on the error stream."""
    stderr.print(f"[bold red]error:[/] {_escape(message)}", soft_wrap=True)


def warn(message: str) -> None:
    """Say what is to be known beside the result, on the error stream."""
    stderr.print(_escape(message), style="yellow", soft_wrap=True)


def say(message: str, *, style: str | None = None) -> None:
    """Print a line for a person."""
    stdout.print(_escape(message), style=style, soft_wrap=True)


def print_json(content: Any) -> None:
    """Print content as one JSON document."""
    json.dump(content, sys.stdout, indent=1, default=_plain)
    sys.stdout.write("\n")


def print_json_list(items: Iterable[Any]) -> None:
    """Print items as one JSON list, one after the other: they need not fit in memory."""
    before = "[\n"
    for item in items:
        sys.stdout.write(before + json.dumps(item, default=_plain))
        before = ",\n"
    sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    *,
    as_json: bool,
    title: str | None = None,
    columns: Sequence[str] | None = None,
) -> None:
    """Print rows as a table, or as a JSON list of objects that holds every column."""
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        say(f"{title or 'result'}: nothing yet", style="dim")
        return
    shown = list(rows[0]) if columns is None else list(columns)
    cells = [[cell(row.get(name)) for name in shown] for row in rows]
    names = [name.replace("_", " ") for name in shown]
    widths = column_widths([names, *cells], stdout.width - BORDER * len(names) - 1)
    table = Table(title=title, title_justify="left", header_style="bold")
    for name, label, width in zip(shown, names, widths, strict=True):
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(label, justify="right" if numeric else "left", overflow="fold", width=width)
    for line in cells:
        table.add_row(*map(_escape, line))
    stdout.print(table)


def column_widths(lines: Sequence[Sequence[str]], available: int) -> list[int]:
    """Return how wide each column of some lines of cells is to be, so that all together fit if they can.

    Where they do not fit side by side, the widest is made narrower first. Words are broken only where all columns
    are down to their longest ones; long words before those of `SHORT_WORD` letters.
    """
    columns = list(zip(*lines, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    words = [max((cell_len(word) for text in column for word in text.split()), default=1) for column in columns]
    for least in (words, [min(width, SHORT_WORD) for width in words], [1] * len(columns)):
        while sum(widths) > available:
            room = [width if width > low else 0 for width, low in zip(widths, least, strict=True)]
            if not any(room):
                break
            widths[room.index(max(room))] -= 1
    return widths


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, date | datetime):
        return value.isoformat()
    return str(value)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def who(actor: str) -> str:
    """Return an actor as a person would say it: processes stand in the log by what tells them apart."""
    from flowscout.db import describe_owner

    return describe_owner(actor) if "|" in actor else actor
