"""A batch of which each object is measured several times."""

import json
import sys

import pytest

from flowscout import Campaign
from flowscout.cli import run as command
from flowscout.errors import ConfigError
from flowscout.loop.config import parse_campaign

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab, cost_usd: 2}
proposer: {type: random}
batch: {size: 3, replicates: 2}
budget: {rounds: 2}
device: cpu
"""


def test_each_object_is_asked_for_told_and_paid_as_often_as_wanted(tmp_path):
    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    with Campaign.from_yaml(tmp_path / "c.yaml") as campaign:
        asked = campaign.ask()
        assert asked["replicate"].tolist() == [1, 2] * 3
        assert asked["object"].nunique() == 3
        assert campaign.status().reserved_minor == 6 * 200
        objects = asked["object"].tolist()
        campaign.tell(asked.assign(y=[1.0, 2.0, None, 3.0, None, None]).drop(columns=["mean", "sd"]))
        left = campaign.ask()
        assert list(zip(left["object"], left["replicate"], strict=True)) == [
            (objects[2], 1),
            (objects[4], 1),
            (objects[4], 2),
        ]
        assert campaign.status().spent_minor == 3 * 200
        campaign.tell(left.assign(y=5.0))
        assert campaign.status().rounds[0].state == "complete"
        best = campaign.best()
        assert (best["value"].tolist(), best["count"].tolist()) == ([5.0, 4.0, 1.5], [2, 2, 2])
        assert campaign.budget().reserved_minor == 0
        vetoed = campaign.ask()["object"][0]
        assert campaign.veto([vetoed], reason="toxic")["new"].all()
        left = campaign.ask()
        assert vetoed not in left["object"].tolist()
        assert left["replicate"].tolist() == [1, 2] * left["object"].nunique()


@pytest.mark.parametrize("number", ["0", "101", "two"])
def test_replicates_that_cannot_be_are_refused(number):
    with pytest.raises(ConfigError, match="replicates"):
        parse_campaign(CAMPAIGN.replace("replicates: 2", f"replicates: {number}"), name="c.yaml")


def test_an_oracle_is_called_for_each_replicate_with_a_key_of_its_own(tmp_path, capsys):
    name = f"assay_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "from flowscout import Result, oracle\ncalls = []\n\n@oracle(cost_usd=2, idempotent=True)\n"
        "def assay(requests):\n    calls.extend(requests)\n"
        "    return [Result(values={'y': float(r.replicate)}) for r in requests]\n"
    )
    (tmp_path / "c.yaml").write_text(CAMPAIGN.replace("{type: lab, cost_usd: 2}", f"{name}:assay"))
    with Campaign.from_yaml(tmp_path / "c.yaml") as campaign:
        assert campaign.run_round().complete
        calls = sys.modules[name].calls
        assert len({call.key for call in calls}) == len(calls) == 6
        assert campaign.status().spent_minor == 6 * 200
        assert campaign.best()["value"].tolist() == [1.5] * 3
        assert campaign.run_round().complete  # fitted to their means
    del sys.modules[name]
    assert command(["validate", str(tmp_path / "c.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == 2 * 3 * 2
    del sys.modules[name]
