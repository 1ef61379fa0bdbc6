import gzip
import itertools
import json

import discovery
import numpy as np
import pytest
from flowscout_method import FlowscoutMethod, campaign_file
from landscape import load_table
from methods import NAMES, MethodSpec, read_methods
from rich.console import Console
from rivals_base import Problem

from flowscout.errors import ConfigError, LabelError, NonFiniteError
from flowscout.loop.metrics import reverse_complement


def write(path, rows, header="sequence,score"):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def peptide_table(tmp_path_factory):
    """All 5^4 peptides over five letters, scored by their share of N."""
    items = ["".join(p) for p in itertools.product("AHKNW", repeat=4)]
    rows = [f"{item},{item.count('N') / 4 + 0.01 * (item[0] == 'A')}" for item in items]
    return write(tmp_path_factory.mktemp("tables") / "peptides.csv.gz", rows)


def test_any_table_runs_and_writes_flat_rows(peptide_table, tmp_path, capsys):
    out = tmp_path / "rows.json"
    arguments = ["--table", str(peptide_table), "--methods", "ga,random", "--seeds", "2", "--json", str(out)]
    assert discovery.main(arguments) == 0
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert [(row["task"], row["method"], row["seed"], row["calls"]) for row in rows] == [
        ("peptides-plate", method, seed, 192) for method in ("ga", "random") for seed in (0, 1)
    ]
    keys = "task method seed calls max mean_top128 top10 auc_top10 distinct_hits diversity novelty"
    assert set(rows[0]) >= {*keys.split(), "duplicates", "true_top100_found", "seconds", "commit"}
    assert set(rows[0]) >= {"best", "seconds_round_max", "curve_best"}
    curves = [key for key, value in rows[0].items() if isinstance(value, list)]
    assert curves == ["curve_calls", "curve_best", "curve_top128", "curve_hits"]
    assert all(len(row[key]) == 8 for row in rows for key in curves)
    flat = [value for row in rows for key, value in row.items() if key not in curves]
    assert all(isinstance(value, str | int | float) for value in flat)
    printed = capsys.readouterr().out
    assert "ceiling" in printed
    assert "mean_top128" in printed


BAD_TABLES = {
    "no score column": (["AA,1"], "sequence,value", "score"),
    "a score that is no number": (["AA,1", "AC,nan"], "sequence,score", "line 3"),
    "unequal lengths": (["AA,1", "ACC,1"], "sequence,score", "'ACC' of length 3 in line 3"),
    "a repeated sequence": (["AA,1", "AC,1", "AA,2"], "sequence,score", "'AA' twice"),
    "no rows": ([], "sequence,score", "no rows"),
    "too few sequences": (["AA,1", "AC,2"], "sequence,score", "at least 288"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_table_is_told_in_one_line_with_exit_code_2(case, tmp_path, capsys):
    rows, header, words = BAD_TABLES[case]
    path = write(tmp_path / "bad.csv.gz", rows, header)
    assert discovery.main(["--table", str(path), "--methods", "random"]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_file_that_is_no_table_is_refused(tmp_path, capsys):
    (tmp_path / "x.csv.gz").write_bytes(b"not gzip")
    (tmp_path / "empty.csv").write_bytes(b"")
    for name in ("x.csv.gz", "empty.csv", "missing.csv"):
        assert discovery.main(["--table", str(tmp_path / name), "--methods", "random"]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_unknown_method_or_strand_is_refused(peptide_table, capsys):
    assert discovery.main(["--methods", "random,annealing"]) == 2
    assert "annealing" in capsys.readouterr().err
    assert discovery.main(["--table", str(peptide_table), "--methods", "random", "--strand", "double"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "six7-plate"], "six7-plate"),
        (["--methods", "ga[batch.explore=1]"], "settings for flowscout"),
        (["--methods", "flowscout", "--set", "batch.explre=1"], "'explore'"),
        (["--methods", "flowscout", "--set", "explore"], "key=value"),
        (["--methods", "flowscout", "--set", "campaign.name=x"], "campaign is none"),
        (["--methods", "ga,random", "--paired", "ga,gp-ts"], "--paired"),
        (["--methods", "ga,random", "--paired", "ga,random", "--seeds", "1"], "1 seeds"),
        (["--methods", "ga", "--plot", "no-such-folder/x.png"], "no-such-folder"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_spent(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr(discovery, "run_once", lambda *_, **__: pytest.fail("a run was begun"))
    assert discovery.main(arguments) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_settings_are_read_and_name_the_row():
    changed, plain, rival = read_methods("flowscout[batch.explore=0.25],flowscout,ga", ["surrogate.type=gp"])
    assert changed.settings == {"surrogate.type": "gp", "batch.explore": 0.25}
    assert changed.label == "flowscout[surrogate.type=gp,batch.explore=0.25]"
    assert plain.label == "flowscout[surrogate.type=gp]"
    assert rival == MethodSpec("ga")
    assert [spec.label for spec in read_methods("ga, ga,random")] == ["ga", "random"]
    # A label can be given again.
    assert read_methods(changed.label) == [changed]


def test_campaign_file_holds_the_problem_and_the_settings():
    problem = Problem("ACGT", 8, reverse_complement)
    content = campaign_file(problem, proposer="local_search", settings={"batch.explore": 0.5, "device": "cpu"})
    assert content["space"] == {"type": "sequence", "alphabet": "dna", "length": 8, "strand": "double"}
    assert content["proposer"] == {"type": "local_search"}
    assert (content["batch"]["explore"], content["device"]) == (0.5, "cpu")
    assert campaign_file(Problem("ABab", 5), proposer="gflownet", settings={})["space"]["alphabet"] == "ABab"


def test_space_that_cannot_be_enumerated_is_not_searched_exhaustively():
    with pytest.raises(ConfigError, match="20\\^15"):
        MethodSpec("exhaustive").check(Problem("ACDEFGHIKLMNPQRSTVWY", 15))


def test_of_all_methods_those_that_cannot_run_are_left_out_aloud(capsys):
    able = discovery._able(read_methods("all"), Problem("ACGU", 50), Console(), leave_out=True)
    assert [spec.name for spec in able] == [name for name in NAMES if name != "exhaustive"]
    assert "exhaustive is left out: exhaustive came for 4^50" in capsys.readouterr().out


def test_flowscout_measures_what_is_no_table_and_keeps_it_in_its_history():
    problem = Problem("ACGU", 12)
    method = FlowscoutMethod(problem, np.random.default_rng(0), proposer="random", settings={})
    try:
        start = ["ACGUACGUACGU", "AAAAAAAAAAAA", "CCCCCCCCCCCC"]
        method.observe(start, [0.1, 0.2, 0.3])
        first = method.propose(4)
        method.observe(first, [0.5, 0.6, 0.7, 0.8])
        second = method.propose(3)
        history = method._campaign.history().sort_values("seq")
        facts = method.facts()
    finally:
        method.close()
    assert facts == {"from_random": 1.0, "training_evaluations": 0}
    assert len(set(start + first + second)) == 10
    assert history["object"].tolist() == start + first
    assert history["value"].tolist() == [0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8]
    assert history["round"].tolist()[3:] == [1] * 4


def test_flowscout_with_nothing_left_proposes_nothing():
    method = FlowscoutMethod(Problem("AC", 2), np.random.default_rng(0), proposer="random", settings={})
    try:
        method.observe(["AA", "AC"], [0.0, 1.0])
        batch = method.propose(3)
        assert set(batch) == {"CA", "CC"}
        method.observe(batch, [2.0, 3.0])
        assert method.propose(3) == []
    finally:
        method.close()


def test_run_that_fails_leaves_the_rows_before_it(peptide_table, tmp_path, capsys, monkeypatch):
    out, run_once = tmp_path / "rows.json", discovery.run_once

    def fail_at_seed_1(task, spec, seed, *, strand):
        if seed == 1:
            raise NonFiniteError("a posterior that is not finite")
        return run_once(task, spec, seed, strand=strand)

    monkeypatch.setattr(discovery, "run_once", fail_at_seed_1)
    arguments = ["--table", str(peptide_table), "--methods", "random", "--seeds", "3", "--json", str(out)]
    assert discovery.main(arguments) == 1
    assert [row["seed"] for row in json.loads(out.read_text(encoding="utf-8"))] == [0]
    printed = capsys.readouterr()
    assert "mean_top128" in printed.out
    assert printed.err == "error: a posterior that is not finite\n"


def test_two_of_ours_are_compared_and_drawn(peptide_table, tmp_path, capsys):
    picture = tmp_path / "curves.png"
    quick = "[proposer.type=random,surrogate.type=linear]"
    methods = f"flowscout{quick},flowscout-nogfn{quick}"
    arguments = ["--table", str(peptide_table), "--methods", methods, "--seeds", "2", "--plot", str(picture)]
    assert discovery.main(arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())  # the title of the table is wider than the table
    assert f"flowscout{quick} less flowscout-nogfn{quick}" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_sequences_that_look_like_missing_values_are_sequences(tmp_path):
    landscape = load_table(write(tmp_path / "aa.csv.gz", ["NA,1", "AN,2"]), name="aa")
    assert landscape.scores == {"NA": 1.0, "AN": 2.0}
    assert landscape.image is None


def test_dna_table_is_double_stranded_only_if_strands_score_alike(tmp_path):
    alike = load_table(write(tmp_path / "a.csv.gz", ["AC,1", "GT,1", "AA,2"]), name="a")
    unlike = load_table(write(tmp_path / "b.csv.gz", ["AC,1", "GT,3", "AA,2"]), name="b")
    assert alike.image is reverse_complement
    assert unlike.image is None


def test_start_needs_enough_sequences(tmp_path):
    landscape = load_table(write(tmp_path / "a.csv.gz", ["AC,1", "GA,2", "AA,3"]), name="a")
    with pytest.raises(LabelError, match="below its median"):
        landscape.start(np.random.default_rng(0), 2)
