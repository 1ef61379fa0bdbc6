"""What a storage guarantees of values that were wrong: superseded, never overwritten, and seen by a person."""

from dataclasses import replace

import pytest

from flowscout.db import ConflictRecord, EventKind, Keep, MeasurementRecord, Qualifier, RoundState, Said, Told
from flowscout.errors import LabelError, NotFoundError, StateError
from flowscout.testing.histories import PROPERTY, HistoryFixtures, Scene, measured, result


def correct(scene: Scene, *records: MeasurementRecord, reason: str = "a slip of the pen") -> Told:
    """Tell measurements that may supersede others."""
    return scene.history.measurements.add(scene.campaign.id, records, actor="reviewer", correct=reason)


def retract(scene: Scene, obj: str | None = None, *, row: tuple[str, str] | None = None) -> int:
    """Take back the values of an object or of a row."""
    key = None if obj is None else obj.upper()
    return scene.history.measurements.retract(
        scene.campaign.id, key=key, row=row, reason="wrong plate", actor="reviewer"
    )


def known(scene: Scene, upto: int | None = None) -> dict[str, float]:
    """Return what is trained on."""
    data = scene.history.measurements.training_set(scene.campaign.id, PROPERTY, upto_seq=upto)
    return {row.object: row.value for row in data.rows}


def current(scene: Scene) -> dict[str, float]:
    """Return the projection of current values, which a rebuild must not change."""
    before = scene.table("current_value")
    scene.history.measurements.rebuild_current_values(scene.campaign.id)
    assert scene.table("current_value") == before
    sql = "SELECT object, value FROM current_value JOIN candidate ON candidate.id = candidate_id"
    return {obj: value for obj, value in scene.rows(sql)}


class CorrectionContract(HistoryFixtures):
    """Test corrections, retractions, conflicts."""

    def test_a_correction_supersedes_and_the_past_stays_as_it_was(self, scene: Scene) -> None:
        scene.tell(measured("a", 1.0), measured("b", 5.0))
        before = scene.rows("SELECT seq, value, row_id, actor FROM measurement ORDER BY seq")
        assert correct(scene, measured("a", 2.0), measured("b", 5.0)) == Told(1, 1, corrected=1)
        assert scene.rows("SELECT seq, value, row_id, actor FROM measurement ORDER BY seq LIMIT 2") == before
        sql = (
            "SELECT later.seq, later.value, later.actor, old.seq FROM measurement AS later JOIN measurement AS old"
        )
        assert scene.rows(f"{sql} ON old.id = later.supersedes_id") == [(3, 2.0, "reviewer", 1)]
        assert known(scene) == current(scene) == {"a": 2.0, "b": 5.0}
        assert known(scene, upto=2) == {"a": 1.0, "b": 5.0}

    def test_a_correction_says_who_why_and_what(self, scene: Scene) -> None:
        scene.tell(measured("a", 1.0))
        correct(scene, measured("a", 2.0, sem=0.1), reason="digits swapped")
        [event] = scene.history.events.read(scene.campaign.id, kinds=[EventKind.MEASUREMENT_CORRECTED])
        assert (event.actor, event.detail["reason"]) == ("reviewer", "digits swapped")
        assert (event.detail["before"]["value"], event.detail["after"]["value"]) == (1.0, 2.0)
        assert event.detail["after"]["sem"] == 0.1

    def test_corrections_chain_and_each_cut_off_sees_its_own(self, scene: Scene) -> None:
        scene.tell(measured("a", 1.0))
        for value in (2.0, 3.0, 2.0, 1.0):
            assert correct(scene, measured("a", value)).corrected == 1
            assert correct(scene, measured("a", value)) == Told(0, 1)
            assert current(scene) == {"a": value}
        assert [known(scene, upto=seq)["a"] for seq in range(1, 6)] == [1.0, 2.0, 3.0, 2.0, 1.0]
        assert scene.rows("SELECT COUNT(*) FROM measurement WHERE supersedes_id IS NOT NULL") == [(4,)]

    def test_an_old_table_told_again_after_a_correction_changes_nothing(self, scene: Scene) -> None:
        scene.tell(measured("a", 1.0))
        correct(scene, measured("a", 2.0))
        assert scene.tell(measured("a", 1.0)) == Told(0, 1)
        assert scene.tell(measured("a", 2.0)) == Told(0, 1)
        with pytest.raises(LabelError, match=r"says affinity = 3.0 .* stored with value 2.0.*--correct"):
            scene.tell(measured("a", 3.0))
        assert known(scene) == {"a": 2.0}

    def test_a_row_that_comes_twice_cannot_correct(self, scene: Scene) -> None:
        scene.tell(measured("a", 1.0))
        before = scene.table("measurement")
        with pytest.raises(LabelError, match=r"comes twice with different content"):
            correct(scene, measured("new"), measured("a", 2.0), measured("a", 3.0))
        with pytest.raises(LabelError, match=r"comes twice with different content"):
            correct(scene, measured("b", 2.0), measured("b", 3.0))
        assert scene.table("measurement") == before
        assert correct(scene, measured("a", 2.0), measured("a", 2.0)).corrected == 1

    def test_a_correction_stays_with_its_round_and_another_object_leaves_it(self, scene: Scene) -> None:
        claims = scene.claim(scene.propose(["a", "b"]))
        scene.settle(*(result(claim, 1.0) for claim in claims))
        rows = [result(claim, 2.0).measurements[0] for claim in claims]
        correct(scene, rows[0], replace(rows[1], key="C", object="c"))
        sql = "SELECT object, value, round, attempt, superseded FROM history ORDER BY seq"
        assert [(*row[:4], bool(row[4])) for row in scene.rows(sql)] == [
            ("a", 1.0, 1, 1, True),
            ("b", 1.0, 1, 1, True),
            ("a", 2.0, 1, 1, False),
            ("c", 2.0, None, None, False),
        ]
        assert current(scene) == {"a": 2.0, "c": 2.0}

    def test_further_readings_are_no_corrections(self, scene: Scene) -> None:
        scene.tell(measured("a", 1.0), measured("a", 3.0, row_id="a2"), measured("a", 5.0, source="other"))
        assert current(scene) == {"a": 3.0}
        correct(scene, measured("a", 9.0, row_id="a2"))
        assert current(scene) == known(scene) == {"a": 5.0}

    def test_other_conditions_of_a_row_are_other_content(self, scene: Scene) -> None:
        scene.tell(measured("a", as_run={"celsius": 25}))
        assert scene.tell(measured("a"), measured("a", as_run={"celsius": 25})) == Told(0, 2)
        with pytest.raises(LabelError, match=r"stored with value 1.0"):
            scene.tell(measured("a", as_run={"celsius": 37}))
        assert correct(scene, measured("a", as_run={"celsius": 37})).corrected == 1

    def test_what_is_retracted_is_no_longer_learned_from_but_was(self, scene: Scene) -> None:
        scene.tell(measured("a", 1.0), measured("a", 3.0, row_id="a2"), measured("b", 2.0))
        assert retract(scene, row=("plate", "a2")) == 1
        assert current(scene) == known(scene) == {"a": 1.0, "b": 2.0}
        assert retract(scene, "a") == 1
        assert current(scene) == known(scene) == {"b": 2.0}
        assert known(scene, upto=3) == {"a": 2.0, "b": 2.0}
        assert retract(scene, "a") == 0
        assert scene.events("measurement_retracted") == 2
        assert scene.rows("SELECT COUNT(*) FROM measurement") == [(5,)]

    def test_an_old_table_does_not_bring_back_what_was_retracted_but_a_correction_does(self, scene: Scene) -> None:
        scene.tell(measured("a", 1.0))
        retract(scene, "a")
        assert scene.tell(measured("a", 1.0)) == Told(0, 1)
        assert known(scene) == {}
        assert correct(scene, measured("a", 1.0)).corrected == 1
        assert current(scene) == known(scene) == {"a": 1.0}

    def test_bounds_and_infeasible_objects_are_retracted_too(self, scene: Scene) -> None:
        scene.tell(
            measured("a", 1.0, qualifier=Qualifier.BELOW), measured("b", None, qualifier=Qualifier.INFEASIBLE)
        )
        retract(scene, "a")
        retract(scene, "b")
        assert scene.history.measurements.training_set(scene.campaign.id, PROPERTY).bounded == ()
        assert scene.history.measurements.infeasible(scene.campaign.id) == []

    def test_a_corrected_object_is_infeasible_or_is_not(self, scene: Scene) -> None:
        scene.tell(measured("a", None, qualifier=Qualifier.INFEASIBLE), measured("b", 1.0))
        correct(scene, measured("a", 1.0), measured("b", None, qualifier=Qualifier.INFEASIBLE))
        assert scene.history.measurements.infeasible(scene.campaign.id) == ["b"]

    def test_nothing_can_be_retracted_that_is_not_stored(self, scene: Scene) -> None:
        with pytest.raises(NotFoundError, match=r"no value of 'A' is stored"):
            retract(scene, "a")
        with pytest.raises(NotFoundError, match=r"no value of row '1' of 'plate' is stored"):
            retract(scene, row=("plate", "1"))
        with pytest.raises(LabelError, match=r"takes back a value of affinity, but no such row is stored"):
            correct(scene, measured("a", None, qualifier=Qualifier.RETRACTED))

    def test_a_told_object_that_was_retracted_may_be_proposed_again(self, scene: Scene) -> None:
        scene.tell(measured("a"), measured("b"), measured("b", 2.0, property="mass"))
        retract(scene, "a")
        retract(scene, row=("plate", "b"))
        assert scene.history.measurements.known_keys(scene.campaign.id) == set()
        scene.tell(measured("b", 3.0, property="mass", row_id="b3"))
        assert scene.history.measurements.known_keys(scene.campaign.id) == {"B"}
        scene.propose(["a"])
        assert scene.history.measurements.known_keys(scene.campaign.id) == {"A", "B"}

    def test_a_measured_object_that_was_retracted_is_measured_again_as_a_replicate(self, scene: Scene) -> None:
        [first] = scene.claim(scene.propose(["a"]))
        scene.settle(result(first))
        with pytest.raises(StateError, match="given to this oracle"):
            scene.propose(["a"], number=2)
        retract(scene, "a")
        assert scene.history.measurements.known_keys(scene.campaign.id) == set()
        refused = scene.history.rounds.get(scene.campaign.id, 2)
        scene.history.rounds.advance(scene.lease, refused, RoundState.CANCELLED)
        [second] = scene.claim(scene.propose(["a"], number=3))
        assert (first.replicate, second.replicate) == (1, 2)
        assert first.idempotency_key != second.idempotency_key
        assert scene.history.measurements.known_keys(scene.campaign.id) == {"A"}
        scene.settle(result(second, 4.0))
        assert current(scene) == {"a": 4.0}

    def test_a_conflict_shows_both_values_until_it_is_settled(self, scene: Scene) -> None:
        conflict = self._conflict(scene)
        assert (conflict.object, conflict.property, conflict.source) == ("a", PROPERTY, "oracle:assay")
        assert (conflict.stored, conflict.came) == (Said(0.5), Said(0.9, sem=0.1))
        scene.history.conflicts.settle(scene.campaign.id, conflict.id, Keep.STORED, reason="late", actor="me")
        assert scene.history.conflicts.open(scene.campaign.id) == []
        assert known(scene) == {"a": 0.5}
        with pytest.raises(StateError, match=r"was settled by me, who kept stored"):
            scene.history.conflicts.settle(scene.campaign.id, conflict.id, Keep.CAME, reason="", actor="me")
        with pytest.raises(NotFoundError, match=r"no conflict 99999 is open \(open are: none\)"):
            scene.history.conflicts.settle(scene.campaign.id, 99999, Keep.CAME, reason="", actor="me")
        assert known(scene) == {"a": 0.5}

    def test_the_value_that_came_may_supersede_the_stored_one(self, scene: Scene) -> None:
        conflict = self._conflict(scene)
        scene.history.conflicts.settle(scene.campaign.id, conflict.id, Keep.CAME, reason="newer", actor="me")
        assert current(scene) == known(scene) == {"a": 0.9}
        assert known(scene, upto=1) == {"a": 0.5}
        assert scene.history.conflicts.open(scene.campaign.id) == []

    def test_both_values_may_stand_as_readings(self, scene: Scene) -> None:
        conflict = self._conflict(scene)
        scene.history.conflicts.settle(scene.campaign.id, conflict.id, Keep.BOTH, reason="two runs", actor="me")
        assert current(scene) == known(scene) == {"a": 0.7}
        assert scene.rows("SELECT round, attempt FROM history") == [(1, 2), (1, 2)]

    def test_the_same_late_value_is_one_conflict_however_often_it_comes(self, scene: Scene) -> None:
        self._conflict(scene)  # brings it twice
        assert scene.events("stale_attempt") == 2
        assert scene.events("conflict") == 1

    @staticmethod
    def _conflict(scene: Scene) -> ConflictRecord:
        """Return the conflict of a late answer, which came twice."""
        record = scene.propose(["a"])
        [stale] = scene.claim(record, lease_s=0)
        scene.recover()
        [fresh] = scene.claim(record)
        scene.settle(result(fresh, 0.5))
        [late] = result(stale, 0.9).measurements
        for _ in range(2):
            scene.settle(replace(result(stale), measurements=[replace(late, sem=0.1)]))
        [conflict] = scene.history.conflicts.open(scene.campaign.id)
        return conflict
