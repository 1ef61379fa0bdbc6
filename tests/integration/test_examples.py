"""Every example runs as its first lines say."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowscout import Campaign

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_simulator_example_spends_no_more_than_its_budget(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "simulator", tmp_path / "simulator")
    with Campaign.from_yaml(tmp_path / "simulator" / "campaign.yaml") as campaign:
        while campaign.run_round() is not None:
            pass
        status = campaign.status()
        rows = campaign.history()
    assert status.state == "finished"
    assert len(status.rounds) == 4
    assert status.spent_minor == 64 * 40 <= 3000
    assert set(rows["oracle_version"]) == {"2"}


def test_the_catalogue_example_finds_the_best_compounds(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "catalogue", tmp_path / "catalogue")
    with Campaign.from_yaml(tmp_path / "catalogue" / "campaign.yaml") as campaign:
        while campaign.run_round() is not None:
            pass
        status, rows, best = campaign.status(), campaign.history(), campaign.best(5)
    assert [row.measured for row in status.rounds] == [16, 16, 16]
    assert not any(row.sampler.get("fallback") for row in status.rounds)
    # Drawn at random, 48 of 600 compounds hold 0.4 of the five best on the average; this seed finds all five.
    ranked = sorted(campaign_values(tmp_path / "catalogue"), reverse=True)
    assert sum(value >= ranked[4] - 1e-9 for value in best["value"]) >= 3
    assert rows["object"].is_unique


def test_the_compounds_of_the_example_are_those_that_its_script_makes() -> None:
    command = [sys.executable, str(EXAMPLES / "catalogue" / "make_compounds.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout == (EXAMPLES / "catalogue" / "compounds.csv").read_text()


def campaign_values(folder: Path) -> list[float]:
    """Return the value of every compound of the catalogue example."""
    code = "import assay, csv; rows = csv.DictReader(open('compounds.csv')); "
    code += "print(assay.solubility([row['compound'] for row in rows]))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    return [float(value) for value in printed.stdout.strip("[]\n").split(",")]


def test_the_laboratory_example_asks_and_tells(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "laboratory" / "ask_and_tell.py"), str(tmp_path / "bench.db")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "3 of the second plate still wait" in printed.stdout
    assert printed.stdout.count("\n") == 7
    assert printed.stderr == ""


@pytest.mark.parametrize(
    ("name", "steps", "bound"),
    # Without training the total variations are 0.78, 0.78 and 0.92; the bounds are twice what these steps leave
    # or more.
    [("hypergrid", 300, 0.05), ("ising", 500, 0.1), ("variable_selection", 200, 0.05)],
)
def test_an_example_of_the_engine_comes_near_the_exact_law(name: str, steps: int, bound: float) -> None:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--steps", str(steps)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stderr == ""
    assert printed.stdout.startswith(f"{steps} steps in ")
    *_, last = printed.stdout.splitlines()
    assert last.startswith("total variation ")
    assert float(last.split()[-1]) < bound
