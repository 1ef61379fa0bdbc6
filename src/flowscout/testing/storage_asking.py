"""What a storage guarantees of questions about a moment, a candidate, and what waits."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from math import fsum
from typing import Any

import pytest

from flowscout.db import (
    HISTORY_COLUMNS,
    AsOf,
    Decision,
    EvaluationState,
    FailureClass,
    History,
    HistoryFilter,
    Outcome,
    Qualifier,
    RoundState,
    WaitingRow,
    this_owner,
)
from flowscout.errors import NotFoundError, QueryError
from flowscout.testing.histories import (
    CONFIG,
    ORACLE,
    PROPERTY,
    HistoryFixtures,
    Scene,
    failed,
    measured,
    proposal,
    result,
)


def correct(scene: Scene, seq: int, value: float) -> None:
    """Supersede the measurement `seq` by another value, as a person does who found a slip."""
    sql = "SELECT c.object, m.source, m.row_id FROM measurement m JOIN candidate c ON c.id = m.candidate_id"
    [(obj, source, row_id)] = scene.rows(f"{sql} WHERE m.seq = {seq}")
    row = measured(obj, value, source=source, row_id=row_id)
    scene.history.measurements.add(scene.campaign.id, [row], actor="bench", correct="a slip")


class AskingContract(HistoryFixtures):
    """Test questions about a moment, a candidate, and what waits."""

    def test_rows_say_what_the_view_says(self, scene: Scene) -> None:
        scene.tell(measured("z", as_run={"temperature": 37}), measured("y", None, qualifier=Qualifier.MISSING))
        [claim] = scene.claim(scene.propose(["a"]))
        scene.settle(result(claim, 0.5))
        correct(scene, 1, 2.0)
        asked = scene.history.queries.history("campaign")
        assert [tuple(row) for row in asked] == [HISTORY_COLUMNS] * 4
        seen = scene.history.queries.sql("SELECT * FROM history ORDER BY seq")
        assert sorted(seen.columns) == sorted(HISTORY_COLUMNS)
        odd = {"measured_at", "as_run", "superseded"}  # times, JSON and flags are told in a database's own way
        for row, shown in zip(asked, seen.rows, strict=True):
            told = dict(zip(seen.columns, shown, strict=True))
            assert {k: v for k, v in row.items() if k not in odd} == {k: told[k] for k in row if k not in odd}
            assert bool(told["superseded"]) is row["superseded"]
        assert asked[0]["as_run"] == {"temperature": 37}
        assert [row["superseded"] for row in asked] == [True, False, False, False]

    def test_long_histories_come_in_lists(self, scene: Scene) -> None:
        scene.tell(*(measured(f"o{i}") for i in range(7)))
        ask = scene.history.queries.iterate_history
        lists = list(ask(scene.campaign.id, chunk=3))
        assert [len(rows) for rows in lists] == [3, 3, 1]
        assert [row for rows in lists for row in rows] == scene.history.queries.history("campaign")
        assert list(ask(scene.campaign.id, HistoryFilter(source="nowhere"))) == []

    def test_an_open_read_stops_no_writer_and_sees_nothing_of_it(
        self, scene: Scene, reopen: Callable[[], History]
    ) -> None:
        scene.tell(*(measured(f"o{i}") for i in range(5)))
        with reopen() as second:
            lists = second.queries.iterate_history(scene.campaign.id, chunk=2)
            first = next(lists)
            scene.tell(measured("late"))
            assert [row["object"] for rows in [first, *lists] for row in rows] == [f"o{i}" for i in range(5)]
        assert len(scene.history.queries.history("campaign")) == 6

    def test_filters_hold_together(self, scene: Scene) -> None:
        scene.tell(measured("z", 0.25, source="eln"), measured("y"), measured("z", 3.0, property="mass"))
        record = scene.propose(["a", "z"])
        for claim in scene.claim(record):
            scene.settle(result(claim))
        rows = scene.history.queries.history("campaign")
        ask = scene.history.queries.history

        def seqs(**wanted: object) -> list[int]:
            found = ask("campaign", HistoryFilter(**wanted))  # type: ignore[arg-type]
            return [row["seq"] for row in found]

        z = rows[0]["candidate_id"]
        times = [row["measured_at"] for row in rows]
        assert seqs() == [1, 2, 3, 4, 5]
        assert seqs(property="mass") == [3]
        assert seqs(source="eln") == [1]
        assert seqs(origin="gflownet") == [4, 5]
        assert seqs(origin="user") == []
        assert seqs(candidate_id=z) == [1, 3, 5]
        assert seqs(candidate_id=z, round=1) == [5]
        assert seqs(candidate_id=z, upto_seq=3) == [1, 3]
        assert seqs(since=times[0], until=times[-1]) == [1, 2, 3, 4, 5]
        assert seqs(since=times[-1] + timedelta(seconds=1)) == []
        assert seqs(until=times[0] - timedelta(seconds=1)) == []
        assert [row["seq"] for row in ask("campaign", HistoryFilter(candidate_id=z), limit=2)] == [3, 5]
        with pytest.raises(NotFoundError, match=r"no round 9"):
            seqs(round=9)
        with pytest.raises(QueryError, match=r"since is .* no zone"):
            seqs(since=datetime(2026, 1, 31))

    def test_a_moment_is_a_round_a_time_or_a_number(self, scene: Scene) -> None:
        cut = scene.history.queries.cut_off
        scene.tell(measured("z"), measured("y"))
        scene.propose(["a"])
        scene.tell(measured("x"))
        now = scene.history.queries.history("campaign")[-1]["measured_at"]
        moments: dict[AsOf, int] = {
            0: 0, 2: 2, "seq 1": 1, "round 1": 2, " round  1 ": 2, now: 3, now - timedelta(days=1): 0,
            now.isoformat(): 3, "2001-01-31T12:00Z": 0, "2001-01-31T12:00+02:00": 0,
        }  # fmt: skip
        assert {moment: cut(scene.campaign.id, moment) for moment in moments} == moments

    @pytest.mark.parametrize(
        ("moment", "error", "message"),
        [
            ("round 2", NotFoundError, r"round 2 of the campaign has no fit"),
            (4, NotFoundError, r"the campaign's last is 1"),
            ("seq 4", NotFoundError, r"the campaign's last is 1"),
            (-1, QueryError, r"as_of is -1, expected 'round 7'"),
            (True, QueryError, r"as_of is True, expected"),
            ("yesterday", QueryError, r"as_of is 'yesterday', expected"),
            ("round", QueryError, r"expected 'round 7'"),
            ("2026-01-31", QueryError, r"has no zone"),
            ("2026-01-31T12:00", QueryError, r"has no zone"),
            ("2026-13-31T12:00Z", QueryError, r"expected a time with its zone"),
            (datetime(2026, 1, 31), QueryError, r"has no zone"),
        ],
    )
    def test_what_is_no_moment_is_refused(
        self, scene: Scene, moment: AsOf, error: type[Exception], message: str
    ) -> None:
        scene.tell(measured("z"))
        with pytest.raises(error, match=message):
            scene.history.queries.cut_off(scene.campaign.id, moment)

    def test_a_correction_counts_from_its_moment_on(self, scene: Scene) -> None:
        scene.tell(measured("a", 1.0), measured("b", 2.0))
        correct(scene, 2, 0.5)
        ask, best = scene.history.queries.history, scene.history.queries.best
        assert [row["superseded"] for row in ask("campaign", HistoryFilter(upto_seq=2))] == [False, False]
        assert [row["superseded"] for row in ask("campaign", HistoryFilter(upto_seq=3))] == [False, True, False]
        most: dict[str, Any] = {"direction": "maximize", "k": 9}
        ranked = {
            cut: [(row.object, row.value) for row in best(scene.campaign.id, PROPERTY, upto_seq=cut, **most)]
            for cut in (None, 0, 1, 2, 3)
        }
        now = [("a", 1.0), ("b", 0.5)]
        assert ranked == {None: now, 0: [], 1: [("a", 1.0)], 2: [("b", 2.0), ("a", 1.0)], 3: now}

    def test_the_best_of_every_moment_are_those_of_the_values_known_then(self, scene: Scene) -> None:
        told = [("a", 0.1), ("b", 0.7), ("a", 0.2), ("c", 0.7), ("a", 0.3), ("b", 0.1), ("d", 0.15), ("a", 0.3)]
        for i, (obj, value) in enumerate(told):
            scene.tell(measured(obj, value, row_id=str(i)))
        for cut in range(len(told) + 1):
            known = {obj: [v for o, v in told[:cut] if o == obj] for obj, _ in told[:cut]}
            means = {obj: fsum(values) / len(values) for obj, values in known.items()}
            for direction, sign in (("maximize", -1), ("minimize", 1)):
                wanted = sorted(means, key=lambda obj: (sign * means[obj], obj))[:3]
                found = scene.history.queries.best(
                    scene.campaign.id, PROPERTY, direction=direction, k=3, upto_seq=cut
                )
                assert [(r.rank, r.object, r.value, r.count) for r in found] == [
                    (rank, obj, means[obj], len(known[obj])) for rank, obj in enumerate(wanted, start=1)
                ]
        ask = scene.history.queries.best
        now = ask(scene.campaign.id, PROPERTY, direction="maximize", k=9)
        assert now == ask(scene.campaign.id, PROPERTY, direction="maximize", k=9, upto_seq=len(told))

    def test_lineage_goes_down_to_the_commit_and_the_data(self, scene: Scene) -> None:
        scene.tell(measured("z", 0.25))
        record = scene.propose(["a", "b"])
        _, claim = scene.claim(record)
        scene.settle(failed(claim, FailureClass.TRANSIENT, cost_minor=30))
        [again] = scene.claim(record)
        scene.settle(result(again, 0.5, cost_minor=80))
        correct(scene, 2, 0.75)
        found = scene.history.queries.lineage(scene.history.queries.candidate(scene.campaign.id, "b"))
        assert (found.campaign, found.campaign_uuid, found.object, found.key) == (
            "campaign", scene.campaign.uuid, "b", "B",
        )  # fmt: skip
        [one] = found.proposals
        assert (one.round, one.round_seed, one.rank, one.origin) == (1, 1, 2, "gflownet")
        assert one.decision is Decision.SELECTED
        fit, sampler = scene.history.rounds.fit(record.id), scene.history.rounds.sampler(record.id)
        assert fit is not None
        assert sampler is not None
        assert one.fit is not None
        assert one.sampler is not None
        assert {
            "id": fit.id, "kind": "gp", "seed": 7, "data_upto_seq": 1, "data_count": 1,
            "data_sha256": fit.data_sha256, "params": fit.params, "artefact_sha256": "a" * 64,
        }.items() <= asdict(one.fit).items()  # fmt: skip
        assert (one.sampler.id, one.sampler.seed, one.sampler.model_fit_id) == (sampler.id, 8, fit.id)
        assert (one.config.sha256, one.config.yaml, one.config.package_version) == ("0" * 64, CONFIG.yaml, "1.0")
        [evaluation] = found.evaluations
        assert (evaluation.oracle, evaluation.state, evaluation.round) == ("assay", EvaluationState.DONE, 1)
        assert [(a.number, a.state, a.failure, a.cost_minor, a.owner) for a in evaluation.attempts] == [
            (1, "failed", FailureClass.TRANSIENT, 30, this_owner()), (2, "succeeded", None, 80, this_owner()),
        ]  # fmt: skip
        assert [(m.seq, m.value, m.supersedes, m.superseded_by, m.actor) for m in found.measurements] == [
            (2, 0.5, None, 3, "oracle:assay"), (3, 0.75, 2, None, "bench"),
        ]  # fmt: skip
        assert found.measurements[0].evaluation_id == evaluation.id

    def test_lineage_names_every_round_that_considered_a_candidate(self, scene: Scene) -> None:
        record = scene.train()
        batch = [proposal("a", 1), proposal("x", reason="below the batch", mean=0.5, sd=0.1)]
        sampler = scene.history.rounds.sampler(record.id)
        assert sampler is not None
        scene.history.rounds.record_proposals(scene.lease, record, batch, sampler_run_id=sampler.id, oracle=ORACLE)
        scene.history.rounds.advance(scene.lease, record, RoundState.DISPATCHED)
        [claim] = scene.claim(record)
        scene.settle(result(claim))
        scene.history.rounds.advance(scene.lease, record, RoundState.COMPLETE)
        scene.propose(["x"], number=2)
        ask = scene.history.queries
        found = ask.lineage(ask.candidate(scene.campaign.id, "x"))
        assert [(p.round, p.decision, p.reason, p.predicted_mean, p.predicted_sd) for p in found.proposals] == [
            (1, Decision.OUTRANKED, "below the batch", 0.5, 0.1), (2, Decision.SELECTED, None, None, None),
        ]  # fmt: skip
        assert [p.fit.data_upto_seq for p in found.proposals if p.fit is not None] == [0, 1]
        assert (found.measurements, len(found.evaluations)) == ((), 1)

    def test_lineage_names_the_events_of_a_candidate_and_no_others(self, scene: Scene) -> None:
        first, second = scene.claim(scene.propose(["a", "b"]))
        scene.settle(result(first, 1.0), result(second, 1.0))
        scene.settle(result(first, 2.0))  # a stale attempt that brings another value: a conflict
        lineage, candidate = scene.history.queries.lineage, scene.history.queries.candidate
        events = lineage(candidate(scene.campaign.id, "a")).events
        assert [event.kind for event in events] == ["stale_attempt", "conflict"]
        assert events[1].detail["came"]["value"] == 2.0
        assert lineage(candidate(scene.campaign.id, "b")).events == ()

    def test_a_candidate_is_found_by_key_object_or_id(self, scene: Scene) -> None:
        scene.tell(measured("acgt"))
        ask = scene.history.queries.candidate
        [found] = [row["candidate_id"] for row in scene.history.queries.history("campaign")]
        assert {ask(scene.campaign.id, name) for name in ("ACGT", "acgt", found, str(found))} == {found}

    def test_an_unknown_candidate_is_told_with_those_near_it(self, scene: Scene) -> None:
        scene.tell(*(measured(name) for name in ("acgtacgt", "acgtacga", "ttttttaa")))
        ask = scene.history.queries.candidate
        with pytest.raises(NotFoundError, match=r"'acgtacgg' is not in this.* \(near it: acgtacg., acgtacg."):
            ask(scene.campaign.id, "acgtacgg")
        with pytest.raises(NotFoundError, match=r"it knows 3, none of them like it"):
            ask(scene.campaign.id, "999999")
        with pytest.raises(NotFoundError, match=r"candidate 999999 is not"):
            ask(scene.campaign.id, 999999)

    def test_what_waits_is_told_with_its_owner_and_its_money(self, scene: Scene) -> None:
        record = scene.propose(["a", "b"])
        assert [(w.object, w.state, w.owner, w.attempts, w.reserved_minor) for w in self._waiting(scene)] == [
            ("a", "queued", None, 0, 0), ("b", "queued", None, 0, 0),
        ]  # fmt: skip
        first, second = scene.claim(record)
        running = self._waiting(scene)
        assert [(w.object, w.state, w.owner, w.attempts, w.reserved_minor) for w in running] == [
            ("a", "running", this_owner(), 1, 100), ("b", "running", this_owner(), 1, 100),
        ]  # fmt: skip
        assert all(w.lease_until is not None and w.lease_until > w.since for w in running)
        assert abs(datetime.now(UTC) - running[0].since) < timedelta(minutes=10)  # the clocks of two machines
        scene.settle(failed(first, FailureClass.TRANSIENT))
        scene.settle(Outcome(second, unknown=True, message="cut off"))
        after = self._waiting(scene)
        assert [(w.object, w.state, w.owner, w.attempts, w.reserved_minor) for w in after] == [
            ("a", "queued", None, 1, 0), ("b", "unknown", None, 1, 100),
        ]  # fmt: skip
        assert (after[0].round, after[0].oracle, after[0].replicate, after[0].lease_until) == (1, "assay", 1, None)
        assert sum(w.reserved_minor for w in after) == scene.money()[0]
        [again] = scene.claim(record)
        scene.settle(result(again))
        assert [w.object for w in self._waiting(scene)] == ["b"]

    def _waiting(self, scene: Scene) -> list[WaitingRow]:
        return scene.history.queries.waiting(scene.campaign.id)
