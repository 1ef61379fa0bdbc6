"""Whatever somebody has, the draft of a campaign passes every check, and its oracle runs as it is."""

import gzip
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from flowscout.errors import ConfigError, LabelError
from flowscout.loop import drafts, schema
from flowscout.loop.campaign import check_campaign_file
from flowscout.loop.config import parse_campaign
from flowscout.loop.drafts import CampaignPlan, ListPlan, OraclePlan, SequencePlan, draft, read_space
from flowscout.loop.oracles import Request

SPACES = {
    "dna": SequencePlan("dna", 8),
    "rna": SequencePlan("rna", 20),
    "protein": SequencePlan("protein", 12),
    "letters": SequencePlan("ABXY", 6),
    "tiny": SequencePlan("dna", 1),
    "wild type": SequencePlan("protein", 8, "ACDEFGHI", 3),
    "wild type of dna": SequencePlan("dna", 6, "acgtac", 1),
    "list": ListPlan(Path("compounds.csv")),
    "list with a column": ListPlan(Path("a folder") / "compounds 2.csv.gz", "its name"),
}
ORACLES = {
    "callable": OraclePlan(),
    "callable with a price": OraclePlan(cost_usd=0.25),
    "process": OraclePlan("process"),
    "http": OraclePlan("http"),
    "http elsewhere": OraclePlan("http", url="https://assay.example.org/measure?x=1"),
    "lab": OraclePlan("lab", cost_usd=120),
    "table": OraclePlan("table", table=Path("values.csv")),
    "table with a column": OraclePlan("table", table=Path("a folder") / "values.csv", value="ic50: mean"),
    "table that is shipped": OraclePlan("table", table=Path("flowscout:tfbind8_six6")),
}
WISHES = (
    {},
    {"objective": "on", "direction": "minimize", "unit": "µM", "batch": 2, "rounds": 1, "cost": 0.5},
)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a list and tables, one of them in a folder of its own."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "a folder").mkdir()
    names = [f"SYN-{i}" for i in range(5)]
    rows = "".join(f" {name} ,{i},{i * i / 4}\n" for i, name in enumerate(names))
    (folder / "compounds.csv").write_text("compound,logp,weight\n" + rows)
    with gzip.open(folder / "a folder" / "compounds 2.csv.gz", "wt") as file:
        file.write("number,its name\n" + "".join(f"{i},{name}\n" for i, name in enumerate(names)))
    (folder / "values.csv").write_text("object,ic50: mean,score\nACGTACGT,1,2\n")
    (folder / "a folder" / "values.csv").write_text("object,sd,ic50: mean\nACGTACGT,1,2\n")
    return folder


@pytest.fixture(autouse=True)
def _in_that_folder(here, monkeypatch):
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("oracle", None)


@cache
def editor():
    """Return what an editor checks a campaign file by."""
    return jsonschema.Draft7Validator(schema.campaign_schema())


def written(plan, folder):
    """Write a draft as the command does, and return the path of its campaign file."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in draft(plan, folder).items():
        path.write_text(text, encoding="utf-8")
    return folder / "campaign.yaml"


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("space", SPACES)
def test_every_combination_passes_validation_and_the_schema(space, oracle, tmp_path):
    # Wishes are lines of their own in every file: they alternate over the combinations.
    wishes = WISHES[(list(SPACES).index(space) + list(ORACLES).index(oracle)) % 2]
    folder = tmp_path / "my own" / "campaign"
    path = written(CampaignPlan("mine", SPACES[space], ORACLES[oracle], **wishes), folder)
    file, found = check_campaign_file(path)
    assert found.info.cost_usd == (ORACLES[oracle].cost_usd or 0)
    assert file.config.objective.name == wishes.get("objective", "score")
    assert file.config.batch.size == wishes.get("batch", 4 if space == "tiny" else 5 if "list" in space else 16)
    seen = json.loads(json.dumps(YAML(typ="safe", pure=True).load(path.read_text())))
    editor().validate(seen)
    assert yaml.safe_load(path.read_text()) == seen


@pytest.mark.parametrize("oracle", ["callable", "process", "http", "lab", "table"])
@pytest.mark.parametrize("space", ["dna", "protein", "list", "wild type"])
def test_every_line_that_is_a_comment_may_be_made_a_key(space, oracle, tmp_path):
    path = written(CampaignPlan("mine", SPACES[space], ORACLES[oracle]), tmp_path)
    lines = path.read_text().splitlines()
    offered = [i for i, line in enumerate(lines) if re.match(r" +# [a-z_]+: ", line)]
    assert len(offered) >= 3
    for number in offered:
        changed = [*lines]
        changed[number] = changed[number].replace("# ", "", 1)
        parse_campaign("\n".join(changed), name=changed[number].strip())
    parse_campaign("\n".join(re.sub(r"^( +)# ([a-z_]+: )", r"\1\2", line) for line in lines), name="all")


@pytest.mark.parametrize("space", ["dna", "protein", "letters", "list", "list with a column", "wild type"])
def test_the_function_to_begin_with_runs(space, tmp_path):
    file, oracle = check_campaign_file(written(CampaignPlan("mine", SPACES[space]), tmp_path))
    texts = ["SYN-1", "SYN-4"] if "list" in space else ["A" * file.config.space.length] * 2
    results = oracle([Request(text, i, str(i)) for i, text in enumerate(texts)])
    assert all(isinstance(result.values["score"], float) for result in results)
    if "list" in space:
        assert results[0].values["score"] < results[1].values["score"]


def test_the_program_to_begin_with_answers_each_line(tmp_path):
    path = written(CampaignPlan("mine", SPACES["dna"], OraclePlan("process")), tmp_path)
    asked = [{"key": key, "object": text, "candidate_id": 1} for key, text in (("a", "AAAA"), ("b", "ACGT"))]
    command = [sys.executable, str(path.parent / "program.py")]
    lines = "".join(json.dumps(one) + "\n" for one in asked)
    printed = subprocess.run(command, input=lines, capture_output=True, text=True, check=True).stdout
    assert [json.loads(line) for line in printed.splitlines()] == [
        {"key": "a", "value": pytest.approx(1.1)},
        {"key": "b", "value": pytest.approx(3.4)},
    ]


def test_paths_are_those_of_the_campaign_file(here, tmp_path):
    plan = CampaignPlan("mine", SPACES["list"], ORACLES["table"])
    config = parse_campaign(draft(plan, tmp_path / "x")[tmp_path / "x" / "campaign.yaml"], name="x")
    assert (tmp_path / "x").resolve().joinpath(config.space.path).resolve() == (here / "compounds.csv").resolve()
    inside = drafts.campaign_text(drafts.completed(plan), relative_to=here)
    assert parse_campaign(inside, name="x").space.path == "compounds.csv"


@pytest.mark.parametrize(
    ("plan", "error", "said"),
    [
        (CampaignPlan("mine", SequencePlan("dna", 1), batch=9), ConfigError, "batch.size is 9, larger"),
        (CampaignPlan("mine", SequencePlan("A", 4)), ConfigError, "alphabet is 'A'"),
        (CampaignPlan("mine", SequencePlan("dna", 4, "ACGU", 2)), ConfigError, "ACGU"),
        (CampaignPlan("my own", SPACES["dna"]), ConfigError, "campaign is 'my own'"),
        (CampaignPlan("mine", ListPlan(Path("absent.csv"))), ConfigError, "absent.csv"),
        (CampaignPlan("mine", SPACES["dna"], OraclePlan("table")), ConfigError, "--table"),
        (
            CampaignPlan("mine", SPACES["dna"], OraclePlan("table", table=Path("absent.csv"))),
            LabelError,
            "no table",
        ),
        (CampaignPlan("mine", SPACES["dna"], OraclePlan("http", url="ftp://x")), ConfigError, "http"),
        (CampaignPlan("mine", SPACES["dna"], cost=-1), ConfigError, "budget.cost is -1"),
    ],
)
def test_what_cannot_be_is_refused(plan, error, said, tmp_path):
    with pytest.raises(error, match=said):
        draft(plan, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["dna", "dna:", ":8", "dna:-1", "dna:8.5", "dna:٣", "compounds.xlsx", ""])
def test_a_space_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="expected letters and a length"):
        read_space(text)


@settings(max_examples=300, deadline=None)
@given(st.text(min_size=1, max_size=20).filter(lambda text: not re.search(r"[\ud800-\udfff]", text)))
def test_any_text_is_read_back_by_both_versions_of_yaml(text):
    """What YAML cannot hold at all is escaped; editors and PyYAML then read the same."""
    line = f"name: {drafts._scalar(text)}  # a comment\n"
    assert yaml.safe_load(line) == {"name": text}
    assert YAML(typ="safe", pure=True).load(line) == {"name": text}
