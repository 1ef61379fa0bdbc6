"""Worker processes that are stopped, frozen and killed: no state, no money and no value goes wrong."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flowscout import Campaign
from flowscout.db import EvaluationState
from flowscout.loop.measuring import measure

CAMPAIGN = """\
campaign: shared
seed: 1
space: {type: sequence, alphabet: dna, length: 5}
objectives: [{name: score, direction: maximize}]
oracle: shared_assay:assay
proposer: {type: random}
batch: {size: 2}
budget: {rounds: 1, cost: 1000}
device: cpu
"""
# It says that it was entered, and answers when it may, with what it is told to add.
ASSAY = """\
import os
import time
from pathlib import Path

from flowscout import Result, oracle

HERE = Path(__file__).parent


@oracle(cost_usd=2, idempotent=True)
def assay(requests):
    (HERE / f"entered-{os.getpid()}").touch()
    while not (HERE / "go").exists():
        time.sleep(0.01)
    extra = float((HERE / f"extra-{os.getpid()}").read_text()) if (HERE / f"extra-{os.getpid()}").exists() else 0.0
    return [Result(values={"score": r.object.count("A") + extra}) for r in requests]
"""
WORK = """\
import sys
from flowscout.db import History
from flowscout.loop.working import work
from flowscout.loop.workbench import lay_out

with History(sys.argv[1], create=False) as history:
    print(work(lay_out(history, "shared"), limit=1, once=True, lease_s=float(sys.argv[2])))
"""


@pytest.fixture
def db() -> str:
    """Return the database that a test runs on; what storage promises is tested on both elsewhere."""
    return "sqlite"


@pytest.fixture
def campaign(db: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Campaign]:
    """Yield a campaign whose batch of two waits to be called."""
    (tmp_path / "shared_assay.py").write_text(ASSAY)
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    url = request.getfixturevalue(f"{db}_url")
    with Campaign.from_yaml(tmp_path / "campaign.yaml", db=url) as campaign:
        campaign.ask()
        yield campaign
    sys.modules.pop("shared_assay", None)


@contextmanager
def started(campaign: Campaign, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that has entered the oracle; kill it at the end, frozen or not."""
    folder = Path(campaign.workbench.version.folder)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: (folder / f"entered-{process.pid}").exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


def until(happened: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Wait until something has happened."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def events(campaign: Campaign, kind: str) -> int:
    from sqlalchemy import text

    with campaign.workbench.history.database.read() as session:
        found = session.scalar(text("SELECT COUNT(*) FROM event WHERE kind = :kind"), {"kind": kind})
    return int(found or 0)


@pytest.mark.parametrize(
    ("db", "extra"), [("sqlite", 0.0), ("postgresql", 7.0)], ids=["equal value", "different value"]
)
def test_a_process_that_stood_still_past_its_lease_changes_no_state_and_no_money(
    campaign: Campaign, extra: float
) -> None:
    bench = campaign.workbench
    experiments, folder = bench.history.experiments, Path(bench.version.folder)
    command = [sys.executable, "-c", WORK, bench.history.database.location, "0.5"]
    with started(campaign, command) as frozen:
        os.kill(frozen.pid, signal.SIGSTOP)
        (folder / f"extra-{frozen.pid}").write_text(str(extra))
        until(lambda: experiments.recover(bench.campaign.id, actor="test")["queued"] == 1)
        assert campaign.status().reserved_minor == 0
        (folder / "go").touch()
        claims = experiments.claim_any(bench.campaign.id, owner="another")
        assert len(claims) == 2
        experiments.settle(measure(bench, claims), actor="another")
        settled = campaign.status()
        os.kill(frozen.pid, signal.SIGCONT)
        _, complaint = frozen.communicate(timeout=60)
    assert frozen.returncode == 0, complaint
    after = campaign.status()
    assert (after.evaluations, after.spent_minor, after.reserved_minor) == ({"done": 2}, 400, 0)
    assert (settled.spent_minor, settled.measurements) == (400, 2)
    assert after.measurements == 2
    assert events(campaign, "stale_attempt") == 1
    assert events(campaign, "conflict") == (1 if extra else 0)


def test_a_worker_that_is_terminated_ends_after_the_call_in_hand(campaign: Campaign) -> None:
    folder, queue = Path(campaign.workbench.version.folder), campaign.workbench.campaign.uuid
    db = campaign.workbench.history.database.location
    command = [sys.executable, "-m", "flowscout", "worker", str(folder / "campaign.yaml"), "--db", db]
    with started(campaign, command) as worker:
        assert len(campaign.workbench.history.workers.living(queue)) == 1
        worker.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert worker.poll() is None
        (folder / "go").touch()
        said, complaint = worker.communicate(timeout=60)
    assert (worker.returncode, complaint) == (0, "")
    assert "1 calls, 1 values added" in said
    assert campaign.status().evaluations == {"done": 1, "queued": 1}
    assert campaign.workbench.history.workers.living(queue) == []


def test_a_killed_workers_call_is_made_again_with_the_same_key_at_once(campaign: Campaign) -> None:
    bench = campaign.workbench
    experiments, folder = bench.history.experiments, Path(bench.version.folder)
    command = [sys.executable, "-c", WORK, bench.history.database.location, "600"]
    with started(campaign, command) as worker:
        worker.kill()
        worker.wait()
    assert experiments.counts(bench.campaign.id) == {EvaluationState.RUNNING: 1, EvaluationState.QUEUED: 1}
    (folder / "go").touch()
    assert campaign.run_round().complete  # type: ignore[union-attr]
    status = campaign.status()
    assert (status.evaluations, status.spent_minor, status.reserved_minor) == ({"done": 2}, 400, 0)
    assert events(campaign, "attempt_expired") == 1
