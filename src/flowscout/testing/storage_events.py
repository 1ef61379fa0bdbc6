"""What a storage guarantees of its log: in order, and never changed."""

from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from flowscout.db import MEANINGS, EventKind
from flowscout.testing.histories import HistoryFixtures, Scene, begin, measured, result


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
