"""Stands for a program that you have: it takes sequences and prints what it thinks of them.

python fold.py ACGTACGT TTTTAAAA
"""

import sys
from itertools import pairwise


def energy(sequence: str) -> float:
    """Return the made-up energy of stacked neighbours."""
    stacked = {"CG": -2.4, "GC": -3.4, "AT": -0.9, "TA": -1.1}
    return sum(stacked.get(a + b, -0.2) for a, b in pairwise(sequence))


if __name__ == "__main__":
    print("fold 1.7, no licence needed")
    for text in sys.argv[1:]:
        print(f"{text}  energy = {energy(text):.2f} kcal/mol")
