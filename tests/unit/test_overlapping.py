"""Rounds that overlap: results come late and in any order, and nothing is proposed twice."""

import random
from dataclasses import replace

import pandas as pd
import pytest
from sqlalchemy import text

from flowscout import Campaign
from flowscout.db import Decision, FailureClass, Lease, Outcome, RoundState, ScheduleRecord, rounds
from flowscout.errors import LeaseLostError, OracleError
from flowscout.loop import stages
from flowscout.loop.workbench import hold_campaign

CAMPAIGN = """\
campaign: binders
seed: 5
space: {type: sequence, alphabet: dna, length: 3}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab, cost_usd: 1}
surrogate: {type: linear}
proposer: {type: local_search, evaluations: 200}
batch: {size: 4}
budget: {rounds: 5, cost: 20}
device: cpu
"""


@pytest.fixture
def campaign(tmp_path):
    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        yield found


def begin(found: Campaign) -> int:
    with hold_campaign(found.workbench) as bench:
        number = stages.plan(bench, ahead=True)
        assert number is not None
        for stage in (stages.fit, stages.train, stages.propose, stages.hand_over):
            stage(bench, number)
    return number


def batch_of(found: Campaign, number: int) -> list[str]:
    bench = found.workbench
    record = bench.history.rounds.get(bench.campaign.id, number)
    return [one.object for one in bench.history.rounds.proposals(record.id, selected=True)]


def tell(found: Campaign, *objects: str) -> None:
    found.tell(pd.DataFrame({"object": objects, "y": [float(o.count("A")) - o.count("C") / 8 for o in objects]}))


def states(found: Campaign) -> list[str]:
    return [str(row.state) for row in found.status().rounds]


def test_each_result_completes_its_own_round_whenever_it_comes(campaign):
    batches = [batch_of(campaign, begin(campaign)) for _ in range(3)]
    assert states(campaign) == ["dispatched"] * 3
    tell(campaign, *batches[2][:2], *batches[0][:3])
    assert states(campaign) == ["dispatched"] * 3
    tell(campaign, *batches[1])
    assert states(campaign) == ["dispatched", "complete", "dispatched"]
    assert sorted(campaign.ask()["object"]) == sorted([batches[0][3], *batches[2][2:]])
    tell(campaign, *batches[2][2:])
    assert states(campaign) == ["dispatched", "complete", "complete"]
    tell(campaign, batches[0][3])
    assert states(campaign) == ["complete"] * 3


def test_nothing_is_proposed_twice_and_every_round_can_be_computed_again(campaign):
    generator, waiting = random.Random(1), []
    for number in range(1, 6):
        assert begin(campaign) == number
        waiting += batch_of(campaign, number)
        if number == 3:
            gone = waiting.pop()
            [heir] = campaign.veto([gone], reason="cannot be made")["replacement"]
            waiting.append(heir)
        generator.shuffle(waiting)
        late, waiting = waiting[:3], waiting[3:]
        tell(campaign, *late)
    tell(campaign, *waiting)
    assert states(campaign) == ["complete"] * 5
    bench = campaign.workbench
    records = bench.history.rounds.all(bench.campaign.id)
    taken = [
        one.object
        for record in records
        for one in bench.history.rounds.proposals(record.id)
        if one.rank is not None  # selected, or vetoed in its place
    ]
    assert len(taken) == len(set(taken)) == 21
    assert len(campaign.history()) == len(set(campaign.history()["object"])) == 20
    later = bench.history.rounds.sampler(records[2].id)
    assert later is not None
    assert later.reward["pending"]  # the third was chosen with others awaited
    for number in (2, 3, 5):
        assert campaign.replay(number).differences == ()
    assert campaign.budget().spent_minor == 2_000


def test_as_of_a_round_late_results_of_earlier_ones_are_not_known(campaign):
    batches = [batch_of(campaign, begin(campaign)) for _ in range(2)]
    tell(campaign, *batches[1])
    third = begin(campaign)
    tell(campaign, *batches[0])
    assert set(campaign.history(as_of=f"round {third}")["object"]) == set(batches[1])
    assert set(campaign.history()["object"]) == {*batches[0], *batches[1]}


def test_no_round_starts_beside_one_that_is_not_handed_out(campaign):
    with hold_campaign(campaign.workbench) as bench:
        assert stages.plan(bench, ahead=True) == 1
        assert stages.plan(bench, ahead=True) == 1
        stages.fit(bench, 1)
        assert stages.plan(bench, ahead=True) == 1
    begin(campaign)
    assert begin(campaign) == 2
    with hold_campaign(campaign.workbench) as bench:
        assert stages.plan(bench) == 1  # not ahead: the first is waited for


def test_a_place_that_a_veto_gives_on_meanwhile_is_not_proposed_too(campaign, monkeypatch):
    first = batch_of(campaign, begin(campaign))
    tell(campaign, *first[1:])
    propose_batch, heirs = stages.propose_batch, []

    def while_a_person_vetoes(bench, record, *rest, **named):
        found = propose_batch(bench, record, *rest, **named)
        if heirs:
            return found
        # The heir is what was just picked: the first round considered it as well.
        pool = bench.history.rounds.proposals(bench.history.rounds.get(bench.campaign.id, 1).id)
        others = {one.key for one in pool if one.decision is Decision.OUTRANKED}
        picked = [one for one in found if one.decision is Decision.SELECTED and one.key in others]
        assert picked
        with bench.history.database.write() as session:
            for one in pool:
                if one.decision is Decision.OUTRANKED and one.key != picked[0].key:
                    session.execute(
                        text("UPDATE proposal SET decision = 'diversity' WHERE candidate_id = :id"),
                        {"id": one.candidate_id},
                    )
        heirs.extend(campaign.veto([first[0]], reason="cannot be made")["replacement"])
        assert heirs == [picked[0].object]
        return found

    monkeypatch.setattr(stages, "propose_batch", while_a_person_vetoes)
    second = batch_of(campaign, begin(campaign))
    assert heirs[0] not in second
    assert len(second) == 4
    assert batch_of(campaign, 1)[0] == heirs[0]


def test_a_round_whose_measurements_all_failed_holds_up_no_other(tmp_path):
    (tmp_path / "assay.py").write_text("def score(objects): raise ValueError('no reagent')\n")
    text = CAMPAIGN.replace("{type: lab, cost_usd: 1}", "assay:score")
    (tmp_path / "c.yaml").write_text(text)
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        number = begin(found)
        bench = found.workbench
        claims = bench.history.experiments.claim_any(bench.campaign.id, owner="elsewhere|boot|1|1")
        assert begin(found) == 2  # the first waits for a worker
        failed = [Outcome(claim, failure=FailureClass.PERMANENT, message="no reagent") for claim in claims]
        bench.history.experiments.settle(failed, actor="oracle:assay")
        with hold_campaign(bench) as held:
            assert stages.plan(held, ahead=True) == 1  # the first is to be completed
            with pytest.raises(OracleError, match="all 4 measurements failed"):
                stages.complete(held)
            assert bench.history.rounds.get(bench.campaign.id, number).state is RoundState.FAILED
            assert stages.plan(held, ahead=True) == 2  # what can be called comes before what failed


def test_nothing_is_paid_for_a_batch_whose_hand_over_was_broken_off(campaign, monkeypatch):
    def broken_off(*_, **__):
        raise RuntimeError("the process was killed")

    with hold_campaign(campaign.workbench) as bench:
        number = stages.plan(bench)
        for stage in (stages.fit, stages.train, stages.propose):
            stage(bench, number)
        with monkeypatch.context() as broken:
            broken.setattr(rounds, "advance_round", broken_off)
            with pytest.raises(RuntimeError):
                stages.hand_over(bench, number)
        assert campaign.budget().reserved_minor == 0  # it may be made to wait for approval before it goes on
        wanted = ScheduleRecord(bench.campaign.id, interval_s=60.0, approve=True)
        bench.history.schedules.set(wanted, actor="ann")
        stages.hand_over(bench, number)
    assert states(campaign) == ["awaiting_approval"]
    assert campaign.budget().reserved_minor == 0
    campaign.approve()
    assert campaign.budget().reserved_minor == 400


def test_a_runner_that_was_taken_over_queues_nothing_again(tmp_path):
    (tmp_path / "assay.py").write_text("def score(objects): raise ValueError('no reagent')\n")
    (tmp_path / "c.yaml").write_text(CAMPAIGN.replace("{type: lab, cost_usd: 1}", "assay:score"))
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        with pytest.raises(OracleError):
            found.run_round()
        bench = found.workbench
        lost = Lease(bench.campaign.id, "a token of before", "another/host|7|9", 60.0)
        with hold_campaign(bench), pytest.raises(LeaseLostError):
            stages.hand_over(replace(bench, lease=lost), 1)
        assert found.status().evaluations == {"failed": 4}
