"""`flowscout serve` opens no door without a lock, and gives its processes what they need and no more."""

import socket
from pathlib import Path

import pytest

from flowscout.cli import WRONG_INPUT, run
from flowscout.errors import ConfigError
from flowscout.flows import serving, settings
from flowscout.flows.serving import MIN_PASSWORD, Serving, check_password, last_error, serve

LONG = "lab:" + "x" * MIN_PASSWORD


@pytest.mark.parametrize("password", [None, "", "lab", "lab:tiny", ":" + "x" * 40, "x" * 40])
def test_a_door_to_other_machines_needs_a_name_and_a_long_password(password: str | None) -> None:
    with pytest.raises(ConfigError, match="PREFECT_SERVER_API_AUTH_STRING") as caught:
        check_password(password)
    secret = (password or "").partition(":")[2]
    assert not secret or secret not in str(caught.value)


def test_a_long_password_will_do() -> None:
    check_password(LONG)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "lab.example.org"])
def test_another_host_without_a_password_is_refused(
    host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    assert run(["serve", "--host", host, "--db", str(tmp_path / "lab.db")]) == WRONG_INPUT
    assert "PREFECT_SERVER_API_AUTH_STRING is not set" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_history_must_be_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWSCOUT_DB", raising=False)
    assert run(["serve"]) == WRONG_INPUT
    assert "FLOWSCOUT_DB" in capsys.readouterr().err


def test_an_unknown_queue_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--db", str(tmp_path / "lab.db"), "--queues", "cpu,tpu"]) == WRONG_INPUT
    assert "'tpu'" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wanted = Serving("127.0.0.1", port, "lab.db", None, ("cpu",), tmp_path / "home")
        with pytest.raises(ConfigError, match=f"port {port}"):
            serve(wanted, lambda: False, say=print)
    assert list(tmp_path.iterdir()) == []


class Idle:
    """A supervisor that starts nothing."""

    def add(self, _service: object) -> None:
        pass

    def run(self, _stopped: object, *, say: object) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.mark.parametrize(("port", "named"), [(4200, False), (4391, True)])
def test_serve_says_at_once_that_it_starts_and_then_which_history_and_address_are_its(
    port: int, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    before: list[int] = []
    monkeypatch.setattr(serving, "Supervisor", Idle)
    monkeypatch.setattr(serving, "_refuse_taken", lambda _wanted: None)
    monkeypatch.setattr(serving, "_wait", lambda *_: before.append(len(said)))
    monkeypatch.setattr(serving, "_deploy", lambda *_: None)
    database = "postgresql://lab:hush@h/flowscout"
    serve(Serving("127.0.0.1", port, database, None, ("cpu",), tmp_path), lambda: False, say=said.append)
    assert before == [1]
    text = "\n".join(said)
    assert "hush" not in text
    assert "postgresql://lab:***@h/flowscout" in text
    assert (f"PREFECT_API_URL=http://127.0.0.1:{port}/api" in text) is named
    assert said[-1].startswith("ending")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:4200/api"),
        ("0.0.0.0", "http://127.0.0.1:4200/api"),
        ("::1", "http://[::1]:4200/api"),
        ("lab.example.org", "http://lab.example.org:4200/api"),
    ],
)
def test_this_machine_reaches_the_server_at_an_address_of_its_own(host: str, url: str) -> None:
    assert Serving(host, 4200, "lab.db", None, (), Path()).url == url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("postgresql://a:b@h/p", "postgresql+asyncpg://a:b@h/p"),
        ("postgresql+psycopg://h/p?host=/tmp/x", "postgresql+asyncpg://h/p?host=/tmp/x"),
        ("postgres://h/p", "postgresql+asyncpg://h/p"),
        ("sqlite:////data/p.db", "sqlite+aiosqlite:////data/p.db"),
        ("/data/p.db", "sqlite+aiosqlite:////data/p.db"),
    ],
)
def test_prefect_gets_the_driver_that_it_needs(text: str, url: str) -> None:
    assert settings.prefect_database_url(text) == url


def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(ConfigError, match="'mysql'"):
        settings.prefect_database_url("mysql://h/p")


def test_workers_learn_the_password_and_not_the_servers_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", LONG)
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://secret@h/p")
    monkeypatch.setenv("FLOWSCOUT_PREFECT_DB", "postgresql://secret@h/p")
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    found = settings.worker_environment(tmp_path, "http://127.0.0.1:4200/api", database="sqlite:////lab.db")
    assert found["PREFECT_API_AUTH_STRING"] == LONG
    assert found["FLOWSCOUT_DB"] == "sqlite:////lab.db"
    assert not any("secret@h" in value for value in found.values())


def test_no_other_site_may_talk_to_the_server_through_a_browser(tmp_path: Path) -> None:
    here = "http://127.0.0.1:4200"
    found = settings.server_environment(tmp_path, f"{here}/api", page=here, prefect_db=None)
    assert found["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == f"{here},http://localhost:4200"
    assert found["PREFECT_UI_API_URL"] == f"{here}/api"
    assert found["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_why_a_server_ended_is_said_from_its_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("exc.DBAPIError: extension 'pg_trgm' is not available\n[SQL: CREATE ...]\nServer stopped!\n")
    assert "pg_trgm" in last_error(log)
    log.write_text("Server stopped!\n")
    assert last_error(log) == "Server stopped!"
    log.write_text("")
    assert last_error(log) == "it said nothing."
