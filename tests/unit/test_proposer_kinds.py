"""Exhaustive, genetic and mixed proposers: their laws, their shares and the origin of what they propose."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from flowscout.errors import ConfigError
from flowscout.loop.gflownet import TrainerSettings
from flowscout.loop.proposers import (
    UNIQUE_RANGE,
    ExhaustiveProposer,
    GeneticProposer,
    GFlowNetProposer,
    LocalSearchProposer,
    MixtureProposer,
    Problem,
    Proposer,
    RandomProposer,
    Samples,
    uniform_states,
)
from flowscout.loop.proposers.evolution import Evolution, edit, gumbel_top
from flowscout.loop.rewards import FrozenReward
from flowscout.loop.spaces import SequenceSpace, SubsetSpace
from flowscout.surrogates import FrozenAcquisition
from flowscout.surrogates.auto import shares as whole_shares

CPU = torch.device("cpu")
LAZY = GFlowNetProposer(1, adjust=False, settings=TrainerSettings(learning_rate=1e-9, log_z_learning_rate=1e-9))


def count_of_g(space: SequenceSpace, *, exponent: float = 1.0, n_labelled: int = 40) -> Problem:
    """Reward the number of G, of either strand, with the best of a few random objects labelled."""
    letters = torch.tensor([2.0] if space.symmetry is None else [1.0, 2.0], dtype=torch.float64)
    count = FrozenAcquisition("count", False, lambda X: torch.isin(X, letters).sum(dim=1).double())
    states = uniform_states(space, n_labelled, seed=0, device=CPU)
    order = count(space.features(states)).argsort(descending=True, stable=True)
    return Problem(space, FrozenReward(count, space.features, exponent, 2.0, 1.2), states[order], CPU)


def texts_of(problem: Problem, samples: Samples) -> list[str]:
    return problem.space.decode(samples.states)


@pytest.mark.parametrize("strand", ["single", "double"])
def test_a_single_exhaustive_draw_follows_the_law_of_the_reward(strand: str) -> None:
    made = count_of_g(SequenceSpace("dna", 3, strand=strand), exponent=1.5)  # type: ignore[arg-type]
    space, proposer = made.space, ExhaustiveProposer()
    trained = proposer.train(made, seed=0)
    n = 2_000
    drawn = [proposer.draw(made, trained.tensors, 1, seed=seed) for seed in range(n)]
    counts = Counter(space.key(texts_of(made, one)[0]) for one in drawn)
    everything = space.enumerate()
    keys = [space.key(text) for text in space.decode(everything)]
    weight = dict(zip(keys, made.reward(everything).exp().tolist(), strict=True))  # one for each key
    total = sum(weight.values())
    chi2 = sum((counts[key] - n * w / total) ** 2 / (n * w / total) for key, w in weight.items())
    freedom = len(weight) - 1
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)  # four standard deviations of chi-square
    best = max(drawn, key=lambda one: float(one.log_prob))  # type: ignore[arg-type]
    found = weight[space.key(texts_of(made, best)[0])]
    assert float(best.log_prob) == pytest.approx(math.log(found / total), abs=1e-9)  # type: ignore[arg-type]


def test_an_exhaustive_draw_knows_what_cannot_be_measured() -> None:
    made = count_of_g(SequenceSpace("dna", 8))
    known = replace(made.reward, log_feasible=lambda X: torch.where(X[:, 0] == 2, -60.0, 0.0).double())
    made, proposer = replace(made, reward=known), ExhaustiveProposer()
    trained = proposer.train(made, seed=0)
    samples = proposer.draw(replace(made, reward=trained.reward), trained.tensors, 2_000, seed=0)
    assert not any(text.startswith("G") for text in texts_of(made, samples))  # a quarter and more of the others
    chances = trained.reward(made.space.enumerate()).log_softmax(0)
    place = {text: row for row, text in enumerate(made.space.decode(made.space.enumerate()))}
    expected = chances[torch.tensor([place[text] for text in texts_of(made, samples)])]
    torch.testing.assert_close(samples.log_prob, expected)


def test_a_sharp_exhaustive_draw_is_the_top_of_the_space_without_repeats() -> None:
    made = count_of_g(SequenceSpace("dna", 4), exponent=200.0)
    proposer = ExhaustiveProposer()
    drawn = texts_of(made, proposer.draw(made, proposer.train(made, seed=0).tensors, 13, seed=1))
    # GGGG and the twelve with three G: 200 / 1.2 nats apart, where the noise of 256 Gumbels spans about 10.
    assert drawn[0] == "GGGG"
    assert sorted(text.count("G") for text in drawn) == [3] * 12 + [4]
    assert len(set(drawn)) == 13


def test_an_exhaustive_draw_of_more_than_there_is_returns_every_key_once() -> None:
    made = count_of_g(SequenceSpace("dna", 3, strand="double"))
    proposer = ExhaustiveProposer()
    samples = proposer.draw(made, proposer.train(made, seed=0).tensors, 1_000, seed=1)
    keys = [made.space.key(text) for text in texts_of(made, samples)]
    assert len(keys) == len(set(keys)) == made.space.size
    assert samples.log_prob is not None
    assert float(samples.log_prob.logsumexp(0)) == pytest.approx(0.0, abs=1e-9)  # they are the whole law


def test_the_exhaustive_exponent_makes_samples_unique_in_the_share_wanted() -> None:
    made = count_of_g(SequenceSpace("dna", 8), exponent=40.0)
    trained = ExhaustiveProposer().train(made, seed=0)
    assert trained.diagnostics["unique_share"] == pytest.approx(sum(UNIQUE_RANGE) / 2, abs=1e-3)  # bisected
    assert trained.reward.exponent < 40.0
    everything = made.space.enumerate()
    p = trained.reward(everything).softmax(0)
    drawn = p.multinomial(20_000, replacement=True, generator=torch.Generator().manual_seed(0)).split(1_000)
    unique = sum(len(part.unique()) for part in drawn) / 20_000
    assert unique == pytest.approx(sum(UNIQUE_RANGE) / 2, abs=0.02)  # 20 shares of 1,000: an sd of about 0.003
    assert ExhaustiveProposer(adjust=False).train(made, seed=0).reward.exponent == 40.0


def test_a_space_too_large_to_score_whole_is_refused_with_the_way_out() -> None:
    made = count_of_g(SequenceSpace("dna", 11))
    with pytest.raises(ConfigError, match=r"4,194,304 objects, expected at most 1,048,576\. Choose gflownet"):
        ExhaustiveProposer().train(made, seed=0)


@pytest.mark.parametrize("proposer", [GeneticProposer(2_000), LocalSearchProposer(2_000)])
def test_a_search_betters_its_reward_and_returns_only_new_legal_objects(proposer: Proposer) -> None:
    made = count_of_g(SequenceSpace("dna", 24), exponent=30.0)
    samples = proposer.draw(made, {}, 200, seed=0)
    texts = texts_of(made, samples)
    assert [made.space.validate(text) for text in texts] == [None] * 200
    assert len(set(texts) | set(made.space.decode(made.labelled))) == 240
    assert made.reward(samples.states).median() > made.reward(made.labelled).max()


def test_crossover_joins_the_halves_that_two_parents_have_right() -> None:
    space = SequenceSpace("dna", 20)
    made = replace(
        count_of_g(space, exponent=50.0), labelled=space.parse(["G" * 10 + "A" * 10, "A" * 10 + "G" * 10])
    )
    best = {}
    for crossover in (0.0, 0.5):
        found = Evolution(300, 32, 128, crossover).run(made, seed=0)
        best[crossover] = max(text.count("G") for text in space.decode(found.states))
    assert best[0.5] >= best[0.0] + 2  # three generations of single edits add three at most


def test_every_letter_of_a_child_is_that_of_either_parent_with_equal_probability() -> None:
    space = SequenceSpace("dna", 6, min_length=2)
    a, b = space.parse(["AAAAAA"] * 4_000), space.parse(["CCCC"] * 4_000)
    children = space.crossover(a, b, torch.Generator().manual_seed(0))
    assert {len(text) for text in space.decode(children)} == {6}
    assert bool((children.tokens[:, 4:] == 0).all())  # where the second has ended, the first goes on
    from_b = (children.tokens[:, :4] == 1).double()
    assert bool((from_b.mean(0) - 0.5).abs().max() < 0.04)  # five standard deviations of a share of 4,000
    assert bool((torch.corrcoef(from_b.T) - torch.eye(4)).abs().max() < 0.08)  # five, too


@pytest.mark.parametrize(("length", "expected"), [(19, (64, 192, 0.0)), (20, (32, 128, 0.5))])
def test_long_objects_are_searched_with_hard_selection_and_crossover(
    length: int, expected: tuple[float, ...]
) -> None:
    made = count_of_g(SequenceSpace("dna", length))
    params = LocalSearchProposer(100).train(made, seed=0).params
    assert (params["parents"], params["children"], params["crossover"]) == expected
    assert params["evaluations"] == 100


def test_a_space_without_crossover_is_searched_by_mutation() -> None:
    space = SubsetSpace(16, max_size=8)
    size = FrozenAcquisition("size", False, lambda X: X.sum(dim=1).double())
    made = Problem(space, FrozenReward(size, space.features, 20.0, 2.0, 1.0), space.parse(["{0}", "{3, 5}"]), CPU)
    texts = texts_of(made, GeneticProposer(1_000).draw(made, {}, 20, seed=0))
    assert [space.validate(text) for text in texts] == [None] * 20
    assert max(text.count(",") for text in texts) == 7


def test_a_search_scores_as_many_objects_as_it_was_given_and_no_more() -> None:
    made, asked = count_of_g(SequenceSpace("dna", 12)), []

    def features(states: Any) -> torch.Tensor:
        asked.append(len(states))
        return made.space.features(states)

    counted = replace(made, reward=replace(made.reward, features=features))
    found = Evolution(500, 32, 128, 0.5).run(counted, seed=0)
    assert len(found.log_reward) == len(found.states) == sum(asked) - len(made.labelled) == 500


def test_a_search_ends_where_nothing_is_left_to_find() -> None:
    made = count_of_g(SequenceSpace("dna", 2), n_labelled=5)
    labelled = set(made.space.decode(made.labelled))
    found = Evolution(10_000, 32, 128, 0.5).run(made, seed=0)
    assert len(found.states) == 16 - len(labelled)
    everything = replace(made, labelled=made.space.enumerate())
    assert len(GeneticProposer().draw(everything, {}, 10, seed=0).states) == 0


def test_edits_are_as_many_as_asked() -> None:
    space = SequenceSpace("abcdefghijklmnopqrstuvwxyz", 40)
    states = uniform_states(space, 300, seed=0, device=CPU)
    counts = torch.arange(300) % 4
    moved = edit(space, states, counts, torch.Generator().manual_seed(0))
    differ = (states.tokens != moved.tokens).sum(1)
    assert bool((differ <= counts).all())
    assert bool((differ[counts <= 1] == counts[counts <= 1]).all())  # a second edit may meet the first
    assert differ.sum() > 0.9 * counts.sum()


def test_gumbel_top_without_a_tie_is_a_draw_without_replacement() -> None:
    weight = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    pairs = Counter(tuple(gumbel_top(weight.log(), 2, seed=seed).tolist()) for seed in range(14_000))
    p = weight / weight.sum()
    for first in range(3):
        for second in {0, 1, 2} - {first}:
            expected = float(p[first] * p[second] / (1 - p[first]))
            sd = math.sqrt(14_000 * expected * (1 - expected))
            assert abs(pairs[first, second] - 14_000 * expected) < 4.5 * sd  # six pairs at 4.5 sd each


def test_a_mixture_has_its_shares_whole_and_says_who_made_each() -> None:
    made = count_of_g(SequenceSpace("dna", 12), exponent=5.0)
    mixture = MixtureProposer(
        (RandomProposer(), GeneticProposer(500), LocalSearchProposer(500)), (0.5, 0.25, 0.25)
    )
    trained = mixture.train(made, seed=0)
    samples = mixture.draw(made, trained.tensors, 402, seed=1)
    assert samples.origins is not None
    assert Counter(samples.origins) == {"random": 201, "genetic": 101, "local_search": 100}
    by_hand = GeneticProposer(500).draw(made, {}, 101, seed=1)
    genetic = [t for t, who in zip(texts_of(made, samples), samples.origins, strict=True) if who == "genetic"]
    assert sorted(genetic) == sorted(texts_of(made, by_hand))
    assert len(set(samples.origins[:20])) == 3  # mixed, so that a full pool cuts none of them off


@pytest.mark.parametrize(
    ("n", "shares"), [(10, (0.5, 0.5)), (7, (1 / 3, 1 / 3, 1 / 3)), (1, (0.9, 0.1)), (0, (1.0,))]
)
def test_shares_are_whole_and_complete(n: int, shares: tuple[float, ...]) -> None:
    counts = whole_shares(shares, n)
    assert sum(counts) == n
    assert all(abs(count - n * share) < 1 for count, share in zip(counts, shares, strict=True))


def test_a_mixture_keeps_a_policy_beside_others_and_its_log_probabilities() -> None:
    made = count_of_g(SequenceSpace("dna", 6), exponent=2.0)
    mixture = MixtureProposer((GFlowNetProposer(60), GeneticProposer(500)), (0.5, 0.5))
    trained = mixture.train(made, seed=0)
    assert trained.healthy
    assert trained.diagnostics["gflownet"]["fallback"] is False
    samples = mixture.draw(made, trained.tensors, 100, seed=1)
    assert samples.log_prob is not None
    assert samples.origins is not None
    drawn = torch.tensor([who == "gflownet" for who in samples.origins])
    assert int(drawn.sum()) == 50
    assert bool(samples.log_prob[drawn].isfinite().all())
    assert bool(samples.log_prob[~drawn].isnan().all())
    again = mixture.train(made, seed=1, warm_start=trained.tensors)
    assert again.params["gflownet"]["warm_start"] is True


def test_a_part_that_trained_unfit_gives_its_share_to_local_search_aloud() -> None:
    made = count_of_g(SequenceSpace("dna", 8), exponent=5.0)
    mixture = MixtureProposer((LAZY, GeneticProposer(500)), (0.5, 0.5), evaluations=600)
    trained = mixture.train(made, seed=0)
    assert trained.diagnostics["gflownet"]["fallback"] is True
    samples = mixture.draw(made, trained.tensors, 60, seed=1)
    assert samples.origins is not None
    assert Counter(samples.origins) == {"local_search": 30, "genetic": 30}


@pytest.mark.parametrize(
    ("parts", "shares"),
    [
        ((), ()),
        ((RandomProposer(),), (0.5,)),
        ((RandomProposer(), GeneticProposer()), (1.0, 0.0)),
        ((RandomProposer(), RandomProposer()), (0.5, 0.5)),
        ((RandomProposer(), GeneticProposer()), (1.0,)),
    ],
)
def test_shares_that_are_none_are_refused(parts: tuple[Proposer, ...], shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"came with the shares .*, expected different proposers .* Write for"):
        MixtureProposer(parts, shares)


@pytest.mark.parametrize("change", [{"evaluations": 0}, {"parents": 0}, {"children": -1}, {"crossover": 1.5}])
def test_a_search_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r" is .*, expected .*\. (Omit|Try)"):
        GeneticProposer(**change)


@pytest.mark.parametrize(
    "proposer",
    [
        ExhaustiveProposer(),
        GeneticProposer(500),
        MixtureProposer((GFlowNetProposer(10, anchors=0.5), GeneticProposer(300)), (0.5, 0.5)),
        GFlowNetProposer(10, anchors=0.5),
    ],
)
def test_the_same_seeds_give_the_same_samples_and_others_do_not(proposer: Proposer) -> None:
    made, found = count_of_g(SequenceSpace("dna", 8)), []
    for seed in (4, 4, 5):
        trained = proposer.train(made, seed=3)
        samples = proposer.draw(made, trained.tensors, 50, seed=seed)
        found.append((texts_of(made, samples), samples.origins))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]


def test_what_a_fallen_part_should_have_drawn_is_drawn_by_the_local_search_of_the_mixture() -> None:
    made = count_of_g(SequenceSpace("dna", 8))
    mixture = MixtureProposer((GFlowNetProposer(1), LocalSearchProposer(2_000)), (0.5, 0.5))
    samples = mixture.draw(made, {"fallback.gflownet": torch.tensor(True)}, 100, seed=0)
    texts = texts_of(made, samples)
    assert len(set(texts)) == 100  # one search drew all of them: two of one seed would repeat each other
    assert samples.origins == ("local_search",) * 100


def test_a_mixture_draws_from_a_search_what_the_search_alone_would_draw_first() -> None:
    made = count_of_g(SequenceSpace("dna", 8))
    search = LocalSearchProposer(2_000)
    mixture = MixtureProposer((GFlowNetProposer(1), search), (0.5, 0.5))
    mixed = mixture.draw(made, {"fallback.gflownet": torch.tensor(True)}, 100, seed=3)
    alone = search.draw(made, {}, 100, seed=3)
    assert texts_of(made, mixed) == texts_of(made, alone)
    both = MixtureProposer((GeneticProposer(500), search), (0.5, 0.5)).draw(made, {}, 100, seed=3)
    assert both.origins is not None
    drawn = [text for text, by in zip(texts_of(made, both), both.origins, strict=True) if by == search.kind]
    assert drawn == texts_of(made, search.draw(made, {}, 50, seed=3))
    assert both.origins[:20].count(search.kind) not in (0, 20)  # mixed: by chance once in 2^18
