"""Campaigns whose oracle is a service: at once, by call-back through the command, and the secrets of both."""

import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from itertools import product

import pytest
from http_service import always, drop, half, reply, serving

from flowscout.db import History
from flowscout.errors import OracleError
from flowscout.loop.campaign import Campaign

SECRET, TOKEN = "s3cr3t-of-the-service", "token-of-the-call-backs"
VALUES = {"".join(letters): float(n) for n, letters in enumerate(product("ACGT", repeat=3))}
CAMPAIGN = """
campaign: c
space: {{type: sequence, alphabet: dna, length: 3}}
objectives: [{{name: y, direction: maximize}}]
oracle:
  {{type: http, url: "{url}", name: assay, cost_usd: 1, secret_env: ASSAY_SECRET, token_env: ASSAY_TOKEN, {more}}}
proposer: {{type: random}}
batch: {{size: 6}}
budget: {{rounds: 1}}
seed: 1
"""


@pytest.fixture(autouse=True)
def _secrets(monkeypatch):
    monkeypatch.setenv("ASSAY_SECRET", SECRET)
    monkeypatch.setenv("ASSAY_TOKEN", TOKEN)


def write(folder, service, more):
    path = folder / "c.yaml"
    path.write_text(CAMPAIGN.format(url=service.url, more=more))
    return path


def rows(path, sql):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_round_ends_whatever_an_idempotent_service_does_and_no_secret_is_left_anywhere(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with serving(VALUES) as service:
        echo = f"you sent Bearer {SECRET}".encode()
        service.plan = [always(500, echo), drop, half, always(200, echo), always(429, Retry_After="0.01")]
        path = write(tmp_path, service, "batch: 3, idempotent: true")
        with Campaign.from_yaml(path) as campaign:
            while campaign.run_round() is not None:
                pass
            status = campaign.status()
        stored = rows(
            tmp_path / "c.db", "SELECT object, value FROM measurement JOIN candidate c ON c.id = candidate_id"
        )
    assert status.evaluations == {"done": 6}
    assert (status.reserved_minor, status.spent_minor) == (0, 600)
    assert dict(stored) == {text: VALUES[text] for text, _ in stored}
    assert {one.headers["authorization"] for one in service.seen} == {f"Bearer {SECRET}"}
    assert_not_kept(tmp_path, caplog.text)


def test_refusal_that_repeats_the_secret_leaves_it_nowhere(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with serving(VALUES) as service:
        service.plan = [always(403, f"wrong: {SECRET}".encode())] * 9
        path = write(tmp_path, service, "batch: 6")
        shown = ""
        with Campaign.from_yaml(path) as campaign:
            try:
                campaign.run_round()
            except OracleError as error:
                shown = "".join(traceback.format_exception(error))
        failures = rows(tmp_path / "c.db", "SELECT DISTINCT message FROM attempt")
    assert "[secret]" in failures[0][0]
    assert shown
    assert_not_kept(tmp_path, caplog.text + shown)


def assert_not_kept(folder, said):
    """Look for secrets in every file, every row and the export of a history, and in what was said."""
    with History(str(folder / "c.db")) as history, history.database.read() as session:
        from sqlalchemy import inspect, text

        names = inspect(session.get_bind()).get_table_names()
        said += repr([session.execute(text(f"SELECT * FROM {name}")).all() for name in names])
    done = subprocess.run(
        [sys.executable, "-m", "flowscout", "export", str(folder / "c.yaml"), "--to", str(folder / "all.jsonl")],
        capture_output=True, text=True, env=dict(os.environ), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said += done.stdout + done.stderr
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 2
    for secret in (SECRET, TOKEN):
        assert secret not in said
        assert [path.name for path in files if secret.encode() in path.read_bytes()] == []


def test_call_backs_arrive_at_the_command_while_the_round_waits_for_them(tmp_path):
    with serving(VALUES) as service:
        path = write(tmp_path, service, "batch: 3, answers: call_back, timeout_s: 600")
        with Campaign.from_yaml(path) as campaign:  # makes the history that is served
            endpoint = Endpoint(path)
            try:
                service.plan = [accept(endpoint)] * 2
                while campaign.run_round() is not None:
                    pass
                status = campaign.status()
                attempts = rows(tmp_path / "c.db", "SELECT DISTINCT state, owner, cost_minor FROM attempt")
            finally:
                said = endpoint.end()
    assert status.evaluations == {"done": 6}
    assert (status.reserved_minor, status.spent_minor) == (0, 600)
    assert attempts == [("succeeded", "call-back:assay", 100)]
    assert TOKEN not in said


def accept(endpoint):
    """Return a step that accepts a call and posts its answers a little later."""

    def step(handler, seen):
        answers = json.loads(handler.service.measure(seen.content)[2])

        def call_back():
            time.sleep(0.3)
            for _ in range(2):
                endpoint.post(answers)

        threading.Thread(target=call_back).start()
        return reply(202, {})

    return step


class Endpoint:
    """The command as a process."""

    def __init__(self, path):
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "flowscout", "serve-results", str(path), "--port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+/results", line)
        assert found, line + self.process.stdout.read()
        self.url = found[0]

    def post(self, content):
        request = urllib.request.Request(
            self.url, json.dumps(content).encode(), {"Authorization": f"Bearer {TOKEN}"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def end(self):
        self.process.terminate()
        with self.process.stdout as said:
            text = said.read()
        assert self.process.wait(30) in (0, -15)
        return text
