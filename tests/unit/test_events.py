"""The log: every kind has a sentence, in the docs too, and the command shows what comes."""

import ast
import json
import os
from itertools import islice
from pathlib import Path

import pytest

from flowscout import Campaign
from flowscout.cli import events as command
from flowscout.cli import run
from flowscout.cli.output import who
from flowscout.db import MEANINGS, EventKind, RoundState, this_owner
from flowscout.db.states import CampaignState

ROOT = Path(__file__).parents[2]
CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
proposer: {type: random}
batch: {size: 2}
budget: {rounds: 8}
device: cpu
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    Campaign.from_yaml(tmp_path / "c.yaml").close()
    return tmp_path / "c.yaml"


def test_every_kind_has_a_sentence_here_and_in_the_docs():
    text = (ROOT / "docs" / "commands.md").read_text()
    assert set(MEANINGS) == set(EventKind)
    for kind, meaning in MEANINGS.items():
        assert meaning.endswith(".")
        assert f"| `{kind}` | {meaning} |" in text


def test_every_state_that_is_logged_has_a_kind():
    reached = {f"round_{state}" for state in RoundState if state is not RoundState.PLANNED}
    reached |= {f"campaign_{state}" for state in CampaignState}
    assert reached <= set(EventKind)


def test_no_event_is_written_that_has_no_kind():
    written = set()
    for path in (ROOT / "db").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "add_event":
                written |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    assert len(written) > 5
    assert written <= set(EventKind)


def test_the_log_is_shown_by_kind_and_time(path, capsys):
    assert run(["events", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [event["kind"] for event in found][:2] == ["campaign_registered", "config_registered"]
    assert run(["events", str(path), "--kind", "config_registered"]) == 0
    assert "config_registered" in capsys.readouterr().out
    assert run(["events", str(path), "--since", "2999-01-01", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    for wrong in (["--kind", "registered"], ["--since", "yesterday"]):
        assert run(["events", str(path), *wrong]) == 2
        assert "expected" in capsys.readouterr().err


def test_a_process_is_named_as_a_person_would_and_a_person_as_he_is():
    assert who("bench-2") == "bench-2"
    assert who(this_owner()).startswith(f"process {os.getpid()} on ")
    assert "|" not in who(this_owner())


def test_who_follows_the_log_sees_each_event_once(path, monkeypatch):
    monkeypatch.setattr(command, "POLL_S", 0.0)
    with Campaign.from_yaml(path) as campaign:
        bench = campaign.workbench
        log = bench.history.events
        known = log.read(bench.campaign.id)
        coming = command.watch(log, bench.campaign.id)
        assert list(islice(coming, len(known))) == known
        log.add(bench.campaign.id, EventKind.CAMPAIGN_PAUSED, actor="me")
        log.add(bench.campaign.id, EventKind.CAMPAIGN_ACTIVE, actor="me")
        assert [event.kind for event in islice(coming, 2)] == ["campaign_paused", "campaign_active"]
