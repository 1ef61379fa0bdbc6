"""The rivals play by the rules, and the pair regression is the regression that it says it is."""

import itertools

import numpy as np
import pytest
from landscape import load_six6
from rivals import RIVALS
from rivals_base import Problem, make_children, mutate
from rivals_blr import NOISE_RATIOS, SHARES, PairRegression

from flowscout.loop.metrics import canonical, reverse_complement


@pytest.mark.parametrize("strand", ["single", "double"])
@pytest.mark.parametrize("name", sorted(RIVALS))
def test_rival_never_repeats_and_returns_what_was_asked(name, strand):
    landscape = load_six6()
    image = reverse_complement if strand == "double" else None
    start = landscape.start(np.random.default_rng(0), 30)
    problem = Problem(landscape.alphabet, landscape.length, image, landscape.sequences)
    first, second = (RIVALS[name](problem, np.random.default_rng(7)) for _ in range(2))
    seen = {canonical(item, image) for item in start}
    for method in (first, second):
        method.observe(start, landscape.score(start))
    batch = first.propose(8)
    assert batch == second.propose(8)
    first.observe(batch, landscape.score(batch))
    both = [*batch, *first.propose(8)]
    keys = [canonical(item, image) for item in both]
    assert len(set(keys)) == 16
    assert not set(keys) & seen


@pytest.mark.parametrize("sequences", [["AA", "AC", "CA", "CC"], None])
def test_rival_with_nothing_left_returns_fewer(sequences):
    for make in RIVALS.values():
        method = make(Problem("AC", 2, None, sequences), np.random.default_rng(0))
        method.MAX_RANDOM_DRAWS = 1_000  # enough to find two of four
        method.observe(["AA", "AC"], [0.0, 1.0])
        assert set(method.propose(5)) == {"CA", "CC"}


@pytest.mark.parametrize("name", sorted(RIVALS))
def test_rival_works_where_objects_cannot_be_listed(name):
    problem = Problem("ABCDEFGHIJKLMNOPQRST", 15)
    method = RIVALS[name](problem, np.random.default_rng(1))
    start = problem.decode(np.random.default_rng(2).integers(20, size=(20, 15)))
    method.observe(start, [float(item.count("A")) for item in start])
    batch = method.propose(12)
    assert len(set(batch)) == 12
    assert not set(batch) & set(start)
    assert all(len(item) == 15 and set(item) <= set(problem.alphabet) for item in batch)


@pytest.mark.parametrize("name", sorted(RIVALS))
def test_rival_takes_equal_and_negative_labels(name):
    for labels in ([0.0] * 6, [-3.0, -1.0, -2.0, -5.0, -4.0, -9.0]):
        items = ["AAAA", "AAAC", "AACC", "ACCC", "CCCC", "CAAA"]
        method = RIVALS[name](Problem("AC", 4), np.random.default_rng(1))
        method.observe(items, labels)
        assert len(set(method.propose(4)) - set(items)) == 4


def test_rival_proposes_only_members_of_an_incomplete_table():
    members = [item for item in map("".join, itertools.product("AC", repeat=6)) if item.count("C") != 3]
    problem = Problem("AC", 6, None, members)
    for make in RIVALS.values():
        method = make(problem, np.random.default_rng(0))
        method.observe(members[:10], [float(item.count("C")) for item in members[:10]])
        assert set(method.propose(10)) <= set(members[10:])


@pytest.mark.parametrize("name", ["gp-ts", "blr-ts", "adalead", "ga"])
def test_rival_climbs_a_hill_that_random_search_does_not(name):
    problem = Problem("ACGT", 10)
    height = {}
    for one in (name, "random"):
        rng = np.random.default_rng(3)
        method = RIVALS[one](problem, np.random.default_rng(4))
        batch = problem.decode(rng.integers(4, size=(40, 10)))
        for _ in range(5):
            method.observe(batch, [float(item.count("G")) for item in batch])
            batch = method.propose(16)
        height[one] = np.mean([item.count("G") for item in batch])
    # A random string has 2.5 G of 10 on average, and the mean of 16 of them a standard error of 0.34.
    assert height["random"] < 2.5 + 4 * 0.34
    assert height[name] > 2.5 + 4 * 0.34


def test_model_is_fitted_to_the_best_and_some_others():
    method = RIVALS["ga"](Problem("ACGT", 6), np.random.default_rng(0))
    items = sorted({"".join(row) for row in np.random.default_rng(1).choice(list("ACGT"), size=(200, 6))})
    method.observe(items, [float(i) for i in range(len(items))])
    chosen = method.learning_set(10, 20)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 30
    assert set(items[-10:]) <= set(chosen)
    assert method.learning_set(150, 150) == items


def test_every_child_differs_from_its_parent_somewhere():
    rng = np.random.default_rng(0)
    parents = rng.integers(3, size=(500, 5))
    children = mutate(parents, n_letters=3, rng=rng)
    assert bool((children != parents).any(axis=1).all())
    crossed = make_children(parents[:2], 400, p_crossover=1.0, n_letters=3, rng=rng)
    assert crossed.shape == (400, 5)
    assert set(np.unique(crossed)) <= {0, 1, 2}


def explicit_features(codes, n_letters, model, complement):
    """Letters and pairs as columns with the prior standard deviation of their weights, over both strands."""
    strands = [codes] if complement is None else [codes, complement[codes[:, ::-1]]]
    total = 0.0
    for strand in strands:
        one_hot = np.eye(n_letters)[strand]
        n, length, _ = one_hot.shape
        letters = np.sqrt(model._letter_variance) * one_hot.reshape(n, -1)
        pairs = [
            np.sqrt(model._pair_variance) * np.einsum("ni,nj->nij", one_hot[:, p], one_hot[:, q]).reshape(n, -1)
            for p, q in itertools.combinations(range(length), 2)
        ]
        total = total + np.concatenate([letters, *pairs], axis=1)
    return total / len(strands)


@pytest.mark.parametrize("complement", [None, np.array([3, 2, 1, 0])])
def test_pair_regression_is_ridge_regression_on_letters_and_pairs(complement):
    rng = np.random.default_rng(5)
    codes, new = rng.integers(4, size=(40, 5)), rng.integers(4, size=(15, 5))
    labels = 3.0 + 2.0 * rng.standard_normal(40) + (codes[:, 0] == codes[:, 1])
    model = PairRegression(codes, labels, n_letters=4, complement=complement, rng=rng)
    features = explicit_features(codes, 4, model, complement)
    at_new = explicit_features(new, 4, model, complement)
    precision = features.T @ features / model._noise + np.eye(features.shape[1])
    standard = (labels - labels.mean()) / labels.std()
    weights = np.linalg.solve(precision, features.T @ standard / model._noise)
    expected = labels.mean() + labels.std() * at_new @ weights
    # 1e-8: two float64 solves of the same well-conditioned system.
    assert model.values(model.mean_weights(), new) == pytest.approx(expected, abs=1e-8)

    draws = np.array([model.values(w, new) for w in model.draws(4_000, rng)])
    covariance = labels.var() * at_new @ np.linalg.solve(precision, at_new.T)
    sd = np.sqrt(np.diag(covariance))
    # Five standard errors of a mean and of a standard deviation over 4,000 draws.
    assert np.abs(draws.mean(axis=0) - expected).max() < 5 * sd.max() / np.sqrt(4_000)
    assert np.abs(draws.std(axis=0) / sd - 1).max() < 5 / np.sqrt(2 * 4_000)


def test_pair_regression_chooses_the_best_of_its_grid_by_the_evidence():
    rng = np.random.default_rng(6)
    codes = rng.integers(4, size=(60, 6))
    labels = 1.0 * (codes[:, 0] == 2) + 0.5 * (codes[:, 3] == 1) + 0.05 * rng.standard_normal(60)
    model = PairRegression(codes, labels, n_letters=4, complement=None, rng=rng)

    def log_evidence(letter_variance, pair_variance, noise):
        model._letter_variance, model._pair_variance = letter_variance, pair_variance
        features = explicit_features(codes, 4, model, None)
        covariance = features @ features.T + noise * np.eye(60)
        standard = (labels - labels.mean()) / labels.std()
        return -0.5 * (standard @ np.linalg.solve(covariance, standard) + np.linalg.slogdet(covariance)[1])

    chosen = log_evidence(model._letter_variance, model._pair_variance, model._noise)
    variance = model._variance
    for share, ratio, factor in itertools.product(SHARES, NOISE_RATIOS, (0.3, 0.8, 1.0, 1.25, 3.0)):
        total = variance * factor
        other = log_evidence(total * share / 6, total * (1 - share) / 15, total * ratio)
        # 1e-6: the same number by another route in float64.
        assert other < chosen + 1e-6
