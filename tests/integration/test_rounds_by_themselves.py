"""Rounds that run themselves: `flowscout serve` on PostgreSQL for both databases, a password, workers, a lab.

One campaign for all tests here: its five rounds are what the others look at.
"""

import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from flowscout import Campaign

PATIENCE_S = 400.0  # five rounds with their processes, on two cores that are shared with other tests
ROUNDS = 5
CAMPAIGN = """\
campaign: by-itself
space: {type: sequence, alphabet: dna, length: 6}
objectives: [{name: score, direction: maximize}]
oracle: {type: lab}
surrogate: {type: gp}
proposer: {type: gflownet, steps: 5}
batch: {size: 4}
budget: {rounds: 5}
device: DEVICE
seed: 1
"""


@dataclass(frozen=True)
class Place:
    """A running server with its workers, and how to reach it."""

    url: str
    database: str
    environment: dict[str, str]
    process: "subprocess.Popen[bytes]"
    folder: Path

    def log(self) -> str:
        """Return what serve and its services have said last."""
        files = [self.folder / "serve.log", *sorted((self.folder / "prefect").glob("*.log"))]
        return "\n".join(f"--- {file.name}\n{file.read_text()[-2500:]}" for file in files if file.exists())

    def get(self, path: str, content: Any = None, *, password: str | None = None) -> Any:
        """Return what the server answers; with `content` to a post. The right password goes along by default."""
        given = self.environment["PREFECT_API_AUTH_STRING"] if password is None else password
        headers = {
            "Authorization": "Basic " + base64.b64encode(given.encode()).decode(),
            "Content-Type": "application/json",
        }
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def flowscout(self, *arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
        """Run a command as a person would."""
        command = [sys.executable, "-m", "flowscout", *arguments]
        env = self.environment | changes
        return subprocess.run(command, env=env, cwd=self.folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[], str]) -> Iterator[Place]:
    """Yield a server with a worker for each queue, started by one command, that a password guards."""
    folder = tmp_path_factory.mktemp("serve")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "FLOWSCOUT_"))}
    password = f"lab:{secrets.token_urlsafe(24)}"
    database, url = new_database(), f"http://127.0.0.1:{port}/api"
    env = kept | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "FLOWSCOUT_DB": database,
        "FLOWSCOUT_PREFECT_DB": new_database(),
        # Who looks for work looks each second, not each five: what is found is the same.
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    command = [sys.executable, "-m", "flowscout", "serve", "--port", str(port), "--queues", "cpu,gpu"]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
    env = env | {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": password}
    del env["PREFECT_SERVER_API_AUTH_STRING"]
    found = Place(url, database, env, process, folder)
    try:
        wait_until(lambda: "workers of pool" in (folder / "serve.log").read_text(), "the workers start", found)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Told(BaseHTTPRequestHandler):
    """Where people are told: keeps what is posted."""

    messages: ClassVar[list[dict[str, str]]] = []
    url: ClassVar[str] = ""

    def do_POST(self) -> None:
        self.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def told() -> Iterator[type[Told]]:
    """Yield where people are told, by one of Prefect's webhook blocks."""
    Told.messages.clear()
    server = HTTPServer(("127.0.0.1", 0), Told)
    Told.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Told
    server.shutdown()
    thread.join()
    server.server_close()


def test_five_scheduled_rounds_complete_beside_a_lab_that_answers_late(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", place.environment["PREFECT_API_AUTH_STRING"])
    file = place.folder / "campaign.yaml"
    file.write_text(CAMPAIGN.replace("DEVICE", "auto"))
    asked = ["schedule", str(file), "--every", "45", "--when", "results >= 3", "--approve", "--json"]
    done = place.flowscout(*asked)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["page"].endswith(f"/deployments/deployment/{said['deployment_id']}")
    lab = [
        sys.executable,
        str(Path(__file__).with_name("lab_at_work.py")),
        place.database,
        "by-itself",
        str(ROUNDS),
    ]
    with (place.folder / "lab.log").open("wb") as log:
        process = subprocess.Popen(lab, env=place.environment, stdout=log, stderr=log)
    try:
        with Campaign.open(place.database, "by-itself") as campaign:
            vetoed = approve_all(campaign, place)
            states = lambda: [row.state for row in campaign.status().rounds]  # noqa: E731
            wait_until(lambda: states() == ["complete"] * ROUNDS, "five rounds are complete", place, states)
            check_history(campaign, vetoed)
            check_runs(campaign, place, said["deployment_id"])
        assert process.wait(timeout=30) == 0, (place.folder / "lab.log").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def webhook(place: Place, told: type[Told]) -> str:
    """Make one of Prefect's blocks, as a person does on its page, and return what it is called."""
    kind = place.get("block_types/slug/custom-webhook")
    schemas = place.get("block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}})
    data = {"name": "lab", "url": told.url, "json_data": {"subject": "{{subject}}", "body": "{{body}}"}}
    ids = {"block_type_id": kind["id"], "block_schema_id": schemas[0]["id"]}
    place.get("block_documents/", {"name": "lab", "data": data, **ids})
    return "custom-webhook/lab"


def approve_all(campaign: Campaign, place: Place) -> str:
    """Approve each batch, the second after a veto; then let the trainings stay with the rounds."""
    vetoed = ""
    for number in range(1, ROUNDS + 1):
        wait_until(lambda: campaign.awaiting() is not None, f"batch {number} waits for approval", place)
        batch = campaign.awaiting()
        assert batch is not None
        assert batch.round == number
        if number == 2:
            vetoed = str(batch.batch["object"].iloc[0])
            campaign.veto([vetoed], reason="cannot be synthesised", actor="chemist")
            # One training on the GPU's queue will do: each takes a process of its own.
            (place.folder / "campaign.yaml").write_text(CAMPAIGN.replace("DEVICE", "cpu"))
            with Campaign.from_yaml(place.folder / "campaign.yaml", db=place.database):
                pass
        if number == 3:  # from any machine, without the file
            done = place.flowscout(
                "approve", "--campaign", "by-itself", "--db", place.database, "--actor", "chief"
            )
            assert done.returncode == 0, done.stderr
        else:
            campaign.approve(actor="chief")
    return vetoed


def check_history(campaign: Campaign, vetoed: str) -> None:
    """Nothing was proposed twice; the vetoed place was filled; results came late and after the next round."""
    bench = campaign.workbench
    rounds = bench.history.rounds.all(bench.campaign.id)
    batches = [bench.history.rounds.proposals(record.id, selected=True) for record in rounds]
    proposed = [one.object for batch in batches for one in batch]
    assert [len(batch) for batch in batches] == [4] * ROUNDS
    assert len(set(proposed)) == 4 * ROUNDS
    assert vetoed not in proposed
    assert len(campaign.events(kind="batch_approved")) == ROUNDS
    assert len(campaign.events(kind="candidate_vetoed")) == 1
    started = campaign.events(kind="round_started")["at"].tolist()
    completed = campaign.events(kind="round_complete")["at"].tolist()
    assert completed[0] > started[1]  # rounds overlapped
    measured = campaign.history()
    assert sorted(measured["object"]) == sorted(proposed)  # each was measured once


def check_runs(campaign: Campaign, place: Place, deployment_id: str) -> None:
    """Each round was started by Prefect for this deployment; one was trained by a run on the GPU's queue."""
    bench = campaign.workbench
    rounds = bench.history.rounds.all(bench.campaign.id)
    by_event = started_by_events(place)
    for record in rounds:
        run = place.get(f"flow_runs/{record.prefect_run_id}")
        assert run["deployment_id"] == deployment_id
        assert run["parameters"]["campaign"] == bench.campaign.uuid
        assert run["work_queue_name"] == "cpu"
        assert run["auto_scheduled"] or run["id"] in by_event, run
    links = [row for row in campaign.events(kind="flow_run")["detail"] if row["flow"] == "train-sampler"]
    assert links
    run = place.get(f"flow_runs/{links[0]['run_id']}")
    assert run["work_queue_name"] == "gpu"
    assert run["state"]["type"] == "COMPLETED", run["state"]


def started_by_events(place: Place) -> set[str]:
    """Return the ids of the runs that Prefect's automations started."""
    named = {"event": {"name": ["prefect.automation.action.executed"]}}
    found = place.get("events/filter", {"filter": named, "limit": 50})["events"]
    about = {row["prefect.resource.id"] for event in found for row in event["related"]}
    return {text.removeprefix("prefect.flow-run.") for text in about if text.startswith("prefect.flow-run.")}


def test_a_wrong_password_is_refused_by_the_server_and_said_by_the_command_line(place: Place) -> None:
    for password in ("lab:wrong", ""):
        with pytest.raises(urllib.error.HTTPError) as caught:
            place.get("flows/filter", {}, password=password)
        assert caught.value.code == 401
        caught.value.close()
    asked = ["schedule", "--campaign", "by-itself", "--db", place.database, "--every", "3600"]
    done = place.flowscout(*asked, PREFECT_API_AUTH_STRING="lab:wrong")
    assert done.returncode == 1
    assert "refused us (401)" in done.stderr
    assert "PREFECT_API_AUTH_STRING" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_listens_on_anything_but_loopback(place: Place) -> None:
    processes = [psutil.Process(place.process.pid), *psutil.Process(place.process.pid).children(recursive=True)]
    sockets = [one for process in processes for one in process.net_connections(kind="inet")]
    listening = [one.laddr for one in sockets if one.status == psutil.CONN_LISTEN]
    assert [one for one in listening if one.ip not in ("127.0.0.1", "::1")] == []
    assert int(place.url.split(":")[2].split("/")[0]) in {one.port for one in listening}


@pytest.mark.parametrize(
    "campaign",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "campaign: x\noracle: os:system\n",
        "$(touch /tmp/flowscout-was-here)",
        {"campaign": "by-itself"},
        ["by-itself"],
        "x" * 10_000,
    ],
)
def test_parameters_take_no_path_command_yaml_or_object(place: Place, campaign: object) -> None:
    shared = place.get("deployments/filter", {})
    named = {one["name"] for one in shared}
    assert named >= {"round", "gpu", "collect", "simulate", "sweep"}
    for one in shared:
        with pytest.raises(urllib.error.HTTPError) as caught:
            place.get(f"deployments/{one['id']}/create_flow_run", {"parameters": {"campaign": campaign}})
        assert caught.value.code == 409, one["name"]  # how Prefect answers what breaks the schema
        assert b"Validation failed" in caught.value.read()
        caught.value.close()


@pytest.fixture(scope="module")
def by_event(place: Place, told: type[Told]) -> str:
    """Return the deployment of a campaign that nothing but events will start before tomorrow."""
    file = place.folder / "by-event.yaml"
    file.write_text(
        CAMPAIGN.replace("by-itself", "by-event").replace("gflownet, steps: 5", "random").replace("DEVICE", "auto")
    )
    when = ["--every", "86400", "--when", "results >= 1"]  # without a gate rounds start by the clock only
    done = place.flowscout("schedule", str(file), *when, "--approve", "--notify", webhook(place, told), "--json")
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["deployment_id"])


def test_results_that_come_start_a_round_long_before_its_time_and_people_are_told(
    place: Place, told: type[Told], by_event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", place.environment["PREFECT_API_AUTH_STRING"])
    with Campaign.open(place.database, "by-event") as campaign:
        campaign.tell([{"object": "ACGTAC", "score": 1.0}], source="plate 1")
        wait_until(lambda: campaign.awaiting() is not None, "a batch waits for approval", place)
        bench = campaign.workbench
        (record,) = bench.history.rounds.all(bench.campaign.id)
    run = place.get(f"flow_runs/{record.prefect_run_id}")
    assert run["deployment_id"] == by_event
    assert not run["auto_scheduled"]
    assert run["id"] in started_by_events(place)
    subject = "by-event: round_awaiting_approval"
    wait_until(lambda: subject in {message["subject"] for message in told.messages}, "people are told", place)


def test_unschedule_takes_the_deployment_and_what_it_planned_away(place: Place, by_event: str) -> None:
    asked = ["unschedule", "--campaign", "by-event", "--db", place.database, "--json"]
    done = place.flowscout(*asked)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"campaign": "by-event", "unscheduled": True}
    with Campaign.open(place.database, "by-event") as campaign:
        assert campaign.workbench.history.schedules.get(campaign.workbench.campaign.id) is None
    with pytest.raises(urllib.error.HTTPError) as caught:
        place.get(f"deployments/{by_event}")
    assert caught.value.code == 404
    caught.value.close()
    assert [one for one in place.get("automations/filter", {}) if one["name"].startswith("by-event:")] == []
    done = place.flowscout(*asked)
    assert json.loads(done.stdout)["unscheduled"] is False


def test_serve_starts_again_what_dies_and_ends_all_when_told(place: Place) -> None:
    def tethered() -> dict[str, int]:
        found = {}
        for child in psutil.Process(place.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # it has died: that it is a zombie counts as that
                found[" ".join(child.cmdline()[3:])] = child.pid
        return found

    before = tethered()
    worker = next(pid for command, pid in before.items() if "worker start" in command and " gpu" in command)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(tethered()) == len(before) and worker not in tethered().values(), "it is back", place)
    everything = psutil.Process(place.process.pid).children(recursive=True)
    place.process.send_signal(signal.SIGTERM)
    assert place.process.wait(timeout=60) == 0
    _, left = psutil.wait_procs(everything, timeout=10)
    assert left == []
    assert "has ended with signal SIGKILL" in (place.folder / "serve.log").read_text()


def wait_until(
    true: Callable[[], object], what: str, place: Place, shown: Callable[[], object] = lambda: ""
) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert place.process.poll() is None, f"serve has ended before: {what}\n{place.log()}"
        assert time.monotonic() < deadline, f"never: {what} {shown()}\n{place.log()}"
        time.sleep(0.3)
