"""Several processes on one history: no error, no lost update, nothing claimed twice."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from flowscout.db import EvaluationState, FailureClass, History, Told
from flowscout.db.recording import insert_measurements
from flowscout.testing.histories import begin, failed, measured, result

SCRIPT = Path(__file__).with_name("history_writer.py")
PROCESSES = 4


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/history.db"
    new: Callable[[], str] = request.getfixturevalue("new_postgresql")
    return new()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty history."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@contextmanager
def started(task: str, url: str, gate: Path, *, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Yield processes that stand before the gate; kill those that are left at the end."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), task, url, f"writer-{number}", str(gate)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise AssertionError(process.communicate()[1])
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def at_once(task: str, url: str, gate: Path) -> list[object]:
    """Return what each of several processes printed that were let go at the same time."""
    with started(task, url, gate, count=PROCESSES) as processes:
        gate.touch()
        ended = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [(err[-2000:], code) for _, err, code in ended] == [("", 0)] * PROCESSES
    return [json.loads(out) for out, _, _ in ended]


def test_an_empty_database_may_be_opened_by_several_at_once(empty_url: str, tmp_path: Path) -> None:
    uuids = at_once("open_empty", empty_url, tmp_path / "gate")
    assert len(set(map(str, uuids))) == 1
    with History(empty_url, create=False) as history:
        assert history.campaigns.get("campaign").uuid == uuids[0]


def test_processes_that_write_at_once_lose_nothing_and_claim_nothing_twice(url: str, tmp_path: Path) -> None:
    with History(url) as history:
        scene = begin(history)
        for number in range(1, 5):
            scene.propose([f"r{number}-{n}" for n in range(6)], number=number)
        claimed = [tuple(pair) for found in at_once("work", url, tmp_path / "gate") for pair in found]

        assert len(claimed) == len(set(claimed)) == 48
        assert history.experiments.counts(scene.campaign.id) == {EvaluationState.DONE: 24}
        assert scene.rows("SELECT COUNT(*) FROM attempt") == [(48,)]
        assert scene.money() == (0, 2400)
        told = PROCESSES * 8 * 3 + 8 * 3 + 24
        assert scene.rows("SELECT MIN(seq), MAX(seq), COUNT(*) FROM measurement") == [(1, told, told)]
        assert history.campaigns.get("campaign").clock == told
        assert scene.events("stale_attempt") == scene.events("conflict") == 0
        before = scene.table("current_value")
        history.measurements.rebuild_current_values(scene.campaign.id)
        assert scene.table("current_value") == before


def test_a_killed_process_frees_its_campaign_and_its_call_is_made_again(url: str, tmp_path: Path) -> None:
    with History(url) as history:
        scene = begin(history)
        record = scene.propose(["a"])
        history.campaigns.release_lease(scene.lease)
        gate = tmp_path / "gate"
        with started("hang", url, gate, count=1) as [process]:
            gate.touch()
            assert process.stdout is not None
            keys = json.loads(process.stdout.readline())
            assert scene.recover() == {"queued": 0, "unknown": 0}
        begin(history)  # takes the lease
        assert scene.recover() == {"queued": 1, "unknown": 0}
        assert [claim.idempotency_key for claim in scene.claim(record)] == keys


def test_a_row_told_by_two_at_once_is_stored_once(url: str) -> None:
    with History(url) as history, History(url) as second, ThreadPoolExecutor(1) as pool:
        scene = begin(history)
        scene.tell(measured("a", row_id="before"))  # a candidate that is known stops nobody
        with history.database.write() as session:
            insert_measurements(session, scene.campaign.id, [measured("a")], actor="first")
            told = pool.submit(replace(scene, history=second).tell, measured("a"))
            time.sleep(0.3)  # by now the second has looked, or waits for the first to commit
        assert told.result(timeout=60) == Told(added=0, unchanged=1)
        assert history.campaigns.get("campaign").clock == 2


def test_telling_and_settling_at_once_wait_for_each_other_in_one_order(url: str) -> None:
    with History(url) as history, History(url) as second, ThreadPoolExecutor(1) as pool:
        scene = begin(history)
        first, other = scene.claim(scene.propose(["a", "b"]))
        with history.database.write() as session:
            # Half of a telling: its clock is taken, the evaluation of "a" is not settled yet.
            insert_measurements(session, scene.campaign.id, [measured("z")], actor="first")
            outcomes = failed(first, FailureClass.PERMANENT), result(other)
            settled = pool.submit(replace(scene, history=second).settle, *outcomes)
            time.sleep(0.3)  # by now the second holds what it takes first
            insert_measurements(session, scene.campaign.id, [measured("a")], actor="first")
        assert settled.result(timeout=60) == 1
        assert scene.states() == ["done", "done"]
        assert scene.money() == (0, 100)
