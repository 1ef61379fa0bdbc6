"""Types of oracles that other packages bring, and what a campaign file may say of how an oracle is called."""

from importlib.metadata import EntryPoint

import pytest

from flowscout.errors import ConfigError, OracleImportError
from flowscout.loop.config import parse_campaign
from flowscout.loop.oracles import OracleInfo, Result, build_oracle, registry
from flowscout.testing.oracles import requests_for

CAMPAIGN = """\
campaign: binders
space: {type: sequence, alphabet: dna, length: 6}
objectives: [{name: y, direction: maximize}]
oracle: ORACLE
batch: {size: 8}
budget: {rounds: 3}
"""


class Robot:
    def __init__(self, arm, wanted):
        self.arm, self.property, self.info = arm, wanted, OracleInfo(name="robot")

    def __call__(self, requests):
        return [Result({self.property: float(self.arm)}) for _ in requests]


def robot(*, arm, folder, property):  # noqa: A002
    return Robot(arm, property)


def broken(**keys):
    raise SystemExit("no robot here")


def nobody(**keys):
    return "a robot"


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """Install three packages, one of which brings a type that is built in."""
    names = {"robot": "robot", "broken": "broken", "nobody": "nobody", "gone": "no_such_name", "table": "robot"}
    points = [EntryPoint(name, f"{__name__}:{value}", registry.GROUP) for name, value in names.items()]
    homes = {"robot": robot, "broken": broken, "nobody": nobody}
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [p for p in points if p.group == group])

    def load(point):
        if point.attr not in homes:
            raise AttributeError(f"no attribute {point.attr!r}")
        return homes[point.attr]

    monkeypatch.setattr(EntryPoint, "load", load)


def oracle_of(text):
    return parse_campaign(CAMPAIGN.replace("ORACLE", text), name="campaign.yaml").oracle


def test_plug_in_takes_its_keys_from_the_campaign_file(tmp_path):
    section = oracle_of("{type: robot, arm: 3}").model_dump()
    oracle = build_oracle(section, folder=tmp_path, property="y")
    assert oracle(requests_for(["AC"])) == [Result({"y": 3.0})]


def test_plug_in_takes_no_built_in_types_place(tmp_path):
    assert "table" not in registry.plug_ins()
    assert oracle_of("{type: table, path: a.csv}").model_dump()["path"] == "a.csv"


def test_type_that_nobody_brings_is_refused_with_those_that_are_known():
    with pytest.raises(ConfigError, match=r"oracle\.type is 'robt', expected one of table, .*lab, .*robot"):
        oracle_of("{type: robt}")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"type": "robot"}, "cannot be built of the keys none: TypeError"),
        ({"type": "robot", "leg": 3}, "cannot be built of the keys leg: TypeError"),
        ({"type": "broken"}, "SystemExit: no robot here"),
        ({"type": "gone"}, "AttributeError"),
        ({"type": "nobody"}, "built a str, expected an oracle"),
    ],
)
def test_plug_in_that_cannot_be_had_is_refused_with_its_reason(tmp_path, section, message):
    with pytest.raises(OracleImportError, match=message):
        build_oracle(section, folder=tmp_path, property="y")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{function: a:b}", "oracle.*: expected module:function, or a type"),
        (
            "{type: callable, function: a:b, cocurrency: 2}",
            "unknown key 'cocurrency' in oracle; did you mean 'c",
        ),
        ("{type: callable, function: a:b, batch: 0}", "oracle.batch is 0"),
        ("{type: callable, function: a:b, timeout_s: 0}", "oracle.timeout_s is 0"),
        ("{type: callable, function: a:b, rate_per_s: .inf}", "oracle.rate_per_s is inf"),
        ("{type: callable, function: a:b, run_in: fork}", "oracle.run_in is 'fork'"),
        ("{type: process}", "oracle.command is missing"),
        ("{type: process, command: []}", "oracle.command"),
        ("{type: process, command: dock.py}", "oracle.command is 'dock.py'"),
    ],
)
def test_section_that_cannot_be_is_refused_with_its_place(text, message):
    with pytest.raises(ConfigError, match=message):
        oracle_of(text)
