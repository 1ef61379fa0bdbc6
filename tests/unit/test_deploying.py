"""What `flowscout serve` deploys is what prefect.yaml says, and its parameters take names and ids only."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

SAY = """\
import json
from types import SimpleNamespace

from flowscout.errors import ConfigError
from flowscout.flows import deploying
from prefect.utilities.callables import parameter_schema
found = [
    {
        "name": one.name,
        "description": one.description,
        "entrypoint": one.entrypoint,
        "tags": [deploying.TAG],
        "parameters": dict(one.parameters),
        "work_pool": {"name": deploying.POOL, "work_queue_name": one.queue},
        "schedules": [] if one.every_s is None else [{"interval": one.every_s}],
        "schema": parameter_schema(deploying._flow(one.entrypoint)).model_dump(exclude_unset=True),
    }
    for one in deploying.SHARED
]


def refusal(act, *arguments, **options):
    try:
        return act(*arguments, **options).model_dump(mode="json")
    except ConfigError as error:
        return str(error)


class Server:  # where a deployment of this name belongs to another campaign
    def read_deployment_by_name(self, name):
        return SimpleNamespace(parameters={"campaign": "another-uuid"})


hourly = deploying.times(cron="0 * * * *", every_s=None, timezone="Europe/Zurich")
refused = {
    "name": refusal(deploying.deploy, Server(), campaign="sweep", uuid="u", when=hourly),
    "other": refusal(deploying.deploy, Server(), campaign="six6", uuid="u", when=hourly),
    "block": refusal(deploying.deploy, Server(), campaign="six6", uuid="u", when=hourly, notify="lab"),
    "cron": refusal(deploying.times, cron="0 8 * * MONN", every_s=None, timezone=None),
    "seconds": refusal(deploying.times, cron="0 0 8 * * 1", every_s=None, timezone=None),
    "zone": refusal(deploying.times, cron="0 8 * * MON", every_s=None, timezone="Europe/Basel"),
}
print(json.dumps({"deployments": found, "refused": refused, "zone": hourly.timezone}))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what `deploying` says; another process imports Prefect for it, which reads the environment then."""
    env = os.environ | {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect"))}
    done = subprocess.run([sys.executable, "-c", SAY], capture_output=True, text=True, check=True, env=env)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def deployments(said: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the shared deployments."""
    found: list[dict[str, Any]] = said["deployments"]
    return found


def test_prefect_yaml_says_what_is_deployed(deployments: list[dict[str, Any]]) -> None:
    written = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert [{k: v for k, v in one.items() if k != "schema"} for one in deployments] == written


def test_no_deployment_has_a_limit_that_a_dead_run_could_hold() -> None:
    written = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert all("concurrency_limit" not in one for one in written)


@pytest.mark.parametrize(
    "campaign",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a b",
        "$(id)",
        "campaign: x\noracle: os:system",
        "-rf",
        "",
        "x" * 201,
        {},
        7,
        [],
    ],
)
def test_a_campaign_is_named_by_its_name_or_id_and_by_nothing_else(
    deployments: list[dict[str, Any]], campaign: object
) -> None:
    import jsonschema

    for one in deployments:
        schema = one["schema"]
        assert "campaign" in schema["properties"]
        jsonschema.Draft202012Validator.check_schema(schema)
        right = {"campaign": "six6-binders"}
        validator = jsonschema.Draft202012Validator({"properties": schema["properties"], **_definitions(schema)})
        assert validator.is_valid(right)
        assert not validator.is_valid({"campaign": campaign}), one["name"]


def _definitions(schema: dict[str, Any]) -> dict[str, Any]:
    return {"definitions": schema["definitions"]} if "definitions" in schema else {}


def test_what_cannot_be_scheduled_is_refused_with_what_to_do(said: dict[str, Any]) -> None:
    refused = said["refused"]
    assert "'sweep'" in refused["name"]
    assert "another name" in refused["name"]
    assert "'another-uuid'" in refused["other"]
    assert "unschedule" in refused["other"]
    assert "TYPE/NAME" in refused["block"]
    assert "'0 8 * * MONN'" in refused["cron"]
    assert "'0 8 * * MON'" in refused["cron"]
    # Prefect reads a sixth field as seconds at the end: this is no Monday at eight, but the eighth of each month.
    assert isinstance(refused["seconds"], str)
    assert "expected five fields" in refused["seconds"]
    assert "'Europe/Basel'" in refused["zone"]
    assert said["zone"] == "Europe/Zurich"
