"""`flowscout run` end to end, through Prefect on an embedded server."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowscout import Campaign

CAMPAIGN = """\
campaign: flows
seed: 3
space: {type: sequence, alphabet: dna, length: 6}
objectives: [{name: score, direction: maximize}]
oracle: measure:score
proposer: {type: gflownet, steps: 5}
batch: {size: 4}
budget: {rounds: 2}
"""
ORACLE = """\
import time

def score(objects):
    time.sleep(PAUSE)
    return [float(text.count("G")) for text in objects]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "a folder"
    home.mkdir()
    (home / "campaign.yaml").write_text(CAMPAIGN)
    (home / "measure.py").write_text(ORACLE.replace("PAUSE", "0"))
    for name in ("db", "flows", "loop"):  # a user's own folders of our rooms' names
        (home / name).mkdir()
        (home / name / "__init__.py").write_text("raise RuntimeError('the wrong one')\n")
    return home


def start(folder: Path) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return subprocess.Popen(
        [sys.executable, "-m", "flowscout", "run", "campaign.yaml"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def servers_of(folder: Path) -> list[str]:
    """Return the server processes whose folder this is."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    pids = [line.split()[0] for line in listed.splitlines() if "flowscout.flows.server_process" in line]
    return [pid for pid in pids if str(folder) in os.path.realpath(f"/proc/{pid}/cwd")]


def test_a_run_is_two_flow_runs_a_clean_terminal_and_no_server_left(folder: Path) -> None:
    printed, complaints = start(folder).communicate(timeout=180)
    assert complaints == ""
    lines = printed.splitlines()
    assert lines[0] == "flows: campaign.yaml"
    assert [line.split(" | ")[0] for line in lines if line.startswith("round")] == ["round 1", "round 2"]
    assert not any(word in printed for word in ("INFO", "WARNING", "Warning", "Traceback", "prefect."))
    with Campaign.from_yaml(folder / "campaign.yaml") as campaign:
        history = campaign.history()
    assert len(history) == 8
    assert history["prefect_run_id"].notna().all()
    assert history["prefect_run_id"].nunique() == 2
    assert servers_of(folder) == []


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for the server by its folder in /proc")
def test_a_killed_run_takes_its_server_with_it(folder: Path) -> None:
    (folder / "measure.py").write_text(ORACLE.replace("PAUSE", "600"))
    process = start(folder)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 180  # on a busy machine the run itself takes a minute to load
        while not servers_of(folder):
            assert time.monotonic() < deadline, "no server was started"
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    deadline = time.monotonic() + 30
    while servers_of(folder):
        assert time.monotonic() < deadline, "the server outlived its parent"
        time.sleep(0.1)
