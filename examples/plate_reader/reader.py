"""Stands for the bench and its plate reader: fills the map of a plate with signals.

python reader.py plate.csv filled.csv
"""

import csv
import hashlib
import sys
from pathlib import Path


def signal(row: dict[str, str]) -> float:
    """Return what the reader reads in a well: controls as they are, candidates by a formula, noise with each."""
    noise = int(hashlib.sha256(row["well"].encode()).hexdigest()[:4], 16) / 0xFFFF - 0.5
    strength = {"negative": 0.0, "positive": 1.0}.get(row["control"])
    if strength is None:
        strength = min(1.0, 0.15 * sum(map(row["object"].count, "WYFDE")))
    return 50_000 - 40_000 * strength + 400 * noise


def main(empty: str, filled: str) -> None:
    """Write the same rows with signals, the last well of the plate first, and what was noted beside them."""
    with Path(empty).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    column = next(name for name in rows[0] if name.startswith("signal"))
    for row in rows:
        row[column] = f"{signal(row):.0f}"
        row["celsius"] = "37"
    with Path(filled).open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(reversed(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
