"""What is wrong with a table, row by row: all of it is collected before any of it is said.

What a cell may hold belongs in `loop.tables.cells`.
"""

from collections.abc import Sequence

from flowscout.errors import TableError

SHOWN = 20
"""How many mistakes a message lists; the error holds all of them."""


class Mistakes:
    """The mistakes of one table; `where` names it in messages.

    `rows` says for each of its rows the number that a person sees beside it; by default the first is row 1.
    """

    def __init__(self, where: str, rows: Sequence[int] | None = None) -> None:
        self.where = where
        self._rows = rows
        self._found: list[tuple[int | None, str]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def number(self, row: int) -> int:
        """Return the number that a person sees beside a row, which is counted from 0 here."""
        return row + 1 if self._rows is None else self._rows[row]

    def add(self, row: int, said: str) -> None:
        """Note what is wrong in a row, which is counted from 0 here."""
        self._found.append((self.number(row), said))

    def add_numbered(self, number: int | None, said: str) -> None:
        """Note what is wrong in the row that a person sees under a number, or in the table (None)."""
        self._found.append((number, said))

    def take(self, others: "Mistakes") -> None:
        """Note what was noted of the same table elsewhere."""
        self._found += others._found

    def refuse(self) -> None:
        """Raise `TableError` if anything was wrong; the message lists the first of it in the order of rows."""
        if not self._found:
            return
        found = tuple(sorted(self._found, key=lambda one: -1 if one[0] is None else one[0]))
        if len(found) == 1:
            [(number, said)] = found
            raise TableError(f"{self.where}{'' if number is None else f', row {number}'}: {said}", found)
        lines = [f"  {'table' if number is None else f'row {number}'}: {said}" for number, said in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"  and {len(found) - SHOWN:,} more (--json lists all)")
        message = f"{self.where} has {len(found):,} mistakes; nothing was written. Mend them and tell it again:"
        raise TableError("\n".join([message, *lines]), found)
