"""What a storage guarantees of schedules: one a campaign, said in the log, without secrets."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from flowscout.db import EventKind, ScheduleRecord
from flowscout.errors import ConfigError
from flowscout.testing.histories import HistoryFixtures, Scene, begin

RUN_ID = "7d8b1f9e-0000-4000-8000-000000000001"


class ScheduleContract(HistoryFixtures):
    """Test what is stored of schedules."""

    def test_a_schedule_is_stored_replaced_and_removed(self, scene: Scene) -> None:
        schedules, number = scene.history.schedules, scene.campaign.id
        assert schedules.get(number) is None
        assert not schedules.remove(number, actor="ann")
        first = ScheduleRecord(number, cron="0 8 * * MON", timezone="Europe/Zurich", gate="results >= 24")
        stored = schedules.set(first, actor="ann")
        assert (stored.cron, stored.gate, stored.timezone, stored.actor) == (
            "0 8 * * MON", "results >= 24", "Europe/Zurich", "ann",
        )  # fmt: skip
        assert stored.created_at is not None
        second = ScheduleRecord(number, interval_s=30.0, approve=True, deployment_id=RUN_ID)
        replaced = schedules.set(second, actor="bob")
        assert schedules.get(number) == replaced
        assert (replaced.cron, replaced.interval_s, replaced.approve) == (None, 30.0, True)
        assert (replaced.gate, replaced.actor, replaced.deployment_id) == (None, "bob", RUN_ID)
        assert schedules.remove(number, actor="ann")
        assert schedules.get(number) is None
        kinds = {EventKind.SCHEDULE_SET, EventKind.SCHEDULE_REMOVED}
        found = scene.history.events.read(number, kinds=kinds)
        assert [(e.kind, e.actor) for e in found] == [
            ("schedule_set", "ann"), ("schedule_set", "bob"), ("schedule_removed", "ann"),
        ]  # fmt: skip
        assert found[0].detail["gate"] == "results >= 24"

    def test_every_campaign_has_one_of_its_own(self, scene: Scene) -> None:
        other = begin(scene.history, name="other")
        schedules = scene.history.schedules
        for campaign in (other.campaign, scene.campaign):
            schedules.set(ScheduleRecord(campaign.id, interval_s=60.0), actor="ann")
        assert [one.campaign_id for one in schedules.all()] == [scene.campaign.id, other.campaign.id]
        schedules.remove(other.campaign.id, actor="ann")
        assert [one.campaign_id for one in schedules.all()] == [scene.campaign.id]

    def test_name_and_password_of_the_server_are_not_stored(self, scene: Scene) -> None:
        record = ScheduleRecord(scene.campaign.id, interval_s=60.0, server_url="https://ann:secret@host:4200/api")
        assert scene.history.schedules.set(record, actor="ann").server_url == "https://host:4200/api"
        assert not any("secret" in str(row) for name in ("schedule", "event") for row in scene.table(name))

    @pytest.mark.parametrize(
        "wrong",
        [
            {},
            {"cron": "0 8 * * *", "interval_s": 60.0},
            {"interval_s": 0.0},
            {"interval_s": float("nan")},
            {"interval_s": float("inf")},
        ],
    )
    def test_a_schedule_that_is_none_is_refused(self, scene: Scene, wrong: dict[str, object]) -> None:
        with pytest.raises(ConfigError, match="expected"):
            scene.history.schedules.set(ScheduleRecord(scene.campaign.id, **wrong), actor="ann")  # type: ignore[arg-type]
        assert scene.history.schedules.all() == []

    def test_the_database_itself_refuses_a_schedule_without_a_time(self, scene: Scene) -> None:
        scene.history.schedules.set(ScheduleRecord(scene.campaign.id, interval_s=60.0), actor="ann")
        with pytest.raises(IntegrityError), scene.history.database.write() as session:
            session.execute(text("UPDATE schedule SET interval_s = NULL"))

    def test_an_event_names_the_round_that_it_belongs_to(self, scene: Scene) -> None:
        record = scene.start(3)
        detail = {"flow": "discovery-round", "run_id": RUN_ID, "stage": "fit"}
        scene.history.events.add(
            scene.campaign.id, EventKind.FLOW_RUN, actor="flow", round_id=record.id, detail=detail
        )
        [found] = scene.history.events.read(scene.campaign.id, kinds={EventKind.FLOW_RUN})
        assert (found.round, dict(found.detail)) == (3, detail)
