"""Hooks are told of what was committed, at least once, in order; one that fails stops nothing."""

import hashlib
import hmac
import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pandas as pd
import pytest
import yaml
from sqlalchemy import text

from flowscout import Campaign
from flowscout.errors import ConfigError
from flowscout.loop import notices
from flowscout.loop.config import NotifySection, parse_campaign
from flowscout.loop.workbench import hold_campaign

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab, cost_usd: 2}
proposer: {type: random}
batch: {size: 2}
budget: {rounds: 8, cost: 10}
device: cpu
"""
KEEP = "import sys; open('told.jsonl', 'a').write(sys.stdin.read() + chr(10))"
ROUNDS = ["round_complete", "budget_80"]


@pytest.fixture
def start(tmp_path):
    """Return a function that opens the campaign with these hooks."""
    opened = []

    def made(*hooks):
        (tmp_path / "c.yaml").write_text(CAMPAIGN + yaml.safe_dump({"notify": list(hooks)}))
        opened.append(Campaign.from_yaml(tmp_path / "c.yaml"))
        return opened[-1]

    yield made
    for campaign in opened:
        campaign.close()


def measure(campaign):
    campaign.tell(pd.DataFrame({"object": campaign.ask()["object"], "y": 1.0}))


def hook(code, **more):
    return {"on": ROUNDS, "command": [sys.executable, "-c", code], **more}


def told(folder: Path):
    path = folder / "told.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_command_is_told_once_and_in_order(start, tmp_path):
    campaign = start(hook(KEEP))
    for _ in range(3):
        measure(campaign)
    assert campaign.notify() == 0
    assert [(one["kind"], one["round"]) for one in told(tmp_path)] == [
        ("round_complete", 1),
        ("budget_80", None),
        ("round_complete", 2),
        ("round_complete", 3),
    ]
    assert told(tmp_path)[0]["campaign"] == "binders"
    ids = [one["id"] for one in told(tmp_path)]
    assert ids == sorted(ids)


def test_a_hook_that_is_new_is_told_of_what_comes(start, tmp_path):
    measure(start())
    campaign = start(hook(KEEP))
    assert campaign.notify() == 0
    measure(campaign)
    assert [one["round"] for one in told(tmp_path) if one["kind"] == "round_complete"] == [2]


def test_what_a_killed_process_did_not_tell_is_told_later(start, tmp_path, monkeypatch):
    campaign = start(hook(KEEP))
    monkeypatch.setattr(notices, "deliver", lambda *_, **__: 0)  # as if it died after the commit
    measure(campaign)
    assert told(tmp_path) == []
    monkeypatch.undo()
    assert campaign.notify() == 1
    assert [one["kind"] for one in told(tmp_path)] == ["round_complete"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (hook("import sys; sys.exit('the printer is on fire')"), "ended with code 1: the printer is on fire"),
        ({"on": ROUNDS, "command": ["no-such-program"]}, "command 'no-such-program' cannot be started"),
        ({"on": ROUNDS, "webhook": "http://127.0.0.1:9/token"}, "webhook at 127.0.0.1 did not answer"),
        ({"on": ROUNDS, "webhook": "http://me:token@127.0.0.1/"}, "webhook at 127.0.0.1 did not speak HTTP"),
        (
            {"on": ROUNDS, "webhook": "http://127.0.0.1:9/token", "secret_env": "NOT_SET_ANYWHERE"},
            "variable NOT_SET_ANYWHERE is not set",
        ),
    ],
)
def test_a_hook_that_fails_stops_neither_the_round_nor_another_hook(start, tmp_path, broken, said):
    campaign = start(broken, hook(KEEP))
    measure(campaign)
    measure(campaign)
    assert [row.state for row in campaign.status().rounds] == ["complete", "complete"]
    assert [one["kind"] for one in told(tmp_path)] == ["round_complete", "budget_80", "round_complete"]
    [failure] = campaign.events(kind="notice_failed")["detail"]
    assert said in failure["error"]
    assert "token" not in json.dumps(failure)
    with campaign.workbench.history.database.write() as session:
        session.execute(text("UPDATE delivery SET not_before = NULL"))
    assert campaign.notify() == 0
    assert campaign.events(kind="notice_failed")["detail"].tolist()[1]["event"] == failure["event"]


def test_a_command_that_never_ends_is_ended_with_what_it_started(start, tmp_path):
    spawn = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {!r}]); time.sleep(60)"
    late = "import time; time.sleep(2); open('late', 'w')"
    campaign = start(hook(spawn.format(late), timeout_s=1))
    began = time.monotonic()
    measure(campaign)
    assert time.monotonic() - began < 30  # of 60
    [failure] = campaign.events(kind="notice_failed")["detail"]
    assert "took longer than 1 s" in failure["error"]
    time.sleep(2.5)
    assert not (tmp_path / "late").exists()


def test_nothing_is_run_through_a_shell(start, tmp_path):
    campaign = start(
        {"on": ["round_complete"], "command": [sys.executable, "-c", KEEP, "; touch hacked", "$(id)"]}
    )
    measure(campaign)
    assert len(told(tmp_path)) == 1
    assert not (tmp_path / "hacked").exists()


class Receiver(BaseHTTPRequestHandler):
    """Keeps what is posted; answers with the next of `statuses`."""

    def do_POST(self):
        self.server.got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("Location", "http://127.0.0.1:9/")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.got, server.statuses = [], []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_webhook_is_signed_and_the_secret_is_nowhere(start, tmp_path, receiver, monkeypatch):
    monkeypatch.setenv("LAB_SECRET", "hunter2-hunter2")
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    campaign = start({"on": ["round_complete"], "webhook": url, "secret_env": "LAB_SECRET"})
    receiver.statuses = [500]
    measure(campaign)
    assert len(receiver.got) == 1
    with campaign.workbench.history.database.write() as session:
        session.execute(text("UPDATE delivery SET not_before = NULL"))
    assert campaign.notify() == 1
    headers, body = receiver.got[1]
    assert receiver.got[0][1] == body
    expected = hmac.new(b"hunter2-hunter2", body, hashlib.sha256).hexdigest()
    assert headers["X-Flowscout-Signature"] == f"sha256={expected}"
    assert json.loads(body)["kind"] == "round_complete"
    assert str(json.loads(body)["id"]) == headers["X-Flowscout-Event"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 1
    assert not any(b"hunter2" in path.read_bytes() for path in files)
    assert "hunter2" not in str(receiver.got)


def test_a_redirect_is_a_failure(start, receiver):
    campaign = start({"on": ["round_complete"], "webhook": f"http://127.0.0.1:{receiver.server_port}/hook"})
    receiver.statuses = [302]
    measure(campaign)
    [failure] = campaign.events(kind="notice_failed")["detail"]
    assert failure["error"] == "webhook at 127.0.0.1 answered 302, expected 2xx."


def test_an_answer_that_is_no_http_is_a_failure(start, tmp_path):
    def answer():
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"220 mail ready\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/hook"
        campaign = start({"on": ["round_complete"], "webhook": url}, hook(KEEP))
        measure(campaign)
        thread.join()
    [failure] = campaign.events(kind="notice_failed")["detail"]
    assert "webhook at 127.0.0.1 did not speak HTTP (BadStatusLine)" in failure["error"]
    assert "round_complete" in [one["kind"] for one in told(tmp_path)]


def test_hooks_are_told_while_a_round_still_runs(start, tmp_path, monkeypatch):
    monkeypatch.setattr(notices, "POLL_S", 0.05)
    campaign = start({"on": ["budget_80"], "command": [sys.executable, "-c", KEEP]})
    with hold_campaign(campaign.workbench) as bench:
        bench.history.budgets.set_limit(bench.campaign.id, 0, reason="stop", actor="me")
        for _ in range(200):
            if told(tmp_path):
                break
            time.sleep(0.05)
        assert [one["kind"] for one in told(tmp_path)] == ["budget_80"]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"on": ["lunch"], "command": ["x"]}, "notify.on has 'lunch', expected some of round_complete"),
        ({"on": ["conflict"]}, "either a command or a webhook"),
        ({"on": ["conflict"], "command": ["x"], "webhook": "https://a"}, "either a command or a webhook"),
        ({"on": ["conflict"], "webhook": "file:///etc/passwd"}, "no http:// or https:// address"),
        ({"on": ["conflict"], "command": ["x"], "secret_env": "S"}, "secret_env signs a webhook"),
        ({"on": ["conflict"], "command": "rm -rf /"}, "valid list"),
        ({"on": ["conflict"], "comand": ["x"]}, "did you mean 'command'"),
    ],
)
def test_a_hook_that_cannot_be_is_refused(section, said):
    with pytest.raises(ConfigError, match=said):
        parse_campaign(CAMPAIGN + yaml.safe_dump({"notify": [section]}), name="c.yaml")


def test_a_time_out_makes_no_other_hook():
    one = NotifySection(on=["conflict"], command=["x"])
    assert notices.hook_id(one) == notices.hook_id(one.model_copy(update={"timeout_s": 99.0}))
    assert notices.hook_id(one) != notices.hook_id(one.model_copy(update={"command": ["y"]}))
