"""What people are shown of a round is what its history says; the pictures stand in the page itself."""

import base64
import math
import re
from io import BytesIO

import pytest
from PIL import Image

from flowscout import Campaign
from flowscout.db import ObjectiveRecord, RoundRow
from flowscout.db.states import RoundState
from flowscout.flows.links import artifact_key, description, run_name, run_tags
from flowscout.loop import showing
from flowscout.loop.drawing import draw_best, draw_calibration, draw_losses, picture_uri
from flowscout.loop.prequential import Foretold
from flowscout.loop.proposers.gflownet import CURVE_POINTS, _curve

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: assay:score
proposer: {type: mixture, shares: {gflownet: 0.5, local_search: 0.5}, steps: 5, evaluations: 64}
batch: {size: 3}
budget: {rounds: 3, cost: 10}
device: cpu
"""
LARGE = ObjectiveRecord("y", "maximize", "nM")


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "assay.py").write_text(
        "def score(objects): return [o.count('A') - 0.1 * o.count('C') for o in objects]\n"
    )
    (folder / "c.yaml").write_text(CAMPAIGN)
    with Campaign.from_yaml(folder / "c.yaml") as opened:
        for _ in range(3):
            opened.run_round()
        yield opened


def pictures(page):
    """Return the pictures of a page by name, having read each."""
    found = re.findall(r"!\[([a-z ]+)\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", page)
    images = {name: Image.open(BytesIO(base64.b64decode(content))) for name, content in found}
    for image in images.values():
        image.load()
    return images


def row_of(number, best, **other):
    about = {
        "batch_best": best,
        "batch_mean": best,
        "surrogate": {},
        "sampler": {},
        "seconds": 1.0,
        "message": None,
    }
    return RoundRow(number=number, state=RoundState.COMPLETE, measured=4, best=best, **(about | other))


def test_batch_is_shown_by_rank_as_it_was_proposed(campaign):
    bench = campaign.workbench
    table = showing.batch_table(bench, 2)
    batch = bench.history.rounds.proposals(bench.history.rounds.get(bench.campaign.id, 2).id, selected=True)
    assert [row["rank"] for row in table] == [1, 2, 3]
    assert [row["object"] for row in table] == [one.object for one in batch]
    for row, one in zip(table, batch, strict=True):
        assert row["candidate_id"] == one.candidate_id
        assert row["mean"] == pytest.approx(one.mean, rel=1e-4)  # shown with five digits


def test_surrogate_is_shown_with_how_the_rounds_before_foretold(campaign):
    bench = campaign.workbench
    first, third = (showing.surrogate_page(bench, number) for number in (1, 3))
    assert "Nothing was foretold" in first
    assert pictures(first) == {}
    assert "fitted to 6 candidates: all that was measured up to seq 6" in third
    assert set(pictures(third)) == {"calibration", "predicted and measured"}
    fit = bench.history.rounds.fit(bench.history.rounds.get(bench.campaign.id, 3).id)
    assert f"| rank correlation, leaving one label out | {fit.diagnostics['loo_spearman']:.4g} |" in third


def test_sampler_is_shown_with_each_of_its_parts(campaign):
    bench = campaign.workbench
    page = showing.sampler_page(bench, 3)
    assert "### gflownet" in page
    assert "### local_search" in page
    run = bench.history.rounds.sampler(bench.history.rounds.get(bench.campaign.id, 3).id)
    assert len(run.diagnostics["gflownet"]["loss_curve"]) == 5
    assert f"slope of log p on log R (1 is exact) | {run.diagnostics['gflownet']['slope']:.4g} |" in page
    assert set(pictures(page)) == {"loss"}


def test_progress_is_shown_latest_round_first(campaign):
    page = showing.progress_page(campaign.workbench)
    assert page.startswith("3 of at most 3 rounds, 9 candidates measured, 0.00 spent.")
    assert re.findall(r"^\| (\d) \| complete \| 3 \|", page, flags=re.MULTILINE) == ["3", "2", "1"]
    assert set(pictures(page)) == {"best so far"}


def test_share_of_results_that_are_in_counts_every_wanted_measurement(tmp_path):
    (tmp_path / "c.yaml").write_text(CAMPAIGN.replace("assay:score", "{type: lab}").replace("size: 3", "size: 4"))
    with Campaign.from_yaml(tmp_path / "c.yaml") as waiting:
        batch = waiting.ask()
        assert showing.settled_percent(waiting.workbench, 1) == 0.0
        (tmp_path / "told.csv").write_text(f"object,y\n{batch['object'][0]},1.5\n")
        waiting.tell(tmp_path / "told.csv", source="bench")
        assert showing.settled_percent(waiting.workbench, 1) == 25.0
        assert "1 candidates measured" in showing.progress_page(waiting.workbench)


def test_calibration_is_the_share_of_values_in_each_central_interval():
    # Values 1 and 2 standard deviations off: the intervals that just hold them have 68.3% and 95.4%.
    values = [Foretold(2, "a", 1.0, 0.0, 1.0), Foretold(2, "b", -4.0, 0.0, 2.0)]
    [_, line] = draw_calibration(values).axes[0].lines
    shares, held = line.get_data()
    assert list(shares) == pytest.approx([0, math.erf(1 / math.sqrt(2)), math.erf(2 / math.sqrt(2)), 1])
    assert list(held) == [0, 0.5, 1.0, 1.0]


def test_best_so_far_is_drawn_for_rounds_that_have_a_value():
    rows = [row_of(1, 0.5), row_of(2, 0.9, batch_best=0.9, batch_mean=0.4), row_of(3, None)]
    axes = draw_best(rows, LARGE).axes[0]
    assert [list(part) for part in axes.lines[0].get_data()] == [[1, 2], [0.5, 0.9]]
    assert axes.get_title(loc="left") == "largest y so far: 0.9"


@pytest.mark.parametrize(("losses", "scale"), [([3.0, 1.0, 0.1], "log"), ([3.0, 0.0], "linear")])
def test_losses_are_drawn_on_a_logarithm_where_that_is_possible(losses, scale):
    axes = draw_losses({"gflownet": losses}).axes[0]
    assert axes.get_yscale() == scale
    assert list(axes.lines[0].get_ydata()) == losses


def test_picture_is_small_and_needs_no_address():
    uri = picture_uri(draw_losses({"gflownet": [float(n) for n in range(1, 60)]}))
    assert uri.startswith("data:image/png;base64,")
    assert len(uri) < 40_000


def test_curve_of_a_long_training_is_its_mean_over_equal_parts():
    assert _curve([1.0, 2.0]) == [1.0, 2.0]
    losses = [float(n) for n in range(2 * CURVE_POINTS)]
    assert _curve(losses) == [2 * n + 0.5 for n in range(CURVE_POINTS)]


def test_names_lead_from_the_page_to_the_history_and_back(campaign):
    record = campaign.workbench.campaign
    assert run_name("Six6.a", 7) == "Six6.a round 7"
    assert run_tags("Six6.a") == ["flowscout", "campaign:Six6.a"]
    assert run_tags("Six6.a", 7) == ["flowscout", "campaign:Six6.a", "round:7"]
    assert artifact_key("Six6.a_B", "batch", 7) == "six6-a-b-round-7-batch"
    assert description(record, 7) == f"Campaign binders, uuid {record.uuid}, round 7"
