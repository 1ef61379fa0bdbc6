"""Whatever happens to a campaign in whatever order, the history agrees with a model of it.

The long form is `python benchmarks/machine.py --steps 10000`.
"""

from pathlib import Path

import pytest
from machine import main, run_campaigns
from sqlalchemy import false

from flowscout.db import History, money, recording
from flowscout.testing.history_machine import HistoryMachine


@pytest.mark.parametrize("db", ["sqlite", "postgresql"])
def test_the_history_agrees_with_the_model(db: str, request: pytest.FixtureRequest) -> None:
    with History(request.getfixturevalue(f"{db}_url")) as history:
        machine = type("Machine", (HistoryMachine,), {"history": history, "steps": 0})
        run_campaigns(machine, seed_=1, count=5, steps=80)
        assert machine.steps >= 200  # hypothesis may end a campaign before its last step


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [
        (money, "book", lambda *_: None),  # the balance without its ledger
        (recording, "is_superseded", false),  # what was corrected still counts
    ],
)
def test_a_broken_promise_is_found(module, name: str, instead, monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(module, name, instead)
    assert main(["--steps", "100", "--json", str(tmp_path / "row.json")]) == 1
    assert "FAILED" in capsys.readouterr().out
