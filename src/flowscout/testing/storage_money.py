"""What a storage guarantees of money: the balance is its ledger, and nobody spends beyond the limit unseen."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import text

from flowscout.db import BudgetRow, EventKind, FailureClass, History
from flowscout.errors import ConfigError
from flowscout.testing.histories import (
    CONFIG,
    ORACLE,
    HistoryFixtures,
    Scene,
    begin,
    dead_owner,
    failed,
    measured,
    proposal,
    result,
)

LAB = replace(ORACLE, name="bench", idempotent=False)


def kinds(scene: Scene, *wanted: EventKind) -> list[str]:
    """Return the kinds of the events, of those wanted, in order."""
    return [event.kind for event in scene.history.events.read(scene.campaign.id, kinds=wanted)]


def sound(scene: Scene) -> tuple[int, int]:
    """Return what is reserved and what is spent, of books that agree."""
    assert scene.history.budgets.audit(scene.campaign.id) == []
    return scene.money()


def hand_out(scene: Scene, objects: list[str], number: int = 1) -> int:
    """Propose objects, hand them to a laboratory, and return of how many the price is reserved."""
    record = scene.propose(objects, number=number, oracle=LAB, dispatch=False)
    return scene.history.budgets.hand_out(scene.lease, record.id)


class MoneyContract(HistoryFixtures):
    """Test the balance, the ledger and the limit."""

    def test_the_books_agree_whatever_becomes_of_calls(self, scene: Scene) -> None:
        record = scene.propose(["a", "b", "c", "d"])
        one, two, three, _ = scene.claim(record)
        assert sound(scene) == (400, 0)
        scene.settle(result(one), failed(two, FailureClass.TRANSIENT), result(three, cost_minor=30))
        assert sound(scene) == (100, 130)
        scene.settle(result(one))
        scene.claim(record, owner=dead_owner())
        scene.recover()
        scene.tell(measured("b"))
        assert sound(scene) == (100, 130)

    def test_books_that_do_not_agree_are_seen(self, scene: Scene) -> None:
        scene.claim(scene.propose(["a"]))
        with scene.history.database.write() as session:
            session.execute(text("UPDATE balance SET reserved_minor = 70, spent_minor = 5"))
        assert scene.history.budgets.audit(scene.campaign.id) == [
            "the balance has 70 reserved, the ledger adds up to 100",
            "the balance has 5 spent, the ledger adds up to 0",
        ]
        with scene.history.database.write() as session:
            session.execute(text("UPDATE balance SET reserved_minor = 100, spent_minor = 0"))
            session.execute(text("UPDATE attempt SET state = 'failed'"))
        [wrong] = scene.history.budgets.audit(scene.campaign.id)
        assert wrong.endswith("is over, and 100 is still reserved for it")

    def test_a_bill_beyond_the_limit_is_booked_logged_and_stops_dispatch(self, poor_scene: Scene) -> None:
        scene = poor_scene
        record = scene.propose(["a", "b", "c"])
        first, second = scene.claim(record)
        scene.settle(result(first, cost_minor=120))
        assert not scene.history.budgets.get(scene.campaign.id).overspent
        assert kinds(scene, EventKind.OVERSPENT, EventKind.BILL_ABOVE_ESTIMATE) == ["bill_above_estimate"]
        scene.settle(result(second, cost_minor=900))
        assert scene.history.budgets.get(scene.campaign.id).overspent
        assert sound(scene) == (0, 1020)
        assert scene.claim(record) == []
        [event] = scene.history.events.read(scene.campaign.id, kinds=[EventKind.OVERSPENT])
        assert event.detail == {"limit_minor": 250, "committed_minor": 1020}
        [_, bill] = scene.history.events.read(scene.campaign.id, kinds=[EventKind.BILL_ABOVE_ESTIMATE])
        assert (bill.detail["reserved_minor"], bill.detail["billed_minor"], bill.round) == (100, 900, 1)

    def test_a_raised_limit_lets_dispatch_go_on(self, poor_scene: Scene) -> None:
        record = poor_scene.propose(["a", "b", "c"])
        assert len(poor_scene.claim(record)) == 2
        poor_scene.history.budgets.set_limit(poor_scene.campaign.id, 300, reason="a grant", actor="head")
        assert [claim.object for claim in poor_scene.claim(record)] == ["c"]
        event = poor_scene.history.events.read(poor_scene.campaign.id, kinds=[EventKind.BUDGET_SET])[-1]
        said = {"limit_minor": 300, "was_minor": 250, "by": "person", "reason": "a grant"}
        assert (event.actor, event.detail) == ("head", said)

    def test_a_limit_below_what_is_committed_is_refused(self, poor_scene: Scene) -> None:
        poor_scene.claim(poor_scene.propose(["a", "b"]))
        set_limit = poor_scene.history.budgets.set_limit
        with pytest.raises(ConfigError, match=r"a limit of 1.99 came, expected at least 2.00"):
            set_limit(poor_scene.campaign.id, 199, reason="", actor="head")
        set_limit(poor_scene.campaign.id, 200, reason="", actor="head")
        set_limit(poor_scene.campaign.id, None, reason="", actor="head")
        assert poor_scene.history.budgets.get(poor_scene.campaign.id).limit_minor is None

    def test_a_persons_limit_holds_until_the_file_says_another(self, poor_scene: Scene) -> None:
        scene = poor_scene

        def register(limit: int | None) -> int | None:
            scene.history.campaigns.register(
                "campaign", CONFIG, objectives=[], seed=None, limit_minor=limit, actor="test"
            )
            return scene.history.budgets.get(scene.campaign.id).limit_minor

        scene.history.budgets.set_limit(scene.campaign.id, 900, reason="", actor="head")
        assert register(250) == 900
        assert register(300) == 300
        assert register(None) is None
        assert register(None) is None
        assert kinds(scene, EventKind.BUDGET_SET) == ["budget_set"] * 4

    def test_four_fifths_of_a_limit_are_told_once(self, history: History) -> None:
        scene = begin(history, limit_minor=500)
        record = scene.propose(["a", "b", "c", "d", "e"])
        first = scene.history.experiments.claim(record.id, owner=dead_owner())
        assert len(first) == 5
        scene.recover()
        assert sound(scene)[0] == 0
        scene.claim(record)
        assert kinds(scene, EventKind.BUDGET_80) == ["budget_80"]
        scene.history.budgets.set_limit(scene.campaign.id, 600, reason="", actor="head")
        assert kinds(scene, EventKind.BUDGET_80) == ["budget_80", "budget_80"]
        scene.history.budgets.set_limit(scene.campaign.id, 700, reason="", actor="head")
        assert len(kinds(scene, EventKind.BUDGET_80)) == 2

    def test_what_a_laboratory_is_asked_for_is_reserved_and_paid_when_told(self, scene: Scene) -> None:
        assert hand_out(scene, ["a", "b"]) == 2
        assert sound(scene) == (200, 0)
        record = scene.history.rounds.get(scene.campaign.id, 1)
        scene.history.budgets.hand_out(scene.lease, record.id)
        assert sound(scene) == (200, 0)
        scene.tell(measured("b"), measured("b", 2.0, property="mass"), measured("stranger"))
        assert sound(scene) == (100, 100)
        scene.tell(measured("b", 3.0, row_id="again"))
        assert sound(scene) == (100, 100)
        scene.tell(measured("a"))
        assert sound(scene) == (0, 200)

    def test_a_laboratory_is_asked_as_far_as_the_money_goes(self, poor_scene: Scene) -> None:
        assert hand_out(poor_scene, ["a", "b", "c", "d"]) == 2
        assert poor_scene.states() == ["queued", "queued", "cancelled", "cancelled"]
        assert sound(poor_scene) == (200, 0)
        wanted = (EventKind.BUDGET_EXHAUSTED, EventKind.EVALUATION_CANCELLED)
        assert kinds(poor_scene, *wanted) == ["budget_exhausted", "evaluation_cancelled", "evaluation_cancelled"]
        poor_scene.tell(measured("d"))
        assert sound(poor_scene) == (200, 0)

    def test_what_was_handed_out_stays_so_when_the_limit_falls_below_it(self, scene: Scene) -> None:
        assert hand_out(scene, ["a", "b"]) == 2
        scene.history.campaigns.register(
            "campaign", CONFIG, objectives=[], seed=None, limit_minor=150, actor="test"
        )
        record = scene.history.rounds.get(scene.campaign.id, 1)
        assert scene.history.budgets.hand_out(scene.lease, record.id) == 2
        assert scene.states() == ["queued", "queued"]
        assert sound(scene) == (200, 0)

    def test_a_reservation_for_what_was_cancelled_is_seen(self, scene: Scene) -> None:
        hand_out(scene, ["a"])
        with scene.history.database.write() as session:
            session.execute(text("UPDATE evaluation SET state = 'cancelled'"))
        [wrong] = scene.history.budgets.audit(scene.campaign.id)
        assert wrong.endswith("is over, and 100 is still reserved for it")

    def test_cancelling_waits_for_a_claim_without_holding_the_balance(self, scene: Scene) -> None:
        hand_out(scene, ["a", "b"])
        cancel, keys = scene.history.experiments.cancel, {"A": "a", "B": "b"}
        with ThreadPoolExecutor(1) as pool, scene.history.database.write() as session:
            last = "(SELECT max(id) FROM evaluation)"
            session.execute(text(f"UPDATE evaluation SET generation = 1 WHERE id = {last}"))  # noqa: S608
            done = pool.submit(cancel, scene.campaign.id, keys, reason="no stock", actor="me")
            time.sleep(0.3)  # until it waits for the second evaluation
            session.execute(text("UPDATE balance SET spent_minor = 0"))
        assert done.result() == 2
        assert sound(scene) == (0, 0)

    def test_a_veto_hands_the_money_on_with_the_place(self, scene: Scene) -> None:
        record = scene.train()
        batch = [proposal("a", 1), proposal("b", 2), proposal("c", acquisition=1.0)]
        scene.history.rounds.record_proposals(scene.lease, record, batch, sampler_run_id=None, oracle=LAB)
        assert scene.history.budgets.hand_out(scene.lease, record.id) == 2
        scene.history.vetoes.add(scene.campaign.id, {"A": "a"}, reason="toxic", actor="me")
        assert sound(scene) == (200, 0)
        scene.history.vetoes.add(scene.campaign.id, {"B": "b"}, reason="toxic", actor="me")
        assert sound(scene) == (100, 0)
        scene.tell(measured("c"))
        assert sound(scene) == (0, 100)

    def test_a_told_value_pays_for_the_unknown_call_that_it_settles(self, scene: Scene) -> None:
        record = scene.propose(["a"], oracle=replace(ORACLE, idempotent=False))
        scene.claim(record, owner=dead_owner())
        scene.recover()
        assert kinds(scene, EventKind.UNKNOWN_ATTEMPT) == ["unknown_attempt"]
        assert sound(scene) == (100, 0)
        scene.tell(measured("a"))
        assert sound(scene) == (0, 100)

    def test_money_is_shown_by_round_and_oracle(self, scene: Scene) -> None:
        one, _ = scene.claim(scene.propose(["a", "b"]))
        scene.settle(result(one, cost_minor=70))
        hand_out(scene, ["c"], number=2)
        found = scene.history.budgets.get(scene.campaign.id)
        assert (found.limit_minor, found.reserved_minor, found.spent_minor) == (None, 200, 70)
        assert found.rows == (BudgetRow(1, "assay", 1, 70, 100), BudgetRow(2, "bench", 0, 0, 100))
