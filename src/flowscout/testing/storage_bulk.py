"""What an import in bulk guarantees: the rows that telling would store, once each, all of them checked first."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from flowscout.db import EvaluationState, FailureClass, Imported, MeasurementRecord, Outcome, Qualifier
from flowscout.errors import LabelError
from flowscout.testing.histories import HistoryFixtures, Scene, begin, failed, measured, result

LEGACY = (
    measured("acgt", 1.5),
    measured("tttt", -2.0, sem=0.1, n=3, unit="nM", as_run={"temperature": 30.0}),
    measured("acgt", 2.5, row_id="again"),
    measured("cccc", 7.0, qualifier=Qualifier.BELOW),
    measured("tttt", 9.0, property="purity"),
    measured("acgt", 0.1, row_id="third"),
    measured("gggg", 3.0),
)
"""Replicates, bounds, a second property: in chunks of two, an object comes in several of them."""


class BulkContract(HistoryFixtures):
    """Test `History.bulk`."""

    def test_an_import_stores_what_telling_stores(self, scene: Scene) -> None:
        other = begin(scene.history, name="told")
        for one in (scene, other):
            one.propose(["gggg"])
        got = _import(scene, LEGACY, chunk=2)
        assert (got.added, got.unchanged) == (7, 0)
        other.tell(*LEGACY)
        assert _stored(scene) == _stored(other)
        assert len(_stored(scene)) == 7
        assert _current(scene) == _current(other)
        assert _current(scene)[0] == ("ACGT", "affinity", (1.5 + 2.5 + 0.1) / 3, 3, 6)
        states = [scene.history.experiments.counts(one.campaign.id) for one in (scene, other)]
        assert states == [{EvaluationState.DONE: 1}] * 2
        sets = [one.history.measurements.training_set(one.campaign.id, "affinity") for one in (scene, other)]
        assert sets[0] == sets[1]

    def test_the_same_import_again_changes_nothing(self, scene: Scene) -> None:
        _import(scene, LEGACY)
        names = ("campaign", "candidate", "measurement", "current_value", "event")
        before = [scene.table(name) for name in names]
        got = _import(scene, LEGACY, chunk=3)
        assert (got.added, got.unchanged) == (0, 7)
        assert [scene.table(name) for name in names] == before

    def test_what_was_stored_in_part_is_completed(self, scene: Scene) -> None:
        scene.tell(*LEGACY[:3])
        got = _import(scene, LEGACY, chunk=2)
        assert (got.added, got.unchanged) == (4, 3)
        assert [row[1] for row in scene.rows("SELECT id, seq FROM measurement ORDER BY seq")] == [*range(1, 8)]
        scene.history.measurements.rebuild_current_values(scene.campaign.id)
        assert _current(scene)[0] == ("ACGT", "affinity", (1.5 + 2.5 + 0.1) / 3, 3, 6)

    @pytest.mark.parametrize("place", [1, 6])
    def test_a_row_that_contradicts_the_history_is_refused_and_nothing_is_written(
        self, scene: Scene, place: int
    ) -> None:
        scene.tell(LEGACY[place])
        before = [scene.table(name) for name in ("candidate", "measurement", "event")]
        changed = [*LEGACY[:place], replace(LEGACY[place], value=5.0), *LEGACY[place + 1 :]]
        with pytest.raises(LabelError, match=f"row '{LEGACY[place].row_id}' of 'plate' says .*stored with value"):
            _import(scene, changed, chunk=2)
        assert [scene.table(name) for name in ("candidate", "measurement", "event")] == before

    def test_what_a_later_version_of_a_row_says_is_known_and_what_none_says_is_refused(self, scene: Scene) -> None:
        row = measured("acgt", 1.5, as_run={"t": 30})
        scene.tell(row)
        scene.history.measurements.add(scene.campaign.id, [replace(row, value=2.0)], actor="bench", correct="typo")
        before = scene.table("measurement")
        for known in (row, replace(row, value=2.0), replace(row, as_run=None)):
            assert _import(scene, [known]) == Imported(0, 1)
        for other in (replace(row, value=3.0), replace(row, as_run={"t": 31})):
            with pytest.raises(LabelError, match=r"row 'acgt' of 'plate' says .*stored with value 2\.0"):
                _import(scene, [other])
        with pytest.raises(LabelError, match="no such row is stored"):
            _import(scene, [measured("tttt", None, qualifier=Qualifier.RETRACTED)])
        assert scene.table("measurement") == before

    def test_an_import_pays_for_what_was_handed_out(self, scene: Scene) -> None:
        record = scene.propose(["gggg", "cccc"], dispatch=False)
        scene.history.budgets.hand_out(scene.lease, record.id)
        assert scene.rows("SELECT reserved_minor, spent_minor FROM balance") == [(200, 0)]
        _import(scene, [measured("gggg", 3.0)])
        assert scene.rows("SELECT reserved_minor, spent_minor FROM balance") == [(100, 100)]
        assert scene.states() == ["done", "queued"]

    def test_conditions_that_nobody_named_are_null_however_a_value_came(self, scene: Scene) -> None:
        record = scene.propose(["aa"])
        scene.tell(measured("acgt"))
        scene.settle(result(scene.claim(record)[0]))
        _import(scene, [measured("tttt")])
        assert scene.rows("SELECT count(*) FROM measurement WHERE as_run IS NULL") == [(3,)]

    def test_a_row_that_contradicts_an_earlier_row_is_refused_and_nothing_is_written(self, scene: Scene) -> None:
        with pytest.raises(LabelError, match="row 'acgt'"):
            _import(scene, [*LEGACY, measured("acgt", 8.0)], chunk=2)
        with pytest.raises(LabelError, match="row 'acgt'"):
            _import(scene, [*LEGACY, measured("ttat", 1.5, row_id="acgt")], chunk=2)
        assert scene.table("measurement") == []

    def test_a_row_that_comes_twice_is_stored_once(self, scene: Scene) -> None:
        got = _import(scene, [*LEGACY, *LEGACY], chunk=3)
        assert (got.added, got.unchanged) == (7, 7)

    def test_two_campaigns_do_not_meet(self, scene: Scene) -> None:
        other = begin(scene.history, name="other")
        assert _import(scene, LEGACY).added == _import(other, LEGACY).added == 7
        assert _stored(scene) == _stored(other)

    def test_a_value_that_is_no_number_is_refused(self, scene: Scene) -> None:
        with pytest.raises(LabelError, match="expected a finite number"):
            _import(scene, [measured("acgt", float("nan"))])

    def test_what_is_told_while_an_import_runs_is_seen(self, scene: Scene) -> None:
        def rows(value: float) -> list[MeasurementRecord]:
            return [replace(one, value=value) for one in LEGACY[:1]]

        def during() -> Iterator[MeasurementRecord]:
            yield from LEGACY[1:]
            # All rows staged so far were checked before this one was told.
            scene.tell(*LEGACY[3:4])
            yield from rows(1.5)

        got = _import(scene, during(), chunk=2)
        assert (got.added, got.unchanged) == (6, 1)
        assert sorted(row[1] for row in scene.rows("SELECT id, seq FROM measurement")) == [*range(1, 8)]

    def test_answers_that_are_settled_together_leave_what_one_by_one_leaves(self, scene: Scene) -> None:
        scenes = (scene, begin(scene.history, name="one by one"))
        for together, one in zip((True, False), scenes, strict=True):
            record = one.propose(["aa", "cc", "gg", "tt", "ac", "ag"])
            claims = one.claim(record)
            outcomes = [
                result(claims[0], 1.0),
                failed(claims[1], FailureClass.PERMANENT),
                result(claims[2], 2.0, cost_minor=70, message="cheaper"),
                result(replace(claims[3], token="another's"), 3.0),  # noqa: S106
                result(claims[4], 4.0),
                Outcome(claims[4], [measured("ac", 9.0, source="oracle:assay", row_id="second")]),
                Outcome(claims[5], [measured("ag", 5.0, source="oracle:assay", row_id=claims[0].idempotency_key)]),
            ]
            for batch in [outcomes] if together else [[outcome] for outcome in outcomes]:
                one.settle(*batch)
        tables = [
            [
                scene.rows(sql.format(one.campaign.id))
                for sql in (
                    "SELECT state, generation FROM evaluation WHERE campaign_id = {} ORDER BY id",
                    "SELECT reserved_minor, spent_minor FROM balance WHERE campaign_id = {}",
                    "SELECT kind, amount_minor FROM ledger WHERE campaign_id = {} ORDER BY evaluation_id, id",
                    "SELECT a.state, a.cost_minor, a.message, a.ended_at IS NULL FROM attempt AS a "
                    "JOIN evaluation AS e ON e.id = a.evaluation_id WHERE e.campaign_id = {} ORDER BY a.id",
                    "SELECT kind FROM event WHERE campaign_id = {} AND kind IN ('conflict', 'stale_attempt') "
                    "ORDER BY kind",
                    "SELECT object, value, n, qualifier FROM measurement "
                    "JOIN candidate ON candidate.id = candidate_id "
                    "WHERE measurement.campaign_id = {} ORDER BY object, value",
                    "SELECT clock FROM campaign WHERE id = {}",
                )
            ]
            for one in scenes
        ]
        assert tables[0] == tables[1]
        assert _current(scenes[0]) != []
        assert tables[0][1] == [(100, 370)]  # the stale one's stays reserved


def _import(scene: Scene, records: Iterable[MeasurementRecord], *, chunk: int = 10_000) -> Imported:
    return scene.history.bulk.import_results(scene.campaign.id, records, actor="bench", chunk=chunk)


def _stored(scene: Scene) -> list[dict[str, object]]:
    own = {
        "campaign",
        "candidate_id",
        "measurement_id",
        "measured_at",
        "idempotency_key",
        "sampler_run_id",
        "model_fit_id",
    }
    rows = scene.history.queries.history(scene.campaign.name)
    return [{name: value for name, value in row.items() if name not in own} for row in rows]


def _current(scene: Scene) -> list[tuple[object, ...]]:
    return scene.rows(
        "SELECT candidate.key, v.property, v.value, v.count, v.seq FROM current_value AS v "  # noqa: S608
        f"JOIN candidate ON candidate.id = v.candidate_id WHERE v.campaign_id = {scene.campaign.id} "
        "ORDER BY candidate.key, v.property"
    )
