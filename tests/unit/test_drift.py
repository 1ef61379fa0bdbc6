"""Leaving a plateau: when a campaign stands on one, what drifts, and that a campaign finds its way off."""

from itertools import product

import pandas as pd
import pytest
import torch

from flowscout import Campaign
from flowscout.db import TrainingRow, TrainingSet
from flowscout.loop.drift import DRIFTED, drifted, on_plateau
from flowscout.loop.spaces import SequenceSpace

SPACE = SequenceSpace("dna", 6)


def data(values):
    rows = tuple(TrainingRow(key, key, value, 1) for key, value in sorted(values.items()))
    return TrainingSet(rows, upto_seq=len(rows), sha256="")


BEFORE = {f"b{i}": 0.1 * i for i in range(8)}  # the best is 0.7


@pytest.mark.parametrize(
    ("came", "stands"),
    [
        ([0.7] * 4 + [0.0] * 12, True),
        ([0.7] * 3 + [0.0] * 9, False),  # fewer than four
        ([0.7] * 4 + [0.0] * 13, False),  # less than a quarter
        ([0.71] + [0.7] * 9, False),  # one is better
        ([0.69] * 10, False),  # none is level
        ([], False),
    ],
)
def test_a_plateau_is_a_batch_level_with_the_best_and_not_better(came, stands):
    batch = {f"c{i}": value for i, value in enumerate(came)}
    assert on_plateau(data(BEFORE | batch), dict.fromkeys(batch, False), sign=1.0) is stands
    turned = {key: -value for key, value in (BEFORE | batch).items()}
    assert on_plateau(data(turned), dict.fromkeys(batch, False), sign=-1.0) is stands


def test_what_drifted_is_not_asked_whether_it_is_level_but_whether_it_is_better():
    batch = {f"c{i}": 0.7 for i in range(4)} | {f"d{i}": 0.0 for i in range(30)}
    origins = {key: key.startswith("d") for key in batch}
    assert on_plateau(data(BEFORE | batch), origins, sign=1.0)
    assert not on_plateau(data(BEFORE | batch | {"d0": 0.9}), origins, sign=1.0)


def test_a_batch_that_nobody_has_measured_is_no_plateau():
    assert not on_plateau(data(BEFORE), {"c0": False}, sign=1.0)


def test_a_shift_takes_one_letter_out_and_puts_one_in():
    state = SPACE.parse(["ACGTTG"] * 2_000)
    found = set(SPACE.decode(SPACE.shift(state, torch.Generator().manual_seed(0))))
    text, expected = "ACGTTG", set()
    for out, into, letter in product(range(6), range(6), "ACGT"):
        rest = text[:out] + text[out + 1 :]
        expected.add(rest[:into] + letter + rest[into:])
    assert found == expected


class FirstTwo:
    """Believes that the first two letters are all that counts, and is right."""

    def mean_sd(self, X):
        mean = ((X[:, 0] == 0) & (X[:, 1] == 1)).double()
        return mean, torch.ones_like(mean)


def test_what_drifts_keeps_what_counts_and_has_the_letters_seen_least():
    texts = ["AC" + "".join(rest) for rest in product("AC", repeat=4)] + ["GGGGGG", "TTTTTT"]
    values = [1.0] * 16 + [0.0] * 2
    found = SPACE.decode(drifted(SPACE, FirstTwo(), texts, values, 12, known=set(texts), seed=1))
    assert len(set(found)) == 12
    assert not set(found) & set(texts)
    assert all(text.startswith("AC") for text in found)
    assert all(set(text[2:]) & {"G", "T"} for text in found)  # they were at these places in none that is level
    assert {(i, text[i]) for text in found for i in range(2, 6)} >= set(product(range(2, 6), "GT"))


def test_the_same_seed_drifts_alike():
    arguments = (SPACE, FirstTwo(), ["ACAAAA", "GGGGGG"], [1.0, 0.0], 5)
    first, again, other = (drifted(*arguments, known=set(), seed=seed) for seed in (1, 1, 2))
    assert SPACE.decode(first) == SPACE.decode(again) != SPACE.decode(other)


FILE = """
campaign: plateau
space: {type: sequence, alphabet: dna, length: 6}
objectives: [{name: score, direction: maximize}]
oracle: assay:score
proposer: {type: random}
surrogate: {type: gp}
batch: {size: 16}
budget: {rounds: 3}
seed: 3
"""


@pytest.mark.parametrize(
    ("batch", "drifts"),
    [("{size: 16}", [0, 8, 8]), ("{size: 16, drift: 0}", [0] * 3), ("{size: 16, distance: 1}", [0] * 3)],
)
def test_half_of_a_batch_drifts_where_all_is_level(tmp_path, batch, drifts):
    (tmp_path / "assay.py").write_text("def score(objects): return [1.0 for _ in objects]\n")
    (tmp_path / "c.yaml").write_text(FILE.replace("{size: 16}", batch))
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        objects = SPACE.decode(SPACE.enumerate()[torch.arange(0, 4_096, 200)])
        found.tell(pd.DataFrame({"object": objects, "score": 1.0}))
        for _ in range(3):
            found.run_round()
        rounds = found.workbench.history.rounds
        origins = [
            [one.origin for one in rounds.proposals(record.id, selected=True)]
            for record in rounds.all(found.workbench.campaign.id)
        ]
    assert [one.count(DRIFTED) for one in origins] == drifts
    assert [len(one) for one in origins] == [16, 16, 16]
