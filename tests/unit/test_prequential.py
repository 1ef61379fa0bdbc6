"""What a surrogate foretold is scored before it learns of it, pooled over rounds, and said where it is bad."""

from pathlib import Path

import pytest
import torch

from flowscout import Campaign
from flowscout.loop.fitting import labels_of, load_surrogate, training_set
from flowscout.loop.prequential import POOLED_ROUNDS, WINDOW, calibration_warning, foretold_scores, pooled_coverage
from flowscout.surrogates import score_predictions

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 5}
objectives: [{name: y, direction: maximize}]
oracle: assay:score
proposer: {type: local_search}
surrogate: {type: TYPE}
batch: {size: 4}
budget: {rounds: 9}
device: cpu
"""
ASSAY = "def score(objects): return [o.count('A') - 0.1 * o.count('C') for o in objects]\n"


class Oracle:
    """A surrogate that foretells zero, with an sd of one."""

    def mean_sd(self, X):
        return torch.zeros(len(X)).double(), torch.ones(len(X)).double()


def opened(folder: Path, kind: str) -> Campaign:
    folder.mkdir(exist_ok=True)
    (folder / "assay.py").write_text(ASSAY)
    (folder / "c.yaml").write_text(CAMPAIGN.replace("TYPE", kind))
    return Campaign.from_yaml(folder / "c.yaml")


def test_scores_are_of_new_measurements_noise_included():
    Y = torch.tensor([[0.0], [1.5], [-3.0], [1.8]]).double()
    found = foretold_scores(Oracle(), torch.zeros(4, 2).double(), Y, noise_sd=0.75)
    expected = score_predictions(torch.zeros(4).double(), torch.full((4,), 1.25).double(), Y.squeeze(-1))
    assert found["foretold_n"] == 4.0
    assert found["foretold_nlpd"] == expected.nlpd
    assert found["foretold_coverage90"] == 0.75  # 1.5 and 1.8 lie within 1.645 x 1.25


def test_coverage_is_pooled_label_by_label_over_the_latest_rounds_and_not_over_few():
    rounds = [{"foretold_n": n, "foretold_coverage90": share} for n, share in [(4, 0.5), (8, 1.0), (2, 0.0)]]
    assert pooled_coverage(rounds) == {}
    assert pooled_coverage([*rounds, {"loo_rmse": 1.0}]) == {}
    assert POOLED_ROUNDS == 4
    found = pooled_coverage([*rounds, {"foretold_n": 2, "foretold_coverage90": 1.0}])
    assert found == {"pooled_coverage90": 12 / 16, "pooled_rounds": 4.0}
    many = [{"foretold_n": 1, "foretold_coverage90": 0.0}] * 5 + [
        {"foretold_n": 1, "foretold_coverage90": 1.0}
    ] * WINDOW
    assert pooled_coverage(many)["pooled_coverage90"] == 1.0


def test_a_surrogate_too_sure_of_itself_is_told_and_others_are_not():
    assert calibration_warning({}) is None
    assert calibration_warning({"pooled_coverage90": 0.9, "pooled_rounds": 5.0}) is None
    said = calibration_warning({"pooled_coverage90": 0.41, "pooled_rounds": 5.0})
    assert said == (
        "the surrogate is too sure of itself: over 5 rounds its 90% intervals held 41% of what was measured "
        "afterwards"
    )


@pytest.mark.parametrize("kind", ["auto", "gp", "linear"])
def test_each_round_stores_what_the_surrogate_before_it_foretold(tmp_path, kind):
    with opened(tmp_path / kind, kind) as campaign:
        for _ in range(3):
            campaign.run_round()
        bench = campaign.workbench
        fits = [bench.history.rounds.fit(r.id) for r in bench.history.rounds.all(bench.campaign.id)]
        assert [("foretold_rmse" in fit.diagnostics, fit.parent_id) for fit in fits] == [
            (False, None),
            (False, None),
            (True, fits[1].id),
        ]
        before = load_surrogate(bench, fits[1])
        known = {row.key for row in training_set(bench, upto_seq=fits[1].data_upto_seq).rows}
        labels = labels_of(bench, training_set(bench, upto_seq=fits[2].data_upto_seq))
        keys = [row.key for row in training_set(bench, upto_seq=fits[2].data_upto_seq).rows]
        fresh = torch.tensor([key not in known for key in keys])
        mean, sd = before.mean_sd(labels.X[fresh])
        sd = (sd.square() + fits[1].diagnostics["noise_sd"] ** 2).sqrt()
        expected = score_predictions(mean, sd, labels.Y[fresh].squeeze(-1))
        assert fits[2].diagnostics["foretold_n"] == 4.0
        # 1e-9: other rows of the same call.
        assert fits[2].diagnostics["foretold_rmse"] == pytest.approx(expected.rmse, abs=1e-9)
        assert fits[2].diagnostics["foretold_nlpd"] == pytest.approx(expected.nlpd, abs=1e-9)


def test_a_round_says_so_when_what_was_foretold_missed_for_four_rounds(tmp_path, monkeypatch):
    # A belief without doubt: every interval misses.
    def sure(surrogate, X, Y, *, noise_sd):
        return {"foretold_n": float(len(Y)), "foretold_coverage90": 0.0}

    monkeypatch.setattr("flowscout.loop.fitting.foretold_scores", sure)
    with opened(tmp_path / "sure", "linear") as campaign:
        for _ in range(6):
            campaign.run_round()
        rounds = campaign.status().rounds
        # Rounds 3 to 6 have scores: the sixth is the first that has four.
        assert [row.message for row in rounds[:5]] == [None] * 5
        assert "90% intervals held 0% of what was measured" in rounds[5].message
        assert rounds[5].surrogate["pooled_coverage90"] == 0.0
