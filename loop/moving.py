"""A campaign's history in and out of a database: to one file for a notebook, to a folder for another database.

What the files hold belongs in `db.export` and `db.archive`.
"""

import json
from pathlib import Path
from typing import Any

from flowscout.db import Archived, FileStore, History, Place
from flowscout.errors import ConfigError
from flowscout.loop.config import artefacts_url
from flowscout.loop.workbench import ARTEFACTS, artefacts_of, files_of


def export_whole(history: History, campaign: str, folder: Path, *, form: str = "jsonl") -> Archived:
    """Write all that is known of a campaign to a new folder, artefacts too."""
    record = history.campaigns.get(campaign)
    return history.archive.write(record.id, folder, artefacts=artefacts_of(history, record), form=form)


def import_whole(history: History, folder: Path) -> tuple[Archived, Place]:
    """Add the history in a folder to a database; return what came, and where its artefacts lie now.

    They lie in the store that the campaign file names. Without one they lie, beside a SQLite file, in its folder
    of files, and with PostgreSQL in a folder beside the campaign file, which must exist on this machine.

    Raises:
        ConfigError: it does not, or `folder` holds no whole history.
    """
    manifest = history.archive.check(folder)
    latest = _latest_version(folder)
    url = artefacts_url(str(latest["yaml"]))
    if url is not None:
        return history.archive.read(folder, artefacts=FileStore(url)), url
    files = files_of(history, str(manifest["campaign"]), str(latest["folder"]))
    if manifest["artefacts"] and not files.parent.is_dir():
        raise ConfigError(
            f"the artefacts of {manifest['campaign']!r} belong into {str(files)!r}, but the folder of its file is "
            "not on this machine; nothing was written. Make that folder and put the campaign file there."
        )
    return history.archive.read(folder, artefacts=files / ARTEFACTS), files / ARTEFACTS


def _latest_version(folder: Path) -> dict[str, Any]:
    """Return the campaign file that was registered last."""
    path = next(folder.glob("config_version.*"))
    if path.suffix == ".parquet":
        from flowscout.db.rowfiles import read_parquet

        rows = list(read_parquet(path))
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return max(rows, key=lambda row: (str(row["registered_at"]), row["number"]))
