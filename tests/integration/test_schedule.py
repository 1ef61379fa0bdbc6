"""A schedule on a real local server starts a real run in a worker: the limits on versions are kept for this."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flowscout import Campaign

ROOT = Path(__file__).parents[2]
PATIENCE_S = 150.0

CAMPAIGN = """\
campaign: scheduled
space: {type: sequence, alphabet: dna, length: 6}
objectives: [{name: score, direction: maximize}]
oracle: oracle:score
proposer: {type: gflownet, steps: 5}
batch: {size: 4}
budget: {rounds: 2}
seed: 1
"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of a running server with a database of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLI_PROMPT": "false",
        # Who looks for work looks each second, not each five or ten: what is found is the same.
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "FLOWSCOUT_DB": f"sqlite:///{tmp_path / 'history.db'}",
    }
    command = ["server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with _background(command, env, tmp_path / "server.log"):
        wait_until(lambda: _answers(env["PREFECT_API_URL"]), "the server answers", tmp_path / "server.log")
        yield env


def test_a_scheduled_run_really_starts_and_completes_a_round(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    (tmp_path / "oracle.py").write_text("def score(objects):\n    return [float(o.count('G')) for o in objects]\n")
    with Campaign.from_yaml(tmp_path / "campaign.yaml", db=environment["FLOWSCOUT_DB"]) as campaign:
        uuid = campaign.status().uuid
        prefect(["work-pool", "create", "flowscout", "--type", "process"], environment)
        deploy = ["--no-prompt", "deploy", "--prefect-file", str(ROOT / "prefect.yaml"), "--name", "round"]
        prefect([*deploy, "--param", f"campaign={uuid}", "--interval", "15"], environment)
        worker = ["worker", "start", "--pool", "flowscout", "--type", "process"]
        with _background(worker, environment, tmp_path / "worker.log"):
            wait_until(
                lambda: any(row.state == "complete" for row in campaign.status().rounds),
                "a scheduled round completes",
                tmp_path / "worker.log",
            )
        rows = campaign.history()
    assert len(rows) >= 4
    run_id = rows["prefect_run_id"].iloc[0]
    asked = urllib.request.urlopen(f"{environment['PREFECT_API_URL']}/flow_runs/{run_id}", timeout=10)
    run = json.load(asked)
    assert run["auto_scheduled"] is True  # it was the scheduler that made it, not a person
    assert run["parameters"]["campaign"] == uuid


def test_what_was_planned_while_no_worker_was_there_is_dropped_but_for_the_latest(
    environment: dict[str, str],
) -> None:
    prefect(["work-pool", "create", "flowscout", "--type", "process"], environment)
    deploy = ["--no-prompt", "deploy", "--prefect-file", str(ROOT / "prefect.yaml"), "--name", "collect"]
    prefect([*deploy, "--param", "campaign=nobody", "--interval", "1"], environment)
    deadline = time.monotonic() + PATIENCE_S
    while len(planned(environment)) < 3:
        assert time.monotonic() < deadline, "never: three runs are late"
        time.sleep(0.5)
    before = planned(environment)
    time.sleep(1.5)  # the server's clock, by which they are late, tells whole seconds
    prefect_code = (
        "from prefect.client.orchestration import get_client; from flowscout.flows.backlog import drop_late_runs\n"
        "with get_client(sync_client=True) as client: print(drop_late_runs(client, late_s=0))"
    )
    done = subprocess.run([sys.executable, "-c", prefect_code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= len(before) - 1
    left = set(planned(environment)) & set(before)
    assert left <= {before[-1]}  # of those that were late then, at most the latest waits on


def planned(environment: dict[str, str]) -> list[str]:
    """Return the runs that are late, the oldest first."""
    now = datetime.now(UTC).isoformat()
    asked = {"flow_runs": {"expected_start_time": {"before_": now}, "state": {"type": {"any_": ["SCHEDULED"]}}}}
    request = urllib.request.Request(
        f"{environment['PREFECT_API_URL']}/flow_runs/filter",
        data=json.dumps(asked | {"sort": "EXPECTED_START_TIME_ASC"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return [run["id"] for run in json.load(answer)]


def prefect(arguments: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class _background:
    """Run a Prefect command in a process group of its own; end the group afterwards."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self._arguments, self._environment, self._log = arguments, environment, log

    def __enter__(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *self._arguments],
                env=self._environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def wait_until(true: object, what: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"never: {what}\n{log.read_text()[-3000:]}"
        time.sleep(0.5)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
