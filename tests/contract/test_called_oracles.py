"""Functions and programs, however they are called, against the one contract."""

import sys
from textwrap import dedent

import pytest

from flowscout.loop.oracles import build_oracle
from flowscout.testing.oracles import OracleContract

FUNCTIONS = """\
import asyncio
import sys
import time


def value(text):
    if text == "GGGG":
        raise ValueError("it cannot be made")
    return 1.0 + text.count("A")


def scores(objects):
    return [float("nan") if text == "GGGG" else value(text) for text in objects]

def score(object: str) -> float:
    print("said on standard output")
    return float("nan") if object == "GGGG" else value(object)

async def awaited(object: str) -> float:
    await asyncio.sleep(0.001)
    return float("nan") if object == "GGGG" else value(object)

async def awaited_list(objects):
    await asyncio.sleep(0.001)
    return scores(objects)

def stuck(objects):
    time.sleep(60)

async def stuck_awaited(objects):
    await asyncio.sleep(60)

def babbling(objects):
    return ["nonsense", float("nan"), None][: len(objects)]

def short(objects):
    return objects[1:]
"""
PROGRAM = """\
import json
import sys
import time

kind = sys.argv[1]
for line in sys.stdin:
    request = json.loads(line)
    if kind == "stuck":
        time.sleep(60)
    if kind == "babbling":
        sys.stdout.buffer.write(b"\\xff\\xfe not JSON\\n{}\\n[[]]\\n" + b'{"key": "foreign", "value": 3}\\n')
        print(json.dumps({"key": request["key"], "value": float("nan")}))
    elif request["object"] == "GGGG":
        print(json.dumps({"key": request["key"], "failure": "infeasible", "message": "it cannot be made"}))
    else:
        print("a word to the wise")
        print(json.dumps({"key": request["key"], "value": 1.0 + request["object"].count("A")}), flush=True)
"""
PRINTER = """\
import sys
import time

kind, text = sys.argv[1:]
if kind == "stuck":
    time.sleep(60)
if text == "GGGG":
    sys.exit("it cannot be made")
print("score", "nan" if kind == "babbling" else 1.0 + text.count("A"), "kcal/mol")
"""


class Called(OracleContract):
    """The contract for an oracle of sections; `SECTION` is the oracle, `STUCK` and `BABBLING` its troubles."""

    SECTION: dict
    STUCK: dict
    BABBLING: dict

    @pytest.fixture
    def build(self, tmp_path):
        for name, text in (("called_assay", FUNCTIONS), ("program", PROGRAM), ("printer", PRINTER)):
            (tmp_path / f"{name}.py").write_text(dedent(text))
        made = []

        def build(section):
            made.append(build_oracle(section, folder=tmp_path, property="y"))
            return made[-1]

        yield build
        for oracle in made:
            getattr(oracle, "close", lambda: None)()
        sys.modules.pop("called_assay", None)
        sys.path.remove(str(tmp_path)) if str(tmp_path) in sys.path else None

    @pytest.fixture
    def oracle(self, build):
        return build(self.SECTION)

    @pytest.fixture
    def stuck(self, build):
        return build(self.STUCK)

    @pytest.fixture
    def babbling(self, build):
        return build(self.BABBLING)

    @pytest.fixture
    def objects(self):
        return ["AAAA", "ACGT", "TTTT"]

    @pytest.fixture
    def impossible(self):
        return "GGGG"


def function(name, **more):
    return {"type": "callable", "function": f"called_assay:{name}", **more}


def program(kind, **more):
    return {"type": "process", "command": [sys.executable, "program.py", kind], **more}


def printer(kind, **more):
    return {"type": "process", "command": [sys.executable, "printer.py", kind, "{object}"], **more}


class TestThread(Called):
    SECTION = function("scores", batch=2, concurrency=4, timeout_s=30)
    STUCK = function("stuck", timeout_s=0.2)
    BABBLING = function("babbling")


class TestSingle(Called):
    SECTION = function("score", concurrency=2)
    STUCK = function("stuck", timeout_s=0.2)
    BABBLING = function("short")


class TestAsync(Called):
    SECTION = function("awaited", concurrency=4)
    STUCK = function("stuck_awaited", timeout_s=0.2)
    BABBLING = function("babbling")


class TestAsyncList(Called):
    SECTION = function("awaited_list")
    STUCK = function("stuck_awaited", timeout_s=0.2)
    BABBLING = function("short")


class TestSpawned(Called):
    SECTION = function("score", run_in="process", concurrency=2)
    STUCK = function("stuck", run_in="process", timeout_s=0.2)
    BABBLING = function("babbling", run_in="process")


class TestProgram(Called):
    SECTION = program("good", batch=8, concurrency=2, idempotent=False)
    STUCK = program("stuck", timeout_s=0.2)
    BABBLING = program("babbling")


class TestProgramThatIsKept(Called):
    SECTION = program("good", keep=True)
    STUCK = program("stuck", keep=True, timeout_s=0.2)
    BABBLING = program("babbling", keep=True, timeout_s=2.0)


class TestCommandForEachObject(Called):
    SECTION = printer("good")
    STUCK = printer("stuck", timeout_s=0.2)
    BABBLING = printer("babbling")
