"""Upkeep: what is wrong is found and named, a copy is whole while others write, old tables are brought up."""

import json
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from flowscout.cli import run
from flowscout.db import History, ScheduleRecord, migrate
from flowscout.db.checks import check_history
from flowscout.db.database import Database, current_revision
from flowscout.db.upkeep import backup, upgrade
from flowscout.errors import ConfigError, NoHistoryError, SchemaError
from flowscout.testing.histories import measured

from test_archive import fill  # isort: skip - a whole history in miniature

KINDS = ("sqlite_url", "postgresql_url")

FAULTS = {
    "UPDATE measurement SET value = 3 WHERE seq = 1": {"current values", "fits"},
    "DELETE FROM current_value WHERE candidate_id = 1": {"current values"},
    "UPDATE current_value SET value = value + 1e-9": {"current values"},
    "UPDATE balance SET spent_minor = spent_minor + 1": {"money"},
    "DELETE FROM ledger WHERE kind = 'spend'": {"money"},
    "UPDATE campaign SET clock = clock + 1": {"seq"},
    "UPDATE measurement SET seq = 9 WHERE seq = 3": {"seq", "current values"},
    "UPDATE model_fit SET data_upto_seq = 1": {"fits"},
    "UPDATE attempt SET state = 'running' WHERE state = 'failed'": {"states"},
    "UPDATE evaluation SET state = 'running' WHERE state = 'done'": {"states"},
    "UPDATE round SET state = 'complete'": {"states"},
    "UPDATE round SET state = 'awaiting_approval'": {"approvals"},
    "UPDATE delivery SET event_id = 999": {"log"},
}


@pytest.fixture(params=KINDS)
def history(request: pytest.FixtureRequest, tmp_path: Path):
    with History(request.getfixturevalue(request.param)) as opened:
        scene = fill(opened, tmp_path / "artefacts")
        scene.tell(measured("gtgt"), measured("acgt", 2.0, row_id="again"))
        with opened.database.write() as session:  # let one evaluation wait
            session.execute(text("UPDATE evaluation SET state = 'queued' WHERE state = 'unknown'"))
        yield opened


def faults(history: History, folder: Path) -> set[str]:
    found = check_history(history.database, 1, artefacts=folder / "artefacts")
    assert all(one.found and one.mend for one in found)
    return {one.check for one in found}


def test_a_right_history_has_no_fault_and_each_kind_of_wrong_is_named(history: History, tmp_path: Path) -> None:
    assert faults(history, tmp_path) == set()
    for statement, expected in FAULTS.items():
        with history.database.connected() as connection, connection.begin() as transaction:
            _allow(connection)
            assert connection.execute(text(statement)).rowcount > 0
            # Looked at within the transaction that does it, and undone.
            looked = _Within(connection)
            found = {one.check for one in check_history(looked, 1, artefacts=tmp_path / "artefacts")}
            transaction.rollback()
        assert found - {"triggers"} == expected, statement
    [file] = (tmp_path / "artefacts").iterdir()
    file.write_bytes(b"other")
    assert faults(history, tmp_path) == {"artefacts"}
    file.unlink()
    assert faults(history, tmp_path) == {"artefacts"}


@pytest.mark.parametrize("table", ["measurement", "ledger", "event"])
def test_a_trigger_that_is_gone_is_named(history: History, tmp_path: Path, table: str) -> None:
    on = f" ON {table}" if history.database.url.get_backend_name() == "postgresql" else ""
    with history.database.connected() as connection, connection.begin() as transaction:
        connection.execute(text(f"DROP TRIGGER {table}_no_update{on}"))
        [found] = check_history(_Within(connection), 1, artefacts=tmp_path / "artefacts")
        transaction.rollback()
    assert (found.check, found.found) == ("triggers", f"nothing refuses to update rows of {table}")
    assert faults(history, tmp_path) == set()


@pytest.mark.parametrize("revision", ["0001", "0003"])
@pytest.mark.parametrize("kind", KINDS)
def test_tables_of_an_older_version_are_brought_up_with_what_is_in_them(
    kind: str, revision: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    other = kind == "postgresql_url"  # a database that no other test goes on with
    url = request.getfixturevalue("new_postgresql")() if other else request.getfixturevalue(kind)
    with History(url) as history:
        fill(history, tmp_path / "artefacts")
        rows = history.queries.history("campaign")
    database = Database(url)
    with database.connected() as connection, connection.begin():
        migrate.downgrade(connection, revision)
    database.close()
    refusal = f"schema {revision}, older than {migrate.HEAD}; .*flowscout db upgrade FILE"
    with pytest.raises(SchemaError, match=refusal):
        History(url)
    done = upgrade(url)
    assert (done.found, done.now) == (revision, migrate.HEAD)
    assert (done.backup is not None) == (kind == "sqlite_url")
    with History(url) as history:
        assert history.queries.history("campaign") == rows
        assert faults(history, tmp_path) == set()
        assert history.schedules.all() == []  # the way down drops them
        history.schedules.set(ScheduleRecord(1, interval_s=60.0), actor="bench")


class _Within:
    """A database as one open transaction sees it."""

    def __init__(self, connection) -> None:
        self._connection = connection

    def read(self):
        from sqlalchemy.orm import Session

        return Session(self._connection, join_transaction_mode="create_savepoint")


def _allow(connection) -> None:
    """Let what is append-only be changed, as somebody with the database in hand could."""
    if connection.dialect.name == "sqlite":
        for (name,) in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
            connection.execute(text(f"DROP TRIGGER {name}"))
    else:
        connection.execute(text("SET LOCAL session_replication_role = replica"))


def test_rows_that_name_nothing_and_states_that_are_none_are_found(sqlite_url: str, tmp_path: Path) -> None:
    with History(sqlite_url) as history:
        fill(history, tmp_path / "artefacts")
        with closing(sqlite3.connect(history.database.url.database)) as connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute("UPDATE proposal SET candidate_id = 999 WHERE rank IS NULL")
            connection.execute("UPDATE attempt SET state = 'asleep' WHERE id = 1")
            connection.commit()
        found = check_history(history.database, 1, artefacts=tmp_path / "artefacts")
        assert {one.check for one in found} == {"database", "states", "triggers"}
        told = " ".join(one.found for one in found)
        assert "names a row of candidate that is not there" in told
        assert "attempt 1 is 'asleep', which is no state" in told


def test_a_backup_is_whole_while_others_write(sqlite_url: str, tmp_path: Path) -> None:
    with History(sqlite_url) as history:
        files = Path(str(history.database.url.database)).with_name("history.files")
        scene = fill(history, files / "artefacts")
        ended, told = threading.Event(), []

        def write() -> None:
            while not ended.is_set():
                scene.tell(measured("acgt", float(len(told)), row_id=f"late {len(told)}"))
                told.append(1)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            done = [backup(history.database, tmp_path / f"copy{i}.db") for i in range(3)]
        finally:
            ended.set()
            writer.join()
        assert len(told) > 0
        with pytest.raises(ConfigError, match="is there already"):
            backup(history.database, done[0].path)
    for one in done:
        with History(str(one.path)) as copy:
            folder = one.path.with_suffix(".files")
            assert check_history(copy.database, 1, artefacts=folder / "artefacts") == []
            assert one.artefacts == 1
            assert copy.campaigns.get("campaign").clock >= 3


def test_a_backup_of_postgresql_names_the_command(postgresql_url: str, tmp_path: Path) -> None:
    with History(postgresql_url) as history:
        history.database.url = history.database.url.set(username="lab", password="secret")
        with pytest.raises(
            ConfigError, match=r"pg_dump --format=custom --file='.*copy\.db' 'postgresql://lab"
        ) as told:
            backup(history.database, tmp_path / "copy.db")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_upgrade_keeps_the_file_as_it_was(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(kind)
    assert upgrade(url).backup is None  # of this version already
    head = migrate.HEAD
    later = f"{int(head) + 1:04d}"

    def bring_up(connection) -> None:
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{later}'"))

    monkeypatch.setattr(migrate, "HEAD", later)
    monkeypatch.setattr(migrate, "upgrade", bring_up)
    try:
        done = upgrade(url)
        assert (done.found, done.now) == (head, later)
        if kind == "sqlite_url":
            assert done.backup is not None
            with closing(sqlite3.connect(done.backup)) as kept:
                assert kept.execute("SELECT version_num FROM alembic_version").fetchall() == [(head,)]
        database = Database(url)
        with database.read() as session:
            assert current_revision(session.connection()) == later
        monkeypatch.setattr(migrate, "HEAD", head)
        with pytest.raises(SchemaError, match="newer than"):
            upgrade(url)
        with database.write() as session:
            session.execute(text(f"UPDATE alembic_version SET version_num = '{head}'"))
        database.close()
    finally:
        monkeypatch.undo()
    with pytest.raises(NoHistoryError):
        upgrade(str(tmp_path / "nowhere.db"))


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_importing import CAMPAIGN

    from flowscout import Campaign

    file = tmp_path / "c.yaml"
    file.write_text(CAMPAIGN.format(name="c"))
    (tmp_path / "legacy.csv").write_text("object,y\nACGT,1\nTTTT,2\n")
    with Campaign.from_yaml(file) as campaign:
        campaign.import_table(tmp_path / "legacy.csv")
    assert run(["db", "check", str(file)]) == 0
    assert "all is right" in capsys.readouterr().out
    assert run(["db", "backup", str(file), "--to", str(tmp_path / "copy.db"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["artefacts"] == 0
    assert run(["db", "upgrade", str(file)]) == 0
    with closing(sqlite3.connect(tmp_path / "c.db")) as connection:
        connection.execute("UPDATE balance SET spent_minor = 7")
        connection.commit()
    capsys.readouterr()
    assert run(["db", "check", str(file)]) == 1
    said = capsys.readouterr().out
    assert "money: the balance has 7 spent, the ledger adds up to 0" in said
    assert "mend: compare the ledger" in said
    shutil.copy(tmp_path / "copy.db", tmp_path / "c.db")
    for name in ("c.db-wal", "c.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    assert run(["db", "check", str(file)]) == 0
