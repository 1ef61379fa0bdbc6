"""Replay: a round comes out as it is stored, and what was changed since is named."""

import json
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from flowscout import Campaign
from flowscout.cli import run
from flowscout.db import History
from flowscout.db.past import past_history
from flowscout.errors import NotFoundError
from flowscout.testing.histories import begin, measured, result

CAMPAIGN = """\
campaign: binders
seed: 3
space: {type: sequence, alphabet: dna, length: 5}
objectives: [{name: y, direction: maximize}]
oracle: assay:score
proposer: {type: mixture, steps: 5, evaluations: 200}
batch: {size: 4}
budget: {rounds: 3}
device: cpu
"""
ASSAY = "def score(objects): return [o.count('A') - 0.1 * o.count('C') for o in objects]\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a campaign with a random round, two fitted ones, values told between, and a veto."""
    folder = tmp_path_factory.mktemp("made") / "campaign"
    folder.mkdir()
    (folder / "assay.py").write_text(ASSAY)
    (folder / "c.yaml").write_text(CAMPAIGN)
    with Campaign.from_yaml(folder / "c.yaml") as campaign:
        campaign.run_round()
        campaign.run_round()
        (folder / "told.csv").write_text("object,y\nGGGGG,0.5\nTTTTT,-1\n")
        campaign.tell(folder / "told.csv")
        batch = campaign.ask(3, include=["CCCCC"])  # another size than the file's, and one of our own
        campaign.veto([batch["object"][1]], reason="toxic")
        (folder / "late.csv").write_text("object,y\nACACA,2.5\n")
        campaign.tell(folder / "late.csv")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "campaign"))


def replayed(folder: Path, number: int):
    with Campaign.from_yaml(folder / "c.yaml") as campaign:
        return campaign.replay(number)


def change(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "binders.db")) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            assert connection.execute(statement).rowcount > 0
        connection.commit()


def content(folder: Path) -> dict[str, bytes | list[object]]:
    with closing(sqlite3.connect(folder / "binders.db")) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}
    return rows | {p.name: p.read_bytes() for p in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_round_comes_out_as_it_is_stored_and_nothing_is_written(folder: Path, number: int) -> None:
    with Campaign.from_yaml(folder / "c.yaml") as campaign:
        before = content(folder)
        done = campaign.replay(number)
        assert content(folder) == before
    assert done.differences == ()
    assert done.versions == ()
    assert done.same
    assert done.compared == ("data", "fit", "sampler", "pool", "proposals")


def test_what_was_retracted_since_was_known_then_and_what_was_retracted_before_was_not(sqlite_url: str) -> None:
    with History(sqlite_url) as history:
        scene = begin(history)
        number, measurements = scene.campaign.id, history.measurements
        scene.tell(measured("aa"), measured("gg"))
        scene.settle(*map(result, scene.claim(scene.propose(["cc", "ct"]))))
        for key in ("AA", "CC"):
            measurements.retract(number, key=key, reason="a wrong plate", actor="bench")
        known = measurements.known_keys(number)
        assert known == {"GG", "CT"}
        record = scene.propose(["tt"], 2)
        time.sleep(0.01)  # the clock of the database shows milliseconds
        measurements.retract(number, key="GG", reason="a wrong plate", actor="bench")
        scene.tell(measured("aa", 2.0, row_id="again"))
        assert measurements.known_keys(number) == {"AA", "CT", "TT"}
        then = past_history(history, record, upto_seq=6, pending=[], infeasible=[])
        assert then.measurements.known_keys(number) == known


def named(done) -> set[str]:
    assert not done.same
    return {one.what.split(":")[0] for one in done.differences}


def test_a_changed_measurement_is_reported(folder: Path) -> None:
    change(folder, "UPDATE measurement SET value = value + 0.25 WHERE seq = 2")
    done = replayed(folder, 2)
    assert "data" in named(done)
    [data] = [one for one in done.differences if one.what == "data: hash of the rows"]
    assert data.stored != data.replayed
    [artefact] = [one for one in done.differences if one.what == "fit: artefact"]
    assert artefact.distance is None or artefact.distance > 0


def test_a_measurement_that_is_gone_is_reported(folder: Path) -> None:
    change(folder, "DELETE FROM measurement WHERE seq = 2")
    [rows] = [one for one in replayed(folder, 2).differences if one.what == "data: number of rows"]
    assert (rows.stored, rows.replayed) == ("4", "3")


def test_a_changed_seed_is_reported(folder: Path) -> None:
    change(folder, "UPDATE round SET seed = seed + 1 WHERE number = 2")
    done = replayed(folder, 2)
    assert named(done) >= {"seed of the round", "fit", "sampler"}


def test_a_changed_proposal_is_reported(folder: Path) -> None:
    change(
        folder,
        "UPDATE proposal SET mean = mean + 1e-9 WHERE rank = 1 AND round_id = 2",
        "DELETE FROM proposal WHERE id = (SELECT max(id) FROM proposal WHERE round_id = 2 AND rank IS NULL)",
    )
    done = replayed(folder, 2)
    assert {one.what for one in done.differences} == {"pool", "proposals: mean"}
    [mean] = [one for one in done.differences if one.what == "proposals: mean"]
    assert mean.distance == pytest.approx(1e-9, rel=1e-3)  # one rounding of a number near 1
    with Campaign.from_yaml(folder / "c.yaml") as campaign:
        assert {one.what for one in campaign.replay(2, tolerance=1e-8).differences} == {"pool"}


@pytest.mark.parametrize("damage", [None, b"something else"])
def test_a_damaged_artefact_is_reported(folder: Path, damage: bytes | None) -> None:
    with closing(sqlite3.connect(folder / "binders.db")) as connection:
        [(sha256,)] = connection.execute(
            "SELECT sha256 FROM artefact JOIN model_fit ON model_fit.artefact_id = artefact.id WHERE round_id = 2"
        ).fetchall()
    [file] = folder.rglob(f"{sha256}.safetensors")
    file.unlink() if damage is None else file.write_bytes(damage)
    done = replayed(folder, 2)
    assert [one.what for one in done.differences] == ["fit: artefact"]
    assert "missing or damaged" in done.differences[0].replayed


def test_other_versions_are_named(folder: Path) -> None:
    change(
        folder,
        "UPDATE config_version SET package_version = '0.0.1'",
        """UPDATE model_fit SET params = json_set(params, '$.versions.torch', '1.0') WHERE round_id = 2""",
    )
    done = replayed(folder, 2)
    assert done.same
    assert [(one.what, one.stored) for one in done.versions] == [
        ("version of flowscout", "0.0.1"),
        ("version of torch", "1.0"),
    ]


def test_the_command_says_same_or_not_by_its_exit_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(folder / "c.yaml")
    assert run(["replay", file, "--round", "2"]) == 0
    assert "round 2: the same" in capsys.readouterr().out
    change(folder, "UPDATE measurement SET value = value + 0.25 WHERE seq = 2")
    assert run(["replay", file, "--round", "2", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["same"] is False
    assert run(["replay", file, "--round", "2"]) == 1
    assert "data: hash of the rows" in capsys.readouterr().out
    assert run(["replay", file, "--round", "9"]) == 2
    with pytest.raises(NotFoundError):
        replayed(folder, 9)
