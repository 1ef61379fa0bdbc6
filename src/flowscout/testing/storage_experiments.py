"""What a storage guarantees of experiments: paid once, never lost, never beyond the budget."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from flowscout.db import EvaluationState, FailureClass, History, MeasurementRecord, OracleRecord, this_owner
from flowscout.testing.histories import (
    FOREIGN_OWNER,
    ORACLE,
    PROPERTY,
    HistoryFixtures,
    Scene,
    dead_owner,
    failed,
    measured,
    result,
)

NOT_IDEMPOTENT = replace(ORACLE, idempotent=False)


class ExperimentContract(HistoryFixtures):
    """Test what is stored of evaluations, attempts and money."""

    def test_evaluations_are_claimed_in_the_order_of_their_ranks(self, scene: Scene) -> None:
        claims = scene.claim(scene.propose(["c", "a", "b"]))
        assert [claim.object for claim in claims] == ["c", "a", "b"]
        assert len({claim.idempotency_key for claim in claims}) == 3

    def test_an_attempt_is_committed_before_the_call(self, scene: Scene, reopen: Callable[[], History]) -> None:
        [claim] = scene.claim(scene.propose(["a"]))
        with reopen() as second:
            other = replace(scene, history=second)
            sql = "SELECT id, number, state, owner, token FROM attempt"
            assert other.rows(sql) == [(claim.attempt_id, 1, "running", this_owner(), claim.token)]
            assert other.states() == ["running"]
            assert other.money() == (100, 0)

    def test_what_is_claimed_is_not_claimed_again(self, scene: Scene, reopen: Callable[[], History]) -> None:
        record = scene.propose(["a", "b"])
        assert len(scene.claim(record)) == 2
        with reopen() as second:
            assert replace(scene, history=second).claim(record) == []

    def test_every_attempt_sends_the_same_key(self, scene: Scene) -> None:
        record = scene.propose(["a"])
        [first] = scene.claim(record)
        scene.settle(failed(first, FailureClass.TRANSIENT))
        [second] = scene.claim(record, owner=dead_owner())
        scene.recover()
        [third] = scene.claim(record)
        assert [c.number for c in (first, second, third)] == [1, 2, 3]
        assert {c.idempotency_key for c in (first, second, third)} == {first.idempotency_key}
        assert len({c.token for c in (first, second, third)}) == 3

    def test_a_settled_candidate_is_never_claimed_again(self, scene: Scene) -> None:
        record = scene.propose(["a", "b"])
        first, second = scene.claim(record)
        assert scene.settle(result(first, 0.5), result(second, 0.6)) == 2
        assert scene.history.experiments.requeue_failed(record.id) == 0
        assert scene.recover() == {"queued": 0, "unknown": 0}
        assert scene.claim(record) == []
        assert scene.states() == ["done", "done"]
        assert scene.money() == (0, 200)

    def test_a_success_is_settled_though_its_value_was_known(self, scene: Scene) -> None:
        record = scene.propose(["a"])
        [claim] = scene.claim(record)
        [told] = result(claim).measurements
        scene.tell(replace(told, property="mass"))
        assert scene.settle(replace(result(claim), measurements=[replace(told, property="mass")])) == 0
        assert scene.states() == ["done"]

    def test_settling_twice_changes_nothing_the_second_time(self, scene: Scene) -> None:
        [claim] = scene.claim(scene.propose(["a"]))
        assert scene.settle(result(claim)) == 1
        before = scene.table("attempt"), scene.table("measurement"), scene.states()
        assert scene.settle(result(claim)) == 0
        assert (scene.table("attempt"), scene.table("measurement"), scene.states()) == before
        assert scene.money() == (0, 100)

    def test_a_stale_owner_changes_no_state_and_no_money_but_its_value_is_kept(self, scene: Scene) -> None:
        record = scene.propose(["a"])
        [stale] = scene.claim(record, lease_s=0)
        scene.recover()
        [fresh] = scene.claim(record)
        before = scene.table("attempt"), scene.money()
        assert scene.settle(result(stale, 0.5)) == 1
        assert (scene.table("attempt"), scene.money()) == before
        assert scene.events("stale_attempt") == 1
        assert scene.settle(result(fresh, 0.5)) == 0
        assert scene.events("conflict") == 0
        assert scene.states() == ["done"]
        assert scene.money() == (0, 100)

    def test_a_stale_failure_changes_nothing(self, scene: Scene) -> None:
        record = scene.propose(["a"])
        [stale] = scene.claim(record, lease_s=0)
        scene.recover()
        scene.claim(record)
        scene.settle(failed(stale, FailureClass.PERMANENT))
        assert scene.states() == ["running"]

    def test_two_values_of_one_call_are_a_conflict_that_a_person_sees(self, scene: Scene) -> None:
        record = scene.propose(["a"])
        [stale] = scene.claim(record, lease_s=0)
        scene.recover()
        [fresh] = scene.claim(record)
        scene.settle(result(fresh, 0.5))
        assert scene.settle(result(stale, 0.9)) == 0
        assert scene.events("conflict") == 1
        assert scene.rows("SELECT value FROM measurement") == [(0.5,)]

    def test_a_dead_owners_call_is_made_again_if_the_oracle_is_idempotent(self, scene: Scene) -> None:
        record = scene.propose(["a"])
        [lost] = scene.claim(record, owner=dead_owner())
        assert scene.recover() == {"queued": 1, "unknown": 0}
        assert scene.recover() == {"queued": 0, "unknown": 0}
        assert scene.money() == (0, 0)
        [again] = scene.claim(record)
        assert (again.idempotency_key, again.number) == (lost.idempotency_key, 2)
        assert scene.money() == (100, 0)

    def test_a_dead_owners_call_is_unknown_if_it_cannot_be_repeated(self, scene: Scene) -> None:
        record = scene.propose(["a"], oracle=NOT_IDEMPOTENT)
        scene.claim(record, owner=dead_owner())
        assert scene.recover() == {"queued": 0, "unknown": 1}
        assert scene.states() == ["unknown"]
        assert scene.claim(record) == []
        assert scene.money() == (100, 0)
        assert scene.history.queries.pending(scene.campaign.id) == ["a"]

    def test_a_living_owners_attempt_is_left_alone(self, scene: Scene) -> None:
        record = scene.propose(["a", "b"])
        scene.claim(record)
        assert scene.recover() == {"queued": 0, "unknown": 0}
        assert scene.states() == ["running", "running"]

    def test_an_owner_of_another_host_keeps_its_attempt_until_the_lease_ends(self, scene: Scene) -> None:
        kept = scene.propose(["a"])
        scene.claim(kept, owner=FOREIGN_OWNER)
        assert scene.recover() == {"queued": 0, "unknown": 0}
        ended = scene.propose(["b"], number=2)
        scene.claim(ended, owner=FOREIGN_OWNER, lease_s=0)
        assert scene.recover() == {"queued": 1, "unknown": 0}
        assert scene.states() == ["running", "queued"]

    @pytest.mark.parametrize("oracle", [ORACLE, NOT_IDEMPOTENT], ids=["idempotent", "not idempotent"])
    def test_what_was_told_meanwhile_is_not_recovered(self, scene: Scene, oracle: OracleRecord) -> None:
        record = scene.propose(["a"], oracle=oracle)
        scene.claim(record, owner=dead_owner())
        scene.tell(measured("a"))
        assert scene.recover() == {"queued": 0, "unknown": 0}
        assert scene.states() == ["done"]
        assert scene.claim(record) == []

    def test_transient_failures_are_retried_a_limited_number_of_times(self, scene: Scene) -> None:
        record = scene.propose(["a"])
        for number in (1, 2, 3):
            [claim] = scene.claim(record)
            assert claim.number == number
            scene.settle(failed(claim, FailureClass.TRANSIENT))
        assert scene.states() == ["failed"]
        assert scene.claim(record) == []
        assert scene.history.experiments.requeue_failed(record.id) == 1
        [claim] = scene.claim(record)
        assert claim.number == 4

    @pytest.mark.parametrize("failure", [FailureClass.PERMANENT, FailureClass.INFEASIBLE])
    def test_a_final_failure_is_not_retried(self, scene: Scene, failure: FailureClass) -> None:
        record = scene.propose(["a"])
        [claim] = scene.claim(record)
        scene.settle(failed(claim, failure))
        assert scene.states() == ["failed"]
        assert scene.claim(record) == []
        assert scene.history.experiments.failures(record.id) == [f"{failure}!"]

    def test_a_failed_attempt_writes_no_number_and_costs_nothing_unless_billed(self, scene: Scene) -> None:
        first, second = scene.claim(scene.propose(["a", "b"]))
        scene.settle(failed(first, FailureClass.PERMANENT), failed(second, FailureClass.PERMANENT, cost_minor=30))
        assert scene.table("measurement") == []
        assert scene.history.campaigns.get(scene.campaign.id).clock == 0
        assert scene.money() == (0, 30)

    def test_a_result_after_a_failure_is_accepted(self, scene: Scene) -> None:
        [claim] = scene.claim(scene.propose(["a"]))
        scene.settle(failed(claim, FailureClass.PERMANENT))
        scene.tell(measured("a"))
        assert scene.states() == ["done"]

    def test_commitments_never_exceed_the_budget(self, poor_scene: Scene) -> None:
        record = poor_scene.propose(["a", "b", "c", "d"])
        claims = poor_scene.claim(record)
        assert [claim.object for claim in claims] == ["a", "b"]
        assert poor_scene.money() == (200, 0)
        assert poor_scene.claim(record) == []
        assert poor_scene.events("budget_exhausted") == 1  # once, not at every later try
        assert not poor_scene.history.experiments.affordable(poor_scene.campaign.id, 100)
        assert poor_scene.history.experiments.affordable(poor_scene.campaign.id, 50)
        assert poor_scene.states() == ["running", "running", "queued", "queued"]

    def test_what_a_failure_releases_may_be_spent_again(self, poor_scene: Scene) -> None:
        record = poor_scene.propose(["a", "b", "c"])
        first, second = poor_scene.claim(record)
        poor_scene.settle(result(first), failed(second, FailureClass.PERMANENT))
        assert poor_scene.money() == (0, 100)
        assert [claim.object for claim in poor_scene.claim(record)] == ["c"]

    def test_a_bill_above_the_estimate_is_recorded_and_stops_dispatch(self, poor_scene: Scene) -> None:
        record = poor_scene.propose(["a", "b", "c"])
        first, second = poor_scene.claim(record)
        poor_scene.settle(result(first, cost_minor=900), result(second))
        assert poor_scene.money() == (0, 1000)
        assert poor_scene.claim(record) == []

    def test_what_was_reserved_is_released_though_the_price_changed(self, scene: Scene) -> None:
        first = scene.propose(["a"])
        [claim] = scene.claim(first)
        [lost] = scene.claim(scene.propose(["b"], number=2), owner=dead_owner())
        second = scene.propose(["c"], number=3, oracle=replace(ORACLE, unit_cost_minor=150))
        scene.settle(result(claim))
        scene.recover()
        assert scene.money()[0] == 0
        [dear] = scene.claim(second)
        assert scene.money()[0] == 150
        assert lost.idempotency_key != dear.idempotency_key

    def test_cancelled_evaluations_are_not_claimed_but_a_late_result_is_kept(self, poor_scene: Scene) -> None:
        record = poor_scene.propose(["a", "b", "c"])
        poor_scene.claim(record)
        assert poor_scene.history.experiments.cancel_queued(record.id, actor="test") == 1
        counts = {EvaluationState.RUNNING: 2, EvaluationState.CANCELLED: 1}
        assert poor_scene.history.experiments.counts(poor_scene.campaign.id, round_id=record.id) == counts
        poor_scene.tell(measured("c"))
        assert poor_scene.states() == ["running", "running", "done"]

    def test_one_call_may_bring_values_of_several_properties(self, scene: Scene) -> None:
        [claim] = scene.claim(scene.propose(["a"]))
        [value] = result(claim).measurements
        rows: list[MeasurementRecord] = [value, replace(value, property="mass", value=300.0)]
        assert scene.settle(replace(result(claim), measurements=rows)) == 2
        found = scene.rows("SELECT property, evaluation_id, attempt_id FROM measurement ORDER BY seq")
        assert found == [
            (PROPERTY, claim.evaluation_id, claim.attempt_id),
            ("mass", claim.evaluation_id, claim.attempt_id),
        ]
