"""`flowscout unschedule` forgets a schedule only where the server that starts its rounds has been told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowscout import Campaign
from flowscout.cli import run, scheduling
from flowscout.db import ScheduleRecord
from flowscout.flows import settings
from flowscout.loop import announcing

HERE, ELSEWHERE = "http://127.0.0.1:4200/api", "http://lab.example.org:4200/api"
CAMPAIGN = """\
campaign: scheduled
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
proposer: {type: random}
batch: {size: 2}
budget: {rounds: 3}
"""


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Campaign]:
    """Yield a campaign that the server `HERE` starts, with all servers there and without its deployment."""
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for place, name in ((announcing, "check"), (settings, "name_server"), (settings, "quiet")):
        monkeypatch.setattr(place, name, lambda *_: None)
    monkeypatch.setattr(scheduling, "_remove", lambda _deployment: False)
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    with Campaign.from_yaml(tmp_path / "campaign.yaml") as found:
        bench = found.workbench
        wanted = ScheduleRecord(bench.campaign.id, cron="0 8 * * MON", server_url=HERE, deployment_id="d-1")
        bench.history.schedules.set(wanted, actor="test")
        yield found


def is_scheduled(campaign: Campaign) -> bool:
    return campaign.workbench.history.schedules.get(campaign.workbench.campaign.id) is not None


def test_unschedule_at_another_server_than_the_one_that_starts_the_rounds_is_refused(
    campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", ELSEWHERE)
    assert run(["unschedule", str(tmp_path / "campaign.yaml")]) != 0
    said = capsys.readouterr().err
    assert HERE in said
    assert ELSEWHERE in said
    assert "--forget" in said
    assert is_scheduled(campaign)
    assert run(["unschedule", str(tmp_path / "campaign.yaml"), "--forget"]) == 0
    assert not is_scheduled(campaign)


def test_unschedule_goes_on_where_the_deployment_is_gone_already(campaign: Campaign, tmp_path: Path) -> None:
    assert run(["unschedule", str(tmp_path / "campaign.yaml")]) == 0
    assert not is_scheduled(campaign)
