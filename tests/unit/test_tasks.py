"""Every landscape of the discovery benchmark has the values that its definition says."""

import itertools
import sys

import numpy as np
import pytest
import torch
import two_motifs as maker
from landscape import load_six6, load_table
from tasks import find_task

from flowscout.errors import ConfigError
from flowscout.loop.metrics import reverse_complement


def draw(task, seed):
    return task.start(np.random.default_rng([seed, 0]))


def needs_vienna():
    pytest.importorskip("RNA", reason="ViennaRNA is an optional extra: pip install 'flowscout[bench]'")


def needs_holo():
    reason = "pytorch-holo is optional: pip install pooch && pip install --no-deps pytorch-holo==0.0.5"
    pytest.importorskip("holo.test_functions.closed_form", reason=reason, exc_type=ImportError)


def codes_of(landscape, items):
    return torch.tensor([[landscape.alphabet.index(letter) for letter in item] for item in items])


PROTOCOLS = {
    "six6-plate": (96, 8, 24, 0.9, 3),
    "six6-hard": (1_024, 10, 128, 0.9, 3),
    "six6-half": (32_768, 10, 128, 0.9, 3),
    "two-motifs-3": (96, 8, 24, 0.8, 3),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_task_is_spent_as_the_protocol_says(name):
    task = find_task(name)
    n, rounds, batch, threshold, distance = PROTOCOLS[name]
    assert (task.n_initial, task.n_rounds, task.batch_size) == (n, rounds, batch)
    assert (task.hit.threshold, task.hit.distance) == (threshold, distance)
    start = draw(task, 0)
    assert len(set(start)) == len(start) == n
    assert start == draw(task, 0)
    assert all(map(task.landscape.holds, start))


def test_start_is_the_same_for_every_method_and_below_the_median():
    landscape = load_six6()
    a = landscape.start(np.random.default_rng([3, 0]), 96)
    assert a == landscape.start(np.random.default_rng([3, 0]), 96)
    assert len(set(a)) == 96
    assert max(landscape.scores[item] for item in a) < 0.4393011


def test_hard_start_is_the_lower_half_around_the_worst_sequence():
    task = find_task("six6-hard")
    start = draw(task, 0)
    assert start == draw(task, 1)
    assert start[0] == "GGCCGGCC"  # of score 0, the least; its own reverse complement
    lower = set(task.landscape.lower_half)
    distance = [sum(a != b for a, b in zip(item, start[0], strict=True)) for item in start]
    assert distance == sorted(distance)
    assert set(start) <= lower
    farthest = distance[-1]
    inside = [x for x in lower if sum(a != b for a, b in zip(x, start[0], strict=True)) < farthest]
    assert set(inside) <= set(start)


def test_half_start_is_everything_below_the_median():
    task = find_task("six6-half")
    assert max(task.landscape.score(draw(task, 0))) < np.median(list(task.landscape.table.values()))


@pytest.mark.parametrize(
    "name", ["six6", "six6-plates", "rna-d", "rna-d-50", "ehrlich-20-15-2-4-4", "two-motifs-10", "two-motifs"]
)
def test_unknown_task_is_refused(name):
    with pytest.raises(ConfigError, match="expected"):
        find_task(name)


@pytest.mark.parametrize("instance", range(maker.N_INSTANCES))
def test_two_motifs_have_the_heights_they_should_and_modes_far_apart(instance):
    made = maker.two_motifs(instance)
    scores = made.landscape.scores
    assert len(scores) == 4**8
    weak, strong = ([s for x, s in scores.items() if motif in x] for motif in made.motifs)
    # About 48 sequences hold a whole motif; the noise of their mean is 0.02 / sqrt(46) at most, times four.
    assert np.mean(weak) == pytest.approx(0.85, abs=0.012)
    assert np.mean(strong) == pytest.approx(1.0, abs=0.012)
    # The maximum holds the stronger motif; without it 0.95 is five sd above the weaker one.
    assert made.motifs[1] in max(scores, key=scores.__getitem__)
    assert max(s for x, s in scores.items() if made.motifs[1] not in x) < 0.95


def matches(item, motif):
    return max(sum(a == b for a, b in zip(item[o : o + 6], motif, strict=True)) for o in range(3))


def test_two_motifs_score_is_the_larger_height_times_the_cubed_share_of_letters():
    made = maker.two_motifs(0)
    items = made.landscape.sequences[::97]
    clean = [
        max(h * (matches(item, m) / 6) ** 3 for h, m in zip((0.85, 1.0), made.motifs, strict=True))
        for item in items
    ]
    noise = np.array(made.landscape.score(items)) - clean
    assert len(items) == 676
    assert np.abs(noise).max() < 5 * 0.02
    # Four standard errors of a standard deviation over 676 values.
    assert noise.std() == pytest.approx(0.02, rel=4 / np.sqrt(2 * 676))


def test_two_motifs_start_shows_nothing_of_the_stronger_motif():
    made = maker.two_motifs(5)
    start = made.start(np.random.default_rng(0), 96)
    assert all(matches(item, made.motifs[0]) > matches(item, made.motifs[1]) for item in start)
    # And so the weaker motif decides every score: 0.85 k^3 > (k - 1)^3.
    assert all(0.85 * k**3 > (k - 1) ** 3 for k in range(1, 7))


def test_two_motifs_are_made_anew_alike_and_written_as_a_table(tmp_path, capsys):
    path = tmp_path / "landscape.csv.gz"
    assert maker.main(["--instance", "2", "--out", str(path)]) == 0
    assert "two-motifs-2" in capsys.readouterr().out
    assert load_table(path, name="again").scores == maker.two_motifs(2).landscape.scores


def test_rna_scores_what_pairs_with_the_target_as_one():
    needs_vienna()
    from rna import TARGETS, RNABinding, reverse_complement_rna

    for target in TARGETS.values():
        whole = reverse_complement_rna(target)
        assert RNABinding("whole", target, 100).score([whole]) == [1.0]
        # A segment of it binds about in proportion to its length, a random sequence far less.
        short = RNABinding("short", target, 14)
        segments = short.score([whole[i : i + 14] for i in range(87)])
        assert min(segments) > 0.58
        assert max(segments) < 1.12
        assert np.mean(segments) > 0.75
        assert np.mean(short.score(short.random(np.random.default_rng(0), 100))) < 0.45
    whole = reverse_complement_rna(TARGETS["a"])
    best = max(RNABinding("a", TARGETS["a"], 14).score([whole[i : i + 14] for i in range(87)]))
    assert best == pytest.approx(1.055, abs=5e-4)  # a fact known from earlier measurements of this landscape


def test_rna_is_folded_once_for_each_sequence(monkeypatch):
    needs_vienna()
    landscape = find_task("rna-a").landscape
    calls = []
    compute = landscape.compute
    monkeypatch.setattr(landscape, "compute", lambda items: calls.extend(items) or compute(items))
    a, b = "ACGUACGUACGUAC", "CCCCCCCCCCCCCC"
    assert landscape.score([a, b, a]) == landscape.score([a, b, a])
    assert calls == [a, b]


def test_rna_tasks_start_low_and_are_spent_as_the_protocol_says():
    needs_vienna()
    long, short = find_task("rna-a-50"), find_task("rna-b")
    assert (long.n_initial, long.n_rounds, long.batch_size, long.landscape.length) == (500, 6, 64, 50)
    assert (long.hit.threshold, long.hit.distance) == (0.8, 5)
    assert (short.n_initial, short.n_rounds, short.batch_size, short.landscape.length) == (5_000, 10, 128, 14)
    assert (short.hit.threshold, short.hit.distance) == (0.9, 4)
    assert len(set(draw(long, 0))) == 500
    # The rule of the short start on 100, which take a second, not a minute.
    few = short.landscape.start(np.random.default_rng(0), 100, at_most=0.13)
    assert len(set(few)) == 100
    assert max(short.landscape.score(few)) <= 0.13
    assert short.landscape.table is None


def test_ehrlich_function_has_its_optimum_and_infeasible_sequences_score_nothing():
    needs_holo()
    task = find_task("ehrlich-20-15-2-4-4-0")
    landscape = task.landscape
    assert landscape.score([landscape.optimum]) == [1.0]
    banned = landscape.function.transition_matrix == 0
    first, second = banned.nonzero()[0].tolist()
    item = landscape.optimum[:13] + landscape.alphabet[first] + landscape.alphabet[second]
    assert landscape.function(codes_of(landscape, [item])).item() == -np.inf
    assert landscape.score([item]) == [0.0]


def test_ehrlich_scores_are_products_of_quantised_shares():
    needs_holo()
    task = find_task("ehrlich-32-32-4-4-4-1")
    assert (task.n_initial, task.n_rounds, task.batch_size) == (128, 10, 128)
    start = draw(task, 0)
    assert len(set(start)) == 128
    assert set(start) != set(draw(task, 1))
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    products = {np.prod(p) for p in itertools.product(shares, repeat=4)}
    assert set(task.landscape.score(start)) <= products
    assert bool((task.landscape.function(codes_of(task.landscape, start)) > -np.inf).all())


def test_ehrlich_function_that_cannot_be_is_refused():
    needs_holo()
    for name in ("ehrlich-20-5-2-4-4-0", "ehrlich-1-15-2-4-4-0", "ehrlich-99-15-2-4-4-0"):
        with pytest.raises(ConfigError, match=name):
            find_task(name)


@pytest.mark.parametrize(("name", "module"), [("rna-a", "RNA"), ("ehrlich-20-15-2-4-4-0", "holo")])
def test_missing_package_is_told_with_what_to_install(name, module, monkeypatch):
    for loaded in [m for m in list(sys.modules) if m.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match="pip install"):
        find_task(name)


def test_strands_of_six6_are_alike():
    landscape = load_six6()
    assert landscape.image is reverse_complement
    assert find_task("two-motifs-0").landscape.image is None
