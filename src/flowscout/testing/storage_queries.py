"""What a storage guarantees of questions: every figure is there, and asking disturbs nobody."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import DBAPIError

from flowscout.db import FailureClass, History, HistoryFilter, RoundState
from flowscout.db.models import Event, Measurement
from flowscout.testing.histories import PROPERTY, HistoryFixtures, Scene, failed, measured, result


class QueryContract(HistoryFixtures):
    """Test what people may ask of a campaign."""

    def test_the_history_has_one_row_for_each_measurement_with_its_provenance(self, scene: Scene) -> None:
        scene.tell(measured("z", 0.25, unit="nM", sem=0.1, n=3))
        record = scene.propose(["a", "b"])
        first, second = scene.claim(record)
        scene.settle(failed(first, FailureClass.TRANSIENT), result(second, 0.75))
        [again] = scene.claim(record)
        scene.settle(result(again, 0.5, cost_minor=80))
        told, b, a = scene.history.queries.history("campaign")
        fit, sampler = scene.history.rounds.fit(record.id), scene.history.rounds.sampler(record.id)
        assert fit is not None
        assert sampler is not None
        assert {
            "seq": 3,
            "round": 1,
            "object": "a",
            "candidate_key": "A",
            "property": PROPERTY,
        }.items() <= a.items()
        assert {
            "value": 0.5, "qualifier": "=", "source": "oracle:assay", "row_id": again.idempotency_key,
            "actor": "oracle:assay", "oracle": "assay", "oracle_version": "1", "fidelity": "default",
            "replicate": 1, "attempt": 2, "cost_minor": 80, "rank": 1, "origin": "gflownet",
        }.items() <= a.items()  # fmt: skip
        assert {
            "sampler": "gflownet", "sampler_run_id": sampler.id, "surrogate": "gp", "model_fit_id": fit.id,
            "data_upto_seq": 1, "config_sha256": "0" * 64, "package_version": "1.0",
        }.items() <= a.items()  # fmt: skip
        assert (b["seq"], b["object"], b["attempt"]) == (2, "b", 1)
        assert {"seq": 1, "round": None, "oracle": None, "unit": "nM", "sem": 0.1, "n": 3}.items() <= told.items()

    def test_times_and_flags_of_the_history_have_their_types(self, scene: Scene) -> None:
        scene.tell(measured("a"))
        [row] = scene.history.queries.history("campaign")
        assert row["superseded"] is False
        assert isinstance(row["measured_at"], datetime)
        # The database's clock against ours, on the same machine or on one that is kept by NTP.
        assert abs(datetime.now(UTC) - row["measured_at"]) < timedelta(minutes=10)

    def test_the_history_is_cut_by_round_and_to_the_latest(self, scene: Scene) -> None:
        scene.tell(measured("z"), measured("y"))
        [claim] = scene.claim(scene.propose(["a"]))
        scene.settle(result(claim))
        ask = scene.history.queries.history
        assert [row["object"] for row in ask("campaign")] == ["z", "y", "a"]
        assert [row["object"] for row in ask("campaign", limit=2)] == ["y", "a"]
        assert [row["object"] for row in ask("campaign", HistoryFilter(round=1))] == ["a"]
        assert ask("campaign", HistoryFilter(round=1), limit=1) == ask("campaign", HistoryFilter(round=1))
        assert ask("another") == []

    def test_the_best_are_ranked_by_the_mean_of_their_values(self, scene: Scene) -> None:
        scene.tell(measured("z", 0.5), measured("y", 0.5), measured("x", 0.9), measured("w", 0.1))
        scene.tell(measured("x", 0.3, row_id="again"))
        [claim] = scene.claim(scene.propose(["a"]))
        scene.settle(result(claim, 2.0))
        best = scene.history.queries.best(scene.campaign.id, PROPERTY, direction="maximize", k=4)
        assert [(row.rank, row.object, row.count, row.round) for row in best] == [
            (1, "a", 1, 1), (2, "x", 2, None), (3, "y", 1, None), (4, "z", 1, None),
        ]  # fmt: skip
        assert best[1].value == pytest.approx(0.6, abs=1e-15)  # a mean of two numbers: one rounding
        [worst] = scene.history.queries.best(scene.campaign.id, PROPERTY, direction="minimize", k=1)
        assert worst.object == "w"

    def test_the_status_tells_every_round_in_figures(self, scene: Scene) -> None:
        scene.tell(measured("z", 0.5))
        first = scene.propose(["a", "b", "c"])
        a, b, c = scene.claim(first)
        scene.settle(result(a, 0.2), result(b, 0.4), failed(c, FailureClass.PERMANENT))
        scene.history.rounds.advance(scene.lease, first, RoundState.COMPLETE, message="one failed")
        second = scene.propose(["d", "e"], number=2)
        d, _ = scene.claim(second)
        scene.settle(result(d, 0.8))
        status = scene.history.queries.status(scene.campaign.id, PROPERTY, direction="maximize")
        assert (status.campaign, status.measurements, status.candidates_measured) == ("campaign", 4, 4)
        assert status.evaluations == {"done": 3, "failed": 1, "running": 1}
        assert (status.spent_minor, status.reserved_minor, status.limit_minor) == (300, 100, None)
        one, two = status.rounds
        assert (one.number, one.state, one.measured) == (1, RoundState.COMPLETE, 2)
        assert (one.batch_best, one.best, one.message) == (0.4, 0.5, "one failed")
        assert one.batch_mean == pytest.approx(0.3, abs=1e-15)  # a mean of two numbers: one rounding
        assert one.seconds is not None
        assert one.seconds >= 0
        assert (two.state, two.batch_best, two.best, two.seconds) == (RoundState.DISPATCHED, 0.8, 0.8, None)
        assert (two.surrogate, two.sampler) == ({"spearman": 0.5}, {"unique": 0.8})

    def test_pending_is_what_awaits_a_measurement_in_the_order_of_queueing(self, scene: Scene) -> None:
        record = scene.propose(["c", "a", "b"])
        assert scene.history.queries.pending(scene.campaign.id) == ["c", "a", "b"]
        first, *_ = scene.claim(record)
        scene.settle(result(first))
        assert scene.history.queries.pending(scene.campaign.id) == ["a", "b"]
        assert scene.history.measurements.known_keys(scene.campaign.id) == {"A", "B", "C"}

    def test_a_reader_cannot_write(self, scene: Scene) -> None:
        row = {"campaign_id": scene.campaign.id, "kind": "k", "actor": "reader", "detail": {}}
        with pytest.raises(DBAPIError, match=r"(?i)read.?only"), scene.history.database.read() as session:
            session.execute(insert(Event), row)

    def test_a_reader_keeps_its_snapshot_while_others_write(
        self, scene: Scene, reopen: Callable[[], History]
    ) -> None:
        scene.tell(measured("a"))
        with reopen() as second, second.database.read() as session:
            assert session.query(Measurement).count() == 1
            scene.tell(measured("b"))
            assert session.query(Measurement).count() == 1
        assert len(scene.table("measurement")) == 2

    def test_what_is_not_committed_is_not_seen(self, scene: Scene, reopen: Callable[[], History]) -> None:
        before = scene.table("event")
        row = {"campaign_id": scene.campaign.id, "kind": "k", "actor": "writer", "detail": {}}
        with reopen() as second, second.database.write() as session:
            session.execute(insert(Event), row)
            assert scene.table("event") == before
            session.rollback()
        assert scene.table("event") == before
