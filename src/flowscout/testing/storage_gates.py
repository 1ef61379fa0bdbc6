"""What a storage guarantees of batches that wait for approval, and of the figures by which gates open."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text, update

from flowscout.db import CampaignState, EventKind, History, RoundRecord, RoundState, VetoRecord, this_owner
from flowscout.db.models import Event, Round
from flowscout.errors import LeaseLostError, StateError
from flowscout.testing.histories import (
    FOREIGN_OWNER,
    ORACLE,
    PROPERTY,
    HistoryFixtures,
    Scene,
    measured,
    proposal,
    result,
)

BENCH = replace(ORACLE, idempotent=False)
TABLES = ("approval", "evaluation", "event", "ledger", "balance", "proposal", "round")


def await_approval(scene: Scene, number: int = 1, *, pool: tuple[str, ...] = ("a", "b", "c", "d")) -> RoundRecord:
    """Propose the first two of a pool, each as good as it comes early, and let the batch wait for approval."""
    record = scene.train(number)
    proposals = [
        proposal(obj, place if place <= 2 else None, acquisition=10.0 - place)
        for place, obj in enumerate(pool, start=1)
    ]
    scene.history.rounds.record_proposals(scene.lease, record, proposals, sampler_run_id=None, oracle=BENCH)
    scene.history.rounds.advance(scene.lease, record, RoundState.AWAITING_APPROVAL, message="the file wants it")
    return scene.history.rounds.get(scene.campaign.id, number)


def approve(scene: Scene, record: RoundRecord, *, people: bool = True, seen: str | None = None) -> bool:
    """Approve a batch as a person does."""
    return scene.history.approvals.add(scene.lease, record, actor="ann", people=people, seen=seen)


def veto(scene: Scene, obj: str, *, history: History | None = None) -> VetoRecord:
    """Veto an object as a person does."""
    vetoes = (history or scene.history).vetoes
    [found] = vetoes.add(scene.campaign.id, {obj.upper(): obj}, reason="toxic", actor="bench")
    return found


def batch(scene: Scene, record: RoundRecord) -> list[str]:
    """Return the objects of a batch that are to be measured."""
    wanted = set(scene.history.approvals.batch(record.id).candidate_ids)
    found = scene.history.rounds.proposals(record.id, selected=True)
    return [one.object for one in found if one.candidate_id in wanted]


class GateContract(HistoryFixtures):
    """Test what is stored of approvals, of rounds that overlap, and what gates read."""

    def test_nothing_of_a_batch_that_waits_for_approval_can_be_had(self, scene: Scene) -> None:
        record = await_approval(scene)
        history, number = scene.history, scene.campaign.id
        assert scene.claim(record) == []
        assert history.experiments.claim_any(number, owner=this_owner()) == []
        assert history.experiments.versions_queued(number) == []
        assert history.answers.waiting(number, oracle=ORACLE.name) == []
        assert scene.money() == (0, 0)
        assert {row.round_state for row in history.queries.waiting(number)} == {RoundState.AWAITING_APPROVAL}
        assert history.queries.pending(number) == ["a", "b"]  # conditioned on, and never proposed again
        assert {"A", "B"} <= history.measurements.known_keys(number)

    def test_nothing_of_a_batch_that_was_not_handed_out_yet_can_be_had(self, scene: Scene) -> None:
        record = scene.propose(["a"], dispatch=False)
        assert scene.claim(record) == []
        assert scene.history.experiments.claim_any(scene.campaign.id, owner=this_owner()) == []

    def test_an_approved_batch_is_handed_out_and_kept_with_who_approved_it(self, poor_scene: Scene) -> None:
        scene = poor_scene
        record = await_approval(scene)
        seen = scene.history.approvals.batch(record.id)
        assert approve(scene, record, seen=seen.code)
        assert scene.history.rounds.get(scene.campaign.id, 1).state is RoundState.DISPATCHED
        assert scene.money() == (200, 0)
        kept = scene.history.approvals.get(record.id)
        assert kept is not None
        assert (kept.round, kept.actor) == (1, "ann")
        [event] = scene.history.events.read(scene.campaign.id, kinds={EventKind.BATCH_APPROVED})
        assert (event.actor, event.round) == ("ann", 1)
        assert event.detail == {"batch": seen.code, "candidate_ids": list(seen.candidate_ids)}
        before = [scene.table(name) for name in TABLES]
        assert not approve(scene, record)
        assert [scene.table(name) for name in TABLES] == before

    def test_what_is_called_for_is_paid_when_it_is_called(self, scene: Scene) -> None:
        record = await_approval(scene)
        approve(scene, record, people=False)
        assert scene.money() == (0, 0)
        assert [claim.object for claim in scene.claim(record)] == ["a", "b"]
        assert scene.money() == (200, 0)

    def test_an_approval_beyond_the_budget_cancels_the_rest(self, poor_scene: Scene) -> None:
        record = await_approval(poor_scene)
        with poor_scene.history.database.write() as session:
            session.execute(text("UPDATE balance SET limit_minor = 150"))
        approve(poor_scene, record)
        assert poor_scene.states() == ["queued", "cancelled"]
        assert poor_scene.money() == (100, 0)

    def test_a_batch_that_changed_since_it_was_seen_is_not_approved(self, scene: Scene) -> None:
        record = await_approval(scene)
        seen = scene.history.approvals.batch(record.id).code
        assert veto(scene, "a").replacement == "c"
        assert batch(scene, record) == ["c", "b"]
        before = [scene.table(name) for name in TABLES]
        with pytest.raises(StateError, match=rf"expected {seen}, the one that was looked at"):
            approve(scene, record, seen=seen)
        assert [scene.table(name) for name in TABLES] == before
        now = scene.history.approvals.batch(record.id).code
        scene.history.experiments.cancel(scene.campaign.id, {"B": "b"}, reason="no stock", actor="bench")
        with pytest.raises(StateError, match=rf"expected {now}"):
            approve(scene, record, seen=now)
        assert approve(scene, record, seen=scene.history.approvals.batch(record.id).code)
        assert batch(scene, record) == ["c"]

    def test_after_the_approval_nobody_takes_the_place_of_what_is_vetoed(self, scene: Scene) -> None:
        record = await_approval(scene)
        approve(scene, record)
        assert veto(scene, "a") == VetoRecord("a", replacement=None, new=True)
        assert batch(scene, record) == ["b"]
        assert scene.money() == (100, 0)
        assert scene.states() == ["cancelled", "queued"]

    def test_a_round_that_does_not_wait_for_approval_is_not_approved(self, scene: Scene) -> None:
        record = scene.propose(["a"])
        with pytest.raises(StateError, match="round 1 is dispatched, expected one whose batch waits for approval"):
            approve(scene, record)
        assert scene.table("approval") == []

    def test_whoever_lost_the_campaign_approves_nothing(self, scene: Scene) -> None:
        record = await_approval(scene)
        scene.history.campaigns.release_lease(scene.lease)
        scene.history.campaigns.acquire_lease(scene.campaign.id, owner=FOREIGN_OWNER)
        with pytest.raises(LeaseLostError):
            approve(scene, record)
        assert scene.table("approval") == []

    def test_an_approval_that_breaks_off_leaves_nothing(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = await_approval(scene)
        before = [scene.table(name) for name in TABLES]

        def die(*_: object, **__: object) -> None:
            raise RuntimeError("power is gone")

        monkeypatch.setattr("flowscout.db.approvals.advance_round", die)
        with pytest.raises(RuntimeError, match="power is gone"):
            approve(scene, record)
        assert [scene.table(name) for name in TABLES] == before

    def test_a_veto_comes_before_an_approval_or_after_it(
        self, scene: Scene, reopen: Callable[[], History]
    ) -> None:
        pool = tuple("abcd")
        record = await_approval(scene, pool=pool)
        began = threading.Barrier(2)
        found: list[VetoRecord] = []

        def take_out() -> None:
            with reopen() as other:
                began.wait()
                found.append(veto(scene, "a", history=other))

        person = threading.Thread(target=take_out)
        person.start()
        began.wait()
        approve(scene, record)
        person.join()
        [event] = scene.history.events.read(scene.campaign.id, kinds={EventKind.BATCH_APPROVED})
        approved = {one.object for one in scene.history.rounds.proposals(record.id)
                    if one.candidate_id in event.detail["candidate_ids"]}  # fmt: skip
        assert set(batch(scene, record)) <= approved  # nothing is measured that was not approved
        assert approved == ({"a", "b"} if found[0].replacement is None else {"c", "b"})

    def test_rounds_under_way_are_told_in_order_and_share_nothing(self, scene: Scene) -> None:
        first = scene.propose(["a", "b"])
        second = await_approval(scene, 2, pool=("c", "d", "e"))
        under_way = scene.history.rounds.under_way(scene.campaign.id)
        assert [(one.number, one.state) for one in under_way] == [
            (1, RoundState.DISPATCHED), (2, RoundState.AWAITING_APPROVAL),
        ]  # fmt: skip
        assert scene.history.rounds.unfinished(scene.campaign.id) == first
        assert [claim.object for claim in scene.history.experiments.claim_any(1, owner=this_owner())] == ["a", "b"]
        third = scene.train(3)
        for taken in ("a", "c"):  # called, and waiting for approval
            with pytest.raises(StateError, match=f"{taken!r} the first, were given to this oracle"):
                scene.history.rounds.record_proposals(
                    scene.lease, third, [proposal(taken, 1)], sampler_run_id=None, oracle=BENCH
                )
        assert veto(scene, "c").replacement == "e"
        with pytest.raises(StateError, match="'e' the first"):
            scene.history.rounds.record_proposals(
                scene.lease, third, [proposal("e", 1)], sampler_run_id=None, oracle=BENCH
            )
        assert batch(scene, second) == ["e", "d"]

    def test_a_veto_takes_no_heir_from_another_round(self, scene: Scene) -> None:
        await_approval(scene, 1, pool=("a", "b", "c", "d"))
        scene.history.rounds.advance(
            scene.lease, scene.history.rounds.get(scene.campaign.id, 1), RoundState.DISPATCHED
        )
        scene.propose(["c"], 2)
        assert veto(scene, "a").replacement == "d"

    def test_a_campaign_moves_only_from_the_state_that_is_meant(self, scene: Scene) -> None:
        campaigns, number = scene.history.campaigns, scene.campaign.id
        why = {"rule": "target", "why": "reached"}
        assert campaigns.set_state(number, CampaignState.FINISHED, actor="run", detail=why)
        assert not campaigns.set_state(number, CampaignState.ACTIVE, actor="ann", before=CampaignState.PAUSED)
        assert campaigns.get(number).state is CampaignState.FINISHED
        assert campaigns.set_state(number, CampaignState.ACTIVE, actor="run", before=CampaignState.FINISHED)
        [finished] = scene.history.events.read(number, kinds={EventKind.CAMPAIGN_FINISHED})
        assert finished.detail == why

    def test_wanted_results_are_counted_once_since_the_latest_fit(self, scene: Scene) -> None:
        gauges, number = scene.history.gauges, scene.campaign.id
        assert gauges.results(number, PROPERTY) == 0
        scene.tell(measured("stranger"))
        record = scene.propose(["a", "b", "c"])
        claims = scene.claim(record)
        scene.settle(result(claims[0]))
        assert gauges.results(number, PROPERTY) == 1
        assert gauges.results(number, "another property") == 0
        scene.tell(measured("stranger", row_id="again"))
        scene.history.measurements.retract(number, key="A", reason="wrong plate", actor="ann")
        scene.settle(result(claims[1]))
        assert gauges.results(number, PROPERTY) == 2
        scene.train(2)
        assert gauges.results(number, PROPERTY) == 0
        scene.settle(result(claims[2]))
        assert gauges.results(number, PROPERTY) == 1

    def test_hours_are_counted_by_the_databases_clock(self, scene: Scene) -> None:
        gauges, number = scene.history.gauges, scene.campaign.id
        assert gauges.hours(number) is None
        scene.start(1)
        before = gauges.hours(number)
        time.sleep(0.05)
        after = gauges.hours(number)
        assert before is not None
        assert after is not None
        assert 0.0 <= before < after < 1.0

    def test_a_clock_that_was_ahead_and_was_put_right_holds_nothing_up_for_as_long(self, scene: Scene) -> None:
        gauges, number = scene.history.gauges, scene.campaign.id
        record = scene.train(1)
        ahead = datetime.now(UTC) + timedelta(days=365)
        with scene.history.database.write() as session:
            session.execute(update(Round).where(Round.id == record.id).values(created_at=ahead))
            handed = Event(campaign_id=number, round_id=record.id, kind="training_handed_over", actor="flow")
            handed.created_at = ahead
            session.add(handed)
        hours, ago_s = gauges.hours(number), gauges.handed_over_s(number, record.id)
        assert hours is not None
        assert hours > 24 * 364
        assert ago_s is not None
        assert ago_s > 86400 * 364
        scene.start(2)
        hours = gauges.hours(number)
        assert hours is not None
        assert 0.0 <= hours < 1.0

    def test_a_training_is_handed_over_until_it_is_taken_up(self, scene: Scene) -> None:
        gauges, events, number = scene.history.gauges, scene.history.events, scene.campaign.id
        record, other = scene.train(1), scene.train(2)
        assert gauges.handed_over_s(number, record.id) is None

        def add(kind: EventKind, **detail: str) -> None:
            events.add(number, kind, actor="flow", round_id=record.id, detail=dict(detail))

        add(EventKind.TRAINING_HANDED_OVER)
        found = gauges.handed_over_s(number, record.id)
        assert found is not None
        assert 0.0 <= found < 60.0
        assert gauges.handed_over_s(number, other.id) is None
        add(EventKind.FLOW_RUN, flow="discovery-round", run_id="1", stage="fit")
        assert gauges.handed_over_s(number, record.id) is not None
        add(EventKind.FLOW_RUN, flow="train-sampler", run_id="2", stage="train")
        assert gauges.handed_over_s(number, record.id) is None
        add(EventKind.TRAINING_HANDED_OVER)
        assert gauges.handed_over_s(number, record.id) is not None

    def test_only_complete_rounds_with_a_measurement_count(self, scene: Scene) -> None:
        rounds, gauges, number = scene.history.rounds, scene.history.gauges, scene.campaign.id
        records = [scene.propose([name], place) for place, name in enumerate("abcd", start=1)]
        for record in (records[0], records[2]):
            scene.settle(*(result(claim) for claim in scene.claim(record)))
        scene.history.experiments.cancel(number, {"B": "b"}, reason="no stock", actor="ann")
        for record in records[:3]:
            rounds.advance(scene.lease, record, RoundState.COMPLETE)
        assert gauges.measured_rounds(number, 5) == [records[2].id, records[0].id]
        assert gauges.measured_rounds(number, 1) == [records[2].id]
        assert gauges.candidates(number) == 4

    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_whether_the_best_is_new_follows_what_counts_now(self, scene: Scene, direction: str) -> None:
        sign = 1.0 if direction == "maximize" else -1.0

        def new(seq: int) -> bool | None:
            return scene.history.gauges.best_since(scene.campaign.id, PROPERTY, direction=direction, seq=seq)

        assert new(0) is None
        scene.tell(measured("a", sign * 5.0))
        scene.tell(measured("b", sign * 4.0))
        assert new(0) is True
        assert new(1) is False
        scene.tell(measured("c", sign * 5.0))  # level is not better
        assert new(1) is False
        scene.tell(measured("d", sign * 6.0))
        assert new(3) is True
        assert new(4) is False
        scene.history.measurements.retract(scene.campaign.id, key="D", reason="wrong", actor="ann")
        assert new(3) is False
