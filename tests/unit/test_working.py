"""Workers, look-ups, reconciling and cancelling, through campaigns with oracles of their own."""

import json
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flowscout import Campaign
from flowscout.cli import run as command
from flowscout.db import FailureClass, Outcome, RoundState
from flowscout.errors import ConfigError, LabelError, StateError
from flowscout.loop import dispatching, stages
from flowscout.loop.leases import HeldClaims
from flowscout.loop.measuring import measure
from flowscout.loop.oracles import Result
from flowscout.loop.workbench import hold_campaign
from flowscout.loop.working import Stop, work
from flowscout.testing.histories import dead_owner

CAMPAIGN = """\
campaign: working
seed: 1
space: {type: sequence, alphabet: dna, length: 5}
objectives: [{name: score, direction: maximize}]
oracle: ORACLE:assay
proposer: {type: random}
batch: {size: 4}
budget: {rounds: 2, cost: 1000}
device: cpu
"""
PLAIN = """
@oracle(cost_usd=2, idempotent=True)
def assay(requests):
    calls.extend(r.key for r in requests)
    return [Result(values={'score': float(r.object.count('A'))}) for r in requests]
"""
UNSURE = PLAIN.replace("idempotent=True", "idempotent=False")
LOOKED_UP = """
answers = {}

@oracle(cost_usd=2, lookup=lambda keys: {k: answers[k] for k in keys if k in answers})
def assay(requests):
    calls.extend(r.key for r in requests)
    return [Result(values={'score': 1.0}) for _ in requests]
"""

Open = Callable[..., Campaign]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens a campaign whose oracle has this source; its module is `calls` and so on."""
    name, campaigns = f"assay_{tmp_path.name}", []

    def make(source: str = PLAIN, **changes: str) -> Campaign:
        (tmp_path / f"{name}.py").write_text(
            f"from flowscout import NOT_KNOWN, Result, oracle\ncalls = []\n{source}"
        )
        text = CAMPAIGN.replace("ORACLE", name)
        for old, new in changes.items():
            told = {"cost": ("cost: 1000", f"cost: {new}"), "notify": ("device:", f"notify: {new}\ndevice:")}
            text = text.replace(*told[old])
        (tmp_path / "campaign.yaml").write_text(text)
        campaigns.append(Campaign.from_yaml(tmp_path / "campaign.yaml", actor="ada"))
        return campaigns[-1]

    yield make
    for campaign in campaigns:
        campaign.close()
    sys.modules.pop(name, None)


def names(campaign: Campaign) -> dict[str, object]:
    """Return the names of the oracle's module."""
    found: dict[str, object] = campaign.workbench.oracle.function.__globals__  # type: ignore[attr-defined]
    return found


def cut_off(campaign: Campaign, *, count: int = 4) -> list[str]:
    """Let a process die in the calls of a batch; return the objects of these."""
    campaign.ask()
    bench = campaign.workbench
    claims = bench.history.experiments.claim_any(bench.campaign.id, owner=dead_owner(), limit=count)
    return [claim.object for claim in claims]


def test_a_worker_measures_a_batch_and_completes_its_round(opened: Open) -> None:
    campaign = opened()
    campaign.ask()
    worked = work(campaign.workbench, limit=3, once=True)
    assert (worked.calls, worked.added) == (4, 4)
    assert campaign.status().rounds[0].state is RoundState.COMPLETE
    assert campaign.status().spent_minor == 4 * 200
    assert campaign.workbench.history.workers.living(campaign.workbench.campaign.uuid) == []


def test_a_worker_that_is_told_to_stop_ends_after_the_call_in_hand(opened: Open) -> None:
    campaign = opened()
    campaign.ask()
    stop, assay = Stop(), names(campaign)
    assay["calls"] = type("Stopper", (list,), {"extend": lambda self, keys: setattr(stop, "asked", True)})()
    assert work(campaign.workbench, stop=stop).calls == 1
    assert campaign.status().evaluations == {"done": 1, "queued": 3}
    assert work(campaign.workbench, stop=stop).calls == 0


def test_a_worker_tells_the_hooks_before_its_round_is_complete(opened: Open, tmp_path: Path) -> None:
    code = "import sys; open('told.jsonl', 'a').write(sys.stdin.read() + chr(10))"
    hook = {"on": ["budget_80"], "command": [sys.executable, "-c", code]}
    campaign = opened(cost="9", notify=json.dumps([hook]))
    campaign.ask()
    stop, assay = Stop(), names(campaign)
    assay["calls"] = type("Stopper", (list,), {"extend": lambda self, keys: setattr(stop, "asked", True)})()
    work(campaign.workbench, stop=stop, limit=4)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert kinds == ["budget_80"]


def test_an_idle_worker_ends_after_its_time(opened: Open) -> None:
    campaign = opened()
    begun = time.monotonic()
    assert work(campaign.workbench, idle_s=0.1).calls == 0
    assert time.monotonic() - begun >= 0.1


def test_a_runner_leaves_workers_their_share_and_waits_for_it(opened: Open, monkeypatch) -> None:
    monkeypatch.setattr(dispatching, "POLL_S", 0.02)
    campaign = opened()
    bench = campaign.workbench
    campaign.ask()
    bench.history.workers.beat("elsewhere/boot|1|1", queue=bench.campaign.uuid)
    [claim] = bench.history.experiments.claim_any(bench.campaign.id, owner="elsewhere/boot|1|1", limit=1)
    with hold_campaign(bench) as held:
        record = bench.history.rounds.get(bench.campaign.id, 1)
        assert dispatching._share(held, 4) == 2
        runner = threading.Thread(target=stages.dispatch, args=(held, 1))
        runner.start()
        deadline = time.monotonic() + 30
        while (
            bench.history.experiments.counts(bench.campaign.id).get("done", 0) < 3 and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        assert runner.is_alive()
        outcomes = measure(bench, [claim])
        bench.history.experiments.settle(outcomes, actor="worker")
        runner.join(timeout=30)
        assert not runner.is_alive()
        assert stages.collect(held, record.number).complete


def test_a_call_that_breaks_off_is_given_up_at_once(opened: Open) -> None:
    campaign = opened()
    campaign.ask()
    names(campaign)["calls"] = type("Breaker", (list,), {"extend": _interrupt})()
    with pytest.raises(KeyboardInterrupt):
        campaign.run_round()
    names(campaign)["calls"] = []
    assert campaign.run_round().complete  # type: ignore[union-attr]  # without waiting for a lease to end


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_lease_is_renewed_while_the_call_lasts_and_its_loss_is_noticed(opened: Open, caplog) -> None:
    campaign = opened()
    campaign.ask()
    bench = campaign.workbench
    experiments = bench.history.experiments
    claims = experiments.claim_any(bench.campaign.id, owner="elsewhere", lease_s=0.2)
    with HeldClaims(bench.history, lease_s=0.2) as held:
        held.hold(claims)
        lost = held.lost
        time.sleep(0.5)
        assert experiments.recover(bench.campaign.id, actor="test") == {"queued": 0, "unknown": 0}
        assert lost == set()
        experiments.renew(claims[:1], lease_s=0)  # as if nobody had renewed it
        experiments.recover(bench.campaign.id, actor="test")
        deadline = time.monotonic() + 30
        while len(lost) < 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert claims[0].attempt_id in lost
    assert "is lost: this process stood still" in caplog.text


def test_an_attempt_that_was_settled_here_is_not_called_lost(opened: Open, caplog) -> None:
    campaign = opened()
    campaign.ask()
    bench = campaign.workbench
    claims = bench.history.experiments.claim_any(bench.campaign.id, owner="elsewhere", lease_s=0.2)
    with HeldClaims(bench.history, lease_s=0.2) as held:
        held.hold(claims)
        held.let_go(claims)
        failed = [Outcome(claim, failure=FailureClass.PERMANENT) for claim in claims]
        bench.history.experiments.settle(failed, actor="test")
        time.sleep(0.3)
    assert held.lost == set()
    assert "is lost" not in caplog.text


def test_a_look_up_settles_what_happened_and_calls_what_did_not(opened: Open) -> None:
    campaign = opened(LOOKED_UP)
    cut_off(campaign)
    assay, bench = names(campaign), campaign.workbench
    with closing(sqlite3.connect(bench.history.database.url.database or "")) as history:
        keys = [key for (key,) in history.execute("SELECT idempotency_key FROM evaluation ORDER BY id")]
    from flowscout import NOT_KNOWN, Result

    assay["answers"] |= {  # type: ignore[operator]
        keys[0]: Result(values={"score": 7.0}, cost_usd=1.5),
        keys[1]: None,
        keys[2]: NOT_KNOWN,
    }
    assert campaign.run_round().complete  # type: ignore[union-attr]
    status = campaign.status()
    assert status.evaluations == {"done": 2, "unknown": 2}
    assert (status.spent_minor, status.reserved_minor) == (150 + 200, 2 * 200)
    [called] = assay["calls"]  # type: ignore[misc]
    assert called not in keys
    assert sorted(campaign.history()["value"]) == [1.0, 7.0]
    assay["answers"][keys[2]] = Result(failure="permanent", message="spilt")  # type: ignore[index]
    campaign.run_round()  # asks again
    assert campaign.status().evaluations == {"done": 6, "unknown": 1, "failed": 1}


def test_a_look_up_that_raises_or_answers_nonsense_leaves_the_calls_unknown(opened: Open) -> None:
    campaign = opened(LOOKED_UP)
    cut_off(campaign)
    names(campaign)["answers"] = None  # it raises
    campaign.run_round()
    assert campaign.status().evaluations == {"unknown": 4}


def test_reconciling_settles_each_as_it_is_told(opened: Open, tmp_path: Path) -> None:
    campaign = opened(UNSURE)
    a, b, c, d = cut_off(campaign)
    campaign.run_round()
    assert campaign.reconcile()["object"].tolist() == [a, b, c, d]
    left = campaign.reconcile({a: 0.5}, never=[b], retry=[c], actor="bob")
    assert left["object"].tolist() == [d]
    status = campaign.status()
    assert (status.spent_minor, status.reserved_minor) == (2 * 200, 200)
    (tmp_path / "values.csv").write_text(f"object,score,score_sem\n{d},0.25,0.1\n")
    assert campaign.reconcile(tmp_path / "values.csv").empty
    assert (
        work(campaign.workbench, once=True).calls == 2
    )  # their round is complete, and they are called all the same
    assert campaign.status().evaluations == {"done": 4}
    found = campaign.history().set_index("object")
    assert found.loc[d, ["value", "sem"]].tolist() == [0.25, 0.1]
    assert found.loc[a, "source"] == f"oracle:{campaign.workbench.oracle.info.name}"


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"done": {"GGGGG": 1.0}}, StateError, "no call for 'GGGGG' is unknown"),
        ({"done": {"A": None}}, LabelError, "expected a finite number: none came late either"),
        ({"done": {"A": float("nan")}}, LabelError, "expected a finite number"),
        ({"done": {"A": 1.0}, "never": ["A"]}, ConfigError, "comes more than once"),
    ],
)
def test_what_cannot_be_reconciled_changes_nothing(
    opened: Open, arguments: dict, error: type[Exception], says: str
) -> None:
    campaign = opened(UNSURE)
    objects = cut_off(campaign)
    assert "GGGGG" not in objects
    campaign.run_round()
    if "done" in arguments:
        arguments["done"] = {objects[0] if k == "A" else k: v for k, v in arguments["done"].items()}
    if "never" in arguments:
        arguments["never"] = objects[:1]
    with pytest.raises(error, match=says):
        campaign.reconcile(**arguments)
    assert campaign.status().evaluations == {"unknown": 4}


def test_what_the_budget_did_not_reach_may_be_proposed_again(opened: Open) -> None:
    campaign = opened(cost="5")
    campaign.run_round()
    assert campaign.status().evaluations == {"done": 2, "cancelled": 2}
    bench = campaign.workbench
    assert len(bench.history.measurements.known_keys(bench.campaign.id)) == 2
    richer = opened(cost="1000")
    with hold_campaign(richer.workbench) as held:
        number = stages.plan(held)
        assert number == 2
    with closing(sqlite3.connect(bench.history.database.url.database or "")) as history:
        query = (
            "SELECT c.object FROM candidate c JOIN evaluation e ON e.candidate_id = c.id WHERE state = 'cancelled'"
        )
        cancelled = [text for (text,) in history.execute(query)]
    batch = richer.ask(include=cancelled)["object"].tolist()
    assert set(cancelled) <= set(batch)
    assert richer.run_round().complete  # type: ignore[union-attr]
    assert richer.status().evaluations == {"done": 6}


def test_cancelling_leaves_places_empty_and_completes_the_round(opened: Open) -> None:
    campaign = opened()
    batch = campaign.ask()["object"].tolist()
    assert campaign.cancel(batch[:3], reason="no stock") == 3
    assert campaign.cancel(batch[:3], reason="no stock") == 0
    with pytest.raises(ConfigError, match="without a reason"):
        campaign.cancel(batch[3:], reason=" ")
    assert campaign.cancel(batch[3], reason="no stock") == 1
    assert campaign.status().rounds[0].state is RoundState.COMPLETE
    assert campaign.status().evaluations == {"cancelled": 4}


def test_the_commands_do_the_same(opened: Open, tmp_path: Path, capsys) -> None:
    campaign = opened(UNSURE)
    a, b, c = cut_off(campaign, count=3)
    path, db = str(tmp_path / "campaign.yaml"), str(tmp_path / "working.db")
    [d] = set(campaign.workbench.history.queries.pending(campaign.workbench.campaign.id)) - {a, b, c}
    assert command(["cancel", path, d, "--reason", "no stock"]) == 0
    assert command(["cancel", path, a, "--reason", "no stock"]) == 1
    assert "is running, expected queued" in " ".join(capsys.readouterr().err.split())
    assert command(["worker", "--campaign", "working", "--db", db, "--once", "--json"]) == 0
    assert command(["reconcile", path, "--done", f"{a}=0.5", "--never", b, "--retry", c]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{c}: its oracle is not idempotent, so that it may be paid twice" in said
    assert "unknown in working: nothing yet" in said
    assert command(["worker", path, "--once", "--json"]) == 0
    assert '"calls": 2' in capsys.readouterr().out
    assert command(["worker", path, "--campaign", "working"]) == 2
    assert command(["worker", "--campaign", "working"]) == 2
    assert command(["reconcile", path, "--done", f"{a}=high"]) == 2
    assert campaign.status().evaluations == {"done": 3, "cancelled": 1}


def test_a_worker_refuses_what_people_measure(opened: Open, tmp_path: Path, capsys) -> None:
    opened()
    text = (tmp_path / "campaign.yaml").read_text().splitlines()
    text = ["oracle: {type: lab}" if line.startswith("oracle:") else line for line in text]
    (tmp_path / "campaign.yaml").write_text("\n".join(text))
    Campaign.from_yaml(tmp_path / "campaign.yaml").close()
    assert command(["worker", str(tmp_path / "campaign.yaml"), "--once"]) == 2
    assert "flowscout tell" in capsys.readouterr().err


def test_a_worker_that_is_told_to_stop_does_not_wait_for_a_service_that_asks_for_patience(opened: Open) -> None:
    """Its oracle pauses for a minute, as one does whose service said `Retry-After: 60`."""
    campaign = opened("def assay(objects):\n    return [1.0 for _ in objects]\n")
    campaign.ask()
    cut, begun = threading.Event(), threading.Event()

    class Patient(type(campaign.workbench.oracle)):  # type: ignore[misc]
        def __call__(self, requests):
            begun.set()
            assert cut.wait(60)
            return [Result(failure="transient", message="it asked to be left alone")] * len(requests)

        def hurry(self):
            cut.set()

    object.__setattr__(campaign.workbench.oracle, "__class__", Patient)
    stop = Stop()
    worker = threading.Thread(target=work, args=(campaign.workbench,), kwargs={"stop": stop, "limit": 4})
    worker.start()
    assert begun.wait(60)
    stop.asked = True
    worker.join()
    assert cut.is_set()
    assert campaign.status().evaluations == {"queued": 4}
