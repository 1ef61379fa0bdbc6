"""The sweep calls a run dead only where the history knows that nobody living has it."""

import subprocess
import sys

import pytest
from sqlalchemy import text

from flowscout import Campaign
from flowscout.db import EventKind, ScheduleRecord, this_owner
from flowscout.db.timings import SILENT_S, STARTING_S, SWEEP_TIMEOUT_S
from flowscout.errors import OracleError
from flowscout.loop import due, handing_over
from flowscout.loop.due import announce_due
from flowscout.loop.gates import look
from flowscout.loop.sweeping import Run, campaign_of, is_coming, is_stuck, rests, starters, why_dead
from flowscout.loop.workbench import hold_campaign

CAMPAIGN = """\
campaign: binders
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
proposer: {type: random}
batch: {size: 3}
budget: {rounds: 3}
"""
ELSEWHERE = "another/host|7|9"


@pytest.fixture
def campaign(tmp_path):
    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    with Campaign.from_yaml(tmp_path / "c.yaml") as opened:
        yield opened


def run_of(campaign, *, age_s=0.0, flow="discovery-round"):
    return Run("run-1", flow, campaign.workbench.campaign.uuid, "deployment-1", age_s)


def link(campaign, owner):
    detail = {"flow": "discovery-round", "run_id": "run-1", "stage": "round"}
    bench = campaign.workbench
    bench.history.events.add(bench.campaign.id, EventKind.FLOW_RUN, actor=owner, detail=detail)


def judge(campaign, **about):
    bench = campaign.workbench
    return why_dead(bench.history, bench.campaign, run_of(campaign, **about))


def dead_owner():
    """Return the owner text of a process of this machine that has ended."""
    code = "from flowscout.db import this_owner; print(this_owner())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def expire(campaign, seconds_ago):
    """Let the lease of the campaign be over since so long."""
    with campaign.workbench.history.database.write() as session:
        moved = (
            f"UPDATE campaign SET lease_until = strftime('%Y-%m-%d %H:%M:%f000', 'now', '-{seconds_ago} seconds')"
        )
        session.execute(text(moved))


def test_run_of_a_process_that_is_gone_is_dead_at_once(campaign):
    link(campaign, dead_owner())
    assert judge(campaign, age_s=1.0) == "its process is gone"


def test_run_of_a_living_process_of_this_machine_is_never_dead(campaign):
    link(campaign, this_owner())
    bench = campaign.workbench
    lease = bench.history.campaigns.acquire_lease(bench.campaign.id, owner=this_owner())
    assert judge(campaign, age_s=1e9) is None
    expire(campaign, 10 * int(SILENT_S))  # it stood still, or a clock jumped: it lives all the same
    assert judge(campaign, age_s=1e9) is None
    bench.history.campaigns.release_lease(lease)
    assert judge(campaign, age_s=1e9) is None


def test_run_elsewhere_is_dead_once_it_has_not_renewed_its_lease_for_long(campaign):
    link(campaign, ELSEWHERE)
    bench = campaign.workbench
    bench.history.campaigns.acquire_lease(bench.campaign.id, owner=ELSEWHERE)
    assert judge(campaign, age_s=1e9) is None  # it holds the campaign
    expire(campaign, int(SILENT_S) - 60)
    assert judge(campaign, age_s=1e9) is None
    expire(campaign, int(SILENT_S) + 60)
    assert "has not renewed its lease for 66" in judge(campaign, age_s=1e9)


def test_run_elsewhere_that_gave_its_lease_back_is_never_dead(campaign):
    link(campaign, ELSEWHERE)
    bench = campaign.workbench
    bench.history.campaigns.release_lease(
        bench.history.campaigns.acquire_lease(bench.campaign.id, owner=ELSEWHERE)
    )
    assert judge(campaign, age_s=1e9) is None  # it may be about to say that it is complete


def test_run_elsewhere_whose_campaign_was_taken_over_is_dead(campaign):
    link(campaign, ELSEWHERE)
    bench = campaign.workbench
    bench.history.campaigns.acquire_lease(bench.campaign.id, owner=ELSEWHERE)
    expire(campaign, 1)
    with hold_campaign(bench):
        assert judge(campaign, age_s=SILENT_S - 1) is None
        assert judge(campaign, age_s=SILENT_S + 1) == "another process has taken its campaign over"


def test_run_that_took_up_no_round_is_dead_when_it_is_old_and_nobody_holds_the_campaign(campaign):
    assert judge(campaign, age_s=SILENT_S - 1) is None
    with hold_campaign(campaign.workbench):
        assert judge(campaign, age_s=1e9) is None  # it may be the one that holds it
    assert judge(campaign, age_s=SILENT_S + 1) == f"it took up no round in {SILENT_S + 1:.0f} s"


def test_run_of_a_campaign_that_is_not_here_is_nobodys_business(campaign):
    history = campaign.workbench.history
    strange = Run("run-2", "discovery-round", "of-another-group", None, 1e9)
    assert campaign_of(history, strange) is None
    assert why_dead(history, None, strange) is None


def test_only_an_old_sweep_is_dead(campaign):
    history = campaign.workbench.history
    assert SWEEP_TIMEOUT_S < SILENT_S
    assert why_dead(history, None, Run("run-2", "takeover", None, None, SILENT_S - 1)) is None
    assert why_dead(history, None, Run("run-2", "takeover", None, None, SILENT_S + 1)) is not None


def test_campaign_is_started_by_its_schedule_else_by_what_started_the_dead_run(campaign):
    bench, history = campaign.workbench, campaign.workbench.history
    marked = [("binders", "of-the-dead"), ("others", "x"), (None, "y"), ("binders", None)]
    assert starters(history, ["binders"], marked) == {"binders": "of-the-dead"}
    record = ScheduleRecord(bench.campaign.id, cron="0 8 * * MON", deployment_id="scheduled")
    history.schedules.set(record, actor="ada")
    assert starters(history, ["binders"], marked) == {"binders": "scheduled"}
    assert starters(history, [], marked) == {}


def test_run_that_has_just_begun_is_coming(campaign):
    history = campaign.workbench.history
    assert is_coming(history, "binders", [run_of(campaign, age_s=1.0)])
    assert not is_coming(history, "binders", [run_of(campaign, age_s=STARTING_S)])
    assert not is_coming(history, "binders", [run_of(campaign, flow="train-sampler")])
    assert not is_coming(history, "others", [run_of(campaign)])


def test_round_is_stuck_where_it_has_work_to_do_and_nobody_living_is_on_it(campaign):
    from flowscout.loop import stages

    bench = campaign.workbench
    assert not is_stuck(bench)  # none has begun: when one does is decided by others
    with hold_campaign(bench) as held:
        stages.plan(held)
        assert not is_stuck(bench)
    assert is_stuck(bench)
    bench.history.campaigns.acquire_lease(bench.campaign.id, owner=dead_owner())
    assert is_stuck(bench)


def test_round_that_fails_whenever_it_is_started_is_started_ever_later(campaign, monkeypatch):
    from flowscout.db.gauges import Gauges
    from flowscout.loop import stages

    bench, ago_s = campaign.workbench, [0.0]
    assert not rests(bench)
    with hold_campaign(bench) as held:
        number = stages.plan(held)
    record = bench.history.rounds.get(bench.campaign.id, number)
    runs = bench.history.gauges.runs
    assert runs(bench.campaign.id, record.id) == (0, 0.0)
    monkeypatch.setattr(Gauges, "runs", lambda *_: (count, ago_s[0]))
    for count, wait_s in ((0, 0), (1, 0), (2, 0), (3, 60), (4, 120), (8, 1920), (9, 3600), (10_000, 3600)):
        ago_s[0] = wait_s - 1.0
        assert rests(bench) == (wait_s > 0), count
        ago_s[0] = wait_s + 1.0
        assert not rests(bench), count
    for n in range(3):
        handing_over.link(bench, number, flow="discovery-round", run_id=f"run-{n}", stage="round")
    count, since_s = runs(bench.campaign.id, record.id)
    assert count == 3
    assert 0 <= since_s < 60


def test_round_whose_measurements_all_failed_is_tried_again_by_the_schedule_and_not_at_once(tmp_path, monkeypatch):
    (tmp_path / "assay.py").write_text("def score(objects): raise ValueError('no reagent')\n")
    (tmp_path / "c.yaml").write_text(CAMPAIGN.replace("{type: lab}", "assay:score"))
    started = []
    monkeypatch.setattr(due, "is_coming", lambda *_, **__: False)
    monkeypatch.setattr(due, "post", lambda _server, events: started.extend(events))
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        bench = found.workbench
        wanted = ScheduleRecord(bench.campaign.id, cron="0 8 * * MON", deployment_id="deployment-1")
        bench.history.schedules.set(wanted, actor="ann")
        with pytest.raises(OracleError, match="all 3 measurements failed"):
            found.run_round()
        assert look(bench).open  # whoever comes at the time of the schedule tries again
        assert not is_stuck(bench)  # else the sweep would call the oracle every minute, for ever
        assert not announce_due(bench)  # and a worker whenever it has called it in vain
        batch = [row.object for row in bench.history.rounds.proposals(1, selected=True)]
        found.tell([{"object": one, "y": 1.0} for one in batch])
        assert is_stuck(bench)  # there is nothing to be tried any more: it is to be completed
        assert started
