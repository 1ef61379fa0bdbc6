import itertools

import numpy as np
import pytest
from landscape import TableLandscape, load_six6
from metrics import HitRule, auc_top, ceiling, follow, measure

from flowscout.loop.metrics import (
    canonical,
    distinct_hits,
    edit_distances,
    mean_least_distance,
    mean_pairwise_distance,
    reverse_complement,
    true_top,
    true_top_found,
)


@pytest.fixture(scope="module")
def six6() -> TableLandscape:
    return load_six6()


def small(scores: dict[str, float], image=None) -> TableLandscape:
    letters = "".join(sorted(set("".join(scores))))
    return TableLandscape("small", scores, letters, len(next(iter(scores))), image)


def brute_levenshtein(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        brute_levenshtein(a[1:], b) + 1,
        brute_levenshtein(a, b[1:]) + 1,
        brute_levenshtein(a[1:], b[1:]) + (a[0] != b[0]),
    )


def test_six6_holds_the_stated_facts(six6):
    hits = {item: score for item, score in six6.scores.items() if score >= 0.9}
    assert len(hits) == 934
    assert len(distinct_hits(hits)) == 71
    assert len(distinct_hits(hits, image=reverse_complement)) == 38
    assert len(distinct_hits(hits, image=reverse_complement, max_shift=2)) == 9
    assert ceiling(six6) == pytest.approx(0.9813, abs=5e-5)
    assert six6.image is reverse_complement
    top = true_top(six6.scores, 100, image=six6.image)
    assert len(top) == 100
    assert "AGGTATCA" in top
    assert "TGATACCT" not in top


def test_reverse_complement_undoes_itself():
    assert reverse_complement("AACGT") == "ACGTT"
    assert reverse_complement(reverse_complement("GATTACA")) == "GATTACA"
    assert canonical("TTTT", reverse_complement) == "AAAA"
    assert canonical("TTTT") == "TTTT"


def test_distinct_hits_are_kept_by_score_then_alphabet():
    scores = {"AAAA": 0.95, "AAAC": 0.95, "CCCA": 0.99, "CCCC": 0.9, "TTTT": 0.89}
    # CCCA first; AAAA is 3 away; AAAC is 1 from AAAA; CCCC 1 from CCCA; TTTT is no hit.
    assert distinct_hits(scores) == ["CCCA", "AAAA"]
    assert distinct_hits(scores, threshold=0.8) == ["CCCA", "AAAA", "TTTT"]
    # TTTT is the other strand of AAAA.
    assert distinct_hits(scores, threshold=0.8, image=reverse_complement) == ["CCCA", "AAAA"]
    assert distinct_hits({}) == []


def test_shifted_windows_are_one_hit():
    scores = {"ACGTTGCA": 1.0, "CGTTGCAC": 0.95}
    assert len(distinct_hits(scores)) == 2
    assert distinct_hits(scores, max_shift=1) == ["ACGTTGCA"]


@pytest.mark.parametrize("lengths", [(3, 3), (0, 4), (2, 4)])
def test_edit_distance_equals_its_definition(lengths):
    a = ["".join(p) for p in itertools.product("AB", repeat=lengths[0])]
    b = ["".join(p) for p in itertools.product("ABC", repeat=lengths[1])][:30]
    expected = [[brute_levenshtein(x, y) for y in b] for x in a]
    assert edit_distances(a, b).tolist() == expected


def test_edit_distance_by_hand_with_unequal_lengths():
    items = ["kitten", "", "sit"]
    assert edit_distances(items, ["sitting", "kitten"]).tolist() == [[3, 0], [7, 6], [4, 4]]
    assert edit_distances(["AAAC"], ["GTTT"], image=reverse_complement).tolist() == [[0]]


def test_diversity_and_novelty_by_hand():
    assert mean_pairwise_distance(["AA", "AC", "CC"]) == pytest.approx((1 + 2 + 1) / 3)
    assert mean_pairwise_distance(["AA"]) == 0.0
    assert mean_least_distance(["AA", "CC"], ["AC", "AA"]) == pytest.approx((0 + 1) / 2)
    assert mean_least_distance([], ["AC"]) == 0.0


def test_pair_counts_once_among_the_true_best():
    scores = {"AAAA": 0.9, "TTTT": 0.9, "CCCC": 0.8, "GGGG": 0.8, "ACGT": 0.7}
    top = true_top(scores, 2, image=reverse_complement)
    assert top == {"AAAA", "CCCC"}
    assert true_top_found(["TTTT", "AAAA", "ACGT"], top, image=reverse_complement) == 1
    assert true_top(scores, 2) == {"AAAA", "TTTT"}


def test_repeats_count_as_calls_and_find_nothing():
    landscape = small({"AA": 0.2, "AC": 0.4, "CA": 1.0, "CC": 0.0})
    figures = measure(landscape, ["AA"], ["AC", "AC", "AA", "CA"])
    assert (figures.calls, figures.duplicates) == (4, 2)
    assert figures.max == 1.0
    # 126 of the 128 places are empty and score the minimum, 0.
    assert figures.mean_top128 == pytest.approx(1.4 / 128)
    assert figures.top10 == pytest.approx(0.14)
    assert figures.distinct_hits == 1
    # Two found objects, AC and CA; both are one letter from AA.
    assert figures.diversity == 2.0
    assert figures.novelty == 1.0
    assert figures.true_top100_found == 2
    assert figures.best == 1.0


def test_rule_of_a_task_says_what_a_hit_is():
    landscape = small({"AAA": 0.2, "AAC": 0.8, "ACC": 0.7, "CCC": 0.6})
    calls = ["AAC", "ACC", "CCC"]
    assert measure(landscape, ["AAA"], calls, hit=HitRule(0.6, 1)).distinct_hits == 3
    assert measure(landscape, ["AAA"], calls, hit=HitRule(0.6, 2)).distinct_hits == 2
    assert measure(landscape, ["AAA"], calls, hit=HitRule(0.65, 2)).distinct_hits == 1
    assert measure(landscape, ["AAA"], calls).distinct_hits == 0


def test_curves_end_at_the_figures_of_the_run():
    landscape = small({"AA": 0.95, "AC": 0.4, "CA": 1.0, "CC": 0.0})
    batches = [["AC", "AC"], [], ["CA", "CC"]]
    curves = follow(landscape, ["AA"], batches, hit=HitRule(0.9, 1))
    assert curves.curve_calls == [2, 2, 4]
    assert curves.curve_best == [0.95, 0.95, 1.0]
    assert curves.curve_hits == [0, 0, 1]
    assert curves.curve_top128 == pytest.approx([0.4 / 128, 0.4 / 128, 1.4 / 128])
    end = measure(landscape, ["AA"], [item for batch in batches for item in batch], hit=HitRule(0.9, 1))
    assert (curves.curve_best[-1], curves.curve_hits[-1]) == (end.best, end.distinct_hits)
    assert curves.curve_top128[-1] == end.mean_top128


def test_novelty_of_many_initial_objects_is_that_of_all_at_once():
    six6 = load_six6()
    initial, calls = six6.sequences[:4_500], six6.sequences[60_000:60_020]
    novelty = measure(six6, initial, calls).novelty
    assert novelty == mean_least_distance(calls, initial, image=six6.image)


def test_initial_objects_are_not_found():
    landscape = small({"AA": 1.0, "AC": 0.4})
    figures = measure(landscape, ["AA"], ["AC"])
    assert figures.max == 0.4
    assert figures.best == 1.0  # but known at the end
    assert measure(landscape, ["AA"], []).max == 0.4  # the minimum, where nothing was found


def test_auc_is_the_mean_over_calls_of_the_running_top():
    landscape = small({"AA": 0.1, "AC": 0.5, "CA": 0.3, "CC": 0.9})
    # Best two so far: .5; .5 .3; repeat; .5 .9.
    expected = np.mean([0.5, 0.4, 0.4, 0.7])
    assert auc_top(landscape, ["AA"], ["AC", "CA", "AC", "CC"], 2) == pytest.approx(expected)
