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
    assert run["parameters"] == {"campaign": uuid, "config_sha256": None}


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
