"""What a storage guarantees of measurements: each is stored once, in order, and never changed."""

import hashlib
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flowscout.db import FailureClass, Outcome, Qualifier, Told
from flowscout.errors import LabelError
from flowscout.testing.histories import PROPERTY, HistoryFixtures, Scene, begin, measured


class MeasurementContract(HistoryFixtures):
    """Test what is stored of measured values."""

    def test_seq_is_gapless_and_follows_the_order_of_telling(self, scene: Scene) -> None:
        scene.tell(measured("b"), measured("a"))
        scene.tell(measured("d"))
        scene.tell(measured("c"), measured("e"))
        assert scene.rows("SELECT seq, row_id FROM measurement ORDER BY seq") == [
            (1, "b"), (2, "a"), (3, "d"), (4, "c"), (5, "e"),
        ]  # fmt: skip
        assert scene.history.campaigns.get(scene.campaign.id).clock == 5

    def test_each_campaign_has_a_clock_of_its_own(self, scene: Scene) -> None:
        other = begin(scene.history, name="other")
        scene.tell(measured("a"), measured("b"))
        other.tell(measured("a"))
        assert scene.history.campaigns.get("other").clock == 1
        assert scene.history.campaigns.get(scene.campaign.uuid).clock == 2

    def test_of_each_condition_of_measurement_the_earliest_value_is_returned(self, scene: Scene) -> None:
        scene.tell(measured("a", row_id="1", as_run={"celsius": 37}), measured("b"))
        scene.tell(measured("a", row_id="2", as_run={"celsius": 25, "features": {"x": 1.5}}))
        other = begin(scene.history, name="other")
        other.tell(measured("a", as_run={"celsius": 4}))
        found = scene.history.measurements.as_run(scene.campaign.id, ["A", "B", "C"])
        assert found == {"A": {"celsius": 37, "features": {"x": 1.5}}}

    def test_the_same_row_told_again_changes_nothing(self, scene: Scene) -> None:
        rows = [measured("a", 0.1), measured("b", 0.2)]
        assert scene.tell(*rows) == Told(added=2, unchanged=0)
        before = [scene.table(name) for name in ("campaign", "measurement", "candidate", "current_value", "event")]
        assert scene.tell(*rows) == Told(added=0, unchanged=2)
        assert scene.tell(rows[1]) == Told(added=0, unchanged=1)
        after = [scene.table(name) for name in ("campaign", "measurement", "candidate", "current_value", "event")]
        assert after == before

    def test_a_row_that_stands_twice_in_one_telling_is_stored_once(self, scene: Scene) -> None:
        assert scene.tell(measured("a"), measured("a")) == Told(added=1, unchanged=1)

    def test_another_source_row_or_property_is_another_measurement(self, scene: Scene) -> None:
        row = measured("a")
        others = [replace(row, source="eln"), replace(row, row_id="2"), replace(row, property="mass")]
        assert scene.tell(row, *others) == Told(added=4, unchanged=0)

    @pytest.mark.parametrize(
        "changes",
        [{"value": 2.0}, {"key": "B", "object": "b"}, {"qualifier": Qualifier.BELOW}],
        ids=["value", "object", "qualifier"],
    )
    def test_other_content_for_a_known_row_is_refused_whole(self, scene: Scene, changes: dict[str, Any]) -> None:
        scene.tell(measured("a", 1.0))
        before = [scene.table(name) for name in ("campaign", "measurement", "candidate", "current_value", "event")]
        with pytest.raises(LabelError, match=r"'a'.*'plate'"):
            scene.tell(measured("new"), replace(measured("a", 1.0), **changes))
        after = [scene.table(name) for name in ("campaign", "measurement", "candidate", "current_value", "event")]
        assert after == before

    @pytest.mark.parametrize("qualifier", [Qualifier.EQUAL, Qualifier.BELOW, Qualifier.ABOVE])
    @pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
    def test_a_value_that_is_no_finite_number_is_refused(
        self, scene: Scene, value: float | None, qualifier: Qualifier
    ) -> None:
        with pytest.raises(LabelError, match=r"expected a finite number"):
            scene.tell(measured("new"), measured("a", value, qualifier=qualifier))
        assert scene.table("measurement") == []
        assert scene.table("candidate") == []

    def test_a_training_set_is_exactly_what_was_known_at_its_cut_off(self, scene: Scene) -> None:
        told = [("c", 3.0), ("a", 1.0), ("c", 5.0), ("b", 2.0), ("a", 0.5)]
        for row, (obj, value) in enumerate(told):
            scene.tell(measured(obj, value, row_id=str(row)))
        for upto in range(len(told) + 1):
            known: dict[str, list[float]] = {}
            for obj, value in told[:upto]:
                known.setdefault(obj.upper(), []).append(value)
            data = scene.history.measurements.training_set(scene.campaign.id, PROPERTY, upto_seq=upto)
            assert data.upto_seq == upto
            assert [(row.key, row.value, row.count) for row in data.rows] == [
                (key, sum(values) / len(values), len(values)) for key, values in sorted(known.items())
            ]

    def test_a_training_set_rebuilt_after_more_data_came_is_the_same(self, scene: Scene) -> None:
        scene.tell(measured("b", 0.1), measured("a", 0.2))
        first = scene.history.measurements.training_set(scene.campaign.id, PROPERTY)
        scene.tell(measured("c", 0.3), measured("a", 0.7, row_id="again"))
        again = scene.history.measurements.training_set(scene.campaign.id, PROPERTY, upto_seq=first.upto_seq)
        assert again == first
        now = scene.history.measurements.training_set(scene.campaign.id, PROPERTY)
        assert now.sha256 != first.sha256

    def test_a_training_set_does_not_depend_on_the_order_of_telling(self, scene: Scene) -> None:
        other = begin(scene.history, name="other")
        # Sums of these differ in the last bit with their order, so that a plain sum would be seen.
        rows = [measured(obj, 0.1 * n, row_id=f"{obj}{n}") for obj in ("Z", "a", "ä", "B") for n in range(1, 12)]
        scene.tell(*rows)
        random.Random(0).shuffle(rows)
        other.tell(*rows)
        told = [scene.history.measurements.training_set(s.campaign.id, PROPERTY) for s in (scene, other)]
        assert told[0].sha256 == told[1].sha256
        assert [row.key for row in told[0].rows] == sorted({row.key for row in rows})

    def test_only_plain_values_of_the_property_are_trained_on(self, scene: Scene) -> None:
        scene.tell(
            measured("a", 1.0),
            measured("a", 9.0, property="mass"),
            measured("b", 1.0, qualifier=Qualifier.BELOW),
            measured("c", 1.0, qualifier=Qualifier.ABOVE),
            measured("d", None, qualifier=Qualifier.MISSING),
            measured("e", None, qualifier=Qualifier.INFEASIBLE),
        )
        data = scene.history.measurements.training_set(scene.campaign.id, PROPERTY)
        assert [(row.object, row.value) for row in data.rows] == [("a", 1.0)]
        assert scene.history.measurements.known_keys(scene.campaign.id) == {"A", "B", "C", "D", "E"}

    def test_bounds_are_known_of_those_without_a_value(self, scene: Scene) -> None:
        scene.tell(
            measured("a", 1.0),
            measured("a", 0.5, qualifier=Qualifier.ABOVE, row_id="a2"),
            measured("b", 3.0, qualifier=Qualifier.BELOW),
            measured("b", 2.0, qualifier=Qualifier.BELOW, row_id="b2"),
            measured("b", 1.0, qualifier=Qualifier.ABOVE, row_id="b3"),
            measured("c", 5.0, qualifier=Qualifier.ABOVE),
            measured("d", 5.0, qualifier=Qualifier.ABOVE),
            measured("d", 4.0, qualifier=Qualifier.BELOW, row_id="d2"),  # contradicts the one before
        )
        data = scene.history.measurements.training_set(scene.campaign.id, PROPERTY)
        assert [(row.object, row.lower, row.upper) for row in data.bounded] == [("b", 1.0, 2.0), ("c", 5.0, None)]
        earlier = scene.history.measurements.training_set(scene.campaign.id, PROPERTY, upto_seq=3)
        assert [(row.lower, row.upper) for row in earlier.bounded] == [(None, 3.0)]
        assert earlier.sha256 != data.sha256

    def test_what_is_said_of_errors_is_known_value_by_value(self, scene: Scene) -> None:
        scene.tell(
            measured("a", 2.0, sem=0.5, n=3),
            measured("a", 1.0, sem=0.1, row_id="a2"),
            measured("b", 1.0),
            measured("c", 4.0),
            measured("c", 2.0, row_id="c2"),
        )
        rows = scene.history.measurements.training_set(scene.campaign.id, PROPERTY).rows
        readings = [[(one.value, one.sem, one.n) for one in row.readings] for row in rows]
        plain = [(2.0, None, None), (4.0, None, None)]
        assert readings == [[(1.0, 0.1, None), (2.0, 0.5, 3)], [], plain]
        assert [row.value for row in rows] == [1.5, 1.0, 3.0]

    def test_the_hash_is_of_errors_too_and_without_any_what_it_always_was(self, scene: Scene) -> None:
        other = begin(scene.history, name="other")
        scene.tell(measured("a", 0.1), measured("a", 0.3, row_id="a2"), measured("b", 2.0))
        other.tell(measured("a", 0.1), measured("a", 0.3, row_id="a2", sem=0.2), measured("b", 2.0))
        told = [scene.history.measurements.training_set(s.campaign.id, PROPERTY) for s in (scene, other)]
        lines = f"A\t{(0.2).hex()}\t2\nB\t{(2.0).hex()}\t1\n"
        assert told[0].sha256 == hashlib.sha256(lines.encode()).hexdigest()
        assert told[1].sha256 != told[0].sha256

    def test_objects_that_failed_for_good_are_known_unless_they_have_a_value(self, scene: Scene) -> None:
        scene.tell(
            measured("told", None, qualifier=Qualifier.INFEASIBLE),
            measured("missing", None, qualifier=Qualifier.MISSING),
            measured("mended", None, qualifier=Qualifier.INFEASIBLE),
            measured("mended", 1.0, row_id="later"),
        )
        record = scene.propose(["x", "y", "z"])
        failures = (FailureClass.INFEASIBLE, FailureClass.PERMANENT, FailureClass.INFEASIBLE)
        outcomes = [
            Outcome(claim=claim, failure=failure)
            for claim, failure in zip(scene.claim(record), failures, strict=True)
        ]
        scene.settle(*outcomes)
        assert scene.history.measurements.infeasible(scene.campaign.id) == ["told", "x", "z"]

    def test_a_value_comes_back_to_the_last_bit(self, scene: Scene) -> None:
        values = {"a": 0.1 + 0.2, "b": 5e-324, "c": -1.7976931348623157e308, "d": math.pi}
        scene.tell(*(measured(obj, value) for obj, value in values.items()))
        data = scene.history.measurements.training_set(scene.campaign.id, PROPERTY)
        assert {row.object: row.value for row in data.rows} == values

    def test_a_number_of_another_type_is_stored_as_the_number_it_is(self, scene: Scene) -> None:
        numbers: list[Any] = [np.float32(0.5), 2, np.float64(0.1)]
        scene.tell(*(measured(str(n), value, sem=value) for n, value in enumerate(numbers)))
        found = scene.rows("SELECT value, sem FROM measurement ORDER BY seq")
        assert found == [(0.5, 0.5), (2.0, 2.0), (0.1, 0.1)]
        assert {type(value) for value, _ in found} == {float}

    @pytest.mark.parametrize("name", ["property", "source", "row_id", "unit"])
    def test_a_text_that_is_too_long_is_refused_by_its_name(self, scene: Scene, name: str) -> None:
        text: dict[str, Any] = {name: "x" * 201}
        with pytest.raises(LabelError, match=rf"{name} 'xxx.*has 201 characters"):
            scene.tell(measured("new"), replace(measured("a"), **text))
        assert scene.table("measurement") == []

    def test_current_values_are_what_a_rebuild_makes(self, scene: Scene) -> None:
        for row, (obj, value) in enumerate([("a", 0.1), ("b", 0.2), ("a", 0.7), ("a", 0.3)]):
            scene.tell(measured(obj, value, row_id=str(row)))
        scene.tell(measured("c", 1.0, property="mass"), measured("d", None, qualifier=Qualifier.MISSING))
        before = scene.table("current_value")
        assert len(before) == 3
        scene.history.measurements.rebuild_current_values(scene.campaign.id)
        assert scene.table("current_value") == before

    def test_an_object_keeps_the_first_way_it_was_written(self, scene: Scene) -> None:
        scene.tell(measured("acgt"))
        scene.tell(measured("ACGT"))
        assert scene.rows("SELECT key, object FROM candidate") == [("ACGT", "acgt")]

    def test_a_table_of_thousands_is_told_at_once(self, scene: Scene) -> None:
        rows = [measured(f"object {n}", n / 7) for n in range(2100)]
        assert scene.tell(*rows) == Told(added=2100, unchanged=0)
        assert scene.tell(*rows) == Told(added=0, unchanged=2100)
        assert len(scene.history.measurements.training_set(scene.campaign.id, PROPERTY).rows) == 2100

    def test_a_told_value_settles_the_evaluation_that_awaits_it(self, scene: Scene) -> None:
        record = scene.propose(["a", "b"])
        scene.tell(measured("b"))
        assert scene.states() == ["queued", "done"]
        assert [claim.object for claim in scene.claim(record)] == ["a"]

    def test_a_value_of_another_property_settles_nothing(self, scene: Scene) -> None:
        scene.propose(["a"])
        scene.tell(measured("a", property="mass"))
        assert scene.states() == ["queued"]
