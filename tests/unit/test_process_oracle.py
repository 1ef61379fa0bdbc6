"""Commands as oracles: nothing outlives its time or its caller, and memory is bounded whatever is printed."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from flowscout.errors import OracleImportError
from flowscout.loop.oracles import Result, build_oracle
from flowscout.loop.oracles import programs as programs_module
from flowscout.testing.oracles import requests_for

ANSWER = "import json, sys\nfor line in sys.stdin:\n    r = json.loads(line)\n    "


@pytest.fixture
def process(tmp_path):
    """Return a function that builds the oracle of a Python program with this text; all are closed at the end."""
    made = []

    def build(text, *arguments, **section):
        (tmp_path / "program.py").write_text(textwrap.dedent(text))
        command = [sys.executable, "program.py", *arguments]
        section = {"type": "process", "command": command, "timeout_s": 60.0, **section}
        made.append(build_oracle(section, folder=tmp_path, property="y"))
        return made[-1]

    yield build
    for oracle in made:
        oracle.close()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(happened, *, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_oracle_is_what_the_section_declares(tmp_path):
    section = {
        "type": "process", "command": ["python", "-u", "dock.py"], "batch": 8, "concurrency": 2, "timeout_s": 5.0,
        "rate_per_s": 3.0, "idempotent": False, "cost_usd": 1.5, "version": "3", "fidelity": "high",
    }  # fmt: skip
    (tmp_path / "dock.py").touch()
    info = build_oracle(section, folder=tmp_path, property="y").info
    assert (info.name, info.version, info.fidelity, info.cost_usd) == ("dock.py", "3", "high", 1.5)
    assert (info.idempotent, info.lookup) == (False, False)
    calling = info.calling
    assert (calling.batch, calling.concurrency, calling.timeout_s, calling.rate_per_s) == (8, 2, 5.0, 3.0)
    section = {"type": "process", "command": ["echo", "--seq={object}"]}
    single = build_oracle(section, folder=tmp_path, property="y").info
    assert (single.name, single.idempotent, single.calling.batch) == ("echo", True, 1)


@pytest.mark.parametrize("command", [["no-such-command"], ["./no-such-file"], [""], ["./program.py"]])
def test_command_that_cannot_be_found_is_refused(tmp_path, command):
    (tmp_path / "program.py").write_text("no program: it may not be executed")
    with pytest.raises(OracleImportError, match=r"cannot be found, expected a program on the path"):
        build_oracle({"type": "process", "command": command}, folder=tmp_path, property="y")


def test_command_that_vanishes_fails_for_good_without_having_acted(tmp_path):
    (tmp_path / "dock").write_text("#!/bin/sh\necho 1\n")
    (tmp_path / "dock").chmod(0o755)
    section = {"type": "process", "command": ["./dock", "{object}"], "idempotent": False}
    oracle = build_oracle(section, folder=tmp_path, property="y")
    assert oracle(requests_for(["AC"])) == [Result({"y": 1.0}, as_run={"printed": "1"})]
    (tmp_path / "dock").unlink()
    [result] = oracle(requests_for(["AC"]))
    assert result.failure == "permanent"
    assert "cannot be started (No such file or directory)" in result.message


def test_kept_and_started_for_each_object_at_once_is_refused(tmp_path):
    section = {"type": "process", "command": ["echo", "{object}"], "keep": True}
    with pytest.raises(OracleImportError, match="expected one of them"):
        build_oracle(section, folder=tmp_path, property="y")


def test_what_was_answered_before_the_end_counts_and_the_rest_is_unknown(process):
    oracle = process(
        ANSWER + "print(json.dumps({'key': r['key'], 'value': 1}), flush=True)\n    sys.exit('no licence')"
    )
    first, second = oracle(requests_for(["AC", "GT"]))
    assert first == Result({"y": 1.0})
    assert second.failure == "unknown"
    assert "It ended with code 1. Its last words: 'no licence'." in second.message


def test_program_that_dies_says_by_which_signal(process):
    [result] = process("import os; os.kill(os.getpid(), 9)")(requests_for(["AC"]))
    assert result.failure == "unknown"
    assert "It was ended by signal 9." in result.message


@pytest.mark.parametrize("keep", [False, True])
def test_time_out_ends_the_program_with_its_children(process, tmp_path, keep):
    oracle = process(
        """\
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open("child", "w").write(str(child.pid))
        time.sleep(600)
        """,
        timeout_s=1.5,
        keep=keep,
    )
    [result] = oracle(requests_for(["AC"]))
    assert result.failure == "unknown"
    assert "took longer than 1.5 s" in result.message
    until(lambda: not lives(int((tmp_path / "child").read_text())))


def test_what_a_program_leaves_running_ends_with_the_call(process, tmp_path):
    oracle = process(
        """\
        import json, subprocess, sys
        r = json.loads(sys.stdin.readline())
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open("child", "w").write(str(child.pid))
        print(json.dumps({"key": r["key"], "value": 1}))
        """
    )
    begun = time.monotonic()
    assert oracle(requests_for(["AC"])) == [Result({"y": 1.0})]
    assert time.monotonic() - begun < 30  # the child holds the output open, and is not waited for
    until(lambda: not lives(int((tmp_path / "child").read_text())))


def test_flood_is_bounded_in_memory_and_ended(process):
    oracle = process(
        """\
        import sys
        while True:
            sys.stdout.write("x" * 2**20)
            sys.stderr.write("y" * 2**20)
        """,
        timeout_s=1.0,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    [result] = oracle(requests_for(["AC"]))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert result.failure == "unknown"
    assert len(result.message) < 1000
    assert grown < 4 * programs_module.MAX_LINE / 1024  # the line that is kept, and copies of it


def test_large_requests_and_answers_do_not_wait_for_each_other(process):
    oracle = process(
        ANSWER + "print(json.dumps({'key': r['key'], 'value': len(r['object']), 'as_run': r['object']}))"
    )
    objects = ["A" * 50_000 + str(place) for place in range(40)]
    results = oracle(requests_for(objects))
    assert [dict(result.values) for result in results] == [{"y": float(len(text))} for text in objects]


def test_program_that_reads_nothing_is_no_trouble(process):
    keys = [request.key for request in requests_for(["A" * 200_000, "C"])]
    oracle = process(f"import json\nfor key in {keys!r}: print(json.dumps({{'key': key, 'value': 2}}))")
    assert oracle(requests_for(["A" * 200_000, "C"])) == [Result({"y": 2.0})] * 2


@pytest.mark.parametrize(
    ("printed", "value"),
    [
        ("score -7.5 kcal/mol", -7.5),
        ("1 2\n3.5e-2,", 0.035),
        ("affinity=4.25;", 4.25),
        ("pass12 (0.5)", 0.5),
        ("3\nwarning: slow", 3.0),
        ("a list: 1, 2, 3", 3.0),
        ("ddG = -4,25", None),
        ("4\nddG = 1,234.5 J", None),
        ("3\nscore nan", None),
        ("3\nscore inf", None),
        ("no number at all", None),
        ("", None),
    ],
)
def test_last_number_that_is_printed_is_the_value(process, printed, value):
    oracle = process(f"import sys\nprint({printed!r})\nprint('took 99 s', file=sys.stderr)", "{object}")
    [result] = oracle(requests_for(["AC"]))
    if value is None:
        assert result.failure == "permanent"
        assert "expected a finite one at the end of its output" in result.message
    else:
        assert result.values == {"y": value}
        assert result.as_run is not None  # the line that it stands in
        assert result.as_run["printed"] in printed.splitlines()


def test_script_that_is_not_there_is_refused_before_it_is_called(tmp_path):
    section = {"type": "process", "command": ["python", "dock.py"]}
    with pytest.raises(OracleImportError, match=r"runs 'dock\.py', and no such file is in the campaign's folder"):
        build_oracle(section, folder=tmp_path, property="y")
    (tmp_path / "dock.py").touch()
    assert build_oracle(section, folder=tmp_path, property="y").info.name == "dock.py"
    section = {"type": "process", "command": ["python", "-c", "a/b.py"]}
    assert build_oracle(section, folder=tmp_path, property="y").info.name == "python"


def test_object_is_one_argument_whatever_it_holds(process):
    oracle = process("import sys\nprint(len(sys.argv[1]))", "{object}")
    for text in ("A C", "$(touch x)", "'; rm -rf .", "{key}", "ß" * 3):
        assert oracle(requests_for([text])) == [
            Result({"y": float(len(text))}, as_run={"printed": str(len(text))})
        ]


def test_kept_program_is_started_once_and_again_after_its_end(process, tmp_path):
    text = (
        "import json, sys\nopen('starts', 'a').write('x')\nfor line in sys.stdin:\n    r = json.loads(line)\n"
        "    print(json.dumps({'key': r['key'], 'value': 1}), flush=True)\n    if r['object'] == 'END': sys.exit()"
    )
    oracle = process(text, keep=True)
    for objects in (["AC", "GT"], ["TT"], ["END"]):
        assert oracle(requests_for(objects)) == [Result({"y": 1.0})] * len(objects)
    until(lambda: not any(program.alive for program in oracle.programs._idle))
    assert oracle(requests_for(["AC"])) == [Result({"y": 1.0})]
    assert (tmp_path / "starts").read_text() == "xx"


KILLED = """\
import pathlib
import sys
from flowscout.loop.oracles import build_oracle
from flowscout.testing.oracles import requests_for

section = {"type": "process", "command": ["sh", "-c", sys.argv[1]]}
build_oracle(section, folder=pathlib.Path.cwd(), property="y")(requests_for(["AC"]))
"""


@pytest.mark.parametrize("script", ["echo $$ > pid; sleep 600", "sleep 600 & echo $$ > pid; sleep 600 # {object}"])
def test_program_does_not_outlive_a_killed_caller(tmp_path, script):
    with subprocess.Popen([sys.executable, "-c", KILLED, script], cwd=tmp_path) as caller:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
        group = int((tmp_path / "pid").read_text())
        members = [p.pid for p in psutil.process_iter() if _group(p.pid) == group]
        assert len(members) >= 2
        time.sleep(0.5)  # the guard is told of a program right after its start
        os.kill(caller.pid, signal.SIGKILL)
        caller.wait()
    until(lambda: not any(lives(pid) for pid in members))


def test_program_that_is_just_being_started_when_all_are_closed_is_ended_too(tmp_path, monkeypatch):
    programs = programs_module.Programs(["sleep", "600"], folder=tmp_path)

    class Started(programs_module.Program):
        def __init__(self, *command, **more):
            super().__init__(*command, **more)
            programs.close()

    monkeypatch.setattr(programs_module, "Program", Started)
    with programs.one(keep=True) as (program, _):
        assert program.exchange(b"", lambda line: True, timeout_s=5.0)
        assert not program.alive


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def test_spawned_function_loads_no_torch_and_finds_its_neighbours(tmp_path):
    (tmp_path / "neighbour.py").write_text("VALUE = 4.0\n")
    (tmp_path / "spawned_assay.py").write_text(
        "import sys\n\ndef score(object: str) -> float:\n    import neighbour\n"
        "    assert sys.stdin.read() == ''\n    return neighbour.VALUE + ('torch' in sys.modules)\n"
    )
    section = {"type": "callable", "function": "spawned_assay:score", "run_in": "process"}
    oracle = build_oracle(section, folder=tmp_path, property="y")
    try:
        assert oracle(requests_for(["AC"])) == [Result({"y": 4.0})]
    finally:
        oracle.close()
        sys.modules.pop("spawned_assay", None)


def test_answer_is_read_as_utf8_json_with_every_field(process):
    answer = {
        "values": {"y": 1.0, "mass": 3},
        "sem": 0.5,
        "n": 2,
        "unit": "µM",
        "as_run": {"ß": [1]},
        "cost_usd": 2,
    }
    oracle = process(
        ANSWER + f"sys.stdout.buffer.write(json.dumps(dict({answer!r}, key=r['key']), ensure_ascii=False)"
        ".encode() + b'\\n')"
    )
    expected = Result({"y": 1.0, "mass": 3.0}, 0.5, 2, "=", "µM", {"ß": [1]}, 2.0)
    assert oracle(requests_for(["AC", "GT"])) == [expected, expected]
