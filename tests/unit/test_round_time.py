"""The benchmark of whole rounds: every stage is timed, on a real campaign."""

import json

import pytest
import round_time

from flowscout.errors import InputError


def test_a_round_is_timed_stage_by_stage(tmp_path, capsys):
    path = tmp_path / "rows.json"
    arguments = ["--rounds", "12:2,20:3", "--length", "5", "--set", "proposer.type=random", "--json", str(path)]
    assert round_time.main(arguments) == 0
    rows = json.loads(path.read_text())
    assert [(row["labels"], row["batch"]) for row in rows] == [(12, 2), (20, 3)]
    for row in rows:
        stages = [row[f"{name}_s"] for name in ("fit", "train", "propose")]
        assert all(seconds > 0.0 for seconds in stages)
        assert sum(stages) <= row["ask_s"]
        assert row["peak_mb"] > 0
    assert f"{rows[1]['ask_s']:.2f}" in capsys.readouterr().out


def test_a_round_is_one_of_the_products_defaults(monkeypatch):
    def opened(*_, proposer, **__):
        raise InputError(proposer)

    monkeypatch.setattr(round_time, "FlowscoutMethod", opened)
    with pytest.raises(InputError, match=r"^auto$"):
        round_time.measure(4, 2, length=5, settings={})


def test_a_setting_that_cannot_be_is_told_in_one_line(capsys):
    assert round_time.main(["--rounds", "12:2", "--set", "proposer.type=guess"]) == 2
    assert "proposer" in capsys.readouterr().err


def test_a_setting_needs_a_value():
    with pytest.raises(SystemExit):
        round_time.main(["--set", "proposer.type"])
