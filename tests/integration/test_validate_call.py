"""`flowscout validate --call`: one real call, read as a campaign reads it, and nothing stored."""

import io
import json
import sys
from textwrap import dedent

import pytest

from flowscout.cli import run

CAMPAIGN = """\
campaign: binders
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize, unit: nM}]
oracle: theirs:score
batch: {size: 3}
budget: {rounds: 2}
"""
MARKED = """\
from pathlib import Path
from flowscout import Request, Result, oracle

@oracle(cost_usd=1.5, idempotent=False, version="7")
def score(requests):
    with open(Path(__file__).parent / "calls.txt", "a") as file:
        file.writelines(f"{r.key} {r.object} {r.replicate}\\n" for r in requests)
    return [Result(values={"y": 2.5, "mass": 7.0}, sem=0.5, n=3, unit="nM", as_run={"celsius": 37}, cost_usd=2)]
"""


@pytest.fixture
def called(tmp_path, monkeypatch, capsys):
    """Return a function that writes an oracle and validates with these arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "c.yaml").write_text(CAMPAIGN)

    def go(code, *arguments, campaign=CAMPAIGN):
        (tmp_path / "c.yaml").write_text(campaign)
        (tmp_path / "theirs.py").write_text(dedent(code))
        before = {path.name for path in tmp_path.iterdir()}
        sys.modules.pop("theirs", None)
        ended = run(["validate", "c.yaml", *arguments])
        new = {path.name for path in tmp_path.iterdir()} - before - {"__pycache__", "calls.txt"}
        assert new == set()  # no database, no files of a campaign
        printed = capsys.readouterr()
        return ended, printed.out, printed.err

    yield go
    sys.modules.pop("theirs", None)


def test_a_plain_function_is_called_once_for_one_object(called):
    code = "def score(objects):\n    assert len(objects) == 1\n    return [objects[0].count('A')]\n"
    ended, out, _ = called(code, "AACA", "--call")
    assert ended == 0
    assert "calling theirs:score for AACA, really; nothing is stored" in out
    assert "y of AACA: 3" in out
    assert "took " in out
    assert "a repeated key neither acts nor bills again; no look-up" in out


def test_without_an_object_one_of_the_space_is_taken(called):
    code = "def score(objects): return [float(set(objects[0]) <= set('ACGT')) + len(objects[0])]\n"
    ended, out, _ = called(code, "--call", "--json")
    assert (ended, json.loads(out)["call"]["values"]) == (0, {"y": 5.0})


def test_everything_that_came_and_was_declared_is_printed(called, tmp_path):
    ended, out, _ = called(MARKED, "ACGT", "--call", "--yes", "--json")
    found = json.loads(out)["call"]
    assert ended == 0
    assert found["values"] == {"y": 2.5, "mass": 7.0}
    first = {m["property"]: m for m in found["measurements"]}["y"]
    assert (first["sem"], first["n"], first["unit"], first["as_run"]) == (0.5, 3, "nM", {"celsius": 37})
    assert found["cost_usd"] == 2.0
    assert found["seconds"] >= 0
    declared = found["declared"]
    assert (declared["version"], declared["cost_usd"], declared["idempotent"], declared["lookup"]) == (
        "7", 1.5, False, False,
    )  # fmt: skip
    key, text, replicate = (tmp_path / "calls.txt").read_text().split()
    assert (key, text, replicate) == (found["key"], "ACGT", "1")


def test_every_call_has_a_key_of_its_own(called, tmp_path):
    called(MARKED, "ACGT", "--call", "--yes")
    called(MARKED, "ACGT", "--call", "--yes")
    keys = [line.split()[0] for line in (tmp_path / "calls.txt").read_text().splitlines()]
    assert len(set(keys)) == 2


def test_what_costs_or_acts_is_not_called_unasked(called, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    ended, _, err = called(MARKED, "ACGT", "--call")
    assert (ended, (tmp_path / "calls.txt").exists()) == (2, False)
    assert "costs 1.5 USD; add --yes" in err
    ended, _, err = called(MARKED.replace("cost_usd=1.5, ", ""), "ACGT", "--call")
    assert (ended, (tmp_path / "calls.txt").exists()) == (2, False)
    assert "is not idempotent: it may act; add --yes" in err


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_on_a_terminal_a_person_is_asked(called, tmp_path, monkeypatch, answer, code):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{answer}\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    ended, _, _ = called(MARKED, "ACGT", "--call")
    assert (ended, (tmp_path / "calls.txt").exists()) == (code, code == 0)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def score(objects): return [float('nan')]", "expected a finite number"),
        ("def score(objects): return [1.0, 2.0]", "returned 2 values for 1 objects"),
        ("def score(objects): raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("def score(objects): return {'ACGT': 1.0}", "returned a dict"),
    ],
)
def test_an_oracle_that_fails_is_told_with_its_reason_and_code_1(called, code, said):
    ended, out, err = called(code + "\n", "ACGT", "--call")
    assert ended == 1
    assert said in err
    assert "no value for ACGT" in out
    ended, out, _ = called(code + "\n", "ACGT", "--call", "--json")
    assert (ended, json.loads(out)["call"]["failure"] in ("permanent", "transient")) == (1, True)


def test_a_unit_that_is_not_the_campaigns_is_a_failure(called):
    ended, _, err = called(MARKED.replace('unit="nM"', 'unit="uM"'), "ACGT", "--call", "--yes")
    assert ended == 1
    assert "in 'uM', expected 'nM'" in err


def test_people_cannot_be_called(called):
    campaign = CAMPAIGN.replace("oracle: theirs:score", "oracle: {type: lab}")
    ended, _, err = called("", "--call", campaign=campaign)
    assert ended == 2
    assert "people at a bench" in err


def test_an_object_that_is_not_in_the_space_is_refused_before_the_call(called, tmp_path):
    ended, _, err = called(MARKED, "ACGU", "--call", "--yes")
    assert (ended, (tmp_path / "calls.txt").exists()) == (2, False)
    assert "'ACGU' has 'U' at position 4" in err


def test_an_object_without_the_flag_is_refused(called, tmp_path):
    ended, _, err = called(MARKED, "ACGT")
    assert (ended, (tmp_path / "calls.txt").exists()) == (2, False)
    assert "without --call" in err


def test_a_program_is_called_too(called, tmp_path):
    (tmp_path / "length.py").write_text("import sys\nprint('letters:', len(sys.argv[1]))\n")
    campaign = CAMPAIGN.replace("theirs:score", "{type: process, command: [python, length.py, '{object}']}")
    ended, out, _ = called("", "ACGT", "--call", campaign=campaign)
    assert ended == 0
    assert "y of ACGT: 4" in out
