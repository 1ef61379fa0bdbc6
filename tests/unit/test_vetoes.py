"""A veto in a campaign: the batch is asked for again without it, and no later round proposes it."""

import json

import pandas as pd
import pytest

from flowscout import Campaign
from flowscout.cli import run
from flowscout.errors import ConfigError, ObjectError, StateError

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 2, strand: double}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
proposer: {type: local_search}
batch: {size: 3}
budget: {rounds: 8}
device: cpu
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    return tmp_path / "c.yaml"


@pytest.fixture
def campaign(path):
    with Campaign.from_yaml(path) as found:
        yield found


def answer(found, batch):
    found.tell(pd.DataFrame({"object": batch["object"], "y": [float(o.count("A")) for o in batch["object"]]}))


def test_vetoed_object_leaves_the_batch_and_never_comes_back(campaign):
    answer(campaign, campaign.ask())
    batch = campaign.ask()
    gone = batch["object"][1]
    done = campaign.veto([gone], reason="cannot be made")
    assert done["new"].tolist() == [True]
    again = campaign.ask()
    assert len(again) == 3
    assert again["object"].tolist() == [batch["object"][0], done["replacement"][0], batch["object"][2]]
    assert again["mean"].notna().all()
    proposed = set()
    while campaign.status().state != "finished":
        try:
            batch = campaign.ask()
        except StateError:
            break
        answer(campaign, batch)
        proposed |= set(batch["object"])
    # Of 16 dinucleotides 10 differ as double strands: every one but the vetoed was measured.
    assert len(campaign.history()) == 9
    assert gone not in proposed
    bench = campaign.workbench
    last = bench.history.rounds.all(bench.campaign.id)[-1]
    refused = {p.object: (p.decision, p.reason) for p in bench.history.rounds.proposals(last.id)}
    assert ("vetoed", "vetoed in an earlier round") in refused.values()


def test_object_is_the_same_however_it_is_written(campaign):
    batch = campaign.ask()
    both = {"AA": "TT", "CC": "GG", "AC": "GT", "AG": "CT", "CA": "TG", "GA": "TC"}
    both |= {value: key for key, value in both.items()}
    text = batch["object"][0]
    image = both.get(text, text)
    done = campaign.veto([text, image.lower()], reason="once")
    assert done["new"].tolist() == [True]
    assert campaign.veto([image], reason="once")["new"].tolist() == [False]


def test_batch_vetoed_to_its_last_object_completes_its_round(campaign):
    while len(waiting := campaign.ask()):
        campaign.veto(waiting["object"].tolist(), reason="not now")
        if campaign.status().rounds[0].state == "complete":
            break
    assert campaign.status().rounds[0].message == "without a value: 10 cancelled"
    with pytest.raises(StateError, match="finished"):
        campaign.ask()


def test_wrong_vetoes_are_explained(campaign):
    batch = campaign.ask()
    with pytest.raises(ConfigError, match="without a reason"):
        campaign.veto(batch["object"][:1], reason=" ")
    with pytest.raises(ObjectError, match="AX"):
        campaign.veto(["AX"], reason="odd")
    answer(campaign, batch[:1])
    with pytest.raises(StateError, match="is done, expected queued"):
        campaign.veto(batch["object"][:1], reason="late")


def test_command_line_vetoes(campaign, path, capsys):
    text = campaign.ask()["object"][0]
    assert run(["veto", str(path), text, "--reason", "toxic", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["object"], row["new"]) == (text, True)
    assert run(["veto", str(path), row["replacement"], text]) == 2
    assert run(["veto", str(path), "AXX", "--reason", "x"]) == 2
