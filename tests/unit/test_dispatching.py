"""How claims, calls and settlements follow each other: what is unknown after a kill, comes late, fails alone."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from flowscout import Campaign
from flowscout.db import EvaluationState, FailureClass, Reply
from flowscout.loop import dispatching
from flowscout.loop.dispatching import Dispatcher
from flowscout.loop.lanes import Lane
from flowscout.loop.sweeping import is_stuck
from flowscout.loop.working import Stop, work

CAMPAIGN = """\
campaign: dispatching
seed: 1
space: {{type: sequence, alphabet: dna, length: 5}}
objectives: [{{name: score, direction: maximize}}]
oracle: {oracle}
proposer: {{type: random}}
batch: {{size: {size}}}
budget: {{rounds: 3, cost: {cost}}}
device: cpu
"""
HEAD = """\
import threading
import time
from flowscout import Request, Result, oracle

calls, most, under_way, lock, free = [], [0], [0], threading.Lock(), threading.Event()


def enter(texts):
    with lock:
        calls.append(list(texts))
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])


def leave():
    with lock:
        under_way[0] -= 1
"""
SLOW = """
def assay(objects):
    enter(objects)
    time.sleep(0.05)
    leave()
    return [float(text.count("A")) for text in objects]
"""

Open = Callable[..., Campaign]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens a campaign whose oracle has this body and these further keys."""
    name, campaigns = f"assay_{tmp_path.name}", []

    def make(body: str, *, size: int = 6, cost: float = 1000, **section: object) -> Campaign:
        (tmp_path / f"{name}.py").write_text(HEAD + textwrap.dedent(body))
        keys = {"type": "callable", "function": f"{name}:assay", **section}
        text = CAMPAIGN.format(oracle=json.dumps(keys), size=size, cost=cost)
        (tmp_path / "campaign.yaml").write_text(text)
        campaigns.append(Campaign.from_yaml(tmp_path / "campaign.yaml"))
        return campaigns[-1]

    yield make
    for campaign in campaigns:
        campaign.close()
    sys.modules.pop(name, None)


def names(campaign: Campaign) -> dict[str, list]:
    """Return the names of the oracle's module."""
    found: dict[str, list] = campaign.workbench.oracle.function.__globals__  # type: ignore[attr-defined]
    return found


def until(happened: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Wait until something has happened."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def events(campaign: Campaign, kind: str) -> int:
    return len(campaign.sql(f"SELECT id FROM event WHERE kind = '{kind}'"))


def test_calls_go_on_at_the_same_time_in_parts_of_a_batch(opened: Open) -> None:
    campaign = opened(SLOW, size=9, batch=2, concurrency=3)
    assert campaign.run_round().complete  # type: ignore[union-attr]
    seen = names(campaign)
    assert sorted(map(len, seen["calls"])) == [1, 2, 2, 2, 2]
    assert seen["most"] == [3]
    assert campaign.status().evaluations == {"done": 9}


def test_function_without_a_batch_is_called_once_for_all(opened: Open) -> None:
    campaign = opened(SLOW, size=9)
    assert campaign.run_round().complete  # type: ignore[union-attr]
    assert list(map(len, names(campaign)["calls"])) == [9]


def test_no_more_is_claimed_of_what_must_not_be_called_again_than_is_called(opened: Open) -> None:
    body = """
    @oracle(cost_usd=1, batch=2, concurrency=2)
    def assay(requests):
        enter(r.object for r in requests)
        free.wait(60)
        return [Result({"score": 1.0}) for _ in requests]
    """
    campaign = opened(body, size=9)
    campaign.ask()
    counts = campaign.workbench.history.experiments.counts
    worker = threading.Thread(target=work, args=(campaign.workbench,), kwargs={"once": True})
    worker.start()
    until(lambda: len(names(campaign)["calls"]) == 2)
    assert counts(campaign.workbench.campaign.id) == {EvaluationState.RUNNING: 4, EvaluationState.QUEUED: 5}
    names(campaign)["free"].set()  # type: ignore[attr-defined]
    worker.join()
    assert campaign.status().evaluations == {"done": 9}
    assert campaign.status().spent_minor == 900


def test_what_may_be_called_again_is_claimed_ahead_and_stored_together(opened: Open, monkeypatch) -> None:
    campaign = opened("def assay(object: str) -> float:\n    calls.append(object)\n    return 1.0\n", size=300)
    experiments = campaign.workbench.history.experiments
    settled, settle = [], experiments.settle
    monkeypatch.setattr(
        experiments, "settle", lambda o, *, actor: settled.append(len(o)) or settle(o, actor=actor)
    )
    assert campaign.run_round().complete  # type: ignore[union-attr]
    assert len(names(campaign)["calls"]) == 300
    assert sum(settled) == 300
    assert len(settled) < 30


def test_one_call_of_several_that_raises_fails_alone(opened: Open) -> None:
    body = """
    @oracle(cost_usd=1, concurrency=3)
    def assay(request: Request):
        calls.append(request.object)
        if len(calls) == 2:
            raise SystemExit(3)
        if len(calls) == 4:
            raise ValueError("spilt\\nit")
        return Result({"score": 1.0})
    """
    campaign = opened(body)
    campaign.run_round()
    assert len(names(campaign)["calls"]) == 6
    assert campaign.status().evaluations == {"done": 4, "unknown": 2}
    messages = " ".join(campaign.sql("SELECT message FROM attempt WHERE message IS NOT NULL")["message"])
    assert "raised SystemExit: 3" in messages
    assert "raised ValueError: spilt it." in messages


@pytest.mark.parametrize("concurrency", [1, 2])
def test_interrupt_gives_up_what_is_not_called_and_keeps_what_has_ended(opened: Open, concurrency: int) -> None:
    body = """
    def assay(object: str) -> float:
        calls.append(object)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 1.0
    """
    campaign = opened(body, concurrency=concurrency)
    with pytest.raises(KeyboardInterrupt):
        campaign.run_round()
    before = campaign.status().evaluations
    assert before["done"] >= 2
    assert campaign.run_round().complete  # type: ignore[union-attr]  # no lease is waited for
    assert campaign.status().evaluations == {"done": 6}


def test_answer_after_the_time_out_is_recorded_and_changes_no_state(opened: Open) -> None:
    body = """
    @oracle(cost_usd=1, timeout_s=0.2)
    def assay(request: Request):
        calls.append(request.object)
        if len(calls) == 1:
            free.wait(60)
        return Result({"score": float(len(calls))})
    """
    campaign = opened(body, size=2)
    campaign.run_round()
    assert campaign.status().evaluations == {"done": 1, "unknown": 1}
    assert campaign.status().reserved_minor == 100
    names(campaign)["free"].set()  # type: ignore[attr-defined]
    late = dispatching._late[campaign.workbench.history]
    until(lambda: not late._kept.empty())
    with Dispatcher(campaign.workbench, owner="another") as dispatcher:
        assert dispatcher.turn().added == 1
    assert campaign.status().evaluations == {"done": 1, "unknown": 1}
    assert events(campaign, "stale_attempt") == 1
    [row] = campaign.workbench.history.experiments.unknown(campaign.workbench.campaign.id)
    assert row.values == {"score": 2.0}
    assert "took longer than 0.2 s" in (row.message or "")


def test_late_answer_is_kept_while_the_database_is_away(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    body = """
    @oracle(cost_usd=1, timeout_s=0.2)
    def assay(request: Request):
        calls.append(request.object)
        if len(calls) == 1:
            free.wait(60)
        return Result({"score": float(len(calls))})
    """
    campaign = opened(body, size=2)
    campaign.run_round()
    names(campaign)["free"].set()  # type: ignore[attr-defined]
    late = dispatching._late[campaign.workbench.history]
    until(lambda: not late._kept.empty())

    def away(*_: object, **__: object) -> int:
        error = OperationalError("UPDATE attempt", {}, Exception("the server closed the connection"))
        error.connection_invalidated = True
        raise error

    with Dispatcher(campaign.workbench, owner="another") as dispatcher:
        with monkeypatch.context() as broken:
            broken.setattr(campaign.workbench.history.experiments, "settle", away)
            with pytest.raises(OperationalError):
                dispatcher.turn()
        assert dispatcher.turn().added == 1
    [row] = campaign.workbench.history.experiments.unknown(campaign.workbench.campaign.id)
    assert row.values == {"score": 2.0}


def test_time_out_of_what_may_be_called_again_is_tried_again(opened: Open) -> None:
    body = """
    import asyncio

    async def assay(object: str) -> float:
        calls.append(object)
        if len(calls) == 1:
            await asyncio.sleep(60)
        return 1.0
    """
    campaign = opened(body, size=2, concurrency=2, timeout_s=0.3)
    assert campaign.run_round().complete  # type: ignore[union-attr]
    assert len(names(campaign)["calls"]) == 3
    failures = campaign.sql("SELECT failure FROM attempt ORDER BY id")["failure"].fillna("").tolist()
    assert sorted(failures) == ["", "", str(FailureClass.TRANSIENT)]


def test_stop_lets_the_calls_under_way_end_and_begins_no_other(opened: Open) -> None:
    campaign = opened(SLOW.replace("time.sleep(0.05)", "free.wait(60)"), size=6, batch=1, concurrency=2)
    campaign.ask()
    stop, found = Stop(), []
    worker = threading.Thread(target=lambda: found.append(work(campaign.workbench, stop=stop)))
    worker.start()
    until(lambda: len(names(campaign)["calls"]) == 2)
    stop.asked = True
    names(campaign)["free"].set()  # type: ignore[attr-defined]
    worker.join()
    assert found[0].calls == campaign.status().evaluations["done"] == len(names(campaign)["calls"])
    assert campaign.status().evaluations["queued"] == 6 - found[0].calls
    assert "running" not in campaign.status().evaluations


def test_budget_that_runs_out_in_the_middle_cancels_the_rest(opened: Open) -> None:
    campaign = opened(SLOW, size=9, cost=10, cost_usd=2, batch=1, concurrency=3)
    assert campaign.run_round().complete  # type: ignore[union-attr]
    assert campaign.status().evaluations == {"done": 5, "cancelled": 4}
    assert (campaign.status().spent_minor, campaign.status().reserved_minor) == (1000, 0)


def test_versions_of_the_file_are_called_side_by_side_each_as_it_says(opened: Open) -> None:
    first = opened(SLOW, size=4, batch=4, name="first")
    first.ask()
    second = opened(SLOW, size=4, batch=1, concurrency=2, name="second")
    assert first.workbench.version.id != second.workbench.version.id
    names(second)["calls"].clear()
    work(second.workbench, once=True)
    assert list(map(len, names(second)["calls"])) == [4]
    assert second.run_round().complete  # type: ignore[union-attr]
    assert second.status().evaluations == {"done": 8}
    assert set(second.history()["source"]) == {"oracle:first", "oracle:second"}


def test_leases_of_all_claims_are_renewed_while_they_are_in_hand(opened: Open, monkeypatch) -> None:
    campaign = opened(SLOW.replace("time.sleep(0.05)", "free.wait(60)"), size=2, batch=1, concurrency=2)
    campaign.ask()
    experiments, renewed = campaign.workbench.history.experiments, []
    renew = experiments.renew

    def noted(claims, *, lease_s):
        lost = renew(claims, lease_s=lease_s)
        renewed.append((len(claims), lost))
        return lost

    monkeypatch.setattr(experiments, "renew", noted)
    leases = "SELECT lease_until FROM attempt ORDER BY id"
    worker = threading.Thread(target=work, args=(campaign.workbench,), kwargs={"once": True, "lease_s": 0.4})
    worker.start()
    until(lambda: len(names(campaign)["calls"]) == 2)
    before = campaign.sql(leases)["lease_until"]
    until(lambda: renewed.count((2, [])) >= 3)
    assert (campaign.sql(leases)["lease_until"] > before).all()
    names(campaign)["free"].set()  # type: ignore[attr-defined]
    worker.join()
    assert campaign.status().evaluations == {"done": 2}


def test_rate_limits_how_many_calls_are_begun(opened: Open, monkeypatch) -> None:
    begun: list[float] = []
    count = Lane._count

    def counted(lane: Lane) -> None:  # when a call is handed to a thread: a busy machine may start that later
        begun.append(time.monotonic())
        count(lane)

    monkeypatch.setattr(Lane, "_count", counted)
    body = "def assay(object: str) -> float:\n    calls.append(object)\n    return 1.0\n"
    campaign = opened(body, size=5, rate_per_s=10, concurrency=4)
    assert campaign.run_round().complete  # type: ignore[union-attr]
    assert len(names(campaign)["calls"]) == len(begun) == 5
    assert begun[-1] - begun[0] >= 0.3 - 1e-3  # five calls at ten a second, the first two at once


def test_answer_that_the_history_refuses_keeps_no_other_from_it(opened: Open, monkeypatch) -> None:
    monkeypatch.setattr(dispatching, "STORE_AGAIN_S", (0.0,))
    campaign = opened(SLOW, size=4)
    experiments = campaign.workbench.history.experiments
    settle = experiments.settle

    def picky(outcomes, *, actor):
        if any(outcome.claim.evaluation_id == 2 and outcome.measurements for outcome in outcomes):
            raise ValueError("no database holds that")
        return settle(outcomes, actor=actor)

    monkeypatch.setattr(experiments, "settle", picky)
    campaign.run_round()
    assert campaign.status().evaluations == {"done": 3, "failed": 1}
    [message] = campaign.sql("SELECT message FROM attempt WHERE message IS NOT NULL")["message"]
    assert "cannot be stored: no database holds that" in message


@pytest.mark.parametrize("passes", ["database or disk is full", "disk I/O error"])
def test_a_database_that_is_full_for_a_while_costs_no_answer(opened: Open, monkeypatch, caplog, passes) -> None:
    monkeypatch.setattr(dispatching, "PASSING_S", 0.01)
    campaign = opened(SLOW, size=4)
    experiments = campaign.workbench.history.experiments
    settle, tries = experiments.settle, []

    def full(outcomes, *, actor):
        tries.append(len(outcomes))
        if len(tries) <= 8:  # more often than an answer that is refused for good is tried
            raise OperationalError("INSERT", {}, sqlite3.OperationalError(passes))
        return settle(outcomes, actor=actor)

    monkeypatch.setattr(experiments, "settle", full)
    campaign.run_round()
    assert campaign.status().evaluations == {"done": 4}
    assert len(campaign.sql("SELECT id FROM attempt")) == 4
    assert any(f"was broken off ({passes}); nothing is lost" in message for message in caplog.messages)


def test_a_claim_whose_commit_was_not_heard_of_is_given_up_and_waits_for_no_lease(
    opened: Open, monkeypatch
) -> None:
    monkeypatch.setattr(dispatching, "PASSING_S", 0.01)
    campaign = opened(SLOW, size=4, idempotent=True)
    experiments = campaign.workbench.history.experiments
    claim, unheard = experiments.claim_any, []

    def cut(*arguments, **options):
        found = claim(*arguments, **options)
        if found and not unheard:
            unheard.extend(found)
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))
        return found

    monkeypatch.setattr(experiments, "claim_any", cut)
    begun = time.monotonic()
    campaign.run_round()
    assert time.monotonic() - begun < dispatching.ATTEMPT_LEASE_S / 10  # it did not wait for the lease
    assert campaign.status().evaluations == {"done": 4}
    counts = campaign.sql("SELECT state, count(*) AS n FROM attempt GROUP BY state").set_index("state")["n"]
    assert counts["expired"] == len(unheard) > 0
    assert counts["succeeded"] == 4


KILLED = """
@oracle(cost_usd=1, concurrency=3)
def assay(request: Request):
    import os
    from pathlib import Path
    here = Path(__file__).parent
    (here / f"begun-{request.object}").touch()
    if len(list(here.glob("ended-*"))) >= 4:
        time.sleep(600)
    (here / f"ended-{request.object}").touch()
    return Result({"score": 1.0})
"""


def test_kill_leaves_no_more_unknown_than_the_calls_in_flight(opened: Open, tmp_path: Path) -> None:
    campaign = opened(KILLED, size=12)
    campaign.ask()
    command = [sys.executable, "-m", "flowscout", "worker", str(tmp_path / "campaign.yaml"), "--once"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        until(lambda: len(list(tmp_path.glob("begun-*"))) - len(list(tmp_path.glob("ended-*"))) == 3)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    begun, ended = (len(list(tmp_path.glob(f"{word}-*"))) for word in ("begun", "ended"))
    campaign.workbench.history.experiments.recover(campaign.workbench.campaign.id, actor="test")
    found = campaign.status().evaluations
    assert found["unknown"] <= 3
    assert found["unknown"] + found["done"] == begun
    assert found["done"] <= ended
    assert found["queued"] == 12 - begun


def test_round_leaves_what_the_budget_does_not_reach_while_accepted_calls_may_free_it(opened: Open) -> None:
    body = """
    @oracle(cost_usd=2, batch=2)
    def assay(requests):
        return [Result(pending_s=3600.0) for _ in requests]
    """
    campaign = opened(body, size=4, cost=5)
    progress = campaign.run_round()
    assert progress is not None
    assert not progress.complete
    assert campaign.status().evaluations == {"running": 2, "queued": 2}
    assert not is_stuck(campaign.workbench)  # else a sweep would start it each minute, for days
    history = campaign.workbench.history
    rows = history.answers.waiting(campaign.workbench.campaign.id, oracle="assay")
    replies = [Reply(row.idempotency_key, failure=FailureClass.PERMANENT, cost_minor=0) for row in rows[:2]]
    history.answers.receive(campaign.workbench.campaign.id, replies, oracle="assay", actor="test")
    assert is_stuck(campaign.workbench)  # the money is free again
    campaign.run_round()
    assert campaign.status().evaluations == {"failed": 2, "running": 2}


def test_stop_hands_back_what_was_claimed_ahead(opened: Open) -> None:
    body = """
    def assay(object: str) -> float:
        calls.append(object)
        time.sleep(0.2 if len(calls) > 5 else 0.0)
        return 1.0
    """
    campaign = opened(body, size=60)
    campaign.ask()
    stop, found = Stop(), []
    worker = threading.Thread(target=lambda: found.append(work(campaign.workbench, stop=stop)))
    worker.start()
    until(lambda: len(names(campaign)["calls"]) > 5)
    stop.asked = True
    worker.join()
    called = len(names(campaign)["calls"])
    assert called < 30
    assert campaign.status().evaluations == {"done": called, "queued": 60 - called}


def test_answers_are_stored_though_somebody_breaks_off_just_then(opened: Open, monkeypatch) -> None:
    body = """
    @oracle(cost_usd=1)
    def assay(requests):
        return [Result({"score": 1.0}) for _ in requests]
    """
    campaign = opened(body)
    experiments = campaign.workbench.history.experiments
    settle, broken = experiments.settle, []

    def interrupted(outcomes, *, actor):
        if not broken:
            broken.append(True)
            raise KeyboardInterrupt
        return settle(outcomes, actor=actor)

    def close() -> None:
        raise RuntimeError("it is stuck")

    monkeypatch.setattr(experiments, "settle", interrupted)
    object.__setattr__(campaign.workbench.oracle, "close", close)
    with pytest.raises(KeyboardInterrupt):
        campaign.run_round()
    assert campaign.status().evaluations == {"done": 6}
