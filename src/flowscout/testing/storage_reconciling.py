"""What a storage guarantees of calls of which nobody can say whether they happened."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from flowscout.db import Claim, FailureClass, Outcome, Ruling, Verdict
from flowscout.errors import LabelError, StateError
from flowscout.testing.histories import (
    FOREIGN_OWNER,
    ORACLE,
    HistoryFixtures,
    Scene,
    dead_owner,
    measured,
    result,
)

UNSURE = replace(ORACLE, idempotent=False)


def lose(scene: Scene, objects: Sequence[str] = ("a",)) -> list[Claim]:
    """Let a process die in the call of an oracle that cannot be called again; return its claims."""
    claims = scene.claim(scene.propose(objects, oracle=UNSURE), owner=dead_owner())
    scene.recover()
    return claims


def rule(scene: Scene, *rulings: Ruling, strict: bool = True) -> list[int]:
    """Say what has become known, as a person."""
    return scene.history.experiments.reconcile(scene.campaign.id, rulings, actor="ada", strict=strict)


def done(claim: Claim, value: float = 1.0, *, cost_minor: int | None = None) -> Ruling:
    """Return the ruling that a call happened and gave a value."""
    return Ruling(claim.evaluation_id, Verdict.DONE, result(claim, value).measurements, cost_minor=cost_minor)


class ReconcilingContract(HistoryFixtures):
    """Test the unknown evaluations, and everything that settles one."""

    def test_the_unknown_are_listed_with_who_called_and_what_is_reserved(self, scene: Scene) -> None:
        claims = lose(scene, ["b", "a"])
        rows = scene.history.experiments.unknown(scene.campaign.id)
        assert [(r.object, r.key, r.oracle, r.attempt, r.reserved_minor) for r in rows] == [
            ("b", "B", "assay", 1, 100),
            ("a", "A", "assay", 1, 100),
        ]
        assert [r.idempotency_key for r in rows] == [claim.idempotency_key for claim in claims]
        assert rows[0].owner.startswith("process ")
        assert rows[0].started_at.tzinfo is not None
        assert (rows[0].idempotent, dict(rows[0].values)) == (False, {})

    def test_done_settles_value_state_attempt_and_money(self, scene: Scene) -> None:
        first, second = lose(scene, ["a", "b"])
        assert rule(scene, done(first, 0.5), done(second, cost_minor=130)) == [
            first.evaluation_id,
            second.evaluation_id,
        ]
        assert (scene.states(), scene.money()) == (["done", "done"], (0, 230))
        assert scene.rows("SELECT state, cost_minor FROM attempt ORDER BY id") == [
            ("succeeded", 100),
            ("succeeded", 130),
        ]
        assert scene.rows("SELECT value, actor, attempt_id FROM measurement ORDER BY seq") == [
            (0.5, "ada", first.attempt_id),
            (1.0, "ada", second.attempt_id),
        ]
        assert scene.events("evaluation_reconciled") == 2
        assert scene.rows("SELECT DISTINCT actor FROM event WHERE kind = 'evaluation_reconciled'") == [("ada",)]

    def test_never_queues_it_with_another_key_and_releases_its_money(self, scene: Scene) -> None:
        [claim] = lose(scene)
        rule(scene, Ruling(claim.evaluation_id, Verdict.NEVER))
        assert (scene.states(), scene.money()) == (["queued"], (0, 0))
        assert scene.rows("SELECT generation FROM evaluation") == [(2,)]
        [again] = scene.history.experiments.claim_any(scene.campaign.id, owner=FOREIGN_OWNER)
        assert (again.number, again.evaluation_id) == (2, claim.evaluation_id)
        assert again.idempotency_key != claim.idempotency_key

    @pytest.mark.parametrize(("idempotent", "spent"), [(True, 0), (False, 100)])
    def test_retry_queues_it_with_the_same_key_and_counts_the_price_where_it_may_be_paid_twice(
        self, scene: Scene, idempotent: bool, spent: int
    ) -> None:
        oracle = replace(ORACLE, idempotent=idempotent)
        [claim] = scene.claim(scene.propose(["a"], oracle=oracle))
        scene.settle(Outcome(claim, unknown=True, message="no answer"))
        rule(scene, Ruling(claim.evaluation_id, Verdict.RETRY))
        assert (scene.states(), scene.money()) == (["queued"], (0, spent))
        [again] = scene.history.experiments.claim_any(scene.campaign.id, owner=FOREIGN_OWNER)
        assert again.idempotency_key == claim.idempotency_key
        scene.settle(result(again))
        assert (scene.states(), scene.money()) == (["done"], (0, spent + 100))

    @pytest.mark.parametrize(
        ("failure", "state"), [(FailureClass.TRANSIENT, "queued"), (FailureClass.PERMANENT, "failed")]
    )
    def test_a_failure_that_is_looked_up_counts_as_one_and_costs_nothing_unless_billed(
        self, scene: Scene, failure: FailureClass, state: str
    ) -> None:
        first, second = lose(scene, ["a", "b"])
        rule(
            scene,
            Ruling(first.evaluation_id, Verdict.DONE, failure=failure),
            Ruling(second.evaluation_id, Verdict.DONE, failure=failure, cost_minor=40),
        )
        assert (scene.states(), scene.money()) == ([state, state], (0, 40))

    def test_all_is_reconciled_or_nothing(self, scene: Scene) -> None:
        first, second = lose(scene, ["a", "b"])
        rule(scene, done(first))
        before = [scene.table(name) for name in ("evaluation", "attempt", "measurement", "ledger", "event")]
        with pytest.raises(StateError, match=r"is done, expected unknown; nothing was written"):
            rule(scene, done(second), Ruling(first.evaluation_id, Verdict.NEVER))
        assert [scene.table(n) for n in ("evaluation", "attempt", "measurement", "ledger", "event")] == before
        assert rule(scene, done(second), Ruling(first.evaluation_id, Verdict.NEVER), strict=False) == [
            second.evaluation_id
        ]
        assert scene.states() == ["done", "done"]

    def test_a_value_that_came_late_is_shown_and_may_not_be_contradicted(self, scene: Scene) -> None:
        [claim] = lose(scene)
        assert scene.settle(result(claim, 0.5)) == 1
        assert (scene.states(), scene.money()) == (["unknown"], (100, 0))
        [row] = scene.history.experiments.unknown(scene.campaign.id)
        assert dict(row.values) == {"affinity": 0.5}
        with pytest.raises(LabelError, match=r"0\.7.*stored with value 0\.5"):
            rule(scene, done(claim, 0.7))
        rule(scene, done(claim, 0.5))
        assert (scene.states(), scene.money()) == (["done"], (0, 100))
        assert scene.rows("SELECT COUNT(*) FROM measurement") == [(1,)]

    def test_a_value_that_comes_after_it_was_reconciled_is_nothing_new_or_a_conflict(self, scene: Scene) -> None:
        [claim] = lose(scene)
        rule(scene, done(claim, 0.5))
        scene.settle(result(claim, 0.5))
        assert scene.events("conflict") == 0
        scene.settle(result(claim, 0.9))
        assert scene.events("conflict") == 1
        assert (scene.states(), scene.money()) == (["done"], (0, 100))

    def test_a_told_value_settles_an_unknown_one_and_its_money(self, scene: Scene) -> None:
        lose(scene, ["a", "b"])
        scene.tell(measured("a"), measured("b", property="mass"))
        assert (scene.states(), scene.money()) == (["done", "unknown"], (100, 100))
        assert scene.rows("SELECT state, cost_minor FROM attempt ORDER BY id") == [
            ("succeeded", 100),
            ("expired", None),
        ]

    @pytest.mark.parametrize("oracle", [ORACLE, UNSURE], ids=["idempotent", "not idempotent"])
    def test_what_was_told_while_it_was_called_leaves_no_money_reserved(
        self, scene: Scene, oracle: object
    ) -> None:
        assert isinstance(oracle, type(ORACLE))
        scene.claim(scene.propose(["a"], oracle=oracle), owner=dead_owner())
        scene.tell(measured("a"))
        assert scene.money() == (100, 0)
        scene.recover()
        assert (scene.states(), scene.money()) == (["done"], (0, 100))

    def test_an_unknown_one_of_another_campaign_is_not_touched(self, scene: Scene) -> None:
        [claim] = lose(scene)
        with pytest.raises(StateError, match=r"expected unknown"):
            scene.history.experiments.reconcile(
                scene.campaign.id + 1, [Ruling(claim.evaluation_id, Verdict.NEVER)], actor="ada"
            )
