"""What a storage guarantees of evaluations that several share: claims, leases, workers."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from flowscout.db import FailureClass, History, RoundState, this_owner
from flowscout.errors import StateError
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


class SharingContract(HistoryFixtures):
    """Test claims by many, leases that are renewed and lost, cancelling, and heartbeats."""

    def test_a_claim_takes_no_more_than_its_limit_and_the_first_in_rank(self, scene: Scene) -> None:
        record = scene.propose(["c", "a", "b"])
        experiments = scene.history.experiments
        taken = [experiments.claim(record.id, owner=this_owner(), limit=2) for _ in range(3)]
        assert [[claim.object for claim in claims] for claims in taken] == [["c", "a"], ["b"], []]
        assert scene.money() == (300, 0)

    def test_a_claim_of_a_campaign_takes_what_was_dispatched_and_nothing_else(self, scene: Scene) -> None:
        done = scene.propose(["a"], number=1)
        scene.propose(["b"], number=2, dispatch=False)
        scene.propose(["c"], number=3)
        scene.history.rounds.advance(scene.lease, done, RoundState.COMPLETE)
        claims = scene.history.experiments.claim_any(scene.campaign.id, owner=this_owner())
        assert [claim.object for claim in claims] == ["a", "c"]
        assert {claim.version_id for claim in claims} == {scene.config.id}

    def test_the_budget_ends_a_claim_among_several_prices(self, poor_scene: Scene) -> None:
        poor_scene.propose(["a"], number=1)
        poor_scene.propose(["b"], number=2, oracle=replace(ORACLE, name="dear", unit_cost_minor=140))
        poor_scene.propose(["c"], number=3)
        claims = poor_scene.history.experiments.claim_any(poor_scene.campaign.id, owner=this_owner())
        assert [claim.object for claim in claims] == ["a", "b"]
        assert poor_scene.money() == (240, 0)

    def test_calls_without_a_price_stop_too_when_more_than_the_budget_was_billed(self, poor_scene: Scene) -> None:
        [claim] = poor_scene.claim(poor_scene.propose(["a"], number=1))
        free = poor_scene.propose(["b"], number=2, oracle=replace(ORACLE, name="free", unit_cost_minor=0))
        poor_scene.settle(result(claim, cost_minor=251))
        assert poor_scene.claim(free) == []
        assert poor_scene.money() == (0, 251)

    def test_claims_at_once_share_everything_and_nothing_twice(
        self, scene: Scene, reopen: Callable[[], History]
    ) -> None:
        record = scene.propose([f"o{n:02}" for n in range(30)])
        gate, histories = threading.Barrier(3), [reopen() for _ in range(3)]

        def take(history: History) -> list[int]:
            found = []
            gate.wait(timeout=30)
            while claims := history.experiments.claim(record.id, owner=this_owner(), limit=2):
                found += [claim.evaluation_id for claim in claims]
            return found

        with ThreadPoolExecutor(3) as pool:
            taken = [number for numbers in pool.map(take, histories) for number in numbers]
        for history in histories:
            history.close()
        # A claim passes over what another is about to have: what that one could not take is taken now.
        taken += [claim.evaluation_id for claim in scene.claim(record)]
        assert len(taken) == len(set(taken)) == 30
        assert scene.money() == (3000, 0)

    def test_a_claim_does_not_wait_for_another_one_that_has_not_ended(
        self, scene: Scene, reopen: Callable[[], History]
    ) -> None:
        if scene.history.database.url.get_backend_name() == "sqlite":
            pytest.skip("SQLite has one writer at a time")
        record = scene.propose(["a", "b"], oracle=replace(ORACLE, unit_cost_minor=0))
        with reopen() as second, second.database.write() as session:
            from flowscout.db.claims import begin_attempts, queued

            held = begin_attempts(session, queued().limit(1), owner="other", lease_s=60.0)
            mine = scene.claim(record)  # while the other one's transaction is open
            assert [[claim.object for claim in claims] for claims in (held, mine)] == [["a"], ["b"]]

    def test_a_lease_that_is_renewed_keeps_its_attempt(self, scene: Scene) -> None:
        claims = scene.claim(scene.propose(["a", "b"]), owner=FOREIGN_OWNER, lease_s=0)
        assert scene.history.experiments.renew(claims, lease_s=600.0) == []
        assert scene.recover() == {"queued": 0, "unknown": 0}
        assert scene.history.experiments.renew(claims[:1], lease_s=0) == []
        assert scene.recover() == {"queued": 1, "unknown": 0}
        assert scene.states() == ["queued", "running"]

    def test_a_lost_lease_is_told_and_is_not_renewed(self, scene: Scene) -> None:
        record = scene.propose(["a", "b"])
        lost, kept = scene.claim(record, owner=FOREIGN_OWNER, lease_s=0)
        scene.history.experiments.renew([kept], lease_s=600.0)
        scene.recover()
        [fresh] = scene.claim(record)
        before = scene.rows("SELECT lease_until FROM attempt WHERE number = 2")
        assert scene.history.experiments.renew([lost, kept]) == [lost]
        assert scene.history.experiments.renew([replace(fresh, token=lost.token)]) != []
        assert scene.rows("SELECT lease_until FROM attempt WHERE number = 2") == before

    def test_a_settled_attempt_is_held_by_nobody(self, scene: Scene) -> None:
        [claim] = scene.claim(scene.propose(["a"]))
        scene.settle(result(claim))
        assert scene.history.experiments.renew([claim]) == [claim]

    def test_a_stale_value_settles_nothing_and_the_next_attempt_pays(self, scene: Scene) -> None:
        record = scene.propose(["a"])
        [stale] = scene.claim(record, lease_s=0)
        scene.recover()
        assert scene.settle(result(stale, 0.5)) == 1
        assert (scene.states(), scene.money()) == (["queued"], (0, 0))
        [fresh] = scene.claim(record)
        assert fresh.idempotency_key == stale.idempotency_key
        assert scene.settle(result(fresh, 0.5)) == 0
        assert (scene.states(), scene.money(), scene.events("conflict")) == (["done"], (0, 100), 0)

    def test_what_is_cancelled_is_not_called_and_may_be_proposed_again(self, scene: Scene) -> None:
        record = scene.propose(["a", "b"])
        cancel = scene.history.experiments.cancel
        assert cancel(scene.campaign.id, {"A": "a"}, reason="no stock", actor="bench") == 1
        assert cancel(scene.campaign.id, {"A": "a"}, reason="no stock", actor="bench") == 0
        assert scene.history.measurements.known_keys(scene.campaign.id) == {"B"}
        [claim] = scene.claim(record)
        assert claim.object == "b"
        again = scene.propose(["a"], number=2)
        [claim] = scene.claim(again)
        assert (claim.object, claim.number) == ("a", 1)
        scene.settle(result(claim))
        assert scene.states() == ["done", "running"]
        assert scene.events("evaluation_requeued") == 1

    def test_what_is_running_cannot_be_cancelled_nor_anything_with_it(self, scene: Scene) -> None:
        record = scene.propose(["a", "b"])
        scene.history.experiments.claim(record.id, owner=this_owner(), limit=1)
        cancel = scene.history.experiments.cancel
        with pytest.raises(StateError, match=r"'a' is running, expected queued.*wait for the result"):
            cancel(scene.campaign.id, {"B": "b", "A": "a"}, reason="why", actor="bench")
        with pytest.raises(StateError, match=r"'z' awaits no measurement"):
            cancel(scene.campaign.id, {"B": "b", "Z": "z"}, reason="why", actor="bench")
        assert scene.states() == ["running", "queued"]

    def test_only_what_the_budget_does_not_reach_is_cancelled_for_it(self, poor_scene: Scene) -> None:
        record = poor_scene.propose(["a", "b", "c"])
        first, _ = poor_scene.claim(record)
        poor_scene.settle(failed(first, FailureClass.TRANSIENT))  # its money is free again
        assert poor_scene.history.experiments.cancel_queued(record.id, actor="test") == 0
        assert [claim.object for claim in poor_scene.claim(record)] == ["a"]
        assert poor_scene.history.experiments.cancel_queued(record.id, actor="test") == 1
        assert poor_scene.history.measurements.known_keys(poor_scene.campaign.id) == {"A", "B"}

    def test_a_worker_is_heard_of_until_it_leaves_or_dies(self, scene: Scene) -> None:
        workers, queue = scene.history.workers, scene.campaign.uuid
        for owner in (this_owner(), FOREIGN_OWNER, dead_owner()):
            assert workers.beat(owner, queue=queue)
        workers.beat("elsewhere|1|1", queue="another campaign")
        assert workers.living(queue) == [this_owner(), FOREIGN_OWNER]
        first = scene.rows("SELECT MIN(heartbeat_at) FROM worker")
        time.sleep(0.002)  # the clock counts milliseconds
        workers.beat(this_owner(), queue=queue)
        assert scene.rows("SELECT COUNT(*) FROM worker") == [(4,)]
        assert scene.rows("SELECT MIN(heartbeat_at) FROM worker") > first
        workers.leave(this_owner())
        assert workers.living(queue) == [FOREIGN_OWNER]

    def test_a_fit_saw_exactly_the_rows_below_its_cut_off_whoever_wrote_meanwhile(
        self, scene: Scene, reopen: Callable[[], History]
    ) -> None:
        from flowscout.db.measurements import insert_measurements

        def seen(upto: int | None = None) -> tuple[list[str], int]:
            found = scene.history.measurements.training_set(scene.campaign.id, PROPERTY, upto_seq=upto)
            return [row.object for row in found.rows], found.upto_seq

        scene.tell(measured("a"))
        with reopen() as one, reopen() as two, ThreadPoolExecutor(1) as pool:
            with one.database.write() as session:
                insert_measurements(session, scene.campaign.id, [measured("b")], actor="one")
                other = pool.submit(replace(scene, history=two).tell, measured("c"))
                time.sleep(0.1)  # by now the second waits for the first, whose clock it may not overtake
                assert not other.done()
                fits = [seen()]  # while both are under way
                insert_measurements(session, scene.campaign.id, [measured("d")], actor="one")
                fits.append(seen())
            other.result(timeout=60)
        fits.append(seen())
        assert fits == [(["a"], 1), (["a"], 1), (["a", "b", "c", "d"], 4)]
        assert [seen(upto) for _, upto in fits] == fits
        below = scene.rows(
            "SELECT object, seq FROM measurement JOIN candidate c ON c.id = candidate_id ORDER BY seq"
        )
        assert below == [("a", 1), ("b", 2), ("d", 3), ("c", 4)]
