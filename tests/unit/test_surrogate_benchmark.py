import importlib.util
import json
from pathlib import Path

import pytest
import torch
from surrogate_entries import reverse_complement

from flowscout.loop.config import SurrogateSection
from flowscout.loop.spaces import SequenceSpace
from flowscout.loop.surrogate_choice import choose_surrogate, make_surrogate

PATH = Path(__file__).parents[2] / "benchmarks" / "surrogates.py"


@pytest.fixture(scope="module")
def benchmark():
    # Under another name: a module called `surrogates` would stand beside the room of that name.
    spec = importlib.util.spec_from_file_location("benchmark_of_surrogates", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_of_all_seeds_are_written_and_the_table_shows_their_medians(benchmark, tmp_path, capsys):
    path = tmp_path / "rows.json"
    arguments = ["--data", "six6", "--sizes", "30", "--surrogates", "linear,gp", "--seeds", "2", "--members", "0"]
    assert benchmark.main([*arguments, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [(row["surrogate"], row["labels"], row["seed"]) for row in rows] == [
        ("linear", 30, 0),
        ("linear", 30, 1),
        ("gp", 30, 0),
        ("gp", 30, 1),
    ]
    middle = (rows[0]["rmse"] + rows[1]["rmse"]) / 2
    assert f"{middle:.4f}" in capsys.readouterr().out
    for seed in (0, 1):
        mine = [row for row in rows if row["seed"] == seed]
        least = min(row["rmse"] for row in mine)
        assert [row["of_best"] for row in mine] == [row["rmse"] / least for row in mine]


def test_who_knows_both_strands_is_compared_with_who_knows_as_much(benchmark):
    rmse = {"gp": 0.2, "linear": 0.1, "gp-two-strands": 0.05, "auto-two-strands": 0.06}
    rows = [{"surrogate": name, "seed": 0, "rmse": value} for name, value in rmse.items()]
    benchmark.add_ratios(rows)
    assert [row["of_best"] for row in rows] == pytest.approx([2.0, 1.0, 1.0, 1.2])


def test_no_label_is_met_again_under_the_name_of_its_other_strand(benchmark):
    X, Y = benchmark.tensors(benchmark.load_six6())
    assert X.shape == (32_896, 8)
    assert Y.shape == (32_896, 1)
    everything = torch.cat([X, reverse_complement(X)])
    # 256 sequences are their own other strand.
    assert len(torch.unique(everything, dim=0)) == 2 * len(X) - 256


def test_members_trained_together_and_apart_predict_the_same(benchmark):
    X, Y = benchmark.tensors(benchmark.load_six6())
    rows = benchmark.ensemble_rows(X, Y, 2, 40, 1)
    by_name = {row["training"]: row for row in rows}
    assert set(by_name) == {"one batched network", "vmap of modules", "one by one", "plain modules"}
    assert by_name["one by one"]["difference"] < 1e-6  # float64 sums in another order, over 200 steps
    assert all(row["seconds"] >= 0.0 for row in rows)


def test_exact_gps_are_not_asked_beyond_their_limit(benchmark):
    X, Y = benchmark.tensors(benchmark.load_six6())
    data = benchmark.Data("six6", X, Y, benchmark.SEQUENCES, [])
    for name in ("gp", "gp-pairs", "gp-two-strands", "botorch-single", "botorch-mixed"):
        assert benchmark.measure(data, name, 5_001, 100, 1, None) == []


def test_molecules_are_left_out_where_they_are_not_installed_unless_they_are_named(benchmark, capsys, monkeypatch):
    monkeypatch.setattr("molecules.find_spec", lambda _: None)
    arguments = ["--sizes", "20", "--surrogates", "linear", "--seeds", "1", "--members", "0"]
    assert benchmark.main(arguments) == 0
    assert "freesolv is left out: rdkit is not installed" in capsys.readouterr().err
    assert benchmark.main([*arguments, "--data", "solubility"]) == 2
    assert "pip install rdkit" in capsys.readouterr().err


def test_auto_is_what_a_campaign_would_fit_first(benchmark):
    X, Y = benchmark.tensors(benchmark.load_six6())
    labelled, new = slice(0, 20_000, 700), slice(100, 20_000, 900)
    space = SequenceSpace("dna", 8)
    surrogate = make_surrogate(choose_surrogate(SurrogateSection(), space, n_labels=29), space, folder=Path())
    surrogate.fit(X[labelled], Y[labelled])
    mean, sd = benchmark.SEQUENCES["auto"].predict(X[labelled], Y[labelled], X[new])
    expected, noise_free = surrogate.mean_sd(X[new])
    assert torch.equal(mean, expected)
    assert (sd > noise_free).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--surrogates", "gp,tree"], "Remove tree"),
        (["--sizes", "96,30000"], "--sizes has 30000"),
        (["--data", "six6,qm9"], "Remove qm9"),
        (["--data", "", "--json", "nowhere/rows.json"], "Make nowhere first"),
    ],
)
def test_wrong_options_are_told_in_one_line(benchmark, capsys, arguments, message):
    assert benchmark.main(["--surrogates", "gp", "--members", "0", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_forest_says_how_it_is_installed(benchmark, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "find_spec", lambda _: None)
    assert benchmark.main(["--members", "0"]) == 2
    assert "pip install scikit-learn" in capsys.readouterr().err
