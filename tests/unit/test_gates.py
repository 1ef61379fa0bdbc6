"""Gates: what `--when` means, and whether a round may start by what the history says."""

import subprocess
import sys

import pandas as pd
import pytest

from flowscout import Campaign
from flowscout.db import EventKind, ScheduleRecord
from flowscout.errors import ConfigError, StateError
from flowscout.loop import gates, stages
from flowscout.loop.gates import look, parse_when
from flowscout.loop.workbench import hold_campaign


@pytest.mark.parametrize(
    ("text", "results", "hours", "is_open"),
    [
        ("results >= 24", 24, 0, True),
        ("results >= 24", 23, 1e9, False),
        ("hours >= 1.5", 0, 1.5, True),
        ("HOURS>=2", 0, 1.99, False),
        ("results >= 24 and hours >= 12", 24, 12, True),
        ("results >= 24 and hours >= 12", 24, 11, False),
        ("results >= 24 or hours >= 12", 0, 12, True),
        ("results >= 24 or hours >= 12", 23, 11, False),
        ("results >= 9 or results >= 4 and hours >= 2", 4, 2, True),  # and binds more tightly
        ("results >= 9 or results >= 4 and hours >= 2", 9, 0, True),
        ("(results >= 9 or results >= 4) and hours >= 2", 9, 0, False),
        ("  ((results >= 4))  ", 4, 0, True),
    ],
)
def test_a_gate_is_open_where_its_conditions_hold(text: str, results: float, hours: float, is_open: bool) -> None:
    found = {"results": results, "hours": hours}
    when = parse_when(text)
    assert (when.missing(found) == []) == is_open
    assert (parse_when(str(when)).missing(found) == []) == is_open  # what it is shown as means the same


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "nothing more where results or hours"),
        ("results", "nothing more where >="),
        ("results > 24", "'>' where >="),
        ("results >= many", "'many' where a number"),
        ("results >= -1", "'-' where a number"),
        ("results >= 2.5", "a whole number of results"),
        ("days >= 2", "'days' where results or hours"),
        ("results >= 24 hours >= 2", "'hours' where the end"),
        ("results >= 24 and", "nothing more where results or hours"),
        ("(results >= 24", "nothing more where a closing bracket"),
        ("results >= 24)", r"'\)' where the end"),
        ("results >= 24; drop", "';' where the end"),
        ("(" * 30 + "hours >= 1" + ")" * 30, "brackets more than 20 deep"),
        ("hours >= " + "9" * 400, "where a number was expected"),
    ],
)
def test_a_gate_that_means_nothing_is_refused_with_what_came(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_when(text)


CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
surrogate: {type: linear}
proposer: {type: random}
batch: {size: 3}
budget: {rounds: 3}
device: cpu
"""


@pytest.fixture
def campaign(tmp_path):
    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        yield found


def schedule(found: Campaign, gate: str | None = None, **changes: object) -> None:
    record = ScheduleRecord(found.workbench.campaign.id, interval_s=60.0, gate=gate, **changes)
    found.workbench.history.schedules.set(record, actor="ann")


def seen(found: Campaign, **how: bool) -> tuple[bool, str]:
    gate = look(found.workbench, **how)
    assert gate.why
    return gate.open, gate.kind


def tell(found: Campaign, batch: pd.DataFrame, value: float = 1.0) -> None:
    found.tell(pd.DataFrame({"object": batch["object"], "y": [value] * len(batch)}))


def begin(found: Campaign, *, ahead: bool = True, stop_after: str = "hand_over") -> int:
    """Run the stages of the next round up to one, as a scheduled flow does."""
    with hold_campaign(found.workbench) as bench:
        number = stages.plan(bench, ahead=ahead)
        assert number is not None
        for name in ("fit", "train", "propose", "hand_over"):
            getattr(stages, name)(bench, number)
            if name == stop_after:
                break
    return number


def test_without_a_schedule_a_round_is_due_when_the_one_before_is_complete(campaign):
    assert seen(campaign) == (True, "due")
    batch = campaign.ask()
    assert seen(campaign) == (False, "results")
    tell(campaign, batch[:2])
    assert "1 results of round 1 are waited for" in look(campaign.workbench).why
    tell(campaign, batch[2:])
    assert seen(campaign) == (True, "due")


def test_an_unfinished_round_goes_on_whatever_the_gate_says(campaign):
    schedule(campaign, "results >= 24")
    begin(campaign, stop_after="fit")
    assert seen(campaign) == (True, "running")
    assert seen(campaign, scheduled=False) == (True, "running")


def test_a_gate_counts_results_and_opens_when_none_are_waited_for(campaign):
    schedule(campaign, "results >= 2 and hours >= 0")
    assert seen(campaign) == (True, "due")  # nothing is waited for yet
    begin(campaign)
    batch = campaign.ask()
    assert seen(campaign) == (False, "results")
    assert seen(campaign, now=True) == (True, "due")
    assert seen(campaign, scheduled=False) == (False, "results")
    tell(campaign, batch[:1])
    assert "results >= 2, now 1" in look(campaign.workbench).why
    tell(campaign, batch[1:2])
    assert seen(campaign) == (True, "due")
    schedule(campaign, "results >= 24")  # more than ever wait
    assert seen(campaign) == (False, "results")
    tell(campaign, batch[2:])
    assert seen(campaign) == (True, "due")


def test_a_gate_of_hours_waits_for_them_though_the_round_is_complete(campaign):
    schedule(campaign, "hours >= 100")
    begin(campaign)
    tell(campaign, campaign.ask())
    assert seen(campaign) == (False, "hours")
    assert seen(campaign, now=True) == (True, "due")
    schedule(campaign, "hours >= 100 or results >= 3")
    assert seen(campaign) == (True, "due")


def test_a_schedule_without_a_gate_waits_for_all_results(campaign):
    schedule(campaign)
    begin(campaign)
    assert seen(campaign) == (False, "results")
    assert seen(campaign, now=True) == (True, "due")


def test_a_paused_campaign_starts_nothing_and_takes_results(campaign):
    batch = campaign.ask()
    assert campaign.pause(actor="ann")
    assert not campaign.pause()
    assert seen(campaign, now=True) == (False, "paused")
    with pytest.raises(StateError, match="is paused"):
        campaign.ask()
    with pytest.raises(StateError, match="is paused"):
        begin(campaign)
    tell(campaign, batch)
    assert [row.state for row in campaign.status().rounds] == ["complete"]
    assert seen(campaign) == (False, "paused")
    assert campaign.resume()
    assert seen(campaign) == (True, "due")


def test_a_training_that_was_handed_over_is_waited_for_until_it_is_given_up(campaign, monkeypatch):
    number = begin(campaign, stop_after="fit")
    bench = campaign.workbench
    record = bench.history.rounds.get(bench.campaign.id, number)

    def add(kind, **detail):
        bench.history.events.add(bench.campaign.id, kind, actor="flow", round_id=record.id, detail=detail)

    assert seen(campaign) == (True, "running")
    add(EventKind.TRAINING_HANDED_OVER)
    assert seen(campaign) == (False, "training")
    with monkeypatch.context() as later:
        later.setattr(gates, "HANDED_OVER_S", 0.0)
        assert seen(campaign) == (True, "running")  # nobody took it up
    add(EventKind.FLOW_RUN, flow="train-sampler", run_id="1", stage="train")
    assert seen(campaign) == (True, "running")  # it was taken up, and whoever did so holds the campaign no more
    add(EventKind.TRAINING_HANDED_OVER)
    begin(campaign, stop_after="train")
    assert seen(campaign) == (True, "running")  # it is trained


def test_an_oracle_that_can_be_called_is_work_to_do(tmp_path):
    text = CAMPAIGN.replace("{type: lab}", "assay:score")
    (tmp_path / "assay.py").write_text("def score(objects): return [1.0 for o in objects]\n")
    (tmp_path / "c.yaml").write_text(text)
    with Campaign.from_yaml(tmp_path / "c.yaml") as found:
        begin(found)
        assert seen(found) == (True, "running")
        bench = found.workbench
        claims = bench.history.experiments.claim_any(bench.campaign.id, owner="elsewhere|boot|1|1")
        assert len(claims) == 3
        assert seen(found) == (False, "results")  # a worker has them


def test_used_up_rounds_are_said_before_and_after_the_last_results(campaign):
    schedule(campaign, "results >= 1")
    for _ in range(2):
        begin(campaign)
        tell(campaign, campaign.ask())
    begin(campaign)
    batch = campaign.ask()
    tell(campaign, batch[:1])
    assert seen(campaign) == (False, "results")  # though the gate is open
    assert "no other starts then: all 3 rounds are done" in look(campaign.workbench).why
    assert begin(campaign) == 3  # and none does
    assert campaign.status().state == "active"
    tell(campaign, batch[1:])
    assert seen(campaign) == (False, "budget")


def test_looking_loads_neither_torch_nor_prefect(campaign):
    location = campaign.workbench.history.database.location
    code = (
        "import sys; from flowscout.db import History; from flowscout.loop.workbench import lay_out; "
        "from flowscout.loop.gates import look; "
        f"print(look(lay_out(History({location!r}), 'binders')).kind, 'torch' in sys.modules, "
        "'prefect' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["due", "False", "False"]
