"""What a storage guarantees of vetoes: all or none, once, and each place to the next best that is left."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from flowscout.db import Decision, FailureClass, History, RoundRecord, RoundState, VetoRecord
from flowscout.errors import StateError
from flowscout.testing.histories import ORACLE, HistoryFixtures, Scene, begin, failed, measured, proposal, result

TABLES = ("proposal", "evaluation", "approval", "event", "candidate")


def propose_pool(scene: Scene, *, replicates: int = 1) -> RoundRecord:
    """Propose a and b out of a pool in which c, then d, then e are the next best, and dispatch."""
    record = scene.train()
    pool = [
        proposal("a", 1, acquisition=9.0),
        proposal("b", 2, acquisition=1.0),
        proposal("e"),  # nothing is believed of it
        proposal("d", acquisition=2.0, origin="anchor"),
        proposal("c", acquisition=3.0),
        replace(proposal("z", acquisition=99.0), decision=Decision.DUPLICATE),
    ]
    scene.history.rounds.record_proposals(
        scene.lease, record, pool, sampler_run_id=None, oracle=ORACLE, replicates=replicates
    )
    scene.history.rounds.advance(scene.lease, record, RoundState.DISPATCHED)
    return scene.history.rounds.get(scene.campaign.id, 1)


def veto(scene: Scene, *objects: str, reason: str = "toxic") -> list[VetoRecord]:
    """Veto objects as a person does."""
    wanted = {obj.upper(): obj for obj in objects}
    return scene.history.vetoes.add(scene.campaign.id, wanted, reason=reason, actor="bench")


def batch(scene: Scene, record: RoundRecord) -> list[tuple[str, int | None]]:
    """Return the objects of a batch with their places."""
    return [(p.object, p.rank) for p in scene.history.rounds.proposals(record.id, selected=True)]


class VetoContract(HistoryFixtures):
    """Test what becomes of a vetoed place."""

    def test_a_vetoed_place_goes_to_the_next_best_of_the_stored_pool(self, scene: Scene) -> None:
        record = propose_pool(scene)
        assert veto(scene, "a") == [VetoRecord("a", replacement="c", new=True)]
        assert batch(scene, record) == [("c", 1), ("b", 2)]
        stored = {p.object: p for p in scene.history.rounds.proposals(record.id)}
        assert (stored["a"].decision, stored["a"].reason) == (Decision.VETOED, "toxic")
        assert stored["c"].reason == "in place of 'a', which was vetoed: toxic"
        assert scene.states() == ["cancelled", "queued", "queued"]
        assert [claim.object for claim in scene.claim(record)] == ["b", "c"]

    def test_the_heir_keeps_its_origin_and_is_measured_like_any_other(self, scene: Scene) -> None:
        record = propose_pool(scene)
        veto(scene, "a", "b")
        assert batch(scene, record) == [("c", 1), ("d", 2)]
        claims = scene.claim(record)
        assert scene.settle(*(result(claim) for claim in claims)) == 2
        origins = [p.origin for p in scene.history.rounds.proposals(record.id, selected=True)]
        assert origins == ["gflownet", "anchor"]
        assert len({claim.idempotency_key for claim in claims}) == 2

    def test_a_veto_again_changes_nothing_and_says_who_has_the_place(self, scene: Scene) -> None:
        propose_pool(scene)
        veto(scene, "a")
        before = [scene.table(name) for name in TABLES]
        assert veto(scene, "a", reason="another") == [VetoRecord("a", replacement="c", new=False)]
        assert [scene.table(name) for name in TABLES] == before
        assert veto(scene, "a", "c")[1] == VetoRecord("c", replacement="d", new=True)
        assert veto(scene, "a") == [VetoRecord("a", replacement="d", new=False)]

    def test_a_place_stays_empty_where_nothing_is_left(self, scene: Scene) -> None:
        record = propose_pool(scene)
        found = veto(scene, "a", "b")
        found += veto(scene, "c", "d")
        assert [one.replacement for one in found] == ["c", "d", "e", None]
        assert batch(scene, record) == [("e", 1)]

    def test_what_was_told_meanwhile_takes_no_place(self, scene: Scene) -> None:
        record = propose_pool(scene)
        scene.tell(measured("c"))
        assert veto(scene, "a") == [VetoRecord("a", replacement="d", new=True)]
        assert batch(scene, record) == [("d", 1), ("b", 2)]

    @pytest.mark.parametrize("odd", ["c", "z", "never-seen"])
    def test_what_is_in_no_batch_is_refused_and_nothing_is_written(self, scene: Scene, odd: str) -> None:
        propose_pool(scene)
        before = [scene.table(name) for name in TABLES]
        with pytest.raises(StateError, match=f"'{odd}' is in no batch"):
            veto(scene, "a", odd)
        assert [scene.table(name) for name in TABLES] == before

    def test_what_is_being_measured_or_was_is_refused(self, scene: Scene) -> None:
        record = propose_pool(scene)
        claims = scene.claim(record)
        with pytest.raises(StateError, match=r"measurement of 'a' is running, expected queued"):
            veto(scene, "a")
        scene.settle(*(result(claim) for claim in claims))
        with pytest.raises(StateError, match=r"measurement of 'a' is done, expected queued"):
            veto(scene, "a")

    def test_a_vetoed_candidate_is_known_and_its_value_is_still_taken(self, scene: Scene) -> None:
        propose_pool(scene)
        veto(scene, "a")
        assert scene.history.vetoes.keys(scene.campaign.id) == {"A"}
        assert "A" in scene.history.measurements.known_keys(scene.campaign.id)
        assert scene.tell(measured("a")).added == 1
        assert scene.states()[0] == "done"

    def test_a_veto_that_breaks_off_leaves_nothing(
        self, scene: Scene, reopen: Callable[[], History], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        propose_pool(scene)
        before = [scene.table(name) for name in TABLES]

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("flowscout.db.vetoes._occupant", die)  # after everything was written
        with pytest.raises(KeyboardInterrupt):
            veto(scene, "a")
        monkeypatch.undo()
        assert [scene.table(name) for name in TABLES] == before
        with reopen() as other:
            again = other.vetoes.add(scene.campaign.id, {"A": "a"}, reason="toxic", actor="bench")
        assert again == [VetoRecord("a", replacement="c", new=True)]

    def test_vetoes_of_one_campaign_are_not_those_of_another(self, scene: Scene) -> None:
        propose_pool(scene)
        veto(scene, "a")
        other = begin(scene.history, name="other")
        assert other.history.vetoes.keys(other.campaign.id) == set()

    def test_a_veto_takes_all_replicates_of_a_place_and_the_heir_has_as_many(self, scene: Scene) -> None:
        record = propose_pool(scene, replicates=2)
        assert veto(scene, "a") == [VetoRecord("a", replacement="c", new=True)]
        assert scene.states() == ["cancelled", "cancelled", "queued", "queued", "queued", "queued"]
        claims = scene.claim(record)
        assert [(claim.object, claim.replicate) for claim in claims] == [("b", 1), ("b", 2), ("c", 1), ("c", 2)]
        assert len({claim.idempotency_key for claim in claims}) == 4
        scene.settle(*(result(claim) for claim in claims))
        with pytest.raises(StateError, match=r"the measurement of 'b' is done"):
            veto(scene, "b")

    def test_a_place_of_which_one_replicate_was_begun_cannot_be_vetoed(self, scene: Scene) -> None:
        record = propose_pool(scene, replicates=2)
        scene.history.experiments.claim(record.id, owner="me", limit=1)
        with pytest.raises(StateError, match=r"the measurement of 'a' is running"):
            veto(scene, "a")
        assert scene.history.experiments.cancel(scene.campaign.id, {"A": "a"}, reason="no", actor="me") == 1
        assert scene.states() == ["running", "cancelled", "queued", "queued"]

    def test_replicates_are_measured_and_paid_one_by_one_and_told_in_order(self, scene: Scene) -> None:
        record = propose_pool(scene, replicates=3)
        scene.history.experiments.cancel(scene.campaign.id, {"B": "b"}, reason="no", actor="me")
        [first] = scene.history.experiments.claim(record.id, owner="me", limit=1)
        scene.settle(result(first, 1.0))
        assert scene.history.queries.pending(scene.campaign.id) == ["a"]
        assert scene.money() == (0, 100)
        scene.tell(measured("a", 2.0, row_id="2"), measured("a", 6.0, row_id="3"))
        assert scene.states() == ["done"] * 3 + ["cancelled"] * 3
        sql = "SELECT replicate, value FROM history ORDER BY seq"
        assert scene.rows(sql) == [(1, 1.0), (2, 2.0), (3, 6.0)]
        [row] = scene.history.measurements.training_set(scene.campaign.id, "affinity").rows
        assert row.value == 3.0

    def test_a_value_answers_what_waits_before_what_was_given_up(self, scene: Scene) -> None:
        record = propose_pool(scene, replicates=2)
        [first] = scene.history.experiments.claim(record.id, owner="me", limit=1)
        scene.settle(failed(first, FailureClass.PERMANENT))
        scene.tell(measured("a", 2.0))
        assert scene.states()[:2] == ["failed", "done"]

    def test_a_value_that_names_its_replicate_answers_that_one(self, scene: Scene) -> None:
        propose_pool(scene, replicates=2)
        scene.tell(measured("a", 2.0, replicate=2), measured("b", 1.0, replicate=7))
        assert scene.states() == ["queued", "done", "done", "queued"]

    def test_cancelled_replicates_are_queued_again_before_there_are_new_ones(self, scene: Scene) -> None:
        record = propose_pool(scene, replicates=2)
        wanted = {"A": "a", "B": "b"}
        assert scene.history.experiments.cancel(scene.campaign.id, wanted, reason="no", actor="me") == 4
        scene.history.rounds.advance(scene.lease, record, RoundState.COMPLETE)
        second = scene.train(2)
        scene.history.rounds.record_proposals(
            scene.lease, second, [proposal("a", 1)], sampler_run_id=None, oracle=ORACLE, replicates=3
        )
        sql = "SELECT replicate, round_id FROM evaluation WHERE state = 'queued' ORDER BY replicate"
        assert scene.rows(sql) == [(1, second.id), (2, second.id), (3, second.id)]
