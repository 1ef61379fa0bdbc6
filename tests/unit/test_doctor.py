"""The doctor finds what is wrong: each check is shown something broken, and something whole."""

import inspect
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from threading import Thread

import psutil
import pytest

from flowscout.cli import doctoring, run, serving
from flowscout.db import History
from flowscout.doctor import State, packages, places, services
from flowscout.doctor.packages import check_extras, check_packages, check_python, check_requirements
from flowscout.doctor.places import check_database, check_disk
from flowscout.doctor.services import check_device, check_port, check_prefect, check_secrets

CAMPAIGN = """\
campaign: binders
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
batch: {size: 3}
budget: {rounds: 2}
device: cpu
"""
SECRET = "a-secret-that-nobody-may-see"


def only(checks, name):
    """Return the one check of this name."""
    (found,) = [check for check in checks if check.name == name]
    return found


def is_broken(check, *said):
    assert check.state is State.BROKEN
    assert check.mend
    assert all(words in check.found + check.mend for words in said), check
    return True


# Packages


def test_what_is_installed_here_is_right():
    checks = check_packages()
    assert {check.state for check in checks} == {State.OK}
    assert "prefect" in only(checks, "packages").found


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("fastapi", "0.165.0"),
        ("sqlalchemy", "2.1.0"),
        ("prefect", "3.10.0"),
        ("torch", "2.9.1"),
        ("pydantic", None),
    ],
)
def test_a_package_outside_its_range_is_broken_and_the_range_is_that_of_the_metadata(name, version):
    def versions(asked):
        return version if asked == name else packages.installed_version(asked)

    check = only(check_requirements(requires("flowscout"), versions), name)
    wanted = next(line for line in requires("flowscout") if line.startswith(name))
    assert is_broken(check, "pip install")
    assert check.mend == f"pip install '{wanted}'"


def test_an_old_python_is_broken():
    assert is_broken(check_python(">=3.11", came="3.10.4"), "3.10.4, expected >=3.11")
    assert check_python(">=3.11", came="3.14.0rc1").state is State.OK


def test_an_extra_that_is_there_outside_its_range_is_a_warning():
    wanted = [
        'psycopg[binary]>=3.2; extra == "postgresql"', 'pyarrow>=18; extra == "parquet"', "torch>=2.10",
        'setuptools>=77; extra == "dev"', 'build>=1.2; extra == "dev"',
    ]  # fmt: skip
    old = check_extras(wanted, {"psycopg": "3.1.0"}.get)
    assert old.state is State.WARNING
    assert "of 'postgresql': psycopg 3.1.0, expected >=3.2" in old.found
    assert old.mend == "pip install 'psycopg[binary]>=3.2'"
    some = check_extras(wanted, {"psycopg": "3.2.9", "setuptools": "65.5.0"}.get)  # venv brings an old setuptools
    assert (some.state, some.found.partition(";")[0]) == (State.OK, "postgresql")
    assert "not installed: parquet, dev" in some.found


def test_a_checkout_that_is_not_installed_is_told_apart(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "requires", absent)
    (check,) = check_packages()
    assert check.state is State.WARNING


# Places


@pytest.fixture
def history(tmp_path, sqlite_url):
    """The path of a SQLite history."""
    return Path(sqlite_url.removeprefix("sqlite:///"))


def test_a_whole_database_is_right(history):
    checks = check_database(str(history))
    with closing(sqlite3.connect(history)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert {check.state for check in check_database(str(history))} == {State.OK}
    assert "schema" in only(checks, "database").found


def test_a_database_that_is_to_be_made_is_right_and_is_not_made(tmp_path):
    assert only(check_database(str(tmp_path / "new.db")), "database").state is State.OK
    assert list(tmp_path.iterdir()) == []


def test_a_database_in_no_folder_is_broken(tmp_path):
    assert is_broken(only(check_database(str(tmp_path / "no" / "new.db")), "database"), "cannot be made")


def test_a_file_that_is_no_database_is_broken(tmp_path):
    (tmp_path / "x.db").write_text("not a database at all, but a text that is long enough to be looked at\n" * 99)
    assert is_broken(only(check_database(str(tmp_path / "x.db")), "database"), "not a database", "backup")


def test_a_damaged_page_is_found(history):
    content = bytearray(history.read_bytes())
    assert len(content) > 20 * 4096
    content[8 * 4096 : 12 * 4096] = os.urandom(4 * 4096)
    history.write_bytes(bytes(content))
    assert is_broken(only(check_database(str(history)), "database"), "backup")


@pytest.mark.parametrize(("revision", "said"), [("9999", "newer than"), ("0001", "older than")])
def test_tables_of_another_version_are_broken(history, revision, said):
    with closing(sqlite3.connect(history)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    assert is_broken(only(check_database(str(history)), "database"), said)


def test_a_database_of_another_program_is_broken(tmp_path):
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        connection.execute("CREATE TABLE invoices (amount INTEGER)")
    assert is_broken(only(check_database(str(tmp_path / "x.db")), "database"), "another program (invoices)")


def test_a_journal_that_makes_readers_wait_is_a_warning(history):
    with closing(sqlite3.connect(history)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    assert only(check_database(str(history)), "journal").state is State.WARNING


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_sqlite_on_a_disk_of_another_machine_is_broken(history, kind, monkeypatch):
    part = type("Part", (), {"mountpoint": str(history.parent.resolve()), "fstype": kind})
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [part])
    assert is_broken(only(check_database(str(history)), "local disk"), kind, "--db")


@pytest.mark.parametrize(
    ("free", "state"), [(100 * 2**20, State.BROKEN), (2**30, State.WARNING), (2**40, State.OK)]
)
def test_a_disk_that_is_full_is_seen(tmp_path, free, state, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": free}))
    assert check_disk(tmp_path).state is state


def test_postgresql_is_right_and_its_clock_is_ours(postgresql_url):
    checks = check_database(postgresql_url)
    assert {check.name: check.state for check in checks} == {"database": State.OK, "clock": State.OK}
    assert "***" in only(checks, "database").found or "@" not in only(checks, "database").found


def test_a_clock_that_is_apart_is_a_warning(postgresql_url, monkeypatch):
    now = time.time
    monkeypatch.setattr(places.time, "time", lambda: now() + 3600)
    assert "3600 s apart" in only(check_database(postgresql_url), "clock").found


def test_postgresql_that_is_not_there_is_broken():
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    check = only(check_database(f"postgresql://me:{SECRET}@127.0.0.1:{port}/lab"), "database")
    assert is_broken(check, "cannot be opened")
    assert SECRET not in check.found + check.mend


# Services, device, secrets


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


class Guarded(Healthy):
    def do_GET(self):
        self.send_response(200 if self.path.endswith("/health") else 401)
        self.end_headers()


def test_a_prefect_server_that_wants_another_password_is_broken(monkeypatch):
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    server = HTTPServer(("127.0.0.1", 0), Guarded)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        found = check_prefect(f"http://127.0.0.1:{server.server_port}/api")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert is_broken(found, "no password came", "PREFECT_API_AUTH_STRING")


def test_a_prefect_server_that_does_not_answer_is_broken():
    server = HTTPServer(("127.0.0.1", 0), Healthy)
    url = f"http://127.0.0.1:{server.server_port}/api"
    thread = Thread(target=server.serve_forever)
    thread.start()
    assert check_prefect(url).state is State.OK
    server.shutdown()
    thread.join()
    server.server_close()
    assert is_broken(check_prefect(url), url, "prefect server start")
    assert is_broken(check_prefect("no address at all"), "does not answer")
    assert check_prefect(None).state is State.OK


def test_a_port_that_is_taken_is_broken_where_it_is_needed():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert is_broken(check_port(port, needed=True), str(port), "--port")
        assert check_port(port).state is State.WARNING
    assert check_port(port, needed=True).state is State.OK


def test_a_gpu_that_torch_does_not_find_is_broken(monkeypatch, tmp_path):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert is_broken(check_device("cuda"), "finds no GPU", "device: cpu")
    (tmp_path / "version").touch()
    monkeypatch.setattr(services, "DRIVER", tmp_path / "version")
    assert check_device("auto").state is State.WARNING
    assert check_device("cpu").state is State.OK
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert check_device("cuda").found.startswith("cuda: a GPU")


def test_a_secret_that_is_not_set_is_broken_and_one_that_is_set_is_not_shown(monkeypatch):
    config = {"notify": ({"secret_env": "FS_HOOK"}, {"secret_env": None}), "oracle": {"token_env": "FS_TOKEN"}}
    monkeypatch.delenv("FS_HOOK", raising=False)
    monkeypatch.setenv("FS_TOKEN", "short")
    hook, token = check_secrets(config)
    assert is_broken(hook, "FS_HOOK", "is not set")
    assert is_broken(token, "FS_TOKEN", "expected at least")
    monkeypatch.setenv("FS_HOOK", SECRET)
    monkeypatch.setenv("FS_TOKEN", SECRET)
    checks = check_secrets(config)
    assert [check.state for check in checks] == [State.OK, State.OK]
    assert SECRET not in str(checks)


# The command


@pytest.fixture
def doctor(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command on a campaign file and returns exit code, checks and text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("FLOWSCOUT_DB", raising=False)

    def go(campaign=CAMPAIGN, *arguments):
        (tmp_path / "c.yaml").write_text(campaign)
        code = run(["doctor", "c.yaml", "--json", *arguments])
        checks = json.loads(capsys.readouterr().out)
        assert run(["doctor", "c.yaml", *arguments]) == code
        return code, {check["name"]: check for check in checks}, capsys.readouterr().out

    return go


def test_all_is_right_and_the_code_is_0(doctor, tmp_path):
    code, checks, printed = doctor()
    assert code == 0, printed
    assert {"python", "packages", "campaign", "oracle", "database", "local disk", "disk", "prefect"} <= set(checks)
    assert {check["state"] for check in checks.values()} <= {"ok", "warning"}
    assert not (tmp_path / "binders.db").exists()


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("batch: {size: 3}", "batch: {size: 3000}", "campaign"),
        ("{type: lab}", "absent:score", "oracle"),
        ("{type: lab}", "{type: lab, token_env: FS_ABSENT_TOKEN}", "secret"),
        ("{type: lab}", "{type: process, command: [fs-no-such-program]}", "oracle"),
        (
            "space: {type: sequence, alphabet: dna, length: 4}",
            "space: {type: catalogue, path: no.csv}",
            "campaign",
        ),
    ],
)
def test_what_is_broken_is_named_with_its_mending_and_the_code_is_1(doctor, old, new, name):
    code, checks, printed = doctor(CAMPAIGN.replace(old, new))
    assert code == 1
    assert (checks[name]["state"], bool(checks[name]["mend"])) == ("broken", True)
    assert f"broken   {name}: " in printed
    assert "mend: " in printed


def test_the_prefect_server_is_the_one_of_the_environment(doctor, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    code, checks, _ = doctor()
    assert (code, checks["prefect"]["state"]) == (1, "broken")


def test_the_database_is_the_one_that_is_named(doctor, tmp_path):
    (tmp_path / "other.db").write_text("no database\n" * 999)
    code, checks, _ = doctor(CAMPAIGN, "--db", "other.db")
    assert (code, checks["database"]["state"]) == (1, "broken")
    assert doctor(CAMPAIGN, "--db", "mysql://x/y")[1]["database"]["state"] == "broken"


def test_an_installation_alone_is_looked_at_without_torch_and_without_prefect(tmp_path):
    code = "import sys; from flowscout.cli import run; done = run(['doctor', '--json']); "
    code += "sys.exit(done or ' '.join({'torch', 'prefect'} & set(sys.modules)))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    if shutil.which("nvidia-smi") is None:
        assert ended.stderr.strip() == ""
    assert {"python", "packages", "disk"} <= {check["name"] for check in json.loads(ended.stdout)}


def test_a_history_of_a_campaign_is_opened(doctor, tmp_path):
    History(str(tmp_path / "binders.db")).close()
    code, checks, _ = doctor()
    assert (code, "schema" in checks["database"]["found"]) == (0, True)


def test_the_port_is_the_one_that_results_are_served_at():
    def default(command):
        return inspect.signature(command).parameters["port"].default

    assert default(doctoring.doctor) == default(serving.serve_results)
