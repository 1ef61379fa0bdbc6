"""Selection takes distinct objects: each slot the best of a belief of its own, or the farthest from the best."""

from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Generator, Tensor

from flowscout import Campaign
from flowscout.loop import selection
from flowscout.loop.config import BatchSection
from flowscout.loop.proposers import Problem, uniform_states
from flowscout.loop.rewards import FrozenReward
from flowscout.loop.selection import choose_batch, least_distance, pending_draws, thompson_batch
from flowscout.loop.spaces import SequenceSpace
from flowscout.loop.spaces.sequence import SequenceState
from flowscout.surrogates import ExactGP, ucb

SPACE = SequenceSpace("dna", 4)

CAMPAIGN = """\
campaign: waiting
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: assay:score
surrogate: {type: KIND}
proposer: {type: random}
batch: {size: 3}
budget: {rounds: 3}
device: cpu
"""
ASSAY = """\
from flowscout import oracle

@oracle(idempotent=False)
def score(requests): raise TimeoutError("cut off")
"""


def surrogate() -> ExactGP:
    X = SPACE.features(SPACE.enumerate()[torch.arange(0, 256, 9)])
    gp = ExactGP()
    gp.fit(X, (X == 2).sum(dim=1, keepdim=True).double())
    return gp


def test_a_batch_holds_no_object_twice_and_repeats_with_its_seed() -> None:
    X = SPACE.features(SPACE.enumerate())
    first, again, other = (
        thompson_batch(surrogate(), X, 20, generator=Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert len(set(first)) == 20
    assert first == again != other


def test_thompson_sampling_prefers_what_is_believed_to_be_good() -> None:
    X = SPACE.features(SPACE.enumerate())
    batch = thompson_batch(surrogate(), X, 20, generator=Generator().manual_seed(0))
    n_g = (X == 2).sum(dim=1).double()
    assert n_g[batch].mean() > n_g.mean() + 0.5  # the mean over the space is 1


def test_a_pool_smaller_than_the_batch_is_taken_whole() -> None:
    X = SPACE.features(SPACE.enumerate()[torch.arange(3)])
    assert sorted(thompson_batch(surrogate(), X, 5, generator=Generator().manual_seed(0))) == [0, 1, 2]


X_POOL = SPACE.features(SPACE.enumerate()[torch.tensor([1, 2, 40, 170, 171])])
X_PENDING = SPACE.features(SPACE.enumerate()[torch.tensor([0, 168, 168])])


def test_draws_given_pending_objects_have_the_conditional_law() -> None:
    gp, n = surrogate(), 40_000
    mean, covariance = gp.joint(torch.cat([X_PENDING[:2], X_POOL]))
    explained = covariance[2:, :2] @ torch.linalg.solve(covariance[:2, :2], covariance[:2, 2:])
    draws = pending_draws(gp, X_POOL, n, X_PENDING, generator=Generator().manual_seed(3))
    expected = covariance[2:, 2:] - explained
    sd = covariance[2:, 2:].diagonal().sqrt()
    assert (explained.diagonal() > 0.05 * sd.square()).any()  # the pending objects do say something here
    # Five standard errors of a mean and of a covariance of n draws.
    assert ((draws.mean(dim=0) - mean[2:]).abs() < 5 * sd / n**0.5).all()
    assert ((draws.T.cov() - expected).abs() < 5 * (2 / n) ** 0.5 * sd.unsqueeze(1) * sd).all()


def test_nothing_pending_changes_no_draw() -> None:
    gp = surrogate()
    plain = gp.sample(X_POOL, 4, generator=Generator().manual_seed(2))
    for none in (None, X_PENDING[:0]):
        assert torch.equal(pending_draws(gp, X_POOL, 4, none, generator=Generator().manual_seed(2)), plain)


class Odd:
    """A surrogate with samples and a posterior of no known kind."""

    def posterior(self, X: torch.Tensor) -> object:
        return object()

    def sample(self, X: torch.Tensor, n_draws: int, *, generator: Generator) -> torch.Tensor:
        return torch.randn(n_draws, len(X), generator=generator, dtype=torch.float64)


def test_a_surrogate_that_cannot_be_conditioned_is_drawn_as_it_is_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd: Any = Odd()
    draws = pending_draws(odd, X_POOL, 2, X_PENDING, generator=Generator().manual_seed(0))
    assert torch.equal(draws, odd.sample(X_POOL, 2, generator=Generator().manual_seed(0)))
    assert "without regard to what is pending" in caplog.text


@pytest.mark.parametrize("kind", ["auto", "ensemble"])
def test_a_round_selects_by_what_is_pending(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "assay.py").write_text(ASSAY)
    (tmp_path / "c.yaml").write_text(CAMPAIGN.replace("KIND", kind))
    seen: list[Tensor] = []
    original = selection.pending_draws

    def spy(surrogate: Any, X: Tensor, n_draws: int, X_pending: Tensor, **rest: Any) -> Tensor:
        seen.append(X_pending)
        return original(surrogate, X, n_draws, X_pending, **rest)

    monkeypatch.setattr(selection, "pending_draws", spy)
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        objects = ["".join(letters) for letters in product("ACGT", repeat=2)]
        found.tell(pd.DataFrame({"object": [f"{o}AA" for o in objects], "y": range(16)}))
        found.run_round()  # its calls were cut off: nobody can say what came of them
        waiting = found.workbench.history.queries.pending(found.workbench.campaign.id)
        assert len(waiting) == 3
        found.run_round()
    assert [len(one) for one in seen] == [0, 3]
    assert torch.equal(seen[1], SPACE.features(SPACE.parse(sorted(waiting))))


def chosen(
    section: dict[str, Any], n: int = 12, pool: int = 120, *, taken: list[int] | None = None
) -> tuple[list[int], SequenceState, Problem]:
    """Return the rows that a batch section chooses from a pool of random 8-mers, rewarded by their number of G."""
    space = SequenceSpace("dna", 8)
    states = uniform_states(space, pool, seed=0, device=torch.device("cpu"))
    gp = ExactGP(kernel="additive", levels=4)
    gp.fit(space.features(states[:40]), (space.features(states[:40]) == 2).sum(dim=1, keepdim=True).double())
    reward = FrozenReward(ucb(gp, 1.0), space.features, exponent=2.0, centre=0.0, scale=1.0)
    made = Problem(space, reward, states[:40], torch.device("cpu"))
    others = None if taken is None else states[torch.tensor(taken)]
    rows = choose_batch(
        BatchSection(size=n, **section), made, gp, states, n, generator=Generator().manual_seed(0), taken=others
    )
    return rows, states, made


@pytest.mark.parametrize("select", ["thompson", "greedy", "dpp", "top"])
def test_every_way_of_choosing_takes_different_good_objects(select: str) -> None:
    rows, states, made = chosen({"select": select})
    assert len(set(rows)) == len(rows) == 12
    values = made.reward.values(states)
    # A mean of 12 random values is that far above the pool's mean by a chance of 1 in 30,000.
    assert values[rows].mean() > values.mean() + 4 * values.std() / 12**0.5


def test_top_takes_the_best_of_the_first_samples_alone() -> None:
    rows, states, made = chosen({"select": "top"}, n=4)
    values = made.reward.values(states[:20])  # 5 samples for each place; the pool has 120
    assert rows == values.argsort(descending=True, stable=True)[:4].tolist()


@pytest.mark.parametrize("select", ["thompson", "top"])
def test_no_two_of_a_batch_are_nearer_than_the_distance(select: str) -> None:
    rows, states, made = chosen({"select": select, "distance": 4})
    batch = states[torch.tensor(rows)]
    apart = made.space.distance(batch, batch).fill_diagonal_(99)
    assert apart.min() >= 4
    without, _, _ = chosen({"select": select})
    other = states[torch.tensor(without)]
    assert made.space.distance(other, other).fill_diagonal_(99).min() < 4  # it was needed


@pytest.mark.parametrize("select", ["thompson", "top"])
def test_none_of_a_batch_is_nearer_than_the_distance_to_what_is_taken_already(select: str) -> None:
    section = {"select": select, "distance": 4}
    best, states, made = chosen(section, n=4)
    rows, _, _ = chosen(section, n=4, taken=best[:1])
    assert made.space.distance(states[torch.tensor(rows)], states[torch.tensor(best[:1])]).min() >= 4


def test_a_distance_that_the_pool_cannot_keep_still_fills_the_batch() -> None:
    rows, _, _ = chosen({"distance": 9})  # of 8 letters no two sequences differ in 9
    assert len(set(rows)) == 12


def test_a_dpp_spreads_a_batch_wider_than_the_objects_of_the_best_rewards() -> None:
    rows, states, made = chosen({"select": "dpp"})
    best = made.reward(states).argsort(descending=True)[:12]
    spread, packed = (
        made.space.distance(states[some], states[some]).mean() for some in (torch.tensor(rows), best)
    )
    assert spread > packed


@pytest.mark.parametrize(
    ("letters", "section", "apart"),
    [
        (50, {}, 3),
        (20, {}, 2),
        (19, {}, None),  # short: single edits are wanted there
        (50, {"distance": None}, None),
        (8, {"distance": 3}, 3),
        (50, {"select": "dpp"}, None),
    ],
)
def test_long_sequences_of_a_batch_are_apart_unless_told_otherwise(letters, section, apart) -> None:
    space = SequenceSpace("rna", letters)
    assert least_distance(BatchSection(size=4, **section), space) == apart


def test_a_distance_is_refused_where_the_choice_spreads_by_itself() -> None:
    with pytest.raises(
        ValueError, match=r"batch\.distance is 2 and batch\.select is 'dpp'.*leave out the distance"
    ):
        BatchSection(size=4, select="dpp", distance=2)
