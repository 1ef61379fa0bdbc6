"""What a storage guarantees of its log: in order, and never changed."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DatabaseError

from flowscout.db import MEANINGS, EventKind, History
from flowscout.db.models import Delivery, utc_now
from flowscout.testing.histories import HistoryFixtures, Scene, begin, measured, result

KINDS = {EventKind.ROUND_STARTED, EventKind.ROUND_DISPATCHED}


class EventContract(HistoryFixtures):
    """Test what is stored of events, and that facts are append-only."""

    def test_events_are_read_in_order_with_actor_and_round(self, scene: Scene) -> None:
        scene.propose(["a"], number=4)
        found = scene.history.events.read(scene.campaign.id)
        assert [event.id for event in found] == sorted(event.id for event in found)
        assert found[0].kind == EventKind.CAMPAIGN_REGISTERED
        assert found[0].actor == "test"
        assert found[-1].kind == EventKind.ROUND_DISPATCHED
        assert (found[-1].round, found[-1].actor) == (4, scene.lease.owner)
        assert found[-1].at.tzinfo is not None
        assert scene.history.events.last_id(scene.campaign.id) == found[-1].id
        assert all(event.kind in MEANINGS for event in found)

    def test_events_are_chosen_by_kind_place_and_time(self, scene: Scene) -> None:
        scene.propose(["a"])
        events, number = scene.history.events, scene.campaign.id
        everything = events.read(number)
        kinds = {EventKind.ROUND_STARTED, EventKind.ROUND_PROPOSED}
        assert [e.kind for e in events.read(number, kinds=kinds)] == ["round_started", "round_proposed"]
        assert events.read(number, after=everything[2].id) == everything[3:]
        assert events.read(number, after=everything[2].id, limit=2) == everything[3:5]
        assert events.read(number, since=everything[-1].at + timedelta(seconds=1)) == []
        assert events.read(number, since=everything[0].at) == everything

    def test_each_campaign_has_a_log_of_its_own(self, scene: Scene) -> None:
        other = begin(scene.history, name="other")
        before = scene.history.events.read(scene.campaign.id)
        other.start()
        assert scene.history.events.read(scene.campaign.id) == before
        assert [e.kind for e in scene.history.events.read(other.campaign.id)][-1] == EventKind.ROUND_STARTED

    @pytest.mark.parametrize("table", ["event", "measurement", "ledger"])
    @pytest.mark.parametrize("change", ["UPDATE {} SET campaign_id = campaign_id", "DELETE FROM {}"])
    def test_the_database_itself_refuses_to_change_what_was_written(
        self, scene: Scene, table: str, change: str
    ) -> None:
        scene.settle(result(scene.claim(scene.propose(["a"]))[0]))
        before = scene.table(table)
        assert before
        with pytest.raises(DatabaseError, match=f"{table} is append-only"), scene.history.database.write() as s:
            s.execute(text(change.format(table)))
        assert scene.table(table) == before
        scene.tell(measured("b"))

    @pytest.mark.parametrize("table", ["event", "measurement", "ledger", "campaign"])
    def test_the_database_itself_refuses_to_empty_what_was_written(self, scene: Scene, table: str) -> None:
        if scene.history.database.url.get_backend_name() == "sqlite":
            pytest.skip("SQLite has no TRUNCATE")
        scene.settle(result(scene.claim(scene.propose(["a"]))[0]))
        before = scene.table(table)
        with pytest.raises(DatabaseError, match="append-only: TRUNCATE"), scene.history.database.write() as s:
            s.execute(text(f"TRUNCATE {table} CASCADE"))
        assert scene.table(table) == before != []

    def test_a_hook_is_told_in_order_of_what_came_after_it(self, scene: Scene) -> None:
        number, deliveries = scene.campaign.id, scene.history.deliveries
        scene.start()
        deliveries.subscribe(number, ["hook"])
        assert deliveries.take(number, "hook", KINDS, lease_s=60) is None
        scene.propose(["a"], number=2)
        deliveries.subscribe(number, ["hook", "late"])
        told = []
        while (notice := deliveries.take(number, "hook", KINDS, lease_s=60)) is not None:
            told.append((notice.event.kind, notice.event.round))
            deliveries.done(notice)
        assert told == [("round_started", 2), ("round_dispatched", 2)]
        assert deliveries.take(number, "late", KINDS, lease_s=60) is None
        assert deliveries.take(number, "nobody", KINDS, lease_s=60) is None

    def test_two_processes_do_not_tell_the_same_and_a_dead_ones_notice_is_told_again(
        self, scene: Scene, reopen: Callable[[], History]
    ) -> None:
        number = scene.campaign.id
        scene.history.deliveries.subscribe(number, ["hook"])
        scene.start()
        with reopen() as second:
            lost = scene.history.deliveries.take(number, "hook", KINDS, lease_s=60)
            assert lost is not None
            assert second.deliveries.take(number, "hook", KINDS, lease_s=60) is None
            with second.database.write() as session:
                session.execute(text("UPDATE delivery SET lease_until = NULL"))  # as if it had ended
            again = second.deliveries.take(number, "hook", KINDS, lease_s=60)
            assert again is not None
            assert again.event == lost.event
            scene.history.deliveries.done(lost)  # it was not dead after all: its word does not count any more
            scene.history.deliveries.failed(lost, name="hook", error="")
            assert second.deliveries.take(number, "hook", KINDS, lease_s=60) is None
            second.deliveries.done(again)
            assert second.deliveries.take(number, "hook", KINDS, lease_s=60) is None
        assert scene.rows("SELECT lease_token FROM delivery") == [(None,)]

    def test_a_failed_notice_is_logged_and_waits_ever_longer(self, scene: Scene) -> None:
        number, deliveries = scene.campaign.id, scene.history.deliveries
        deliveries.subscribe(number, ["hook"])
        scene.start()
        for failures in (1, 2, 3):
            notice = deliveries.take(number, "hook", KINDS, lease_s=60)
            assert notice is not None
            deliveries.failed(notice, name="mail", error="no answer")
            assert deliveries.take(number, "hook", KINDS, lease_s=60) is None
            event = scene.history.events.read(number, kinds=[EventKind.NOTICE_FAILED])[-1]
            said = {"hook": "mail", "event": notice.event.id, "failures": failures, "error": "no answer"}
            assert event.detail == said
            with scene.history.database.write() as session:
                until, now = session.execute(select(Delivery.not_before, utc_now())).one()
                assert 0 < (until - now).total_seconds() <= 30 * 2 ** (failures - 1)
                session.execute(text("UPDATE delivery SET not_before = NULL"))
