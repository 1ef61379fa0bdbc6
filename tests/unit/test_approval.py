"""Approval in a campaign: a batch waits for a person, who gets exactly what was shown."""

import json
import threading
import time

import pandas as pd
import pytest

from flowscout import Campaign
from flowscout.cli import run
from flowscout.db import CampaignState, ScheduleRecord
from flowscout.errors import CampaignBusyError, ConfigError, StateError
from flowscout.loop import campaign_gates, stages
from flowscout.loop.gates import look
from flowscout.loop.workbench import hold_campaign
from flowscout.loop.working import work

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 3}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab, cost_usd: 10}
surrogate: {type: linear}
proposer: {type: local_search, evaluations: 200}
batch: {size: 3}
budget: {rounds: 8, cost: 300}
approve: true
device: cpu
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    return tmp_path / "c.yaml"


@pytest.fixture
def campaign(path):
    with Campaign.from_yaml(path) as found:
        yield found


def propose(found):
    """Bring the next round to where its batch waits for approval."""
    with pytest.raises(StateError, match=r"batch of round \d+ waits for approval"):
        found.ask()
    waiting = found.awaiting()
    assert waiting is not None
    return waiting


def tell(found, batch):
    found.tell(pd.DataFrame({"object": batch["object"], "y": [float(o.count("A")) for o in batch["object"]]}))


def test_a_batch_is_handed_out_when_it_is_approved_and_not_before(campaign, tmp_path):
    assert campaign.awaiting() is None
    waiting = propose(campaign)
    assert (waiting.round, waiting.why) == (1, "the campaign file has every batch approved")
    assert waiting.batch["rank"].tolist() == [1, 2, 3]
    assert look(campaign.workbench).kind == "approval"
    assert campaign.budget().reserved_minor == 0
    with pytest.raises(StateError, match="awaits no measurement"):
        campaign.export_plate(tmp_path / "plate.csv")
    assert propose(campaign).code == waiting.code  # asking again changes nothing
    approved = campaign.approve(seen=waiting.code, actor="ann")
    assert approved["object"].tolist() == waiting.batch["object"].tolist()
    assert campaign.awaiting() is None
    assert campaign.budget().reserved_minor == 3_000
    assert campaign.ask()["object"].tolist() == waiting.batch["object"].tolist()
    assert campaign.approve(1)["object"].tolist() == waiting.batch["object"].tolist()  # again
    assert campaign.budget().reserved_minor == 3_000
    tell(campaign, waiting.batch)
    assert propose(campaign).round == 2


def test_a_veto_before_the_approval_refills_and_one_after_it_does_not(campaign):
    tell(campaign, campaign.approve(seen=propose(campaign).code))
    waiting = propose(campaign)
    first, second, third = waiting.batch["object"]
    [heir] = campaign.veto([first], reason="toxic")["replacement"]
    with pytest.raises(StateError, match="it was changed since"):
        campaign.approve(seen=waiting.code)
    again = campaign.awaiting()
    assert again.batch["object"].tolist() == [heir, second, third]
    campaign.approve(seen=again.code)
    assert campaign.veto([second], reason="no stock")["replacement"].tolist() == [None]
    assert campaign.ask()["object"].tolist() == [heir, third]
    assert campaign.budget().reserved_minor == 2_000


def test_a_value_told_before_the_approval_is_taken(campaign):
    waiting = propose(campaign)
    tell(campaign, waiting.batch[:1])
    approved = campaign.approve()
    assert len(approved) == 3
    assert campaign.ask()["object"].tolist() == waiting.batch["object"].tolist()[1:]
    assert campaign.budget().reserved_minor == 2_000


def test_a_batch_of_which_nothing_is_left_is_over_when_it_is_approved(campaign):
    waiting = propose(campaign)
    campaign.cancel(waiting.batch["object"].tolist(), reason="no stock")
    assert len(campaign.approve()) == 0
    assert [row.state for row in campaign.status().rounds] == ["complete"]


def test_no_other_round_is_approved(campaign):
    with pytest.raises(StateError, match="no batch of campaign 'binders' waits for approval"):
        campaign.approve()
    waiting = propose(campaign)
    campaign.approve(waiting.round)
    with pytest.raises(StateError, match="no batch"):
        campaign.approve()


def test_an_approval_waits_for_whoever_holds_the_campaign_for_a_moment(campaign, path, monkeypatch):
    propose(campaign)
    held, done = threading.Event(), []

    def hold():
        with Campaign.from_yaml(path) as other, hold_campaign(other.workbench):
            held.set()
            time.sleep(0.5)
            done.append(time.monotonic())

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    campaign.approve()
    assert done
    holder.join()
    monkeypatch.setattr(campaign_gates, "BUSY_S", 0.3)
    tell(campaign, campaign.ask())
    propose(campaign)
    with hold_campaign(campaign.workbench), pytest.raises(CampaignBusyError):
        campaign.approve()


def test_workers_and_runners_call_nothing_of_a_batch_that_waits(tmp_path):
    (tmp_path / "assay.py").write_text("def score(objects): return [1.0 for o in objects]\n")
    (tmp_path / "c.yaml").write_text(CAMPAIGN.replace("{type: lab, cost_usd: 10}", "assay:score"))
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        progress = found.run_round()
        assert (progress.complete, progress.waiting, progress.state) == (False, 3, "awaiting_approval")
        assert work(found.workbench, once=True).calls == 0
        assert found.run_round() == progress
        found.approve()
        assert look(found.workbench).kind == "running"
        assert work(found.workbench, once=True).calls == 3
        assert [row.state for row in found.status().rounds] == ["complete"]


def test_a_schedule_may_want_every_batch_approved(tmp_path):
    (tmp_path / "c.yaml").write_text(CAMPAIGN.replace("approve: true\n", ""))
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        record = ScheduleRecord(found.workbench.campaign.id, interval_s=60.0, approve=True)
        found.workbench.history.schedules.set(record, actor="ann")
        assert propose(found).why == "the schedule has every batch approved"


def test_a_finished_campaign_that_is_still_scheduled_says_how_that_ends(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(CAMPAIGN)
    with Campaign.from_yaml(path) as found:
        history, number = found.workbench.history, found.workbench.campaign.id
        history.schedules.set(ScheduleRecord(number, interval_s=60.0), actor="ann")
        run(["status", str(path)])
        assert "unschedule" not in capsys.readouterr().out
        history.campaigns.set_state(number, CampaignState.FINISHED, actor="ann", before=CampaignState.ACTIVE)
        run(["status", str(path)])
        assert "flowscout unschedule" in capsys.readouterr().out


@pytest.mark.parametrize("health", ["warn", "hold"])
def test_a_batch_of_an_unhealthy_sampler_or_surrogate_is_held(tmp_path, monkeypatch, health):
    text = CAMPAIGN.replace("approve: true", f"health: {health}")
    (tmp_path / "c.yaml").write_text(text)
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        for why in ("too sure of itself", "the sampler failed its health check"):
            batch = found.ask()  # nothing is wrong without a fit
            tell(found, batch)
            unhealthy(monkeypatch, why)
            if health == "warn":
                tell(found, found.ask())
            else:
                waiting = propose(found)
                assert why in waiting.why
                tell(found, found.approve(seen=waiting.code))
            monkeypatch.undo()


def unhealthy(monkeypatch, why):
    """Let the next fit, or the next sampler, fail its health check."""
    from dataclasses import replace

    if why.startswith("too sure"):
        fit, bad = stages.fit_surrogate, {"pooled_coverage90": 0.4, "pooled_rounds": 4.0}
        monkeypatch.setattr(
            stages,
            "fit_surrogate",
            lambda *a: (found := fit(*a)) and replace(found, diagnostics={**found.diagnostics, **bad}),
        )
        return
    train = stages.train_sampler
    monkeypatch.setattr(
        stages,
        "train_sampler",
        lambda *a: (run := train(*a)) and replace(run, diagnostics={**run.diagnostics, "fallback": True}),
    )


def test_a_batch_is_approved_from_a_machine_without_the_file(campaign, path, capsys, tmp_path, monkeypatch):
    waiting = propose(campaign)
    url = str(campaign.workbench.history.database.location)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path.unlink()
    there = ["--campaign", "binders", "--db", url]
    assert run(["approve", *there, "--show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["round"], shown["code"]) == (1, waiting.code)
    assert [row["object"] for row in shown["batch"]] == waiting.batch["object"].tolist()
    gone = shown["batch"][0]["object"]
    assert run(["veto", gone, *there, "--reason", "toxic", "--json"]) == 0
    [vetoed] = json.loads(capsys.readouterr().out)
    assert run(["approve", *there, "--batch", shown["code"]]) == 1
    assert "it was changed since" in capsys.readouterr().err
    assert run(["approve", *there, "--actor", "ann", "--json"]) == 0
    approved = json.loads(capsys.readouterr().out)
    assert approved["batch"][0]["object"] == vetoed["replacement"]
    assert campaign.events(kind="batch_approved")["actor"].tolist() == ["ann"]
    assert run(["pause", *there]) == 0
    assert "binders: paused" in capsys.readouterr().out
    assert run(["pause", *there, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"campaign": "binders", "state": "paused", "changed": False}
    assert run(["resume", *there]) == 0
    assert campaign.status().state == "active"


def test_a_person_is_shown_the_batch_and_what_holds_the_campaign_up(campaign, path, capsys):
    propose(campaign)
    assert run(["status", str(path)]) == 0
    assert "the batch of round 1 waits for approval" in capsys.readouterr().out
    assert run(["approve", str(path), "--show"]) == 0
    shown = capsys.readouterr().out
    assert "the campaign file has every batch approved" in shown.replace("\n", " ")
    assert run(["approve", str(path), "--round", "7"]) == 2
    assert "no round 7" in capsys.readouterr().err
    assert run(["approve", str(path), "--yes"]) == 0
    assert "3 approved" in capsys.readouterr().out
    assert run(["approve", str(path)]) == 1
    assert "no batch of campaign 'binders' waits" in capsys.readouterr().err
    assert run(["approve"]) == 2
    assert run(["veto", str(path), "--reason", "why"]) == 2
    assert "no object came" in capsys.readouterr().err


def test_a_catalogue_need_not_be_where_a_batch_is_vetoed_and_approved(tmp_path):
    rows = "\n".join(f"c{number},{number},{number % 3}" for number in range(20))
    (tmp_path / "list.csv").write_text(f"name,a,b\n{rows}\n")
    space = "{type: catalogue, path: list.csv}"
    text = CAMPAIGN.replace("{type: sequence, alphabet: dna, length: 3}", space)
    text = text.replace("surrogate: {type: linear}\n", "").replace(
        "{type: local_search, evaluations: 200}", "{type: random}"
    )
    (tmp_path / "c.yaml").write_text(text)
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        waiting = propose(found)
        url = str(found.workbench.history.database.location)
    (tmp_path / "list.csv").unlink()
    with Campaign.open(url, "binders") as found:
        gone = waiting.batch["object"][0]
        [heir] = found.veto([gone], reason="sold out")["replacement"]
        assert found.approve(seen=found.awaiting().code)["object"][0] == heir
        with pytest.raises((ConfigError, StateError)):
            found.ask()
