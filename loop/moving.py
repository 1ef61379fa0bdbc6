"""A campaign's history in and out of a database: to one file for a notebook, to a folder for another database.

What the files hold belongs in `db.export` and `db.archive`.
"""

import json
from pathlib import Path

from flowscout.db import Archived, History
from flowscout.errors import ConfigError
from flowscout.loop.workbench import artefacts_of, files_of

ARTEFACTS = "artefacts"


def export_whole(history: History, campaign: str, folder: Path, *, form: str = "jsonl") -> Archived:
    """Write all that is known of a campaign to a new folder, artefacts too."""
    record = history.campaigns.get(campaign)
    return history.archive.write(record.id, folder, artefacts=artefacts_of(history, record), form=form)


def import_whole(history: History, folder: Path) -> tuple[Archived, Path]:
    """Add the history in a folder to a database; return what came, and where its artefacts lie now.

    Beside a SQLite file they lie in its folder of files. With PostgreSQL that is a folder beside the campaign
    file, whose place the history tells: it must exist on this machine.

    Raises:
        ConfigError: it does not, or `folder` holds no whole history.
    """
    manifest = history.archive.check(folder)
    home = _home(folder)
    files = files_of(history, str(manifest["campaign"]), home)
    if manifest["artefacts"] and not files.parent.is_dir():
        raise ConfigError(
            f"the artefacts of {manifest['campaign']!r} belong into {str(files)!r}, but the folder of its file is "
            "not on this machine; nothing was written. Make that folder and put the campaign file there."
        )
    return history.archive.read(folder, artefacts=files / ARTEFACTS), files / ARTEFACTS


def _home(folder: Path) -> str:
    """Return the folder of the campaign file that was registered last."""
    path = next(folder.glob("config_version.*"))
    if path.suffix == ".parquet":
        from flowscout.db.rowfiles import read_parquet

        rows = list(read_parquet(path))
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return str(max(rows, key=lambda row: (str(row["registered_at"]), row["number"]))["folder"])
