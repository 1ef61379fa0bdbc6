"""A disk without room: nothing is half-written, the message says what is full, and the same command goes on."""

import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flowscout import Campaign
from flowscout.db import FileStore
from flowscout.errors import WorkError

CAMPAIGN = """\
campaign: full
space: {type: sequence, alphabet: dna, length: 8}
objectives: [{name: y, direction: maximize}]
oracle: {type: lab}
batch: {size: 4}
budget: {rounds: 4}
"""
TOLD = 2_000


def told(folder: Path, *, largest: int | None) -> "subprocess.CompletedProcess[str]":
    """Tell a table in a process that may write no file larger than that."""

    def limit() -> None:
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    command = [sys.executable, "-m", "flowscout", "tell", "campaign.yaml", "big.csv", "--db", "sqlite:///h.db"]
    return subprocess.run(command, cwd=folder, preexec_fn=limit, capture_output=True, text=True, check=False)


def test_a_history_that_cannot_grow_keeps_all_it_had_and_takes_the_rest_when_there_is_room(tmp_path: Path) -> None:
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    rows = [f"{number:08b}".translate(str.maketrans("01", "AC")) for number in range(256)]
    rows = [row[:4] + other[:4] for row in rows[:50] for other in (r[::-1] for r in rows)][:TOLD]
    (tmp_path / "big.csv").write_text("object,y\n" + "".join(f"{row},{n}\n" for n, row in enumerate(rows)))
    with Campaign.from_yaml(tmp_path / "campaign.yaml", db=f"sqlite:///{tmp_path / 'h.db'}") as campaign:
        campaign.tell([{"object": "GGGGGGGG", "y": 1.0}], source="before")
    done = told(tmp_path, largest=(tmp_path / "h.db").stat().st_size)
    assert done.returncode == 1
    assert "database sqlite:///h.db refused: " in done.stderr
    assert "Make room" in done.stderr
    assert "Traceback" not in done.stderr
    with Campaign.from_yaml(tmp_path / "campaign.yaml", db=f"sqlite:///{tmp_path / 'h.db'}") as campaign:
        assert len(campaign.history()) == 1
    with closing(sqlite3.connect(tmp_path / "h.db")) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert told(tmp_path, largest=None).returncode == 0
    with closing(Campaign.open(f"sqlite:///{tmp_path / 'h.db'}")) as campaign:
        assert len(campaign.history()) == 1 + len(rows)


def test_a_folder_of_artefacts_without_room_is_named_and_left_without_halves(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from flowscout.db import FileStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
FileStore(Path({str(tmp_path / "files")!r})).write(b"x" * 5000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"WorkError: the folder of artefacts {str(tmp_path / 'files')!r} cannot be used" in done.stderr
    assert "Make room" in done.stderr
    assert list((tmp_path / "files").iterdir()) == []
    store = FileStore(tmp_path / "files")
    assert store.read(store.write(b"x" * 5000), kind="sampler") == b"x" * 5000
    with pytest.raises(WorkError):
        store.read("0" * 64, kind="sampler")
