"""What an oracle answers becomes outcomes: nothing is called twice that must not be, no paid number is lost."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowscout import Campaign

CAMPAIGN = """\
campaign: measuring
seed: 1
space: {type: sequence, alphabet: dna, length: 5}
objectives: [{name: score, direction: maximize}]
oracle: ORACLE:assay
proposer: {type: gflownet, steps: 5}
batch: {size: 4}
budget: {rounds: 1, cost: 1000}
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[object]:
    """Return a function that runs a campaign whose oracle has this body, and returns its status and history."""
    opened: list[Campaign] = []

    def made(decorator: str, body: str, campaign_text: str = CAMPAIGN) -> tuple[Campaign, object]:
        name = f"assay_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(
            "from flowscout import Result, oracle\ncalls = []\n"
            f"{decorator}\ndef assay(requests):\n    calls.append(len(requests))\n    {body}\n"
        )
        path = tmp_path / "campaign.yaml"
        path.write_text(campaign_text.replace("ORACLE", name))
        campaign = Campaign.from_yaml(path)
        opened.append(campaign)
        campaign.run_round()
        function = campaign.workbench.oracle.function  # type: ignore[attr-defined]
        return campaign, function.__globals__["calls"]

    yield made
    for campaign in opened:
        campaign.close()
    sys.modules.pop(f"assay_{tmp_path.name}", None)


def test_an_oracle_that_is_not_idempotent_is_never_called_again_after_it_raised(run) -> None:
    campaign, calls = run("@oracle(cost_usd=120, idempotent=False)", "raise TimeoutError('no answer')")
    status = campaign.status()
    assert calls == [4]
    assert status.evaluations == {"unknown": 4}
    assert (status.reserved_minor, status.spent_minor) == (4 * 12_000, 0)
    assert campaign.run_round() is None
    assert calls == [4]


def test_an_oracle_that_is_not_idempotent_and_breaks_its_contract_is_not_called_again(run) -> None:
    campaign, calls = run("@oracle(cost_usd=120, idempotent=False)", "return []")
    assert calls == [4]
    assert campaign.status().evaluations == {"unknown": 4}


@pytest.mark.parametrize(
    "odd",
    ["cost_usd=float('nan')", "cost_usd=-50", "unit='x' * 60", "as_run={'plate': object}", "sem=float('inf')"],
)
def test_a_paid_number_is_kept_whatever_else_is_odd_about_its_result(run, odd: str) -> None:
    campaign, _ = run(
        "@oracle(cost_usd=2, idempotent=True)",
        f"return [Result(values={{'score': 1.0}}, {odd})] + [Result(values={{'score': 2.0}})] * 3",
    )
    assert sorted(campaign.history()["value"]) == [1.0, 2.0, 2.0, 2.0]
    assert campaign.status().spent_minor == 4 * 200


def test_a_value_that_is_no_number_fails_alone(run) -> None:
    campaign, _ = run(
        "@oracle(cost_usd=2, idempotent=True)",
        "good = Result(values={'score': 2.0, 'mass': float('nan')})\n"
        "    return [Result(values={'score': float('nan')}), good, good, good]",
    )
    assert campaign.history()["value"].tolist() == [2.0, 2.0, 2.0]
    assert campaign.status().evaluations == {"done": 3, "failed": 1}


def test_a_qualifier_that_nobody_can_read_fails_alone(run) -> None:
    campaign, _ = run(
        "@oracle(idempotent=True)",
        "return [Result(values={'score': 1.0}, qualifier='~')] + [Result(values={'score': 2.0})] * 3",
    )
    assert campaign.status().evaluations == {"done": 3, "failed": 1}


def test_a_value_in_another_unit_than_the_campaigns_fails_alone_and_is_paid(run) -> None:
    named = CAMPAIGN.replace("name: score,", "name: score, unit: nM,") + "properties: [{name: mass, unit: Da}]\n"
    campaign, calls = run(
        "@oracle(cost_usd=2, idempotent=True)",
        "good = [Result(values={'score': 2.0, 'mass': 9.0}, unit='nM'), Result(values={'score': 3.0})]\n"
        "    return [Result(values={'score': 1.0}, unit='uM')] + good + good[1:]",
        named,
    )
    assert calls == [4]
    assert campaign.status().evaluations == {"done": 3, "failed": 1}
    assert campaign.status().spent_minor == 4 * 200
    found = campaign.history()[["property", "value", "unit"]].fillna("").values.tolist()
    assert found == [["score", 2.0, "nM"], ["mass", 9.0, "Da"], ["score", 3.0, ""], ["score", 3.0, ""]]
    [message] = campaign.sql("SELECT message FROM attempt WHERE message IS NOT NULL")["message"]
    assert "'score' = 1 in 'uM', expected 'nM'" in message


def test_numbers_of_other_libraries_are_stored_and_booked(run) -> None:
    campaign, _ = run(
        "@oracle(cost_usd=2, idempotent=False)",
        "import numpy as np\n    from decimal import Decimal\n"
        "    return [\n"
        "        Result({'score': np.float32(1)}, sem=np.float32(0.5), n=np.int64(3), cost_usd=np.float32(.25)),\n"
        "        Result(values={'score': Decimal(2)}, sem=Decimal('0.5'), n=3, cost_usd=Decimal('12.34')),\n"
        "        Result(values={'score': 3.0}, cost_usd=Decimal('NaN')),\n"
        "        Result(values={'score': 4.0}, cost_usd=0.29),\n"
        "    ]",
    )
    rows = campaign.history().sort_values("value")
    assert rows["value"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert rows["sem"].tolist()[:2] == [0.5, 0.5]
    assert rows["n"].tolist()[:2] == [3, 3]
    assert rows["cost_minor"].tolist() == [25, 1234, 200, 29]
    assert campaign.status().spent_minor == 1488


def test_a_call_that_an_oracle_calls_unknown_is_never_made_again_alone_of_its_batch(run) -> None:
    campaign, calls = run(
        "@oracle(cost_usd=2, idempotent=False)",
        "return [Result(failure='unknown', message='the line broke')] + [Result(values={'score': 2.0})] * 3",
    )
    assert calls == [4]
    assert campaign.status().evaluations == {"done": 3, "unknown": 1}
    assert (campaign.status().reserved_minor, campaign.status().spent_minor) == (200, 600)


def test_a_call_of_an_idempotent_oracle_that_is_unknown_is_made_again(run) -> None:
    campaign, calls = run(
        "@oracle(cost_usd=2, idempotent=True)",
        "lost = [Result(failure='unknown')] if len(calls) == 1 else []\n"
        "    return lost + [Result(values={'score': 2.0})] * (len(requests) - len(lost))",
    )
    assert calls == [4, 1]
    assert campaign.status().evaluations == {"done": 4}
    assert campaign.status().spent_minor == 800
