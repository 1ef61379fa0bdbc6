"""A campaign's whole history as a folder of files, and back: every table, every artefact, every hash.

The folder holds `manifest.json`, one file for each table, and `artefacts/`. One row is one line, in the order of
ids. Export of the view `history` for notebooks belongs in `export.py`.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    ColumnElement,
    Float,
    Integer,
    Table,
    Text,
    bindparam,
    cast,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from flowscout.db.database import Database, current_revision
from flowscout.db.filestore import FileStore, file_name, store_of
from flowscout.db.models import Artefact, Base, Campaign
from flowscout.db.models.base import UtcDateTime
from flowscout.db.rowfiles import (
    BATCH,
    Kind,
    batches,
    pyarrow,
    read_json_lines,
    read_parquet,
    typed,
    whole_folder,
    write_rows,
)
from flowscout.db.timings import BUSY_TIMEOUT_S
from flowscout.errors import ConfigError, SchemaError, WorkError
from flowscout.version import __version__

FORMAT = 1
MANIFEST = "manifest.json"

OF_NO_CAMPAIGN = ("worker",)
"""Tables that are not exported: who was at work is no fact of a campaign."""

_TABLES = [table for table in Base.metadata.sorted_tables if table.name not in OF_NO_CAMPAIGN]
_LEASES = {  # rights to run here and now, which no copy has
    "campaign": ("lease_owner", "lease_token", "lease_until"),
    "delivery": ("lease_token", "lease_until"),
    "schedule": ("server_url", "deployment_id"),  # a copy is started by no server until it is scheduled again
}
_NAMED_IN_DETAILS = {
    "replaced_by": "candidate",
    "fit_id": "model_fit",
    "from_round_id": "round",
    "supersedes_id": "measurement",
    "event": "event",
    "conflict": "event",
}
_NOT_RENUMBERED = ("as_run",)  # what it names is a laboratory's


@dataclass(frozen=True)
class Archived:
    """What a folder holds: rows by table, and how many artefacts with how many bytes."""

    campaign: str
    rows: Mapping[str, int]
    artefacts: int
    artefact_bytes: int


class Archive:
    """Whole histories in folders."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(
        self, campaign_id: int, folder: Path, *, artefacts: FileStore | Path, form: str = "jsonl"
    ) -> Archived:
        """Write everything that is known of a campaign to `folder`, which must not be there yet.

        The tables are one snapshot. `artefacts` is where the campaign's artefacts lie; `form` is `jsonl` or
        `parquet`.

        Raises:
            ConfigError: the folder is there already or cannot be written, or pyarrow is not installed.
            WorkError: an artefact is missing or damaged.
        """
        store = store_of(artefacts)
        if form == "parquet":
            pyarrow()
        with self._database.read() as session, whole_folder(folder) as temporary:
            campaign = session.get_one(Campaign, campaign_id)
            tables = {}
            for table in _TABLES:
                path = temporary / f"{table.name}.{form}"
                count = write_rows(path, kinds_of(table), _rows(session, table, campaign_id))
                tables[table.name] = {"file": path.name, "rows": count, "sha256": sha256_of(path)}
            stored = session.scalars(select(Artefact).where(Artefact.campaign_id == campaign_id)).all()
            (temporary / "artefacts").mkdir()
            for row in stored:
                copy_artefact(store, FileStore(temporary / "artefacts"), row.sha256, row.kind)
            manifest = {
                "format": FORMAT,
                "flowscout": __version__,
                "schema": current_revision(session.connection()),
                "campaign": campaign.name,
                "uuid": campaign.uuid,
                "clock": campaign.clock,
                "tables": tables,
                "artefacts": [{"sha256": row.sha256, "size_bytes": row.size_bytes} for row in stored],
            }
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            return _archived(manifest)

    def check(self, folder: Path) -> dict[str, Any]:
        """Return the manifest of a folder that is whole.

        Raises:
            ConfigError: it holds no history, or one of another format or schema, or is damaged.
        """
        try:
            manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            listed = [(Path(one["file"]).name, one["sha256"]) for one in manifest["tables"].values()]
            missing = [table.name for table in _TABLES if table.name not in manifest["tables"]]
            listed += [(f"artefacts/{file_name(one['sha256'])}", one["sha256"]) for one in manifest["artefacts"]]
            found = (manifest["format"], manifest["schema"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"folder {str(folder)!r} holds no whole history ({error!r}), expected one that "
                "`flowscout export` has written."
            ) from error
        with self._database.read() as session:
            wanted = (FORMAT, current_revision(session.connection()))
        if found != wanted:
            raise SchemaError(
                f"folder {str(folder)!r} has format {found[0]} and schema {found[1]}, expected {wanted[0]} and "
                f"{wanted[1]}; it was written by Flowscout {manifest.get('flowscout')}: export it again with this "
                "version."
            )
        if missing:
            raise ConfigError(
                f"folder {str(folder)!r} lacks the table {missing[0]}, expected every table; export it again."
            )
        for name, sha256 in listed:
            path = folder / name
            came = sha256_of(path) if path.is_file() else "no file"
            if came != sha256:
                raise ConfigError(
                    f"{str(path)!r} is damaged: its sha256 is {came[:12]}, expected {sha256[:12]}; nothing was "
                    "written. Copy the folder again."
                )
        return manifest

    def read(self, folder: Path, *, artefacts: FileStore | Path) -> Archived:
        """Add the history in `folder` to this database, all of it or nothing; artefacts go to `artefacts`.

        In an empty database every row is what it was; beside other campaigns ids move on by one number for each
        table. `seq`, uuids and keys stay.

        Raises:
            ConfigError: the folder is no whole history, or this database has the campaign already.
            SchemaError: it is of another version.
        """
        manifest, store = self.check(folder), store_of(artefacts)
        with self._database.write() as session:
            self._refuse_known(session, manifest)
            _lock_tables(session)
            moves = {table.name: _last_id(session, table) for table in _TABLES}
            for table in _TABLES:
                _insert(session, table, folder / Path(manifest["tables"][table.name]["file"]).name, moves)
                _move_sequence(session, table)
            for one in manifest["artefacts"]:
                copy_artefact(FileStore(folder / "artefacts"), store, one["sha256"], "exported")
        return _archived(manifest)

    def _refuse_known(self, session: Session, manifest: Mapping[str, Any]) -> None:
        known = (Campaign.uuid == manifest["uuid"]) | (Campaign.name == manifest["campaign"])
        row = session.scalar(select(Campaign).where(known))
        if row is not None:
            raise ConfigError(
                f"this database has campaign {row.name!r} already; nothing was written. Name another with --db."
            )


def kinds_of(table: Table) -> dict[str, Kind]:
    """Return what each column of a table holds."""
    kinds: list[tuple[type[Any], Kind]] = [
        (UtcDateTime, "time"), (JSON, "json"), (Boolean, "bool"), (Integer, "int"), (Float, "float"),
    ]  # fmt: skip
    return {
        column.name: next((kind for made, kind in kinds if isinstance(column.type, made)), "text")
        for column in table.columns
    }


def sha256_of(path: Path) -> str:
    """Return the hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_campaign(table: Table, campaign_id: int) -> ColumnElement[bool]:
    """Return which rows of a table belong to a campaign."""
    if table.name == "campaign":
        return table.c.id == campaign_id
    if "campaign_id" in table.c:
        return table.c.campaign_id == campaign_id
    for column in table.columns:  # by the row that it hangs on
        for key in column.foreign_keys:
            owner = key.column.table
            if owner is not table and not column.nullable:
                return column.in_(select(key.column).where(of_campaign(owner, campaign_id)))
    raise AssertionError(f"table {table.name} belongs to no campaign; name it in OF_NO_CAMPAIGN")


def _rows(session: Session, table: Table, campaign_id: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a campaign; a JSON column that is NULL is left out, one that holds null is there."""
    kinds = kinds_of(table)
    columns = [cast(c, Text).label(c.name) if kinds[c.name] == "json" else c for c in table.columns]
    query = select(*columns).where(of_campaign(table, campaign_id)).order_by(*table.primary_key.columns)
    documents = [name for name, kind in kinds.items() if kind == "json"]
    for found in session.execute(query, execution_options={"yield_per": BATCH}).mappings():
        row = dict(found)
        for name in documents:
            document = row.pop(name)
            if document is not None:
                row[name] = json.loads(document)
        row.update(dict.fromkeys(_LEASES.get(table.name, ())))
        yield row


def _insert(session: Session, table: Table, path: Path, moves: Mapping[str, int]) -> None:
    kinds = kinds_of(table)
    shifts = {column.name: moves[name] for column in table.columns if (name := _referred(column)) is not None}
    values = {
        column.name: bindparam(
            column.name, type_=JSON(none_as_null=True) if kinds[column.name] == "json" else column.type
        )
        for column in table.columns
    }
    rows = read_parquet(path) if path.suffix == ".parquet" else read_json_lines(path)
    for batch in batches(rows, BATCH):
        made = [_decoded(row, kinds, shifts, moves, parquet=path.suffix == ".parquet") for row in batch]
        session.execute(insert(table).values(values), made)


def _referred(column: Any) -> str | None:
    """Return the table whose ids a column holds, or None."""
    if (column.table.name, column.name) == ("delivery", "event_id"):  # 0 where nothing was logged yet: no key
        return "event"
    for key in column.foreign_keys:
        return str(key.column.table.name)
    return str(column.table.name) if column.primary_key and column.name == "id" else None


def _decoded(
    row: Mapping[str, Any],
    kinds: Mapping[str, Kind],
    shifts: Mapping[str, int],
    moves: Mapping[str, int],
    *,
    parquet: bool,
) -> dict[str, Any]:
    made = {}
    for name, kind in kinds.items():
        value = row.get(name)
        if kind == "json":
            present = value is not None if parquet else name in row
            document = json.loads(value) if parquet and value is not None else value
            if name not in _NOT_RENUMBERED and any(moves.values()):
                document = _renumbered(document, moves)
            made[name] = (JSON.NULL if document is None else document) if present else None
        elif name in shifts and value is not None:
            made[name] = value + shifts[name]
        else:
            made[name] = typed(value, kind)
    return made


def _renumbered(document: Any, moves: Mapping[str, int]) -> Any:
    """Return a detail with the ids that it names moved on as their rows are."""
    if isinstance(document, list):
        return [_renumbered(one, moves) for one in document]
    if not isinstance(document, dict):
        return document
    made: dict[str, Any] = {}
    for name, value in document.items():
        if name in _NOT_RENUMBERED:
            made[name] = value
            continue
        move = moves.get(_NAMED_IN_DETAILS.get(name, name.removesuffix("s").removesuffix("_id")), 0)
        named = name in _NAMED_IN_DETAILS or name.endswith(("_id", "_ids"))
        if named and isinstance(value, int):
            made[name] = value + move
        elif named and isinstance(value, list) and all(isinstance(one, int) for one in value):
            made[name] = [one + move for one in value]
        else:
            made[name] = _renumbered(value, moves)
    return made


def _lock_tables(session: Session) -> None:
    """Let nobody else be given ids until this is committed. On SQLite there is one writer, which we are.

    All tables at once or none: who waits for one table and holds another may hold up a writer who wants that one
    and holds the first, and PostgreSQL ends one of the two.

    Raises:
        WorkError: others write without a pause.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    names = ", ".join(table.name for table in _TABLES)
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            with session.begin_nested():
                session.execute(text(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE NOWAIT"))
        except OperationalError as error:
            if time.monotonic() > deadline:
                raise WorkError(
                    f"others wrote to this database without a pause for {BUSY_TIMEOUT_S:g} s ({error.orig}); "
                    "nothing was written. Import when fewer work, or into a database of its own."
                ) from error
            time.sleep(0.02)
        else:
            return


def _last_id(session: Session, table: Table) -> int:
    return 0 if "id" not in table.c else session.scalar(select(func.max(table.c.id))) or 0


def _move_sequence(session: Session, table: Table) -> None:
    """Let PostgreSQL give out ids after those that were written. SQLite looks at the largest by itself."""
    last = _last_id(session, table)
    if last and session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.setval(func.pg_get_serial_sequence(table.name, "id"), last)))


def copy_artefact(source: FileStore, target: FileStore, sha256: str, kind: str) -> None:
    """Copy one artefact, whole or not at all."""
    if source.look(sha256) is not None:
        raise WorkError(
            f"the {kind} file {source.path(sha256)!r} is missing or damaged; nothing was written. Put it back "
            "from a backup: `flowscout db check` lists all that is wrong."
        )
    target.write(source.read(sha256, kind=kind))


def _archived(manifest: Mapping[str, Any]) -> Archived:
    sizes = [one["size_bytes"] for one in manifest["artefacts"]]
    rows = {name: one["rows"] for name, one in manifest["tables"].items()}
    return Archived(manifest["campaign"], rows, len(sizes), sum(sizes))
