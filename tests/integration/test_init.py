"""`flowscout init`: asks on a terminal, takes options anywhere, and overwrites nothing."""

import io
import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flowscout.cli import run
from flowscout.loop.schema import schema_text


class Terminal(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """Return a function that types lines to `flowscout init` and returns exit code and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def go(*arguments, lines=()):
        monkeypatch.setattr(sys, "stdin", Terminal("".join(f"{line}\n" for line in lines)))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        code = run(["init", *arguments])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return go


def config_of(path):
    from flowscout.loop.campaign import check_campaign_file

    return check_campaign_file(Path(path))[0].config


def test_enter_alone_makes_the_example(typed, monkeypatch):
    code, printed = typed("asked", lines=[""] * 12)
    assert code == 0, printed
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run(["init", "quiet"]) == 0
    assert run(["init", "third", "--yes"]) == 0
    texts = [Path(name, "campaign.yaml").read_text() for name in ("asked", "quiet", "third")]
    assert len({text.replace(n, "NAME") for text, n in zip(texts, ("asked", "quiet", "third"), strict=True)}) == 1
    assert Path("asked/oracle.py").read_text() == Path("quiet/oracle.py").read_text()


def test_a_bench_with_a_wild_type_is_asked_for_step_by_step(typed):
    lines = ["protein", "ACDEFGHIKL", "2", "4", "12.5", "ic50", "minimize", "nM", "24", "3", "900"]
    code, printed = typed("bench", lines=lines)
    assert code == 0, printed
    config = config_of("bench/campaign.yaml")
    assert (config.space.wild_type, config.space.max_mutations) == ("ACDEFGHIKL", 2)
    assert (config.oracle.type, config.oracle.cost_usd) == ("lab", 12.5)
    assert (config.objective.name, config.objective.direction, config.objective.unit) == ("ic50", "minimize", "nM")
    assert (config.batch.size, config.budget.rounds, config.budget.cost) == (24, 3, 900)
    assert not Path("bench/oracle.py").exists()
    assert "next: flowscout ask bench/campaign.yaml" in printed


def test_an_answer_that_cannot_be_is_asked_for_again(typed):
    Path("list.csv").write_text("name,x\na,1\nb,2\nc,3\n")
    lines = ["6", "list", "absent.csv", "5", "list.csv", "x", "1", "0", "score", "1", "", "4", "0", "2", "2", "5"]
    code, printed = typed("again", lines=lines)
    assert code == 0, printed
    assert "'6' is none of them" in printed
    assert "absent.csv" in printed
    assert "Once more" in printed
    assert config_of("again/campaign.yaml").batch.size == 2


def test_options_are_not_asked_for(typed):
    lines = ["", "1", "", "", ""]  # price, direction, unit, batch, rounds
    code, printed = typed("some", "--space", "dna:6", "--oracle", "process", "--objective", "gain", lines=lines)
    assert code == 0, printed
    assert "What can be built?" not in printed
    assert config_of("some/campaign.yaml").objective.name == "gain"


def test_options_that_are_wrong_end_it_on_a_terminal_too(typed):
    code, printed = typed("wrong", "--space", "dna", lines=[""] * 9)
    assert code == 2
    assert "expected letters and a length" in printed
    assert not Path("wrong").exists()


@pytest.mark.parametrize("lines", [[], ["1", ""]])
def test_a_terminal_that_ends_writes_nothing(typed, lines):
    code, _ = typed("ended", lines=lines)
    assert code == 1
    assert not Path("ended").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--oracle", "robot"], "the oracle is 'robot', expected one of callable, process, http, lab, table"),
        (["--direction", "up"], "the direction is 'up', expected one of maximize, minimize"),
        (["--mutations", "2"], "--mutations came without --wild-type"),
        (["--column", "x"], "only a list has columns"),
        (["--oracle", "lab", "--url", "http://x"], "only http has an address"),
        (["--oracle", "lab", "--value", "x"], "they are of a table"),
        (["--oracle", "table"], "name its CSV file with --table"),
        (["--space", "list.csv", "--wild-type", "ACGT"], "which has none"),
        (["--space", "dna:4", "--wild-type", "ACG"], "ACG"),
        (["--space", "protein:8", "--batch", "3001"], "batch.size is 3001"),
        (["--name", "my own"], "campaign is 'my own'"),
    ],
)
def test_options_that_cannot_be_are_refused_and_nothing_is_written(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["init", "there", "--yes", *options]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def called(folder, capsys):
    """Return what `validate --call` of the campaign in a folder reads."""
    assert run(["validate", str(folder / "campaign.yaml"), "--call", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["call"]


@pytest.mark.parametrize("oracle", ["callable", "process"])
def test_the_oracle_to_begin_with_can_be_called(oracle, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert run(["init", str(tmp_path / "mine"), "--space", "rna:6", "--oracle", oracle]) == 0
    capsys.readouterr()
    assert set(called(tmp_path / "mine", capsys)["values"]) == {"score"}
    sys.modules.pop("oracle", None)


def test_the_service_to_begin_with_can_be_called(tmp_path, capsys):
    assert run(["init", str(tmp_path), "--space", "rna:6", "--oracle", "http"]) == 0
    assert f"python {tmp_path / 'service.py'}" in capsys.readouterr().out
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for name in ("service.py", "campaign.yaml"):
        path = tmp_path / name
        assert "8700" in path.read_text()
        path.write_text(path.read_text().replace("8700", port))
    with subprocess.Popen([sys.executable, tmp_path / "service.py"], stderr=subprocess.DEVNULL) as service:
        try:
            found = called(tmp_path, capsys)  # it is tried again until the service listens
        finally:
            service.kill()
    assert set(found["values"]) == {"score"}
    assert found["declared"]["idempotent"] is True


@pytest.mark.parametrize("present", ["campaign.yaml", "program.py", "campaign.schema.json"])
def test_nothing_is_overwritten(present, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / present).write_text("mine\n")
    assert run(["init", "--oracle", "process"]) == 2
    assert f"{present} already there; nothing was written" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(present, "mine\n")]


def test_a_schema_of_this_version_may_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "campaign.schema.json").write_text(schema_text())
    assert run(["init"]) == 0
    assert json.loads((tmp_path / "campaign.schema.json").read_text())["title"] == "Flowscout campaign file"


def test_a_file_that_somebody_makes_meanwhile_is_left_alone(tmp_path, monkeypatch, capsys):
    from flowscout.cli import beginning

    def late(paths):
        (tmp_path / "oracle.py").write_text("mine\n")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(beginning, "_refuse_present", late)
    assert run(["init"]) == 2
    assert "File exists" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("oracle.py", "mine\n")]


@pytest.mark.skipif(not hasattr(pty, "openpty"), reason="no pseudo-terminals here")
def test_a_real_terminal_is_asked(tmp_path):
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "flowscout",
        "init",
        "mine",
        "--space",
        "rna:9",
        "--oracle",
        "lab",
        "--price",
        "2",
    ]
    with subprocess.Popen(command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, b"kd\n2\nnM\n8\n2\n100\n")
        printed = b""
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            printed += more
        assert process.wait(timeout=60) == 0, printed
    os.close(ours)
    config = config_of(tmp_path / "mine" / "campaign.yaml")
    assert (config.objective.name, config.objective.direction, config.budget.cost) == ("kd", "minimize", 100)
