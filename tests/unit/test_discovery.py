import gzip
import itertools
import json

import discovery
import numpy as np
import pytest
from landscape import load_six6, load_table
from rivals import RIVALS, Problem

from flowscout.errors import LabelError
from flowscout.loop.metrics import canonical, reverse_complement


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


@pytest.mark.parametrize("strand", ["single", "double"])
@pytest.mark.parametrize("name", sorted(RIVALS))
def test_rival_never_repeats_and_returns_what_was_asked(name, strand):
    landscape = load_six6()
    image = reverse_complement if strand == "double" else None
    start = landscape.start(np.random.default_rng(0), 30)
    problem = Problem(landscape.alphabet, landscape.sequences, frozenset(landscape.scores), image)
    first, second = (RIVALS[name](problem, np.random.default_rng(7)) for _ in range(2))
    seen = {canonical(item, image) for item in start}
    for method in (first, second):
        method.observe(start, [landscape.scores[item] for item in start])
    batch = first.propose(8)
    assert batch == second.propose(8)
    first.observe(batch, [landscape.scores[item] for item in batch])
    both = [*batch, *first.propose(8)]
    keys = [canonical(item, image) for item in both]
    assert len(set(keys)) == 16
    assert not set(keys) & seen


def test_rival_with_nothing_left_returns_fewer():
    problem = Problem("AC", ["AA", "AC", "CA", "CC"], frozenset(["AA", "AC", "CA", "CC"]), None)
    for make in RIVALS.values():
        method = make(problem, np.random.default_rng(0))
        method.observe(["AA", "AC"], [0.0, 1.0])
        assert set(method.propose(5)) == {"CA", "CC"}


def test_rival_proposes_only_members_of_an_incomplete_table():
    members = [item for item in map("".join, itertools.product("AC", repeat=6)) if item.count("C") != 3]
    problem = Problem("AC", members, frozenset(members), None)
    for make in RIVALS.values():
        method = make(problem, np.random.default_rng(0))
        method.observe(members[:10], [float(item.count("C")) for item in members[:10]])
        assert set(method.propose(10)) <= set(members[10:])


def test_start_is_the_same_for_every_method_and_below_the_median():
    landscape = load_six6()
    a = landscape.start(np.random.default_rng([3, 0]), 96)
    assert a == landscape.start(np.random.default_rng([3, 0]), 96)
    assert len(set(a)) == 96
    assert max(landscape.scores[item] for item in a) < 0.4393011


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
    assert all(isinstance(value, str | int | float) for row in rows for value in row.values())
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
