"""The stages of a round: what each returns, and that doing it again changes nothing."""

import sqlite3
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest

from flowscout import Campaign
from flowscout.db import Decision, RoundState
from flowscout.errors import LeaseLostError, OracleError, StateError
from flowscout.loop import stages
from flowscout.loop.workbench import hold_campaign

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: assay:score
proposer: {type: gflownet, steps: 5}
batch: {size: 3}
budget: {rounds: 3}
device: cpu
"""
ASSAY = "def score(objects): return [o.count('A') - 0.1 * o.count('C') for o in objects]\n"


def open_campaign(folder: Path, text: str = CAMPAIGN, *, assay: str = ASSAY) -> Campaign:
    folder.mkdir(exist_ok=True)
    (folder / "assay.py").write_text(dedent(assay))
    (folder / "c.yaml").write_text(text)
    return Campaign.from_yaml(folder / "c.yaml")


@pytest.fixture
def campaign(tmp_path):
    with open_campaign(tmp_path / "campaign") as opened:
        yield opened


def content(campaign: Campaign) -> dict[str, list[tuple[object, ...]]]:
    """Return every row of every table, the campaign's own row (its lease moves) apart."""
    with closing(sqlite3.connect(campaign.workbench.history.database.url.database)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names if name != "campaign"
        }


def batches(campaign: Campaign) -> list[list[tuple[object, ...]]]:
    """Return the proposals of every round, with what was believed of them."""
    bench = campaign.workbench
    return [
        [
            (p.rank, p.object, p.decision, p.origin, p.acquisition, p.log_reward, p.log_prob, p.mean, p.sd)
            for p in bench.history.rounds.proposals(record.id)
        ]
        for record in bench.history.rounds.all(bench.campaign.id)
    ]


def test_two_runs_with_one_seed_propose_the_same_to_the_last_bit(tmp_path):
    found = []
    for name in ("one", "other"):
        with open_campaign(tmp_path / name) as campaign:
            while campaign.run_round() is not None:
                pass
            found.append((batches(campaign), campaign.history()[["seq", "object", "value"]].to_dict("list")))
    assert found[0] == found[1]
    assert len(found[0][0]) == 3


def test_another_seed_proposes_another_batch(tmp_path):
    found = []
    for seed in (3, 4):
        with open_campaign(tmp_path / str(seed), CAMPAIGN.replace("seed: 3", f"seed: {seed}")) as campaign:
            found.append(campaign.ask()["object"].tolist())
    assert found[0] != found[1]


def test_each_stage_done_again_returns_the_same_and_writes_nothing(campaign):
    campaign.run_round()  # the second round has something to fit
    with hold_campaign(campaign.workbench) as bench:
        number = stages.plan(bench)
        assert number == 2
        for stage in (stages.fit, stages.train, stages.propose, stages.hand_over, stages.dispatch, stages.collect):
            first = stage(bench, number)
            before = content(campaign)
            again = stage(bench, number)
            if stage is stages.dispatch:
                assert (first, again) == (3, 0)  # how many came back: all, then none that was new
            else:
                assert again == first
            assert content(campaign) == before, stage.__name__
        assert stages.collect(bench, number).complete


def test_plan_done_again_returns_the_same_round(campaign):
    with hold_campaign(campaign.workbench) as bench:
        assert stages.plan(bench) == 1
        before = content(campaign)
        assert stages.plan(bench) == 1
        assert content(campaign) == before


def test_finished_campaign_is_planned_again_without_a_trace(campaign):
    while campaign.run_round() is not None:
        pass
    before = content(campaign)
    assert campaign.run_round() is None
    changed = {name for name, rows in content(campaign).items() if rows != before[name]}
    assert changed <= {"event"}  # nothing but who held the lease


def test_every_proposal_is_stored_with_its_decision_and_reason(campaign):
    campaign.run_round()
    campaign.run_round()
    bench = campaign.workbench
    found = bench.history.rounds.proposals(bench.history.rounds.get(bench.campaign.id, 2).id)
    selected = [p for p in found if p.decision is Decision.SELECTED]
    assert sorted(p.rank for p in selected) == [1, 2, 3]
    assert len(found) > 20
    assert all(p.reason for p in found if p.decision is not Decision.SELECTED)
    assert all(p.mean is not None and p.sd is not None and p.sd >= 0 for p in selected)


def test_stage_without_the_one_before_it_says_which_to_run(campaign):
    with hold_campaign(campaign.workbench) as bench:
        number = stages.plan(bench)
        with pytest.raises(StateError, match="no fitted surrogate; run its stage `fit` first"):
            stages.train(bench, number)
        stages.fit(bench, number)
        with pytest.raises(StateError, match="no trained sampler; run its stage `train` first"):
            stages.propose(bench, number)


def test_stage_without_the_lease_is_refused(campaign):
    with pytest.raises(LeaseLostError, match="without the campaign's lease"):
        stages.plan(campaign.workbench)


def test_runner_that_was_replaced_writes_nothing_more(campaign):
    with hold_campaign(campaign.workbench) as bench:
        number = stages.plan(bench)
        bench.history.campaigns.release_lease(bench.held)
        with hold_campaign(campaign.workbench) as successor:
            before = content(campaign)
            with pytest.raises(LeaseLostError, match="taken over by another process"):
                stages.fit(bench, number)
            assert content(campaign) == before
            assert stages.fit(successor, number).kind == "none"


def test_first_round_without_labels_is_drawn_at_random_and_the_next_is_fitted(campaign):
    assert campaign.run_round().complete
    assert campaign.run_round().complete
    bench = campaign.workbench
    fits = [bench.history.rounds.fit(r.id) for r in bench.history.rounds.all(bench.campaign.id)]
    assert [(fit.kind, fit.data_count) for fit in fits] == [("none", 0), ("auto", 3)]
    first, second = (bench.history.rounds.sampler(r.id) for r in bench.history.rounds.all(bench.campaign.id))
    assert first.kind == "random"
    assert second.kind in ("gflownet", "local_search")


def test_round_that_fails_wholly_can_be_dispatched_again(tmp_path):
    assay = """\
        from pathlib import Path

        def score(objects):
            if not Path(__file__).with_name("mended").exists():
                raise OSError("the robot is\\njammed")
            return [1.0 for _ in objects]
        """
    with open_campaign(tmp_path / "campaign", assay=assay) as campaign:
        with pytest.raises(OracleError, match=r"all 3 measurements failed, .*: the robot is jammed"):
            campaign.run_round()
        bench = campaign.workbench
        record = bench.history.rounds.get(bench.campaign.id, 1)
        assert record.state is RoundState.FAILED
        assert "OSError" in record.message
        with closing(sqlite3.connect(bench.history.database.url.database)) as connection:
            numbers = connection.execute("SELECT number FROM attempt").fetchall()
        assert sorted(numbers) == [(1,)] * 3 + [(2,)] * 3 + [(3,)] * 3
        batch = batches(campaign)
        (tmp_path / "campaign" / "mended").touch()
        progress = campaign.run_round()
        assert (progress.number, progress.complete) == (1, True)
        assert batches(campaign) == batch
        assert campaign.status().evaluations == {"done": 3}


def test_a_round_goes_on_by_the_file_it_began_with(tmp_path):
    folder = tmp_path / "edited"
    with open_campaign(folder) as first:
        first.run_round()
        with hold_campaign(first.workbench) as bench:
            number = stages.plan(bench)
            stages.fit(bench, number)
            stages.train(bench, number)
    edited = CAMPAIGN.replace("maximize", "minimize").replace("size: 3", "size: 5")
    with open_campaign(folder, edited) as second:
        second.run_round()
        second.run_round()
        history = second.history()
    sizes = history.groupby("round").size().tolist()
    assert sizes == [3, 3, 5]  # the second round began with a batch of 3
    assert history.groupby("round")["config_sha256"].nunique().tolist() == [1, 1, 1]
    assert history["config_sha256"].nunique() == 2


def test_a_file_that_goes_back_to_an_earlier_text_is_the_latest_again(tmp_path):
    folder = tmp_path / "back"
    shas = []
    for size in (3, 5, 3):
        with open_campaign(folder, CAMPAIGN.replace("size: 3", f"size: {size}")) as opened:
            history, campaign = opened.workbench.history, opened.workbench.campaign
            latest = history.campaigns.config(campaign.id)
            assert latest.sha256 == opened.workbench.version.sha256
            shas.append(latest.sha256)
    assert shas[0] == shas[2] != shas[1]
