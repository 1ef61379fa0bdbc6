"""Prefect is told of a scheduled campaign: once of each event, with the password, and nothing waits for it."""

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from flowscout import Campaign
from flowscout.cli import run
from flowscout.db import ScheduleRecord
from flowscout.doctor.services import check_prefect
from flowscout.errors import ConfigError, WorkError
from flowscout.flows import runner
from flowscout.loop import due
from flowscout.loop.announcing import (
    ServerAwayError,
    ServerRefusedError,
    call,
    check,
    hook_of,
    page_of,
    server_of,
)
from flowscout.loop.gates import Gate
from flowscout.loop.workbench import hold_campaign

PASSWORD = "lab:a long password of a test"
CAMPAIGN = """\
campaign: announced
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
proposer: {type: random}
batch: {size: 2}
budget: {rounds: 3}
"""


class FakeServer(BaseHTTPRequestHandler):
    """Answers as Prefect's server does, as far as we ask it, and keeps what came."""

    posted: ClassVar[list[tuple[str, Any]]] = []
    coming: ClassVar[list[str]] = []
    unreadable: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        self._answer(200, json.dumps("3.8.8").encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._allowed():
            self.posted.append((self.path, json.loads(body)))
        if self.path == "/api/flow_runs/count":
            self._answer(200, json.dumps(len(self.coming)).encode())
        elif self.path == "/api/events" and json.loads(body)[0]["event"] in self.unreadable:
            self._answer(422, b'{"detail": "an event that it cannot read"}')
        else:
            self._answer(204, b"")

    def log_message(self, *_: object) -> None:
        pass

    def _allowed(self) -> bool:
        wanted = "Basic " + base64.b64encode(PASSWORD.encode()).decode()
        return self.headers.get("Authorization") == wanted

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status if self._allowed() else 401)
        self.end_headers()
        if status != 204 or not self._allowed():
            self.wfile.write(body)


@pytest.fixture(autouse=True)
def _no_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def url() -> Iterator[str]:
    FakeServer.posted.clear()
    FakeServer.coming.clear()
    FakeServer.unreadable.clear()
    server = HTTPServer(("127.0.0.1", 0), FakeServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def campaign(tmp_path: Path) -> Iterator[Campaign]:
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    with Campaign.from_yaml(tmp_path / "campaign.yaml") as found:
        yield found


def schedule(campaign: Campaign, url: str, *, deployment: str = "d-1", gate: str | None = "results >= 2") -> None:
    bench = campaign.workbench
    bench.history.deliveries.subscribe(bench.campaign.id, [hook_of(deployment)])
    about = {"interval_s": 60, "server_url": url, "deployment_id": deployment, "gate": gate}
    bench.history.schedules.set(ScheduleRecord(bench.campaign.id, **about), actor="test")


def posted_kinds() -> list[str]:
    return [event["event"] for path, events in FakeServer.posted if path == "/api/events" for event in events]


def test_each_event_is_posted_once_and_says_which_campaign_it_is_of(
    campaign: Campaign, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", PASSWORD)
    schedule(campaign, url)
    monkeypatch.setattr(due, "look", lambda _bench: Gate(open=False, kind="results", why="0 of 2 results"))
    campaign.tell([{"object": "ACGT", "y": 0.5}], source="plate 1", actor="bench-2")
    campaign.tell([{"object": "ACGT", "y": 0.5}], source="plate 1", actor="bench-2")  # changes nothing
    assert posted_kinds() == ["flowscout.schedule_set", "flowscout.values_told"]
    event = FakeServer.posted[-1][1][0]
    status = campaign.status()
    assert event["resource"]["prefect.resource.id"] == f"flowscout.campaign.{status.uuid}"
    assert event["payload"]["actor"] == "bench-2"
    assert event["payload"]["meaning"] == "A person or a program told measured values."


def test_a_gate_that_opens_asks_for_a_run_and_a_closed_one_does_not(
    campaign: Campaign, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", PASSWORD)
    schedule(campaign, url)
    monkeypatch.setattr(due, "look", lambda _bench: Gate(open=False, kind="results", why="1 of 2 results"))
    assert not due.announce_due(campaign.workbench)
    assert posted_kinds() == []
    monkeypatch.setattr(due, "look", lambda _bench: Gate(open=True, kind="due", why="2 results came"))
    assert due.announce_due(campaign.workbench)
    assert posted_kinds() == ["flowscout.round_due"]
    assert FakeServer.posted[-1][1][0]["payload"]["why"] == "2 results came"
    FakeServer.coming.append("a run that has not begun: it will see what we see")
    assert due.announce_due(campaign.workbench)
    assert posted_kinds() == ["flowscout.round_due"]


def test_without_a_gate_a_new_round_starts_at_the_times_of_the_schedule_only(
    campaign: Campaign, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", PASSWORD)
    schedule(campaign, url, gate=None)
    monkeypatch.setattr(due, "look", lambda _bench: Gate(open=True, kind="due", why="round 2 may start"))
    assert not due.announce_due(campaign.workbench)  # else rounds of a simulator would follow each other at once
    assert posted_kinds() == []
    monkeypatch.setattr(due, "look", lambda _bench: Gate(open=True, kind="running", why="round 1 is dispatched"))
    assert due.announce_due(campaign.workbench)  # one that is under way goes on
    assert posted_kinds() == ["flowscout.round_due"]


def test_while_somebody_holds_the_campaign_no_run_is_asked_for_but_at_the_end_if_something_came(
    campaign: Campaign, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", PASSWORD)
    schedule(campaign, url)
    monkeypatch.setattr(due, "look", lambda _bench: Gate(open=True, kind="due", why="results came"))
    with due.looking_again(campaign.workbench), hold_campaign(campaign.workbench):
        pass
    assert "flowscout.round_due" not in posted_kinds()  # nothing came meanwhile
    with due.looking_again(campaign.workbench), hold_campaign(campaign.workbench):
        campaign.tell([{"object": "ACGT", "y": 0.5}], source="plate 1")
        assert "flowscout.round_due" not in posted_kinds()
    assert posted_kinds().count("flowscout.round_due") == 1


def test_what_came_while_a_run_failed_asks_for_another_one(
    campaign: Campaign, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", PASSWORD)
    schedule(campaign, url)
    monkeypatch.setattr(due, "look", lambda _bench: Gate(open=True, kind="due", why="results came"))

    def run_that_fails(*came: dict[str, Any]) -> None:
        with due.looking_again(campaign.workbench), hold_campaign(campaign.workbench):
            if came:
                campaign.tell(came, source="plate 1")
            raise RuntimeError("the training failed")

    with pytest.raises(RuntimeError):
        run_that_fails({"object": "ACGT", "y": 0.5})
    assert posted_kinds().count("flowscout.round_due") == 1
    with pytest.raises(RuntimeError):
        run_that_fails()
    assert posted_kinds().count("flowscout.round_due") == 1  # nothing came: the schedule's next time tries again


def test_a_server_that_is_away_stops_nothing_and_is_told_later(
    campaign: Campaign, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule(campaign, "http://127.0.0.1:9/api")  # nobody listens at the discard port
    begun = time.monotonic()
    assert campaign.tell([{"object": "ACGT", "y": 0.5}], source="plate 1").added == 1
    assert time.monotonic() - begun < 10  # it is refused at once: ten seconds allow for a busy machine
    failed = campaign.events(kind="notice_failed")
    assert len(failed) == 1
    monkeypatch.setenv("PREFECT_API_URL", url)  # which wins over the stored one
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", PASSWORD)
    with campaign.workbench.history.database.write() as session:
        from sqlalchemy import text

        session.execute(text("UPDATE delivery SET not_before = NULL"))  # as if half a minute had gone
    campaign.notify()
    assert posted_kinds() == ["flowscout.schedule_set", "flowscout.values_told"]


def test_an_event_that_a_server_never_takes_holds_up_no_other(
    campaign: Campaign, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", PASSWORD)
    FakeServer.unreadable.add("flowscout.schedule_set")
    schedule(campaign, url)
    campaign.tell([{"object": "ACGT", "y": 0.5}], source="plate 1")
    assert posted_kinds()[:2] == ["flowscout.schedule_set", "flowscout.values_told"]
    assert len(campaign.events(kind="notice_failed")) == 0
    assert "never told" in caplog.text
    assert "422" in caplog.text


def test_a_campaign_without_a_schedule_tells_no_server(campaign: Campaign, url: str) -> None:
    campaign.tell([{"object": "ACGT", "y": 0.5}], source="plate 1")
    assert not due.announce_due(campaign.workbench)
    assert FakeServer.posted == []


def test_a_wrong_password_is_said_as_such(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerRefusedError, match=r"401.*no password.*PREFECT_API_AUTH_STRING"):
        check(server_of(url))
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "lab:wrong")
    with pytest.raises(ServerRefusedError, match=r"401.*another password.*PREFECT_API_AUTH_STRING") as caught:
        check(server_of(url))
    assert "wrong" not in str(caught.value)
    assert "wrong" not in repr(server_of(url))
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", PASSWORD)
    check(server_of(url))


def test_a_server_that_is_not_there_says_what_to_start() -> None:
    with pytest.raises(ServerAwayError, match="flowscout serve"):
        call(server_of("http://127.0.0.1:9/api"), "GET", "admin/version")


def test_a_server_that_does_not_answer_in_time_is_not_said_to_be_missing() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/api"
        with pytest.raises(ServerAwayError, match=r"within 0\.1 s.*busy"):
            call(server_of(url), "GET", "admin/version", timeout_s=0.1)


def test_a_pause_that_prefect_was_not_told_of_is_said_to_hold(
    campaign: Campaign, caplog: pytest.LogCaptureFixture
) -> None:
    schedule(campaign, "http://127.0.0.1:9/api")
    assert campaign.pause()
    assert "the pause holds" in caplog.text
    assert "later: no Prefect server answers" in caplog.text
    assert campaign.status().state == "paused"


def test_a_resumption_that_prefect_did_not_hear_is_said_again(
    campaign: Campaign, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", PASSWORD)
    schedule(campaign, url)
    assert campaign.pause()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert campaign.resume()
    assert "resume it again" in caplog.text
    monkeypatch.delenv("PREFECT_API_URL")
    assert not campaign.resume()
    assert "/api/deployments/d-1/resume_deployment" in [path for path, _ in FakeServer.posted]


def test_a_server_that_is_gone_for_good_is_left_by_forget(
    campaign: Campaign, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule(campaign, "http://127.0.0.1:9/api")
    command = ["unschedule", str(tmp_path / "campaign.yaml")]
    assert run(command) == 1
    assert "--forget" in capsys.readouterr().err
    assert run([*command, "--forget"]) == 0
    assert not due.announce_due(campaign.workbench)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:4200", "ftp://host/api", "http:///api"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="PREFECT_API_URL"):
        server_of(url)


@pytest.mark.parametrize(
    "url", ["http://lab:hush@127.0.0.1:9/api", "ftp://lab:hush@host/api", "http://lab:hush@/api"]
)
def test_a_password_in_the_url_is_refused_and_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(ConfigError, match="PREFECT_API_AUTH_STRING") as caught:
        server_of(None)
    assert "hush" not in str(caught.value)


def test_a_password_in_the_url_is_not_shown_by_who_looks_for_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://lab:hush@127.0.0.1:9/api"
    assert "hush" not in str(check_prefect(url))
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setattr(runner.settings, "quiet", lambda: None)
    with pytest.raises(WorkError, match="PREFECT_API_URL") as caught, runner.prefect_server(tmp_path):
        pass
    assert "hush" not in str(caught.value)


def test_a_deployment_has_an_address_in_the_page() -> None:
    assert page_of("http://10.0.0.1:4200/api", "d-1") == "http://10.0.0.1:4200/deployments/deployment/d-1"


def test_pause_and_resume_are_said_to_prefect_too(
    campaign: Campaign, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", PASSWORD)
    schedule(campaign, url)
    assert campaign.pause()
    assert not campaign.pause()  # again changes nothing here; Prefect may not have heard it
    assert campaign.resume()
    paths = [path for path, _ in FakeServer.posted if path.startswith("/api/deployments/")]
    pause, resume = (f"/api/deployments/d-1/{what}_deployment" for what in ("pause", "resume"))
    assert paths == [pause, pause, resume]
    assert posted_kinds().count("flowscout.round_due") == 1  # of the resumed campaign, whose first round is due


def test_what_is_taken_back_is_said_at_once(campaign: Campaign, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", PASSWORD)
    schedule(campaign, url)
    campaign.tell([{"object": "ACGT", "y": 0.5}], source="plate 1", actor="bench-2")
    FakeServer.posted.clear()
    monkeypatch.setattr(due, "look", lambda _bench: Gate(open=True, kind="due", why="the target is not reached"))
    campaign.retract("ACGT", reason="the wrong plate", actor="bench-2")
    assert posted_kinds() == ["flowscout.measurement_retracted", "flowscout.round_due"]
