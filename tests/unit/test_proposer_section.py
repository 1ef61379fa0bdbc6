"""The proposer of a campaign file: what it means, what is refused, and the origins that the history shows."""

from dataclasses import replace

import pytest

from flowscout import Campaign
from flowscout.cli.live import RoundsDisplay
from flowscout.db import ObjectiveRecord, SamplerRecord
from flowscout.errors import ConfigError
from flowscout.loop.beliefs import load_surrogate, make_problem, make_proposer
from flowscout.loop.config import parse_campaign
from flowscout.loop.gflownet import TrainerSettings
from flowscout.loop.proposers import (
    ExhaustiveProposer,
    GeneticProposer,
    GFlowNetProposer,
    LocalSearchProposer,
    MixtureProposer,
    NearbyGFlowNetProposer,
    RandomProposer,
)

FILE = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: LENGTH}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
proposer: {PROPOSER}
batch: {size: 4}
budget: {rounds: 3}
device: cpu
"""


def campaign_text(proposer: str, length: int = 6) -> str:
    return FILE.replace("LENGTH", str(length)).replace("PROPOSER", proposer)


def open_campaign(folder, proposer: str, length: int = 6) -> Campaign:
    (folder / "c.yaml").write_text(campaign_text(proposer, length))
    return Campaign.from_yaml(folder / "c.yaml")


@pytest.mark.parametrize(
    ("proposer", "length", "parts"),
    [
        ("type: genetik", 6, ["proposer.type is 'genetik'", "'genetic'"]),
        (
            "shares: {gflownet: 1}",
            6,
            ["proposer.type is 'auto' with proposer.shares", "only a mixture", "write for"],
        ),
        ("type: mixture, shares: {gflownet: 0.5, genetic: 0.4}", 6, ["'genetic': 0.4", "that sum to 1; correct"]),
        ("type: mixture, shares: {gflownet: 0, genetic: 1}", 6, ["'gflownet': 0.0", "positive numbers"]),
        ("type: mixture, shares: {}", 6, ["proposer.shares are {}", "expected positive numbers"]),
        ("type: mixture, shares: {gflownets: 1}", 6, ["proposer.shares.gflownets", "'gflownet'"]),
        ("type: mixture, shares: {mixture: 1}", 6, ["proposer.shares.mixture", "input should be"]),
        ("anchors: 1.5", 6, ["proposer.anchors is 1.5", "less than or equal to 1"]),
        ("evaluations: 0", 6, ["proposer.evaluations is 0", "greater than or equal to 1"]),
        ("ankers: 0.5", 6, ["unknown key 'ankers' in proposer", "did you mean 'anchors'"]),
        ("type: exhaustive", 11, ["4,194,304 objects, expected at most 1,048,576; choose gflownet"]),
        ("type: mixture, shares: {exhaustive: 1}", 11, ["4,194,304 objects"]),
    ],
)
def test_a_proposer_that_cannot_be_is_refused_in_the_words_of_the_file(proposer, length, parts):
    with pytest.raises(ConfigError) as caught:
        parse_campaign(campaign_text(proposer, length), name="c.yaml")
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_the_largest_space_of_an_exhaustive_proposer_is_that_of_its_limit():
    assert parse_campaign(campaign_text("type: exhaustive", 10), name="c.yaml").proposer.type == "exhaustive"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("type: gflownet, steps: 7, anchors: 0.25", GFlowNetProposer(7, anchors=0.25)),
        ("type: gflownet, exponent: 3", GFlowNetProposer(150, adjust=False)),
        ("type: local_search, evaluations: 99", LocalSearchProposer(99)),
        ("type: genetic", GeneticProposer()),
        ("type: exhaustive, exponent: 2", ExhaustiveProposer(adjust=False)),
        ("type: random", RandomProposer()),
        (
            "type: mixture, evaluations: 99, shares: {gflownet: 0.75, genetic: 0.25}",
            MixtureProposer((GFlowNetProposer(), GeneticProposer(99)), (0.75, 0.25), evaluations=99),
        ),
    ],
)
def test_the_proposer_is_made_as_the_file_says(tmp_path, section, expected):
    with open_campaign(tmp_path, section) as campaign:
        bench = campaign.workbench
        assert make_proposer(bench, bench.config.proposer.type) == expected


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("type: gflownet", NearbyGFlowNetProposer()),
        ("type: gflownet, steps: 70, exponent: 4", NearbyGFlowNetProposer(70, sharpen=False)),
        (
            "type: gflownet, loss: log_partition_variance",
            NearbyGFlowNetProposer(settings=TrainerSettings(loss="log_partition_variance")),
        ),
        ("type: gflownet, anchors: 0.5", GFlowNetProposer(anchors=0.5)),
        ("type: auto", MixtureProposer((NearbyGFlowNetProposer(), LocalSearchProposer()), (0.5, 0.5))),
    ],
)
def test_long_sequences_are_edited_unless_anchors_are_given(tmp_path, section, expected):
    with open_campaign(tmp_path, section, length=24) as campaign:
        bench = campaign.workbench
        assert make_proposer(bench, bench.config.proposer.type) == expected


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("type: mixture, evaluations: 300, shares: {random: 0.5, genetic: 0.5}", {"random", "genetic"}),
        ("type: genetic, evaluations: 300", {"genetic"}),
        ("type: exhaustive", {"exhaustive"}),
    ],
)
def test_every_candidate_of_a_campaign_keeps_its_origin(tmp_path, section, expected):
    with open_campaign(tmp_path, section) as campaign:
        for _ in range(2):
            batch = campaign.ask()
            batch["y"] = [o.count("A") - 0.1 * o.count("C") for o in batch["object"]]
            campaign.tell(batch[["object", "y"]])
        bench = campaign.workbench
        second = bench.history.rounds.get(bench.campaign.id, 2)
        proposals = bench.history.rounds.proposals(second.id)
        assert {p.origin for p in proposals} == expected
        assert all(p.log_prob is None or p.log_prob == p.log_prob for p in proposals)  # none is NaN
        shown = campaign.history().set_index("object")["origin"]
        assert all(shown[p.object] == p.origin for p in proposals if p.rank is not None)
        run = bench.history.rounds.sampler(second.id)
        assert run.kind == bench.config.proposer.type


def test_proposers_are_told_how_sure_the_surrogate_of_the_round_is(tmp_path):
    with open_campaign(tmp_path, "type: genetic, evaluations: 100") as campaign:
        for _ in range(2):
            batch = campaign.ask()
            batch["y"] = [o.count("A") - 0.1 * o.count("C") for o in batch["object"]]
            campaign.tell(batch[["object", "y"]])
        bench = campaign.workbench
        record = bench.history.rounds.get(bench.campaign.id, 2)
        fitted = bench.history.rounds.fit(record.id)
        problem = make_problem(bench, record, fitted)
        expected = load_surrogate(bench, fitted).mean_sd(bench.space.features(problem.labelled))[1]
        assert problem.sd(problem.labelled).tolist() == expected.tolist()
        assert expected.shape == (4,)


def sampler_runs(campaign: Campaign, rounds: int) -> list[SamplerRecord]:
    for _ in range(rounds):
        batch = campaign.ask()
        campaign.tell(batch.assign(y=[text.count("A") for text in batch["object"]]), source="bench")
    history = campaign.workbench.history
    found = [history.rounds.sampler(one.id) for one in history.rounds.all(campaign.workbench.campaign.id)]
    return [run for run in found if run is not None]


@pytest.mark.parametrize("proposer", ["type: gflownet", "type: mixture, shares: {gflownet: 0.5, random: 0.5}"])
def test_the_line_of_a_round_says_that_its_policy_fell_back(tmp_path, proposer):
    with open_campaign(tmp_path, f"{proposer}, steps: 1, exponent: 1.0") as campaign:
        sampler_runs(campaign, 2)
        bench = campaign.workbench
        display = RoundsDisplay(
            bench.history, bench.campaign, ObjectiveRecord("y", "maximize"), rounds=2, spread=lambda _: None
        )
        first, second = map(display._line, campaign.status().rounds)
    assert "unique" not in first  # drawn at random
    assert "%, fell back" in second


@pytest.mark.parametrize("warm", [True, False])
def test_a_warm_start_can_be_left_out(tmp_path, monkeypatch, warm):
    train = GFlowNetProposer.train

    def healthy(self, problem, **options):  # so short a training may end unhealthy, and would start again cold
        return replace(train(self, problem, **options), healthy=True)

    monkeypatch.setattr(GFlowNetProposer, "train", healthy)
    with open_campaign(tmp_path, f"type: gflownet, steps: 5, warm_start: {str(warm).lower()}") as campaign:
        runs = sampler_runs(campaign, 3)[1:]  # the first is drawn at random
    assert [run.params["warm_start"] for run in runs] == [False, warm]
    assert [run.parent_id is not None for run in runs] == [False, warm]


def test_how_often_the_surrogate_was_asked_in_training_is_stored(tmp_path):
    with open_campaign(tmp_path, "type: gflownet, steps: 3, exponent: 1.0") as campaign:
        run = sampler_runs(campaign, 2)[1]
    # Four batches of 192 are sampled at a time; the health check asks of 1,000 uniform objects and 1,000 drawn.
    assert run.diagnostics["evaluations"] == 4 * 192 + 2 * 1_000
