"""A user's own candidates: they have the first places of a batch, or nothing is written at all."""

import json

import pandas as pd
import pytest

from flowscout import Campaign
from flowscout.cli import run
from flowscout.errors import ConfigError, ObjectError, StateError
from flowscout.loop import selection

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4, strand: double}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
proposer: {type: local_search}
batch: {size: 4}
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


def answer(found, objects):
    found.tell(pd.DataFrame({"object": objects, "y": [float(o.count("A")) for o in objects]}))


def chosen(found, number):
    bench = found.workbench
    record = bench.history.rounds.get(bench.campaign.id, number)
    return bench.history.rounds.proposals(record.id, selected=True)


def test_own_candidates_have_the_first_places_with_or_without_a_model(campaign):
    first = campaign.ask(include=["acgt", "TTTC"])
    assert first["object"].tolist()[:2] == ["ACGT", "TTTC"]
    assert len(first) == 4
    answer(campaign, first["object"].tolist())
    second = campaign.ask(3, include="CCAC")
    assert second["object"].tolist()[0] == "CCAC"
    assert len(second) == 3
    assert second[["mean", "sd", "acquisition"]].notna().all(axis=None)
    assert [p.origin for p in chosen(campaign, 1)] == ["user", "user", "uniform", "uniform"]
    assert next(p.origin for p in chosen(campaign, 2)) == "user"
    assert [p.rank for p in chosen(campaign, 2)] == [1, 2, 3]


def test_others_are_chosen_as_if_own_candidates_were_measured(campaign, monkeypatch):
    answer(campaign, campaign.ask()["object"].tolist())
    seen = []
    original = selection.pending_draws

    def spy(surrogate, X, n_draws, X_pending, **rest):
        seen.append(X_pending)
        return original(surrogate, X, n_draws, X_pending, **rest)

    monkeypatch.setattr(selection, "pending_draws", spy)
    campaign.ask(include=["GGCA"])
    space = campaign.workbench.space
    assert len(seen) == 1  # nothing is explored: one group of places is left
    assert seen[0].equal(space.features(space.parse(["GGCA"])))


def test_others_keep_their_distance_from_own_candidates(path):
    path.write_text(CAMPAIGN.replace("size: 4", "size: 4, distance: 3"))
    with Campaign.from_yaml(path) as found:
        answer(found, found.ask()["object"].tolist())
        space = found.workbench.space
        states = space.parse(found.ask(include=["AAGA"])["object"].tolist())
    assert len(states) == 4
    assert space.distance(states[:1], states[1:]).min() >= 3


def test_batch_may_be_all_of_ones_own(campaign):
    answer(campaign, campaign.ask()["object"].tolist())
    own = ["GGCA", "GGGA", "GGAA", "GAAA"]
    key = campaign.workbench.space.key
    assert [key(text) for text in campaign.ask(include=own)["object"]] == [key(text) for text in own]


def test_asking_again_with_the_same_returns_the_batch(campaign):
    first = campaign.ask(include=["ACGA"])
    assert campaign.ask(include=["TCGT"])["object"].tolist() == first["object"].tolist()  # its other strand
    with pytest.raises(StateError, match=r"'GGGG' cannot join the batch of round 1"):
        campaign.ask(include=["ACGA", "GGGG"])


@pytest.mark.parametrize(
    ("include", "error", "said"),
    [
        (["AAAC", "AXAC"], ObjectError, "'AXAC' has 'X' at position 2"),
        (["AAAC", "GTTT"], ObjectError, "'AAAC' and 'GTTT' are one object"),
        (["AAAC", "AAAA"], ObjectError, "'AAAA' was measured or is awaited already"),
        (["AAAC", "CCCC"], ObjectError, "'CCCC' was vetoed"),
        (["AAAC", "AACC", "ACCC", "AAAG", "AAGG"], ConfigError, "5 objects .* in a batch of 4"),
    ],
)
def test_what_cannot_be_included_is_refused_and_no_round_begins(campaign, include, error, said):
    answer(campaign, ["AAAA"])
    batch = campaign.ask(include=["CCCC"])["object"].tolist()
    campaign.veto(["CCCC"], reason="no")
    answer(campaign, [text for text in campaign.ask()["object"] if text != "CCCC"])
    assert "CCCC" in batch
    with pytest.raises(error, match=said):
        campaign.ask(include=include)
    assert [row.state for row in campaign.status().rounds] == ["complete"]


def test_command_line_includes(path, capsys):
    assert run(["ask", str(path), "--include", "ACGA", "--include", "CCCC", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["object"] for row in rows][:2] == ["ACGA", "CCCC"]
    assert run(["ask", str(path), "--include", "NO"]) == 2
