"""The JSON schema accepts every campaign file that is read, and refuses what can be told from one place."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from flowscout.cli import run
from flowscout.errors import ConfigError
from flowscout.loop import schema
from flowscout.loop.config import CampaignConfig, parse_campaign
from flowscout.loop.schema_words import WORDS

ROOT = Path(__file__).parents[2]
BASE = {
    "campaign": "binders",
    "space": {"type": "sequence", "alphabet": "dna", "length": 6},
    "objectives": [{"name": "y", "direction": "maximize"}],
    "oracle": {"type": "lab"},
    "batch": {"size": 2},
    "budget": {"rounds": 3},
}


@cache
def validators():
    """Return a validator of the dialect that the schema names, and one of the newest dialect."""
    found = schema.campaign_schema()
    return jsonschema.Draft7Validator(found), jsonschema.Draft202012Validator(found)


def as_editor(text):
    """Return what an editor sees: the values of YAML 1.2, as JSON has them."""
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(text), default=str))


def accepted(text):
    """Return whether an editor takes the file; both dialects agree."""
    verdicts = {validator.is_valid(as_editor(text)) for validator in validators()}
    assert len(verdicts) == 1
    return verdicts.pop()


def is_read(text):
    try:
        parse_campaign(text, name="c.yaml")
    except ConfigError:
        return False
    return True


def changed(**more):
    return yaml.safe_dump(BASE | more)


def test_the_schema_is_one_and_editors_know_its_dialect():
    found = schema.campaign_schema()
    assert found["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(found)
    jsonschema.Draft202012Validator.check_schema(found)
    assert set(found["required"]) == set(BASE)


def test_every_key_has_words_and_no_word_is_of_a_key_that_is_gone():
    found = schema.campaign_schema()
    sections = {"CampaignConfig": found} | found["$defs"]
    keys = {(name, key) for name, section in sections.items() for key in section["properties"]}
    assert keys == {(name, key) for name, words in WORDS.items() for key in words}
    for section in sections.values():
        assert section["description"]
        assert all(part["description"] for part in section["properties"].values())


def campaigns_of_the_project():
    """Yield every text in the project that is read as a campaign file: examples, docs, tests, benchmarks."""
    for path in sorted((ROOT / "examples").rglob("*.yaml")):
        yield path.relative_to(ROOT).as_posix(), path.read_text()
    for path in [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]:
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", path.read_text(), flags=re.DOTALL)):
            yield f"{path.name}:{number}", block
    for folder in ("tests", "benchmarks", "src", "loop"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and "campaign:" in node.value:
                    yield f"{path.name}:{node.lineno}", node.value


def test_every_campaign_file_of_the_project_is_accepted():
    read = {name: text for name, text in campaigns_of_the_project() if is_read(text)}
    assert len(read) > 20
    assert [name for name, text in read.items() if not accepted(text)] == []
    assert all(is_read(path.read_text()) for path in (ROOT / "examples").rglob("campaign*.yaml"))


def alternatives(block):
    """Yield a block of YAML; or, where it shows one key in several ways, each of them."""
    entries = re.findall(r"^\w.*\n(?:^[ #-].*\n|^\n)*", block, flags=re.MULTILINE)
    keys = [entry.split(":")[0] for entry in entries]
    yield from [block] if len(set(keys)) == len(keys) else entries


def test_every_part_of_a_campaign_file_in_the_docs_is_right():
    parts = 0
    for path in (ROOT / "docs").glob("*.md"):
        for block in re.findall(r"```yaml\n(.*?)```", path.read_text(), flags=re.DOTALL):
            for part in alternatives(block):
                keys = set(as_editor(part))
                if not keys <= set(CampaignConfig.model_fields):
                    continue  # of another kind of file
                rest = {key: value for key, value in BASE.items() if key not in keys}
                text = part + (yaml.safe_dump(rest) if rest else "")
                assert is_read(text), (path.name, part)
                assert accepted(text), (path.name, part)
                parts += 1
    assert parts >= 10


TRICKY = {
    "the short form of a function": changed(oracle="assay:score"),
    "JSON is YAML": json.dumps(BASE),
    "a number in quotes": changed(batch={"size": "2"}),
    "a number with a sign, spaces and a point": changed(batch={"size": " +2.0 "}),
    "a whole number written as a fraction": changed(batch={"size": 2.0}),
    "thousands with underscores": changed(seed=1).replace("seed: 1", "seed: 1_000"),
    "binary digits, which only YAML 1.1 reads": changed(seed=1).replace("seed: 1", "seed: 0b11"),
    "hexadecimal digits": changed(seed=1).replace("seed: 1", "seed: 0x1F"),
    "an exponent without a point, a number in YAML 1.2 alone": changed(budget={"rounds": 3, "cost": "CC"}).replace(
        "CC", "1e3"
    ),
    "minutes and seconds, a number in YAML 1.1 alone": changed(seed=1).replace("seed: 1", "seed: 12:30"),
    "a switch in words": changed(proposer={"type": "gflownet", "warm_start": "yes"}),
    "a switch in words, bare": changed() + "proposer: {warm_start: no}\n",
    "a switch as a number": changed(proposer={"type": "gflownet", "warm_start": 0}),
    "true as a number": changed(batch={"size": True}),
    "null where something may be left out": changed(seed=None, budget={"rounds": 3, "cost": None}),
    "an alphabet as a list": changed(space={"type": "sequence", "alphabet": ["A", "B"], "length": 3}),
    "letters that are words elsewhere": changed(space={"type": "sequence", "alphabet": "no", "length": 3}),
    "a surrogate of one's own": changed(surrogate={"type": "mine:make_model"}),
    "a kernel of a gp": changed(surrogate={"type": "gp", "kernel": "pairs"}),
    "kappa without a type": changed(acquisition={"kappa": 2}),
    "explore in a word": changed(batch={"size": 2, "explore": "early"}),
    "explore as a share": changed(batch={"size": 2, "explore": "0.5"}),
    "shares": changed(proposer={"type": "mixture", "shares": {"gflownet": 0.5, "random": 0.5}}),
    "a hook with a null beside it": changed(notify=[{"on": ["conflict"], "command": ["x"], "webhook": None}]),
    "a signed hook": changed(notify=[{"on": ["conflict"], "webhook": "https://a", "secret_env": "S"}]),
    "the key on, which YAML 1.1 takes for true": changed() + "notify: [{on: [conflict], command: [x]}]\n",
    "a program": changed(oracle={"type": "process", "command": ["python", "dock.py"], "batch": "8", "keep": "no"}),
    "a service": changed(
        oracle={"type": "http", "url": "HTTPS://a.example.org:8080/x@y?q=1", "secret_env": "A_1"}
    ),
    "a service with nothing after its mark": changed(oracle={"type": "http", "url": "http://[::1]:80#"}),
    "a function with all that can be said": changed(
        oracle={"type": "callable", "function": "a:b", "run_in": "process", "timeout_s": 1, "rate_per_s": 0.5}
    ),
    "letters by position, and rules": changed(
        space={
            "type": "sequence",
            "alphabet": "dna",
            "length": 6,
            "letters": {1: "AC", "3": ["G", "T"]},
            "wild_type": "acgtac",
            "max_mutations": "2",
            "forbid": ["GGG"],
            "gc": [0, "0.9"],
            "homopolymer": 3,
        }
    ),
    "a logarithm of what is to be small": changed(
        objectives=[{"name": "y", "direction": "minimize", "transform": "-log10"}]
    ),
    "percent of control": changed(
        objectives=[{"name": "y", "direction": "maximize", "normalize": {"raw": "signal"}}],
        properties=[{"name": "signal"}],
    ),
    "anchors and merged keys": "batch: {size: 2}\nbudget: {rounds: 3}\n"
    + yaml.safe_dump({k: v for k, v in BASE.items() if k not in ("batch", "budget")})
    + "properties: [&p {name: z}, {<<: *p, name: x}]\n",
    "several lines, comments and a document mark": "---\n# a comment\n" + changed() + "...\n",
    "letters that no keyboard has": changed(objectives=[{"name": "Δψ ⚗", "direction": "minimize", "unit": "µM"}]),
    "a name of two hundred letters": changed(campaign="a" * 200),
    "a tag that says what it is": changed(batch={"size": "SS"}).replace("SS", "!!int '2'"),
}


@pytest.mark.parametrize("name", TRICKY)
def test_a_tricky_file_that_is_read_is_accepted(name):
    assert is_read(TRICKY[name])
    assert accepted(TRICKY[name])


def test_the_one_text_that_is_read_and_marked_is_a_number_of_yaml_1_2_alone():
    text = changed(campaign="NN").replace("NN", "1e3")  # the docs say: quote it
    assert is_read(text)
    assert not accepted(text)
    assert accepted(text.replace("1e3", '"1e3"'))


REFUSED = {
    "an unknown key": changed(batsh=1),
    "an unknown key inside": changed(batch={"size": 2, "sise": 2}),
    "a key of another type": changed(oracle={"type": "lab", "path": "x.csv"}),
    "a missing key": yaml.safe_dump({k: v for k, v in BASE.items() if k != "budget"}),
    "a missing key inside": changed(space={"type": "sequence", "length": 3}),
    "no type": changed(oracle={"name": "bench"}),
    "a word that is none of them": changed(device="gpu"),
    "a number out of range": changed(batch={"size": 0}),
    "a number that is none": changed(batch={"size": "many"}),
    "half an object": changed(batch={"size": 2.5}),
    "a name with a space": changed(campaign="my campaign"),
    "a number as a name": changed(campaign=2026),
    "one objective that is no list": changed(objectives=BASE["objectives"][0]),
    "no objective": changed(objectives=[]),
    "two objectives": changed(objectives=[*BASE["objectives"], {"name": "z", "direction": "minimize"}]),
    "a surrogate that nobody knows": changed(surrogate={"type": "forest"}),
    "a kernel of no gp": changed(surrogate={"type": "svgp", "kernel": "pairs"}),
    "a kernel of auto": changed(surrogate={"kernel": "pairs"}),
    "kappa of log_ei": changed(acquisition={"type": "log_ei", "kappa": 2}),
    "a share that nobody has": changed(proposer={"type": "mixture", "shares": {"luck": 1}}),
    "a switch that is none": changed(proposer={"warm_start": "perhaps"}),
    "a hook that does nothing": changed(notify=[{"on": ["conflict"]}]),
    "a hook that does two things": changed(
        notify=[{"on": ["conflict"], "command": ["x"], "webhook": "https://a"}]
    ),
    "a hook of nothing": changed(notify=[{"on": ["sunrise"], "command": ["x"]}]),
    "a hook of no address": changed(notify=[{"on": ["conflict"], "webhook": "file:///etc/passwd"}]),
    "a secret of a command": changed(notify=[{"on": ["conflict"], "command": ["x"], "secret_env": "S"}]),
    "a service with a password in its address": changed(oracle={"type": "http", "url": "https://me:pw@a.org"}),
    "a service of another kind": changed(oracle={"type": "http", "url": "ftp://a.org"}),
    "a secret in place of its name": changed(
        oracle={"type": "http", "url": "https://a.org", "secret_env": "s3-x!"}
    ),
    "a command that is one text": changed(oracle={"type": "process", "command": "python dock.py"}),
    "a type of oracle that nobody brings": changed(oracle={"type": "robot", "arm": 2}),
    "-log10 of what is to be large": changed(
        objectives=[{"name": "y", "direction": "maximize", "transform": "-log10"}]
    ),
    "a position that is none": changed(space={**BASE["space"], "letters": {"first": "AC"}}),
    "one share of G and C": changed(space={**BASE["space"], "gc": [0.4]}),
    "a list where keys are expected": "- campaign\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_marked_in_the_editor_too(name):
    assert not is_read(REFUSED[name])
    assert not accepted(REFUSED[name])


WORDS_OF_THE_FILE = sorted(
    {key for words in WORDS.values() for key in words}
    | {"lab", "gp", "ucb", "early", "dna", "top", "mixture", "a:b"}
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 5000), st.floats(allow_nan=False),
    st.sampled_from(WORDS_OF_THE_FILE),
    st.from_regex(r"\s?[+-]?[0-9_]{0,4}\.?[0-9_]{0,3}(e[+-]?[0-9]{1,2})?\s?", fullmatch=True),
    st.sampled_from(["yes", "No", "ON", "t", "F", "y", "", "TRUE"]), st.text(max_size=4),
)  # fmt: skip
NESTED = (
    VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(st.sampled_from(WORDS_OF_THE_FILE), VALUES, max_size=3)
)


def places(content, at=()):
    """Yield where in a file something may be put: each key that stands there, and each that might."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield (*at, key)
            yield from places(value, (*at, key))
    if isinstance(content, list):
        for number, value in enumerate(content):
            yield (*at, number)
            yield from places(value, (*at, number))


FULL = BASE | {
    "seed": 1, "device": "cpu", "notify": [{"on": ["conflict"], "command": ["x"], "timeout_s": 3}],
    "surrogate": {"type": "gp", "kernel": "pairs"}, "acquisition": {"type": "ucb", "kappa": 2},
    "proposer": {"type": "gflownet", "steps": 3, "exponent": 2, "anchors": 0.5, "warm_start": True},
    "batch": {"size": 2, "explore": 0.5, "drift": 0.5, "select": "top", "distance": 1, "replicates": 2},
    "budget": {"rounds": 3, "cost": 4}, "properties": [{"name": "mass", "unit": "Da"}],
}  # fmt: skip


CALLED = {
    "batch": 8,
    "concurrency": 2,
    "timeout_s": 9,
    "rate_per_s": 3,
    "idempotent": True,
    "cost_usd": 1,
    "name": "a",
}
WHOLE = [
    FULL,
    FULL | {"oracle": CALLED | {"type": "callable", "function": "a:b", "run_in": "process", "version": "2"}},
    FULL | {"oracle": CALLED | {"type": "process", "command": ["x", "y"], "keep": False, "fidelity": "low"}},
    FULL | {"oracle": CALLED | {"type": "http", "url": "https://a", "tries": 2, "answers": "poll"}},
    FULL | {"oracle": {"type": "lab", "name": "bench", "cost_usd": 3, "token_env": "T"}},
    FULL | {"oracle": {"type": "table", "path": "x.csv", "object": "o", "value": "v"}},
    FULL
    | {
        "space": {
            "type": "sequence", "alphabet": ["A", "C"], "length": 6, "strand": "single", "letters": {"1": "AC"},
            "wild_type": "ACACAC", "max_mutations": 3, "forbid": ["AAA"], "homopolymer": 4,
        }
    },
    {k: v for k, v in FULL.items() if k != "surrogate"}
    | {"space": {"type": "catalogue", "path": "x.csv", "object": "o", "features": ["f"], "metric": "euclid"}},
]  # fmt: skip


def test_what_is_changed_at_random_is_right_to_begin_with():
    assert all(is_read(json.dumps(content)) and accepted(json.dumps(content)) for content in WHOLE)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_file_that_is_read_is_marked(data):
    content = json.loads(json.dumps(data.draw(st.sampled_from(WHOLE))))
    for _ in range(data.draw(st.integers(1, 2))):
        *before, last = data.draw(st.sampled_from(sorted(places(content), key=str)))
        section = content
        for key in before:
            section = section[key]
        section[last] = data.draw(NESTED)
    try:
        CampaignConfig.model_validate(content)
    except (ValueError, ConfigError):
        return
    assert all(validator.is_valid(json.loads(json.dumps(content))) for validator in validators())


def test_the_command_prints_the_schema_and_writes_it(tmp_path, capsys):
    assert run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema.campaign_schema()
    assert run(["schema", "--to", str(tmp_path / "campaign.schema.json")]) == 0
    assert json.loads((tmp_path / "campaign.schema.json").read_text()) == schema.campaign_schema()
    assert run(["schema", "--to", str(tmp_path / "nowhere" / "x.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err
