"""Training is handed over once a round, and no GPU that dies or comes late keeps a round from its end."""

import subprocess
import sys
from dataclasses import replace
from unittest import mock

import pytest

from flowscout import Campaign
from flowscout.db import EventKind, RoundState, this_owner
from flowscout.errors import LeaseLostError
from flowscout.loop import gates, stages
from flowscout.loop.handing_over import hand_over, link, needs_training, wants_gpu
from flowscout.loop.workbench import hold_campaign

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
surrogate: {type: linear}
proposer: {type: gflownet, steps: 3}
batch: {size: 3}
budget: {rounds: 3}
"""


def open_campaign(folder, text=CAMPAIGN):
    (folder / "c.yaml").write_text(text)
    (folder / "told.csv").write_text(
        "object,y\n" + "".join(f"{o},{o.count('A')}\n" for o in ("AAAA", "ACGT", "CCCC"))
    )
    opened = Campaign.from_yaml(folder / "c.yaml")
    opened.tell(folder / "told.csv", source="before")
    return opened


@pytest.fixture
def campaign(tmp_path):
    with open_campaign(tmp_path) as opened:
        yield opened


def fitted(bench):
    """Plan and fit the next round, and return its number."""
    number = stages.plan(bench)
    stages.fit(bench, number)
    return number


def test_gpu_is_wanted_once_for_a_round_that_is_fitted(campaign):
    with hold_campaign(campaign.workbench) as bench, mock.patch("torch.cuda.is_available", return_value=False):
        number = stages.plan(bench)
        assert not wants_gpu(bench, number)
        stages.fit(bench, number)
        assert wants_gpu(bench, number)
        hand_over(bench, number)
        assert not wants_gpu(bench, number)  # what came back without a sampler is trained by whoever is next


def test_gpu_of_this_machine_is_used_itself(campaign):
    with hold_campaign(campaign.workbench) as bench, mock.patch("torch.cuda.is_available", return_value=True):
        assert not wants_gpu(bench, fitted(bench))


@pytest.mark.parametrize(
    "change",
    [
        ("steps: 3}", "steps: 3}\ndevice: cpu"),
        ("{type: gflownet, steps: 3}", "{type: local_search}"),
        ("{type: gflownet, steps: 3}", "{type: mixture, shares: {genetic: 0.5, local_search: 0.5}}"),
    ],
)
def test_what_no_gpu_makes_faster_stays_here(tmp_path, change):
    with (
        open_campaign(tmp_path, CAMPAIGN.replace(*change)) as campaign,
        hold_campaign(campaign.workbench) as bench,
    ):
        assert not wants_gpu(bench, fitted(bench))


def test_hand_over_that_nobody_takes_up_is_waited_for_and_then_trained_here(campaign, monkeypatch):
    with hold_campaign(campaign.workbench) as bench:
        number = fitted(bench)
        hand_over(bench, number)
        assert gates.look(bench).kind == "training"
        monkeypatch.setattr(gates, "HANDED_OVER_S", 0.0)
        assert (gates.look(bench).open, gates.look(bench).kind) == (True, "running")
        stages.train(bench, number)
        assert not needs_training(bench, number)  # so that who comes late trains nothing


def test_worker_killed_while_it_trained_is_not_waited_for(campaign):
    bench = campaign.workbench
    with hold_campaign(bench) as held:
        number = fitted(held)
        hand_over(held, number)
    code = "from flowscout.db import this_owner; print(this_owner())"
    gone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    bench.history.campaigns.acquire_lease(bench.campaign.id, owner=gone)
    link(bench, number, flow="train-sampler", run_id="run-1", stage="train")
    with hold_campaign(bench) as held:  # at once: its process is gone
        assert gates.look(held).kind == "running"
        stages.train(held, number)
        stages.propose(held, number)


def test_trainer_that_comes_late_changes_nothing(campaign, monkeypatch):
    bench = campaign.workbench
    stale = bench.history.campaigns.acquire_lease(bench.campaign.id, owner="another/host|7|9")
    late = replace(bench, lease=stale)
    number = fitted(late)
    monkeypatch.setattr("flowscout.db.campaigns.owners.is_dead", lambda owner: owner == "another/host|7|9")
    with hold_campaign(bench) as held:  # the first one stood still: this one takes over
        real = stages.train_sampler

        def train_meanwhile(*arguments):
            found = real(*arguments)
            monkeypatch.setattr(stages, "train_sampler", real)
            stages.train(held, number)
            return found

        monkeypatch.setattr(stages, "train_sampler", train_meanwhile)
        with pytest.raises(LeaseLostError):
            stages.train(late, number)
        record = bench.history.rounds.get(bench.campaign.id, number)
        kept = bench.history.rounds.sampler(record.id)
        stages.propose(held, number)
    assert bench.history.rounds.sampler(record.id) == kept
    assert bench.history.rounds.get(bench.campaign.id, number).state is RoundState.PROPOSED


def test_run_is_linked_with_its_round_or_with_the_campaign(campaign):
    with hold_campaign(campaign.workbench) as bench:
        number = stages.plan(bench)
        link(bench, number, flow="discovery-round", run_id="run-1", stage="round")
    link(bench, None, flow="campaign-until-done", run_id="run-2", stage="rounds")
    link(bench, number, flow="discovery-round", run_id=None, stage="round")  # no run of Prefect: nothing to say
    kept = bench.history.events.read(bench.campaign.id, kinds=[EventKind.FLOW_RUN])
    assert [(one.round, one.detail["run_id"], one.actor) for one in kept] == [
        (number, "run-1", this_owner()),
        (None, "run-2", this_owner()),
    ]
