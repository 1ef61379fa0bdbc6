"""Where a campaign's files are found: artefacts in a store, what its file names in the folder of this machine."""

import shutil
import uuid
from pathlib import Path

import fsspec
import pytest

from flowscout import Campaign
from flowscout.db import History
from flowscout.db.checks import check_history
from flowscout.doctor.places import check_artefacts
from flowscout.errors import ConfigError, InputError, NotFoundError
from flowscout.flows.desk import open_bench
from flowscout.loop.moving import export_whole, import_whole
from flowscout.loop.replay import replay
from flowscout.loop.workbench import artefacts_of, at_version, lay_out

CAMPAIGN = """\
campaign: placed
seed: 1
space: {type: sequence, alphabet: dna, length: 6}
objectives: [{name: score, direction: maximize}]
oracle: placed_oracle:score
proposer: {type: random}
batch: {size: 4}
budget: {rounds: 9}
device: cpu
"""
ORACLE = "def score(objects):\n    return [float(one.count('A')) + {extra} for one in objects]\n"


def write(folder: Path, *, artefacts: str | None = None, extra: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "placed_oracle.py").write_text(ORACLE.format(extra=extra))
    line = "" if artefacts is None else f'artefacts: "{artefacts}"\n'
    (folder / "campaign.yaml").write_text(CAMPAIGN + line)
    return folder / "campaign.yaml"


def rounds(path: Path, count: int, *, db: str | None = None) -> None:
    with Campaign.from_yaml(path, db=db) as campaign:
        for _ in range(count):
            assert campaign.run_round().complete  # type: ignore[union-attr]


def files(url: str) -> int:
    system, root = fsspec.url_to_fs(url)
    return len(system.ls(root)) if system.exists(root) else 0


def test_artefacts_of_a_store_are_checked_exported_imported_and_replayed(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4()}/files"
    path = write(tmp_path / "home", artefacts=url)
    rounds(path, 2)
    stored = files(url)
    assert stored >= 1
    assert not (tmp_path / "home" / "placed.files" / "artefacts").exists()
    with History(str(tmp_path / "home" / "placed.db"), create=False) as history:
        record = history.campaigns.get("placed")
        assert check_history(history.database, record.id, artefacts=artefacts_of(history, record)) == []
        assert replay(lay_out(history, "placed"), 2).same
        done = export_whole(history, "placed", tmp_path / "out")
    assert (done.artefacts, files(url)) == (stored, stored)
    fsspec.filesystem("memory").rm(url, recursive=True)
    with History(str(tmp_path / "copy.db")) as copy:
        _, place = import_whole(copy, tmp_path / "out")
        assert (place, files(url)) == (url, stored)
        record = copy.campaigns.get("placed")
        assert check_history(copy.database, record.id, artefacts=artefacts_of(copy, record)) == []
        fsspec.filesystem("memory").rm(url, recursive=True)
        faults = check_history(copy.database, record.id, artefacts=artefacts_of(copy, record))
    assert len(faults) == stored
    assert faults[0].found.startswith(f"the surrogate file '{url}/")


def test_a_campaign_may_move_its_artefacts_and_earlier_ones_are_still_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (f"memory://{uuid.uuid4()}" for _ in range(2))
    rounds(write(tmp_path), 2)
    beside = len(list((tmp_path / "placed.files" / "artefacts").iterdir()))
    for url in (first, second):
        rounds(write(tmp_path, artefacts=url), 1)
    assert beside >= 1
    assert files(first) >= 1
    assert files(second) >= 1
    with History(str(tmp_path / "placed.db"), create=False) as history:
        record = history.campaigns.get("placed")
        assert check_history(history.database, record.id, artefacts=artefacts_of(history, record)) == []
        assert all(replay(lay_out(history, "placed"), number).same for number in (2, 3, 4))
    rounds(write(tmp_path), 1)
    with History(str(tmp_path / "placed.db"), create=False) as history:
        assert check_history(history.database, record.id, artefacts=artefacts_of(history, record)) == []
    assert "cannot be asked" not in caplog.text


def test_what_a_file_names_is_looked_for_in_the_folder_of_this_process(tmp_path: Path) -> None:
    path = write(tmp_path / "one")
    rounds(path, 1)
    write(tmp_path / "other", extra=100)
    (tmp_path / "all").mkdir()
    shutil.copytree(tmp_path / "other", tmp_path / "all" / "placed")
    with History(str(tmp_path / "one" / "placed.db"), create=False) as history:
        assert lay_out(history, "placed").tools.folder == tmp_path / "one"
        assert lay_out(history, "placed", folder=tmp_path / "other").tools.folder == tmp_path / "other"
        assert lay_out(history, "placed", folder=tmp_path / "all").tools.folder == tmp_path / "all" / "placed"


def test_flows_look_in_the_folder_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds(write(tmp_path / "one"), 1)
    monkeypatch.setenv("FLOWSCOUT_DB", str(tmp_path / "one" / "placed.db"))
    assert open_bench("placed", None).tools.folder == tmp_path / "one"
    monkeypatch.setenv("FLOWSCOUT_FOLDER", str(tmp_path / "other"))
    monkeypatch.setenv("FLOWSCOUT_DB", f"sqlite:///{tmp_path}/one/placed.db")
    bench = open_bench("placed", None)
    assert bench.tools.folder == tmp_path / "other"
    write(tmp_path / "other", extra=100)
    assert bench.oracle.function(["AA"]) == [102.0]  # type: ignore[attr-defined]


def test_a_worker_of_another_history_says_which_one_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds(write(tmp_path / "one"), 1)
    monkeypatch.setenv("FLOWSCOUT_DB", str(tmp_path / "one" / "placed.db"))
    with pytest.raises(NotFoundError, match=r"one.placed\.db, has no campaign 'elsewhere'.*flowscout serve --db"):
        open_bench("elsewhere", None)


def test_an_earlier_version_from_a_folder_that_is_not_here_is_looked_for_beside_the_present_one(
    tmp_path: Path,
) -> None:
    rounds(write(tmp_path / "one"), 1)
    shutil.move(tmp_path / "one", tmp_path / "two")
    path = write(tmp_path / "two")
    path.write_text(path.read_text() + "# another version\n")
    with Campaign.from_yaml(path) as campaign:
        bench = campaign.workbench
        [earlier] = [one.id for one in bench.history.campaigns.configs(bench.campaign.id) if one.number == 1]
        assert earlier is not None
        assert at_version(bench, earlier).tools.folder == tmp_path / "two"


def test_artefacts_beside_a_file_of_another_machine_are_refused_with_what_to_set(
    tmp_path: Path, postgresql_url: str
) -> None:
    rounds(write(tmp_path / "one"), 1, db=postgresql_url)
    shutil.move(tmp_path / "one", tmp_path / "gone")
    with History(postgresql_url, create=False) as history:
        with pytest.raises(ConfigError, match=r"not on this machine. Set `artefacts`"):
            _ = lay_out(history, "placed").artefacts
        assert lay_out(history, "placed", folder=tmp_path / "gone").artefacts is not None


def test_a_store_in_the_campaign_file_is_checked_when_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fsspec knows no 's4'"):
        Campaign.from_yaml(write(tmp_path, artefacts="s4://bucket"))
    assert check_artefacts("memory://anywhere").state == "ok"
    assert check_artefacts("s4://bucket").state == "broken"
