"""What flows decide before they need Prefect's server."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy import text

from flowscout import Campaign
from flowscout.db import ScheduleRecord
from flowscout.loop import stages
from flowscout.loop.workbench import hold_campaign

OWN, STALE = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
CAMPAIGN = """\
campaign: NAME
space: {type: sequence, alphabet: dna, length: 4}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
proposer: {type: random}
batch: {size: 2}
budget: {rounds: 3}
"""

PLAY = f"""\
import json
from unittest import mock
from uuid import UUID

from flowscout.errors import CampaignBusyError
from prefect.exceptions import ObjectNotFound
import importlib

rounds = importlib.import_module("flowscout.flows.round")
training = importlib.import_module("flowscout.flows.train")
sweep = importlib.import_module("flowscout.flows.takeover")


def started_by(deployment, name):
    with (
        mock.patch.object(rounds, "this_deployment", return_value=UUID(deployment)),
        mock.patch.object(rounds, "deployment_name", return_value=name),
        mock.patch.object(rounds, "hold_campaign", side_effect=CampaignBusyError("it went on")),
    ):
        return rounds.discovery_round.fn("good").data


def restarted():
    # Before the good campaign comes one that this machine cannot lay out.
    begun = []
    with (
        mock.patch.object(sweep, "under_way", return_value=[]),
        mock.patch.object(sweep, "is_awaited", return_value=False),
        mock.patch.object(sweep, "start", side_effect=lambda of, given, **_: begun.append(str(of))),
    ):
        count = sweep.restart.fn(["bad", "good"], [])
    return [count, begun]


def trained():
    # Its deployment was unscheduled meanwhile.
    gone = ObjectNotFound(http_exc=Exception("404"))
    with (
        mock.patch.object(training, "needs_training", return_value=True),
        mock.patch.object(training, "link"),
        mock.patch("flowscout.flows.tasks.train"),
        mock.patch.object(training, "start", side_effect=gone),
    ):
        return training.train_sampler.fn("good", None, 1, UUID({STALE!r}))


print(json.dumps({{
    "trained": trained(),
    "restarted": restarted(),
    "own": started_by({OWN!r}, "good"),
    "stale": started_by({STALE!r}, "good"),
    "shared": started_by({STALE!r}, "round"),
}}))
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what came of the scenes; another process imports Prefect, which reads its settings then."""
    folder = tmp_path_factory.mktemp("flows")
    db = f"sqlite:///{folder / 'history.db'}"
    for name, deployment in (("bad", STALE), ("good", OWN)):
        (folder / f"{name}.yaml").write_text(CAMPAIGN.replace("NAME", name))
        with Campaign.from_yaml(folder / f"{name}.yaml", db=db) as campaign:
            bench = campaign.workbench
            record = ScheduleRecord(bench.campaign.id, cron="0 8 * * MON", deployment_id=deployment)
            bench.history.schedules.set(record, actor="test")
            with hold_campaign(bench) as held:
                stages.plan(held)
            if name == "bad":  # as a later version registers one, with a key that this one does not know
                with bench.history.database.write() as session:
                    session.execute(text("UPDATE config_version SET yaml = yaml || 'of_later: true'"))
    env = os.environ | {"PREFECT_HOME": str(folder / "prefect"), "FLOWSCOUT_DB": db}
    done = subprocess.run([sys.executable, "-c", PLAY], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_deployment_that_the_campaigns_schedule_does_not_name_starts_no_round(played: dict[str, Any]) -> None:
    """It was left at a server that could not be reached when the campaign was unscheduled."""
    assert played["own"]["why"] == "it went on"
    assert played["shared"]["why"] == "it went on"
    assert played["stale"]["state"] == "not_due"
    assert STALE in played["stale"]["why"]
    assert "schedule it again" in played["stale"]["why"]


def test_a_campaign_that_cannot_be_laid_out_keeps_no_other_waiting(played: dict[str, Any]) -> None:
    assert played["restarted"] == [1, [OWN]]


def test_a_training_whose_campaign_was_unscheduled_meanwhile_has_not_failed(played: dict[str, Any]) -> None:
    assert played["trained"]["state"] == "trained"
    assert STALE in played["trained"]["why"]
