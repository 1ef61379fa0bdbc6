"""Who measures: a formula stands for the assay, noise included. The campaign does not know it."""

import csv
import hashlib
from pathlib import Path

HERE = Path(__file__).parent


def solubility(objects: list[str]) -> list[float]:
    """Return a made-up log solubility for each compound: best for the light and the polar."""
    with (HERE / "compounds.csv").open(encoding="utf-8") as file:
        rows = {row.pop("compound"): row for row in csv.DictReader(file)}
    return [formula({k: float(v) for k, v in rows[name].items()}) + noise(name) for name in objects]


def formula(row: dict[str, float]) -> float:
    """Return the value without noise."""
    sweet_spot = -((row["logp"] - 0.5) ** 2) / 2 - ((row["polar_area"] - 90) / 40) ** 2 / 2
    return 0.5 - 0.6 * row["logp"] - 0.004 * row["weight"] - 0.2 * row["rings"] + 2.5 * 2.718**sweet_spot


def noise(name: str) -> float:
    """Return an error between -0.1 and 0.1 that is the same each time a compound is measured."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF * 0.2 - 0.1
