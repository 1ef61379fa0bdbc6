"""Make the 600 compounds of this example up: names, and numbers such as a descriptor program computes.

python examples/catalogue/make_compounds.py > compounds.csv
"""

import csv
import sys

import numpy as np

COLUMNS = ("compound", "logp", "weight", "donors", "acceptors", "rings", "rotatable_bonds", "polar_area")


def main(n: int = 600) -> None:
    """Write a table whose columns hang together about as those of real compounds do."""
    rng = np.random.default_rng(7)
    logp = rng.normal(2.0, 1.4, n)
    weight = (90 + 60 * logp + rng.gamma(6, 25, n)).clip(60)
    donors, acceptors, rings, bonds = (rng.poisson(mean, n) for mean in (1.6, 3.5, 1.9, 3.8))
    polar = (12 * acceptors + 14 * donors + rng.normal(0, 8, n)).clip(0)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for i in range(n):
        counts = (donors[i], acceptors[i], rings[i], bonds[i])
        writer.writerow([f"SYN-{i + 1:04d}", f"{logp[i]:.2f}", f"{weight[i]:.1f}", *counts, f"{polar[i]:.1f}"])


if __name__ == "__main__":
    main()
