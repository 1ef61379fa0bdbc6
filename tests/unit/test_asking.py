"""What a person asks of a campaign, from Python and on the command line, where the oracle's module is gone."""

import ast
import csv
import io
import json
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from flowscout import Campaign
from flowscout.cli import run
from flowscout.db import HISTORY_COLUMNS, History, HistoryFilter
from flowscout.errors import ConfigError, NotFoundError, OracleImportError, QueryError

ROOT = Path(__file__).parents[2]
CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 4, strand: double}
objectives: [{name: y, direction: maximize}]
oracle: assay_of_asking:score
proposer: {type: gflownet, steps: 5}
batch: {size: 4}
budget: {rounds: 3}
device: cpu
"""
ASSAY = "def score(objects): return [float(o.count('A') + o.count('T')) for o in objects]\n"
TOLD = "object,y,row_id\nCCCC,0,r1\nCCCA,1,r2\nAACC,2,r3\nGGCC,0.5,r4\n"


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a campaign that was told four values and ran two rounds; its oracle is gone."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "assay_of_asking.py").write_text(ASSAY)
    (folder / "c.yaml").write_text(CAMPAIGN)
    (folder / "told.csv").write_text(TOLD)
    with Campaign.from_yaml(folder / "c.yaml") as found:
        found.tell(folder / "told.csv", source="eln")
        found.run_round()
        found.run_round()
    (folder / "assay_of_asking.py").unlink()
    sys.modules.pop("assay_of_asking", None)
    return folder


@pytest.fixture
def folder(run_once: Path, tmp_path: Path) -> Path:
    """Return a copy of that folder."""
    shutil.copytree(run_once, tmp_path / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "lab"


@pytest.fixture
def campaign(folder: Path):
    """Return the campaign as its history holds it."""
    with Campaign.open(str(folder / "binders.db"), "binders") as found:
        yield found


@pytest.fixture
def ask(folder: Path, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs a command on the campaign file; what it printed, with its exit code."""

    def command(name: str, *arguments: str) -> tuple[int, str, str]:
        code = run([name, str(folder / "c.yaml"), *arguments])
        return code, *capsys.readouterr()

    return command


def test_a_history_opens_without_the_oracle(folder, campaign):
    with pytest.raises(OracleImportError):
        Campaign.from_yaml(folder / "c.yaml")
    assert campaign.status().candidates_measured == 12
    assert len(campaign.history()) == 12
    assert len(campaign.best(3)) == 3
    assert campaign.lineage("CCCC").object == "CCCC"
    assert campaign.pending().empty
    assert list(campaign.sql("select count(*) as n from history")["n"]) == [12]


@pytest.mark.parametrize(
    "command",
    [["status"], ["best", "--diverse"], ["history"], ["lineage", "CCCC"], ["pending"], ["sql", "select 1 as one"]],
    ids=lambda command: command[0],
)
def test_every_question_is_answered_without_the_oracle(ask, command):
    name, *arguments = command
    code, printed, complaint = ask(name, *arguments)
    assert (code, complaint) == (0, "")
    assert printed
    code, printed, _ = ask(name, *arguments, "--json")
    assert code == 0
    json.loads(printed)


def test_a_history_names_its_campaigns(folder):
    with Campaign.open(str(folder / "binders.db")) as found:
        assert found.name == "binders"
    with pytest.raises(NotFoundError, match=r"no campaign 'other'.*binders"):
        Campaign.open(str(folder / "binders.db"), "other")
    with pytest.raises(NotFoundError, match=r"holds 0 campaigns \(none\)"), History(str(folder / "new.db")):
        Campaign.open(str(folder / "new.db"))


def test_history_is_a_table_with_every_column(campaign):
    table = campaign.history()
    assert tuple(table.columns) == HISTORY_COLUMNS
    assert list(table["seq"]) == list(range(1, 13))
    assert list(table["round"].dropna()) == [1] * 4 + [2] * 4
    assert list(table["value"]) == [
        0.0,
        1.0,
        2.0,
        0.5,
        *campaign.sql("select value from history where seq > 4")["value"],
    ]
    nothing = campaign.history(source="nowhere")
    assert tuple(nothing.columns) == HISTORY_COLUMNS
    assert {str(table[name].dtype) for name in ("value", "sem", "predicted_mean")} == {"float64"}
    assert str(nothing["value"].dtype) == "float64"


def test_history_is_cut_and_filtered(campaign):
    table = campaign.history()
    assert list(campaign.history(round=2)["seq"]) == [9, 10, 11, 12]
    assert list(campaign.history(source="eln")["object"]) == ["CCCC", "CCCA", "AACC", "GGCC"]
    assert list(campaign.history(object="gggg")["object"]) == ["CCCC"], "the other strand, in small letters"
    assert list(campaign.history(as_of="round 2")["seq"]) == list(range(1, 9))
    assert list(campaign.history(as_of=4)["seq"]) == [1, 2, 3, 4]
    assert len(campaign.history(origin="gflownet")) == sum(table["origin"] == "gflownet")
    now = datetime.now(UTC)
    assert len(campaign.history(since=now - timedelta(hours=1), until=now, as_of=now)) == 12
    assert campaign.history(until=now - timedelta(hours=1)).empty


def test_the_best_of_a_round_are_what_was_known_then(campaign):
    assert list(campaign.best(2, as_of="round 1")["object"]) == ["AACC", "CCCA"]
    table = campaign.history()
    for cut in (4, 8, 12):
        known = table[table["seq"] <= cut]
        wanted = known.sort_values(["value", "candidate_key"], ascending=[False, True])["object"]
        assert list(campaign.best(12, as_of=cut)["object"]) == list(wanted)
    pd.testing.assert_frame_equal(campaign.best(12, as_of=12), campaign.best(12))


def test_diverse_best_are_taken_greedily_and_stand_apart(campaign):
    space = campaign.workbench.space
    ranked = list(campaign.best(12)["object"])
    states = space.parse(ranked)
    apart = space.distance(states, states)
    for distance in (1.0, 2.0, 3.0):
        chosen: list[int] = []
        for i in range(len(ranked)):
            if all(apart[i, j] >= distance for j in chosen):
                chosen.append(i)
        found = campaign.best(12, distance=distance)
        assert list(found["object"]) == [ranked[i] for i in chosen]
        assert list(found["rank"]) == list(range(1, len(chosen) + 1))
    default = float(apart.max()) / 4
    assert list(campaign.best(3, diverse=True)["object"]) == list(campaign.best(3, distance=default)["object"])


def test_diverse_best_are_looked_for_as_far_as_needed(campaign, monkeypatch):
    monkeypatch.setattr("flowscout.loop.asking._FEW", 1)
    wanted = campaign.best(12, distance=3.0)
    assert len(wanted) >= 2
    assert list(campaign.best(1, distance=3.0)["object"]) == list(wanted["object"])[:1]
    assert list(campaign.best(2, distance=3.0)["object"]) == list(wanted["object"])[:2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ConfigError, r"best 0 .* expected 1 or more"),
        ({"distance": 0.0}, ConfigError, r"distance is 0.0, expected a positive"),
        ({"distance": float("nan")}, ConfigError, r"expected a positive"),
        ({"as_of": "round 9"}, NotFoundError, r"round 9 of the campaign has no fit"),
        ({"as_of": "last week"}, QueryError, r"expected 'round 7'"),
    ],
)
def test_a_ranking_that_cannot_be_is_refused(campaign, arguments, error, message):
    with pytest.raises(error, match=message):
        campaign.best(**arguments)


def test_lineage_tells_the_whole_chain(campaign):
    row = campaign.workbench.history.queries.history("binders", HistoryFilter(round=2))[0]
    found = campaign.lineage(row["candidate_id"])
    [taken] = [one for one in found.proposals if one.decision == "selected"]
    assert (taken.round, taken.fit.data_upto_seq, taken.fit.id) == (2, 8, row["model_fit_id"])
    assert taken.config.sha256 == row["config_sha256"]
    assert (taken.predicted_mean, taken.log_prob) == (row["predicted_mean"], row["log_prob"])
    assert taken.fit.artefact_sha256
    [evaluation] = found.evaluations
    assert evaluation.idempotency_key == row["idempotency_key"]
    assert [call.state for call in evaluation.attempts] == ["succeeded"]
    assert [one.value for one in found.measurements] == [row["value"]]


def test_lineage_of_an_unknown_object_names_near_ones(campaign):
    with pytest.raises(NotFoundError, match=r"near it: .*CCCC"):
        campaign.lineage("CCCCC")


def test_the_command_line_tells_a_lineage(ask, campaign):
    row = campaign.history(round=2).iloc[0]
    code, printed, _ = ask("lineage", row["object"])
    assert code == 0
    for said in (
        f"{row['object']}: candidate",
        "round 2, complete: selected",
        "8 candidates by seq 8",
        row["config_sha256"],
        "assay_of_asking",
        "succeeded",
    ):
        assert said in printed, said
    told = json.loads(ask("lineage", row["object"], "--json")[1])
    assert told["proposals"][-1]["fit"]["data_upto_seq"] == 8
    code, _, complaint = ask("lineage", "CCCCC")
    assert code == 2
    assert "near it" in complaint


def test_the_command_line_filters_and_cuts(ask):
    def seqs(*arguments: str) -> list[int]:
        return [row["seq"] for row in json.loads(ask("history", *arguments, "--json")[1])]

    assert seqs("--round", "2") == [9, 10, 11, 12]
    assert seqs("--as-of", "round 1") == [1, 2, 3, 4]
    assert seqs("--as-of", "seq 2") == [1, 2]
    assert seqs("--as-of", "2001-01-31T12:00Z") == []
    assert seqs("--source", "eln", "--limit", "1") == [4]
    assert seqs("--object", "CCCC", "--property", "y") == [1]
    assert seqs("--since", "2001-01-01T00:00Z", "--until", "2001-01-02T00:00Z") == []
    assert len(json.loads(ask("best", "--as-of", "round 1", "--json")[1])) == 4
    code, _, complaint = ask("history", "--since", "monday")
    assert code == 2
    assert "--since is 'monday', expected a time with its zone" in complaint


def test_the_command_line_answers_sql(ask):
    question = "select object, value from history where source = 'eln' order by seq"
    code, printed, complaint = ask("sql", question, "--json", "--limit", "2")
    assert (code, json.loads(printed)) == (0, [{"object": "CCCC", "value": 0.0}, {"object": "CCCA", "value": 1.0}])
    assert "more rows than these 2" in complaint
    _, printed, complaint = ask("sql", question, "--csv")
    assert list(csv.reader(io.StringIO(printed)))[:2] == [["object", "value"], ["CCCC", "0.0"]]
    assert complaint == ""
    assert "AACC" in ask("sql", question)[1]
    twice = json.loads(ask("sql", "select 1 as a, 2 as a, 3 as a_2", "--json")[1])
    assert sorted(twice[0].values()) == [1, 2, 3]


def test_the_command_line_refuses_what_is_no_question(ask, folder):
    before = (folder / "binders.db").read_bytes()
    for statement in (
        "delete from measurement",
        "attach 'x.db' as x",
        "pragma query_only = off",
        "select 1; select 2",
    ):
        code, printed, complaint = ask("sql", statement)
        assert (code, printed) == (2, ""), statement
        assert "the database refuses" in complaint
    assert ask("sql", "select 1", "--csv", "--json")[0] == 2
    assert (folder / "binders.db").read_bytes() == before


def test_what_lies_beside_a_history_is_no_pickle(folder, campaign):
    kept = [path for path in (folder / "binders.files").rglob("*") if path.is_file()]
    assert len(kept) == campaign.sql("select count(*) as n from artefact")["n"][0] > 0
    for path in kept:
        size = int.from_bytes(path.read_bytes()[:8], "little")  # a safetensors file begins with a header of JSON
        assert json.loads(path.read_bytes()[8 : 8 + size])


def unsafe_calls(source: str) -> list[str]:
    """Return the calls that write or read what runs code when it is read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        whole = ast.unparse(node.func)
        safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
        pickles = whole.split(".")[0] in ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
        if pickles or node.func.attr in ("read_pickle", "to_pickle") or (whole == "torch.load" and not safe):
            found.append(whole)
    return found


def test_no_code_of_ours_reads_or_writes_a_pickle():
    files = [path for room in ("src", "loop", "db", "flows", "surrogates") for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    assert {str(path): calls for path in files if (calls := unsafe_calls(path.read_text()))} == {}
    bad = "pickle.loads(x); torch.load(p); torch.load(p, weights_only=False); table.to_pickle(p)"
    assert len(unsafe_calls(bad)) == 4
    assert unsafe_calls("torch.load(p, weights_only=True)") == []
