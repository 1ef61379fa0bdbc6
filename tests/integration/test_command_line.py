"""The command line: what it prints, what it writes, and how it ends."""

import contextlib
import io
import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from textwrap import dedent

import pytest

from flowscout.cli import run

COMMANDS = (
    "demo",
    "init",
    "validate",
    "run",
    "status",
    "best",
    "history",
    "tell",
    "ask",
    "veto",
    "plot",
    "retract",
    "conflicts",
    "budget",
    "events",
    "notify",
)
RIGHT = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: theirs:score
proposer: {type: gflownet, steps: 5}
batch: {size: 3}
budget: {rounds: 2}
device: cpu
"""
LABELS = "object,y\nACGT,1.5\nTTTT,-2\n"
TOLD = {"added": 2, "unchanged": 0, "corrected": 0, "empty": 0, "unread": [], "controls": 0, "conditions": []}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def as_process(folder, *arguments):
    """Run a command as a process of its own in `folder`."""
    command = [sys.executable, "-m", "flowscout", *map(str, arguments)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def flowscout(folder, *arguments):
    """Run a command in `folder`, within this process: torch is loaded once for all of them."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*map(str, arguments)])
    return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def _process_as_new(tmp_path, monkeypatch):
    """Let every test find the environment, the path and the modules that a new process would."""
    for name in [name for name in os.environ if name.startswith(("FLOWSCOUT", "PREFECT"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def done(folder, *arguments, how=flowscout):
    """Run a command that must succeed, and return what it printed."""
    ended = how(folder, *arguments)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def refused(folder, *arguments, how=flowscout):
    """Run a command that must refuse its input and write nothing, and return its one complaint."""
    before = contents(folder)
    ended = how(folder, *arguments)
    assert ended.returncode == 2, (ended.stdout, ended.stderr)
    assert "Traceback" not in ended.stdout + ended.stderr
    assert ended.stderr.startswith("error: ")
    assert len(ended.stderr.splitlines()) <= 2, ended.stderr
    assert contents(folder) == before
    return ended.stderr


def contents(folder):
    """Return every file below `folder` and what is in it, compiled modules apart."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


@pytest.fixture
def folder(tmp_path):
    """A folder with a campaign, its oracle and two labels."""
    (tmp_path / "c.yaml").write_text(RIGHT)
    (tmp_path / "theirs.py").write_text("def score(objects): return [float(t.count('A')) for t in objects]\n")
    (tmp_path / "labels.csv").write_text(LABELS)
    return tmp_path


@pytest.fixture
def lab(folder):
    """The same, measured by people."""
    (folder / "c.yaml").write_text(RIGHT.replace("oracle: theirs:score", "oracle: {type: lab}"))
    return folder


def test_help_names_every_command(tmp_path):
    printed = done(tmp_path, "--help", how=as_process)
    assert all(f" {command} " in printed for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example(command, tmp_path):
    assert f"Example: flowscout {command} " in done(tmp_path, command, "--help")


@pytest.mark.parametrize("command", ["validate", "run", "status", "tell", "ask", "plot"])
def test_missing_campaign_file_is_refused(command, tmp_path):
    labels = ["labels.csv"] if command == "tell" else []
    assert "'nowhere.yaml' cannot be read (No such file" in refused(tmp_path, command, "nowhere.yaml", *labels)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch: {size: 3}", "batch: {size: 3", "c.yaml, line 8, column 7: not valid YAML"),
        ("batch: {size: 3}", "batsh: {size: 3}", "unknown key 'batsh' in the file; did you mean 'batch'"),
        ("batch: {size: 3}", "batch: {size: 300}", "batch.size is 300, larger than the space, which has 256"),
        ("theirs:score", "absent:score", "'absent:score' cannot be imported"),
        ("theirs:score", "theirs:scare", "no function 'scare'; it has score"),
        ("theirs:score", "{type: table, path: absent.csv}", "no table at"),
    ],
)
def test_campaign_that_cannot_run_is_refused_before_anything_is_written(old, new, message, folder):
    (folder / "c.yaml").write_text(RIGHT.replace(old, new))
    for command in ("validate", "run"):
        assert message in refused(folder, command, "c.yaml")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def score(objects) return []", "SyntaxError: expected ':' (theirs.py, line 1)"),
        ("raise RuntimeError('no licence:\\nask\\nIT')", "RuntimeError: no licence: ask IT"),
        ("import sys; sys.exit('usage: ...')", "SystemExit: usage: ..."),
    ],
)
def test_oracle_that_fails_to_import_is_refused_in_one_line(body, message, folder):
    (folder / "theirs.py").write_text(body + "\n")
    assert message in refused(folder, "run", "c.yaml", how=as_process)


def test_database_of_a_newer_version_is_refused_and_left_alone(folder):
    done(folder, "tell", "c.yaml", "labels.csv")
    with sqlite3.connect(folder / "binders.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    for command in ("run", "status"):
        assert "has schema 9999, newer than" in refused(folder, command, "c.yaml", how=as_process)


def test_file_that_is_no_database_is_refused_and_left_alone(folder):
    (folder / "binders.db").write_text("not a database at all, but a text that is long enough to be looked at\n")
    for command in ("run", "status"):
        assert "is not a database that Flowscout can read" in refused(folder, command, "c.yaml")


def test_database_of_another_program_is_refused_and_left_alone(folder):
    with sqlite3.connect(folder / "binders.db") as connection:
        connection.execute("CREATE TABLE invoices (amount INTEGER)")
    connection.close()
    for command in (["run"], ["status"], ["tell"]):
        labels = ["labels.csv"] if command == ["tell"] else []
        said = refused(folder, *command, "c.yaml", *labels)
        assert "holds tables of another program (invoices)" in said


def test_database_that_a_killed_process_had_only_begun_is_taken_for_new(folder):
    (folder / "binders.db").touch()  # what is left when the first run is killed before its tables are there
    assert "holds no Flowscout history yet" in refused(folder, "status", "c.yaml")
    assert "2 values added" in done(folder, "tell", "c.yaml", "labels.csv")


def test_database_in_a_folder_that_is_not_there_is_refused(folder):
    assert "does not exist; make it" in refused(folder, "tell", "c.yaml", "labels.csv", "--db", "no/where.db")


@pytest.mark.parametrize("command", ["status", "best", "history"])
def test_campaign_that_was_never_started_has_nothing_to_show(command, folder):
    assert "nothing has been run there yet. Start with `flowscout run`" in refused(folder, command, "c.yaml")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("object,y\nACGT,1\nTTTT,nan\n", "row 3: y is 'nan', expected a finite number"),
        ("object,y\nACGT,high\n", "row 2: y is 'high', expected a finite number"),
        ("object,y\nACGT,\n", "no value for y in any row"),
        ("object,y\nACGU,1\n", "'ACGU' has 'U' at position 4, expected a letter of the dna alphabet ACGT"),
        ("object,y\nACG,1\n", "'ACG' has 3 letters, expected 4"),
        ("object,z\nACGT,1\n", "no column 'y'; it has object, z"),
        ("name,y\nACGT,1\n", "no column 'object' (or 'sequence'); it has name, y"),
        ("object,y\n", "no rows below its header"),
        ("object,y,row_id\nACGT,1,a\nTTTT,1,a\n", "row 3: the row_id 'a' stands in row 2 too"),
    ],
)
def test_labels_that_cannot_be_told_are_refused_before_a_database_is_made(labels, message, folder):
    (folder / "labels.csv").write_text(labels)
    assert message in refused(folder, "tell", "c.yaml", "labels.csv")


def test_labels_that_are_not_there_are_refused(folder):
    assert "no file 'absent.csv'" in refused(folder, "tell", "c.yaml", "absent.csv")


def test_init_writes_a_campaign_that_validates_and_never_overwrites(tmp_path):
    assert "next: flowscout run my-own/campaign.yaml" in done(tmp_path, "init", "my-own")
    found = json.loads(done(tmp_path, "validate", "my-own/campaign.yaml", "--json"))
    assert (found["campaign"], found["objects"], found["oracle"]) == ("my-own", 20**8, "oracle:score")
    assert "already there; nothing was written" in refused(tmp_path, "init", "my-own")
    (tmp_path / "my-own" / "campaign.yaml").unlink()
    assert "oracle.py already there; nothing was written" in refused(tmp_path, "init", "my-own")


def test_validate_writes_nothing(folder):
    before = contents(folder)
    assert "c.yaml: right" in done(folder, "validate", "c.yaml")
    assert contents(folder) == before


def test_what_is_told_is_seen_by_every_command_that_reads(folder):
    assert json.loads(done(folder, "tell", "c.yaml", "labels.csv", "--json")) == TOLD
    again = json.loads(done(folder, "tell", "c.yaml", "labels.csv", "--json"))
    assert again == TOLD | {"added": 0, "unchanged": 2}
    status = json.loads(done(folder, "status", "c.yaml", "--json"))
    assert (status["campaign"], status["measurements"], status["running"]) == ("binders", 2, None)
    best = json.loads(done(folder, "best", "c.yaml", "--json", "-k", "1"))
    assert [(row["rank"], row["object"], row["value"]) for row in best] == [(1, "ACGT", 1.5)]
    history = json.loads(done(folder, "history", "c.yaml", "--json"))
    assert [(row["seq"], row["object"], row["value"]) for row in history] == [(1, "ACGT", 1.5), (2, "TTTT", -2.0)]
    assert len(json.loads(done(folder, "history", "c.yaml", "--json", "--limit", "1"))) == 1
    for command in ("status", "best", "history"):
        assert "binders" in done(folder, command, "c.yaml") or command == "best"


def test_row_that_is_known_with_another_value_is_refused_and_nothing_is_told(folder):
    (folder / "labels.csv").write_text("object,y,row_id\nACGT,1,a\n")
    done(folder, "tell", "c.yaml", "labels.csv")
    (folder / "labels.csv").write_text("object,y,row_id\nTTTT,5,b\nACGT,2,a\n")
    ended = flowscout(folder, "tell", "c.yaml", "labels.csv")
    assert ended.returncode == 2
    assert "row 'a' of 'labels.csv' says y = 2.0 for 'ACGT', but that row is stored with value 1.0" in ended.stderr
    assert [row["object"] for row in json.loads(done(folder, "history", "c.yaml", "--json"))] == ["ACGT"]


def test_laboratory_is_asked_and_told_in_turn(lab):
    first = json.loads(done(lab, "ask", "c.yaml", "--json"))
    assert len({row["object"] for row in first}) == 3
    assert json.loads(done(lab, "ask", "c.yaml", "--json")) == first
    rows = [f"{row['object']},{i}" for i, row in enumerate(first)]
    (lab / "some.csv").write_text("\n".join(["object,y", *rows[:2]]) + "\n")
    (lab / "rest.csv").write_text("\n".join(["object,y", *rows[2:]]) + "\n")
    done(lab, "tell", "c.yaml", "some.csv", "--actor", "bench-2")
    assert json.loads(done(lab, "status", "c.yaml", "--json"))["evaluations"] == {"done": 2, "queued": 1}
    assert json.loads(done(lab, "ask", "c.yaml", "--json")) == first[2:]
    done(lab, "tell", "c.yaml", "rest.csv")
    second = json.loads(done(lab, "ask", "c.yaml", "--json"))
    assert len(second) == 3
    assert not {row["object"] for row in second} & {row["object"] for row in first}
    assert all(isinstance(row["mean"], float) for row in second)
    status = json.loads(done(lab, "status", "c.yaml", "--json"))
    assert [row["state"] for row in status["rounds"]] == ["complete", "dispatched"]


def test_unknown_command_is_answered_without_a_traceback(tmp_path):
    ended = as_process(tmp_path, "rnu")
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "No such command 'rnu'" in ended.stderr


@pytest.mark.parametrize("text", ["import sys\nprint(sys.argv)\n", dedent(RIGHT)])
def test_file_of_another_kind_is_no_label_table(text, folder):
    (folder / "other.txt").write_text(text)
    refused(folder, "tell", "c.yaml", "other.txt")
