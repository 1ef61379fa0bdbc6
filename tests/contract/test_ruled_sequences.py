"""Sequences under the rules of a bench against the contract of every space."""

import pytest

from flowscout.loop.spaces import SequenceSpace
from flowscout.testing.spaces import SpaceContract


def contract(name, make, objects, small=None):
    """Return the contract class of a space: `make` makes it, `objects` are texts of it."""
    fixtures = {"space": pytest.fixture(lambda self: make()), "objects": pytest.fixture(lambda self: objects)}
    if small is not None:
        fixtures["small_space"] = pytest.fixture(lambda self: small())
    return type(name, (SpaceContract,), fixtures)


TestMutantsOfAWildType = contract(
    "TestMutantsOfAWildType",
    lambda: SequenceSpace("protein", 4, wild_type="MKTW", max_mutations=2),
    ["MKTW", "AKTW", "AKTY", "MAAW"],
)
TestMutantsOfBothStrands = contract(
    "TestMutantsOfBothStrands",
    lambda: SequenceSpace("dna", 6, strand="double", wild_type="ACGTTA", max_mutations=2),
    ["ACGTTA", "TAACGT", "CCGTTC", "GAACGG"],
)
TestForbiddenMotifs = contract(
    "TestForbiddenMotifs",
    lambda: SequenceSpace("dna", 5, forbid=["GAA", "T[^C]T", "CNNC"]),
    ["ACGTA", "GATTC", "TCTCT"],
)
TestForbiddenMotifsOfBothStrands = contract(
    "TestForbiddenMotifsOfBothStrands",
    lambda: SequenceSpace("dna", 6, strand="double", forbid=["GAA", "TNC"]),
    ["AGGTGG", "CCACCT", "ATATAT"],
)
TestLimitsOfGcAndRuns = contract(
    "TestLimitsOfGcAndRuns",
    lambda: SequenceSpace("dna", 6, gc=[0.4, 0.6], homopolymer=2),
    ["ACGTAC", "GGCATA", "AACCTG"],
)
TestRulesOfSeveralLengths = contract(
    "TestRulesOfSeveralLengths",
    lambda: SequenceSpace("dna", 5, min_length=2, strand="double", gc=[0.4, 0.7], homopolymer=2, forbid=["GAN"]),
    ["AC", "GT", "ACG", "ACGTA"],
)
TestEveryRule = contract(
    "TestEveryRule",
    lambda: SequenceSpace(
        "dna",
        6,
        letters=["ACG", "ACGT", "CG", "ACGT", "T", "ACGT"],
        wild_type="ACGTTA",
        max_mutations=3,
        forbid=["GGG", "TTT"],
        gc=[0.3, 0.7],
        homopolymer=2,
    ),
    ["ACGTTA", "CCGATA", "GAGTTC"],
)
TestOnlyOneObject = contract(
    "TestOnlyOneObject", lambda: SequenceSpace("ab", 3, wild_type="aba", max_mutations=0), ["aba"]
)
TestLongProtein = contract(
    "TestLongProtein",
    lambda: SequenceSpace("protein", 30, wild_type="MKTWY" * 6, max_mutations=3, forbid=["N[^P][ST]"]),
    ["MKTWY" * 6, "AKTWY" + "MKTWY" * 5],
    lambda: SequenceSpace("protein", 3, wild_type="NKT", max_mutations=2, forbid=["N[^P][ST]"]),
)
