"""The GFlowNet that edits the best labelled sequences: what it learns, and what it says of its samples."""

from dataclasses import replace

import pytest
import torch

from flowscout.loop.gflownet import Trainer, draw, exact_law
from flowscout.loop.proposers import (
    GFlowNetProposer,
    LocalSearchProposer,
    MixtureProposer,
    NearbyGFlowNetProposer,
    Problem,
    is_edited,
    nearby,
    uniform_states,
)
from flowscout.loop.proposers.nearby import key_log_prob
from flowscout.loop.rewards import FrozenReward
from flowscout.loop.spaces import GridSpace, NeighbourhoodSpace, SequenceSpace
from flowscout.surrogates import FrozenAcquisition

CPU = torch.device("cpu")
SPACE = SequenceSpace("dna", 40)
PEAK = "ACGT" * 10


class _Judge:
    """Say what was given, in order, the last of it for ever."""

    def __init__(self, *said: bool) -> None:
        self._said = list(said)

    def __call__(self, _health: object) -> bool:
        return self._said.pop(0) if len(self._said) > 1 else self._said[0]


def problem(exponent: float = 40.0) -> Problem:
    """Reward each letter that a peak has; what is labelled lies 12 edits from it."""
    target = SPACE.parse([PEAK])

    def matches(X: torch.Tensor) -> torch.Tensor:
        return (target.tokens.double() == X).double().mean(dim=1)

    labelled = target[torch.zeros(80, dtype=torch.int64)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        labelled = SPACE.mutate(labelled, generator)
    reward = FrozenReward(FrozenAcquisition("matches", False, matches), SPACE.features, exponent, 0.0, 1.0)
    order = reward(labelled).argsort(descending=True, stable=True)
    return Problem(SPACE, reward, labelled[order], CPU)


def test_what_it_draws_is_near_what_is_known_better_than_chance_and_all_different() -> None:
    made, proposer = problem(exponent=80.0), NearbyGFlowNetProposer(sharpen=False)
    trained = proposer.train(made, seed=0)
    assert trained.healthy, trained.diagnostics
    samples = proposer.draw(made, trained.tensors, 500, seed=1)
    near = NeighbourhoodSpace(SPACE, SPACE.decode(made.labelled[:64]), 8)
    chance = near.objects(uniform_states(near, 500, seed=1, device=CPU))
    drawn, random = (made.reward.values(states).mean() for states in (samples.states, chance))
    assert drawn > random + 3 / 40  # three letters more are right
    assert len(set(SPACE.decode(samples.states))) > 400
    assert SPACE.distance(samples.states, made.labelled[:64]).amin(dim=1).max() <= 8


def test_the_same_seed_draws_the_same_and_another_one_others() -> None:
    made, proposer = problem(), NearbyGFlowNetProposer(3)
    first, second = (proposer.train(made, seed=5).tensors for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    texts = [SPACE.decode(proposer.draw(made, first, 20, seed=seed).states) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_its_reward_is_sharper_the_larger_the_neighbourhood_unless_the_file_says_how_sharp() -> None:
    made = problem(exponent=2.0)
    own = NearbyGFlowNetProposer(1, sharpen=False).train(made, seed=0)
    assert own.diagnostics["exponent"] == 2.0
    few = NearbyGFlowNetProposer(1).train(replace(made, labelled=made.labelled[:1]), seed=0)
    many = NearbyGFlowNetProposer(1).train(made, seed=0)
    assert 2.0 < few.diagnostics["exponent"] < many.diagnostics["exponent"]
    assert many.reward.exponent == 2.0  # what is stored of the round is its own reward


def test_a_policy_that_an_earlier_version_trained_still_draws() -> None:
    made = problem()
    before = GFlowNetProposer(2, adjust=False).train(made, seed=0)
    samples = NearbyGFlowNetProposer().draw(made, before.tensors, 10, seed=1)
    assert len(samples.states) == 10
    assert samples.log_prob is not None


def test_it_trains_on_until_it_passes_its_health_check_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    made, proposer = problem(), NearbyGFlowNetProposer(2)
    monkeypatch.setattr(nearby, "is_healthy", _Judge(False, True, True))
    later = proposer.train(made, seed=0)
    assert (later.healthy, later.diagnostics["all_steps"]) == (True, 4)
    monkeypatch.setattr(nearby, "is_healthy", _Judge(False))
    never = proposer.train(made, seed=0)
    assert (never.healthy, never.diagnostics["all_steps"]) == (False, 2 * nearby.PATIENCE)


def test_a_start_that_it_cannot_use_is_not_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    train = NearbyGFlowNetProposer.train
    monkeypatch.setattr(nearby, "is_healthy", _Judge(False))
    monkeypatch.setattr(NearbyGFlowNetProposer, "train", lambda *a, **k: calls.append(k) or train(*a, **k))
    mixture = MixtureProposer((NearbyGFlowNetProposer(1), LocalSearchProposer(50)), (0.5, 0.5))
    first = mixture.train(problem(), seed=0)
    mixture.train(problem(), seed=1, warm_start=dict(first.tensors) | {"gflownet.centres": torch.zeros(1)})
    assert len(calls) == 2


def test_without_labels_there_is_nothing_to_edit() -> None:
    made = problem()
    trained = NearbyGFlowNetProposer(1).train(replace(made, labelled=made.labelled[:0]), seed=0)
    assert not trained.healthy


@pytest.mark.parametrize("strand", ["single", "double"])
def test_log_probabilities_are_those_of_objects(strand: str) -> None:
    sequences = SequenceSpace("dna", 4, strand=strand)
    near = NeighbourhoodSpace(sequences, ["ACGG", "ACCG", "TTAA"], 2)
    trainer = Trainer(near, lambda state: (state.tokens == 2).sum(dim=1).double(), seed=0)
    trainer.fit(20)
    law = exact_law(near, trainer.policy)
    expected: dict[str, float] = {}
    for key, log_p in zip(near.keys(law.states), law.log_p.tolist(), strict=True):
        expected[key] = expected.get(key, 0.0) + float(torch.tensor(log_p).exp())
    found = draw(near, trainer.policy, 50, generator=torch.Generator().manual_seed(1))
    objects = near.objects(found.states)
    said = key_log_prob(near, trainer.policy, objects).exp().tolist()
    assert said == pytest.approx([expected[key] for key in near.keys(found.states)], rel=1e-4)


def test_an_object_that_is_near_nothing_is_never_drawn() -> None:
    near = NeighbourhoodSpace(SequenceSpace("dna", 4), ["ACGG"], 1)
    trainer = Trainer(near, lambda state: torch.zeros(len(state)), seed=0)
    said = key_log_prob(near, trainer.policy, near.sequences.parse(["TTTT", "ACGG"]))
    assert said[0] == -torch.inf
    assert said[1] > -torch.inf


@pytest.mark.parametrize(
    ("space", "edited"),
    [
        (SequenceSpace("dna", 20), True),
        (SequenceSpace("dna", 19), False),
        (SequenceSpace("dna", 30, min_length=20), False),
        (SequenceSpace("dna", 30, forbid=["AAA"]), False),
        (GridSpace(2, 30), False),
    ],
)
def test_long_sequences_that_may_be_edited_anywhere_are_edited(space: object, edited: bool) -> None:
    assert is_edited(space) is edited


def test_uniform_states_of_a_neighbourhood_are_in_it() -> None:
    near = NeighbourhoodSpace(SPACE, [PEAK], 3)
    states = uniform_states(near, 50, seed=0, device=CPU)
    assert (near.distance(states, near.parse([PEAK])) <= 3).all()
