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
from flowscout.loop.selection import pending_draws, thompson_batch
from flowscout.loop.spaces import SequenceSpace
from flowscout.surrogates import ExactGP

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
