"""What a storage guarantees of answers that come by themselves, for evaluations named by their keys."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from flowscout.db import Claim, FailureClass, Outcome, Received, Reply, Ruling, Verdict
from flowscout.errors import LabelError, NotFoundError
from flowscout.testing.histories import (
    ORACLE,
    HistoryFixtures,
    Scene,
    begin,
    dead_owner,
    failed,
    measured,
    result,
)

UNSURE = replace(ORACLE, idempotent=False)


def reply(scene: Scene, key: str, value: float = 1.0, **changes: Any) -> Reply:
    """Return what the oracle says by itself of the evaluation that a key names."""
    found = scene.history.answers.find(scene.campaign.id, [key], oracle="assay")
    row = measured(found[key].object, value, source="oracle:assay", row_id=key)
    return replace(Reply(key, [row]), **changes)


def receive(scene: Scene, *replies: Reply) -> list[Received]:
    """Let the oracle answer."""
    answers = scene.history.answers
    return answers.receive(scene.campaign.id, replies, oracle="assay", actor="oracle:assay")


def keys(scene: Scene) -> list[str]:
    """Return the keys of all evaluations, in the order they were queued."""
    return [key for (key,) in scene.rows("SELECT idempotency_key FROM evaluation ORDER BY id")]


def wait(scene: Scene, objects: Sequence[str] = ("a",), *, seconds: float = 3600.0, **oracle: Any) -> list[Claim]:
    """Let an oracle accept calls and answer later."""
    claims = scene.claim(scene.propose(objects, oracle=replace(ORACLE, **oracle)), owner=dead_owner())
    scene.settle(*(Outcome(claim, message="it will call back", pending_s=seconds) for claim in claims))
    return claims


class AnswersContract(HistoryFixtures):
    """Test the answers that come by themselves, in every state of their evaluation."""

    def test_an_accepted_call_outlives_its_caller(self, scene: Scene) -> None:
        wait(scene)
        assert scene.recover() == {"queued": 0, "unknown": 0}
        assert (scene.states(), scene.money()) == (["running"], (100, 0))
        assert scene.rows("SELECT state, owner, message FROM attempt") == [
            ("running", "call-back:assay", "it will call back")
        ]

    def test_the_caller_of_an_accepted_call_renews_and_settles_it_no_more(self, scene: Scene) -> None:
        [claim] = wait(scene)
        assert scene.history.experiments.renew([claim], lease_s=0) == [claim]
        assert scene.recover() == {"queued": 0, "unknown": 0}
        scene.settle(Outcome(claim, pending_s=0.0))
        assert scene.recover() == {"queued": 0, "unknown": 0}

    @pytest.mark.parametrize(("idempotent", "state"), [(True, "queued"), (False, "unknown")])
    def test_an_answer_that_never_comes_is_recovered_as_a_call_that_was_cut_off(
        self, scene: Scene, idempotent: bool, state: str
    ) -> None:
        [claim] = wait(scene, seconds=0.0, idempotent=idempotent)
        scene.recover()
        assert (scene.states(), scene.money()) == ([state], (0 if idempotent else 100, 0))
        assert keys(scene) == [claim.idempotency_key]

    def test_a_wait_beyond_all_reason_is_cut_short(self, scene: Scene) -> None:
        wait(scene, seconds=1e300)
        assert scene.states() == ["running"]

    def test_what_an_oracle_is_to_measure_is_listed(self, scene: Scene) -> None:
        [claim] = wait(scene)
        scene.propose(["b", "c"], number=2)
        rows = scene.history.answers.waiting(scene.campaign.id, oracle="assay")
        assert [(row.object, row.replicate, str(row.state)) for row in rows] == [
            ("a", 1, "running"), ("b", 1, "queued"), ("c", 1, "queued"),
        ]  # fmt: skip
        assert rows[0].idempotency_key == claim.idempotency_key
        assert scene.history.answers.waiting(scene.campaign.id, oracle="other") == []
        receive(scene, *(reply(scene, key) for key in keys(scene)[1:]))
        assert len(scene.history.answers.waiting(scene.campaign.id, oracle="assay")) == 1

    def test_what_was_not_dispatched_is_not_listed(self, scene: Scene) -> None:
        scene.propose(["a"], dispatch=False)
        assert scene.history.answers.waiting(scene.campaign.id, oracle="assay") == []

    def test_an_answer_settles_the_call_that_waits_for_it(self, scene: Scene) -> None:
        first, second = wait(scene, ["a", "b"])
        words = receive(
            scene, reply(scene, second.idempotency_key, 0.5, cost_minor=70), reply(scene, first.idempotency_key)
        )
        assert words == [Received.RECORDED] * 2
        assert (scene.states(), scene.money()) == (["done", "done"], (0, 170))
        assert scene.rows("SELECT state, cost_minor FROM attempt ORDER BY id") == [
            ("succeeded", 100), ("succeeded", 70),
        ]  # fmt: skip
        assert scene.rows("SELECT seq, value, actor, attempt_id, evaluation_id FROM measurement ORDER BY seq") == [
            (1, 0.5, "oracle:assay", second.attempt_id, second.evaluation_id),
            (2, 1.0, "oracle:assay", first.attempt_id, first.evaluation_id),
        ]
        assert scene.events("values_told") == 1
        assert scene.events("stale_attempt") == 0

    def test_an_answer_that_is_faster_than_its_caller_is_not_undone_by_it(self, scene: Scene) -> None:
        [claim] = scene.claim(scene.propose(["a"]))
        receive(scene, reply(scene, claim.idempotency_key))
        scene.settle(Outcome(claim, pending_s=60.0))
        assert (scene.states(), scene.money()) == (["done"], (0, 100))
        assert scene.rows("SELECT state FROM attempt") == [("succeeded",)]
        assert scene.events("stale_attempt") == 0

    @pytest.mark.parametrize("alive", [True, False])
    def test_an_answer_settles_a_call_under_way_whoever_made_it(self, scene: Scene, alive: bool) -> None:
        [claim] = scene.claim(scene.propose(["a"]), owner=None if alive else dead_owner())
        assert receive(scene, reply(scene, claim.idempotency_key)) == [Received.RECORDED]
        scene.recover()
        assert scene.settle(result(claim)) == 0
        assert (scene.states(), scene.money(), scene.events("conflict")) == (["done"], (0, 100), 0)
        scene.settle(result(claim, 2.0))
        assert (scene.money(), scene.events("conflict")) == ((0, 100), 1)

    def test_an_answer_to_what_nobody_has_called_is_recorded_and_paid(self, scene: Scene) -> None:
        scene.propose(["a"])
        assert receive(scene, reply(scene, keys(scene)[0])) == [Received.RECORDED]
        assert (scene.states(), scene.money()) == (["done"], (0, 100))
        assert scene.history.experiments.claim_any(scene.campaign.id, owner="x") == []

    def test_an_answer_to_a_call_that_was_given_up_pays_that_call(self, scene: Scene) -> None:
        [claim] = scene.claim(scene.propose(["a"]), owner=dead_owner())
        scene.recover()
        assert (scene.states(), scene.money()) == (["queued"], (0, 0))
        receive(scene, reply(scene, claim.idempotency_key, cost_minor=80))
        assert (scene.states(), scene.money()) == (["done"], (0, 80))
        assert scene.rows("SELECT state, cost_minor FROM attempt") == [("succeeded", 80)]
        assert scene.rows("SELECT attempt_id FROM measurement") == [(claim.attempt_id,)]

    def test_an_answer_to_a_call_that_failed_is_a_value_all_the_same(self, scene: Scene) -> None:
        [claim] = scene.claim(scene.propose(["a"]))
        scene.settle(failed(claim, FailureClass.PERMANENT))
        assert scene.states() == ["failed"]
        assert receive(scene, reply(scene, claim.idempotency_key)) == [Received.RECORDED]
        assert (scene.states(), scene.money()) == (["done"], (0, 100))
        assert scene.rows("SELECT state FROM attempt") == [("failed",)]

    @pytest.mark.parametrize(("bill", "spent"), [(None, 100), (130, 130)])
    def test_an_answer_settles_an_unknown_call_and_its_money(
        self, scene: Scene, bill: int | None, spent: int
    ) -> None:
        [claim] = scene.claim(scene.propose(["a"], oracle=UNSURE), owner=dead_owner())
        scene.recover()
        assert (scene.states(), scene.money()) == (["unknown"], (100, 0))
        assert receive(scene, reply(scene, claim.idempotency_key, cost_minor=bill)) == [Received.RECORDED]
        assert (scene.states(), scene.money()) == (["done"], (0, spent))
        assert scene.rows("SELECT state FROM attempt") == [("succeeded",)]
        assert scene.events("evaluation_reconciled") == 1

    def test_the_same_answer_again_changes_nothing(self, scene: Scene) -> None:
        [claim] = wait(scene)
        answer = reply(scene, claim.idempotency_key)
        assert receive(scene, answer, answer) == [Received.RECORDED, Received.KNOWN]
        tables = ("evaluation", "attempt", "measurement", "ledger", "balance", "event")
        before = [scene.table(name) for name in tables]
        assert receive(scene, answer) == [Received.KNOWN]
        assert [scene.table(name) for name in tables] == before

    def test_another_value_for_what_is_done_is_a_conflict_once(self, scene: Scene) -> None:
        [claim] = wait(scene)
        receive(scene, reply(scene, claim.idempotency_key))
        other = reply(scene, claim.idempotency_key, 2.0)
        assert receive(scene, other) == receive(scene, other) == [Received.CONFLICT]
        assert (scene.events("conflict"), scene.money()) == (1, (0, 100))
        assert scene.rows("SELECT value FROM measurement") == [(1.0,)]
        [conflict] = scene.history.conflicts.open(scene.campaign.id)
        assert (conflict.came.value, conflict.actor) == (2.0, "oracle:assay")

    def test_what_was_told_while_it_was_called_is_paid_once(self, scene: Scene) -> None:
        [claim] = wait(scene)
        scene.tell(measured("a"))
        assert (scene.states(), scene.money()) == (["done"], (100, 0))
        assert receive(scene, reply(scene, claim.idempotency_key)) == [Received.RECORDED]
        assert (scene.states(), scene.money()) == (["done"], (0, 100))
        assert scene.rows("SELECT COUNT(*) FROM measurement") == [(2,)]

    def test_a_value_for_a_cancelled_evaluation_is_recorded_and_paid(self, scene: Scene) -> None:
        scene.propose(["a"])
        scene.history.experiments.cancel(scene.campaign.id, {"A": "a"}, reason="no stock", actor="ada")
        assert receive(scene, reply(scene, keys(scene)[0])) == [Received.RECORDED]
        assert (scene.states(), scene.money()) == (["done"], (0, 100))

    def test_a_value_for_a_call_that_was_said_never_to_have_happened_is_recorded(self, scene: Scene) -> None:
        [claim] = scene.claim(scene.propose(["a"], oracle=UNSURE), owner=dead_owner())
        scene.recover()
        never = Ruling(claim.evaluation_id, Verdict.NEVER)
        scene.history.experiments.reconcile(scene.campaign.id, [never], actor="ada")
        late = reply(scene, claim.idempotency_key)
        assert keys(scene) != [claim.idempotency_key]
        assert receive(scene, late) == [Received.RECORDED]
        assert (scene.states(), scene.money()) == (["done"], (0, 100))
        assert receive(scene, late) == [Received.KNOWN]

    @pytest.mark.parametrize(
        ("failure", "state"), [(FailureClass.TRANSIENT, "queued"), (FailureClass.INFEASIBLE, "failed")]
    )
    def test_a_failure_ends_the_call_that_waits_and_costs_what_is_billed(
        self, scene: Scene, failure: FailureClass, state: str
    ) -> None:
        first, second = wait(scene, ["a", "b"])
        no = [
            Reply(first.idempotency_key, failure=failure, message="no"),
            Reply(second.idempotency_key, failure=failure, message="no", cost_minor=40),
        ]
        assert receive(scene, *no) == [Received.RECORDED] * 2
        assert (scene.states(), scene.money()) == ([state, state], (0, 40))
        assert receive(scene, *no) == [Received.KNOWN] * 2
        assert scene.rows("SELECT state, failure FROM attempt") == [("failed", str(failure))] * 2
        assert scene.money() == (0, 40)

    def test_a_failure_settles_an_unknown_call(self, scene: Scene) -> None:
        [claim] = scene.claim(scene.propose(["a"], oracle=UNSURE), owner=dead_owner())
        scene.recover()
        no = Reply(claim.idempotency_key, failure=FailureClass.PERMANENT, message="broken")
        assert receive(scene, no) == [Received.RECORDED]
        assert (scene.states(), scene.money()) == (["failed"], (0, 0))

    def test_a_failure_of_what_is_done_changes_nothing(self, scene: Scene) -> None:
        [claim] = wait(scene)
        receive(scene, reply(scene, claim.idempotency_key))
        before = [scene.table(name) for name in ("evaluation", "attempt", "ledger", "event")]
        no = Reply(claim.idempotency_key, failure=FailureClass.PERMANENT, message="broken")
        assert receive(scene, no) == [Received.KNOWN]
        assert [scene.table(name) for name in ("evaluation", "attempt", "ledger", "event")] == before

    def test_a_key_that_names_nothing_of_the_oracle_refuses_all(self, scene: Scene) -> None:
        claims = wait(scene, ["a", "b"])
        other = begin(scene.history, name="other")
        other.propose(["x"])
        good = reply(scene, claims[0].idempotency_key)
        foreign = keys(scene)[-1]
        for key in ("nonsense", foreign):
            with pytest.raises(NotFoundError, match=rf"{key!r} names no evaluation of oracle 'assay'; noth"):
                receive(scene, good, replace(good, idempotency_key=key))
        with pytest.raises(NotFoundError, match=r"of oracle 'bench'"):
            scene.history.answers.receive(scene.campaign.id, [good], oracle="bench", actor="x")
        assert scene.table("measurement") == []
        assert scene.history.answers.find(scene.campaign.id, ["nonsense", foreign], oracle="assay") == {}

    def test_a_value_that_cannot_be_stored_refuses_all(self, scene: Scene) -> None:
        first, second = wait(scene, ["a", "b"])
        nan = reply(scene, second.idempotency_key, float("nan"))
        with pytest.raises(LabelError, match=r"nan.*expected a finite number"):
            receive(scene, reply(scene, first.idempotency_key), nan)
        assert (scene.table("measurement"), scene.states()) == ([], ["running", "running"])

    def test_many_who_say_the_same_at_once_say_it_once(self, scene: Scene) -> None:
        claims = wait(scene, [f"o{n}" for n in range(4)])
        replies = [reply(scene, claim.idempotency_key) for claim in claims]
        with ThreadPoolExecutor(4) as pool:
            words = list(pool.map(lambda turn: receive(scene, *replies[turn:], *replies[:turn]), range(4)))
        assert sorted(word for row in words for word in row) == ["known"] * 12 + ["recorded"] * 4
        assert (scene.states(), scene.money()) == (["done"] * 4, (0, 400))
        assert scene.rows("SELECT COUNT(*) FROM measurement") == [(4,)]
