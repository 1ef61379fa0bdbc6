"""What is drawn of a campaign is what its history says."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from flowscout import Campaign
from flowscout.cli import run
from flowscout.db import ObjectiveRecord, RoundRow
from flowscout.db.states import RoundState
from flowscout.loop.drawing import draw_predictions, draw_progress, draw_scores
from flowscout.loop.prequential import Foretold, foretold, scores_by_round, scores_of

LARGE = ObjectiveRecord("y", "maximize", "nM")


def measured(value, number=2, *, mean=1.0, sd=0.3, **other):
    """Return a row of the view `history`."""
    row = {"round": number, "object": "a", "property": "y", "value": value, "qualifier": "=", "superseded": False}
    return row | {"predicted_mean": mean, "predicted_sd": sd} | other


def row_of(number, **surrogate):
    return RoundRow(number, RoundState.COMPLETE, 4, 1.0, 0.5, 1.0, surrogate, {}, 1.0, None)


def told(*rows):
    return foretold(rows, {2: 0.4}, property="y")


def test_sd_of_a_prediction_includes_the_noise_of_its_round():
    assert told(measured(1.5)) == [Foretold(2, "a", 1.5, 1.0, pytest.approx(0.5))]
    assert told(measured(1.5, 3))[0].sd == pytest.approx(0.3)  # of round 3 no noise is known


@pytest.mark.parametrize(
    "change",
    [
        {"number": None, "mean": None, "sd": None},
        {"mean": None, "sd": None},
        {"qualifier": "<"},
        {"superseded": True},
        {"property": "z"},
        {"value": None},
    ],
)
def test_value_that_was_not_foretold_or_does_not_count_is_left_out(change):
    change = {"value": 1.5} | change
    assert told(measured(**change)) == []


def test_scores_of_what_was_foretold():
    values = [Foretold(2, "a", 1.0, 1.5, 0.5), Foretold(2, "b", 4.0, 2.0, 1.0), Foretold(3, "c", 0.0, 0.0, 1.0)]
    pooled = scores_of(values)
    assert pooled.n == 3
    assert pooled.rmse == pytest.approx(math.sqrt((0.25 + 4.0) / 3))
    assert pooled.coverage90 == pytest.approx(2 / 3)  # 2 sd off is outside, 1 sd inside
    assert scores_of([]) is None
    by_round = scores_by_round(values)
    assert [(number, scores.n) for number, scores in by_round.items()] == [(2, 2), (3, 1)]


def line_of(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


@pytest.mark.parametrize(("direction", "best"), [("maximize", [0.5, 2.0, 2.0]), ("minimize", [0.5, -1.0, -3.0])])
def test_best_so_far_follows_the_direction_and_starts_with_what_was_told(direction, best):
    rows = [measured(0.5, None), measured(2.0, 1), measured(-1.0, 1), measured(-3.0, 2), measured(1.0, 2)]
    figure = draw_progress(rows, replace(LARGE, direction=direction))
    axes = figure.axes[0]
    assert list(line_of(axes, "best so far").get_ydata()) == [best[0], *best, best[-1]]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["told", "1", "2"]
    assert axes.get_ylabel() == "y (nM)"
    assert f"so far: {best[-1]:.4g}" in axes.get_title(loc="left")


def test_every_value_that_counts_is_drawn_once_in_its_round():
    rows = [measured(0.1 * i, 1 + i // 50) for i in range(100)]
    rows += [measured(9.0, superseded=True), measured(9.0, qualifier="<"), measured(9.0, property="z")]
    axes = draw_progress(rows, LARGE).axes[0]
    points = np.concatenate([np.asarray(part.get_offsets()) for part in axes.collections if "Path" in repr(part)])
    assert sorted(points[:, 1]) == pytest.approx(sorted(0.1 * i for i in range(100)))
    assert sorted(np.round(points[:, 0]).astype(int)) == [1] * 50 + [2] * 50


def test_title_says_how_many_intervals_hold_their_value():
    values = [Foretold(2, "a", 0.0, 0.0, 1.0)] * 3 + [Foretold(3, "b", 5.0, 0.0, 1.0)]
    figure = draw_predictions(values, LARGE)
    assert figure.axes[0].get_title(loc="left") == "75% of 4 values in their 90% interval"
    assert figure.axes[0].get_xlabel() == "measured y (nM)"
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim()


def test_one_value_or_equal_values_can_be_drawn(tmp_path):
    figure = draw_predictions([Foretold(2, "a", 1.0, 1.0, 0.1)], LARGE)
    figure.savefig(tmp_path / "one.png")
    draw_progress([measured(1.0, 1)], LARGE).savefig(tmp_path / "progress.png")
    assert (tmp_path / "one.png").stat().st_size > 5000


def test_scores_are_drawn_by_round_and_missing_ones_left_out(tmp_path):
    names = ("rmse", "spearman", "nlpd", "coverage90")
    rounds = [row_of(1), row_of(2, **{f"loo_{name}": 0.5 for name in names}), row_of(3, loo_rmse=0.25)]
    figure = draw_scores(
        rounds, scores_by_round([Foretold(2, "a", 1.0, 1.5, 0.5), Foretold(3, "b", 1.0, 1.0, 0.5)])
    )
    titles = {axes.get_title(loc="left"): axes for axes in figure.axes}
    error = titles["root mean square error"]
    assert list(line_of(error, "leaving one label out").get_xydata().flatten()) == [2, 0.5, 3, 0.25]
    assert list(line_of(error, "the round's batch, foretold").get_ydata()) == [0.5, 0.0]
    # The rank correlation of one value is not defined.
    assert [line.get_label() for line in titles["rank correlation"].lines] == ["leaving one label out"]
    figure.savefig(tmp_path / "scores.png")


CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: assay:score
proposer: {type: local_search}
batch: {size: 4}
budget: {rounds: 3}
device: cpu
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "assay.py").write_text("def score(objects): return [float(o.count('A')) for o in objects]\n")
    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    return tmp_path


def test_command_draws_three_pictures_and_says_how_well_was_foretold(folder, capsys):
    with Campaign.from_yaml(folder / "c.yaml") as campaign:
        while campaign.run_round() is not None:
            pass
    assert run(["plot", str(folder / "c.yaml"), "--out", str(folder / "pictures")]) == 0
    printed = capsys.readouterr().out
    assert "8 values foretold before they were measured" in printed
    names = ["predictions.png", "progress.png", "scores.png"]
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == names
    assert all((folder / "pictures" / name).read_bytes().startswith(b"\x89PNG") for name in names)

    assert run(["plot", str(folder / "c.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["foretold"]["n"] == 8
    assert 0 <= found["foretold"]["coverage90"] <= 1
    assert [path.rpartition("/")[2] for path in found["pictures"]] == [
        "progress.png",
        "predictions.png",
        "scores.png",
    ]
    assert (folder / "binders-pictures" / "progress.png").is_file()


def test_labels_alone_give_the_one_picture_that_they_can(folder, capsys):
    with Campaign.from_yaml(folder / "c.yaml") as campaign:
        assert run(["plot", str(folder / "c.yaml"), "--out", str(folder / "pictures")]) == 1
        assert "has no value of 'y' yet, expected at least one to draw" in capsys.readouterr().err
        assert not (folder / "pictures").exists()
        campaign.run_round()
    assert run(["plot", str(folder / "c.yaml"), "--out", str(folder / "pictures")]) == 0
    assert "nothing was foretold yet" in capsys.readouterr().out
    assert [path.name for path in (folder / "pictures").iterdir()] == ["progress.png"]


def test_folder_that_cannot_be_made_is_refused(folder, capsys):
    with Campaign.from_yaml(folder / "c.yaml") as campaign:
        campaign.run_round()
    assert run(["plot", str(folder / "c.yaml"), "--out", str(folder / "assay.py" / "in")]) == 2
    assert "cannot be written to" in capsys.readouterr().err
