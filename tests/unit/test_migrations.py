"""The schema: what the migrations make is what the models say, and no other database is touched."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

from flowscout.db import History, migrate, parse_url, sidecar_folder
from flowscout.db.database import Database
from flowscout.db.models import Base
from flowscout.errors import SchemaError

MIGRATIONS = Path(migrate.__file__).parent / "migrations"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/history.db"
    new: Callable[[], str] = request.getfixturevalue("new_postgresql")
    return new()


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "include_name": lambda name, kind, _: kind != "view"}
    )
    return list(compare_metadata(context, Base.metadata))


def constraints(connection: Connection) -> dict[str, list[str | None]]:
    inspector = inspect(connection)
    return {
        name: sorted(str(check["name"]) for check in inspector.get_check_constraints(name))
        for name in inspector.get_table_names()
        if name != "alembic_version"
    }


def tables_and_views(connection: Connection) -> set[str]:
    inspector = inspect(connection)
    return {*inspector.get_table_names(), *inspector.get_view_names()}


def test_the_migrations_make_exactly_what_the_models_say(url: str) -> None:
    with History(url) as history, history.database.read() as session:
        assert differences(session.connection()) == []
        assert tables_and_views(session.connection()) == {*Base.metadata.tables, "history", "alembic_version"}


def test_the_migrations_check_the_same_states_as_the_models(url: str) -> None:
    database = Database(url)
    with database.write() as session:
        migrated = constraints(session.connection())
        migrate.downgrade(session.connection())
        Base.metadata.create_all(session.connection())
        assert constraints(session.connection()) == migrated
        assert "ck_round_state" in migrated["round"]
    database.close()


def test_a_difference_is_seen(url: str) -> None:
    with History(url) as history, history.database.write() as session:
        session.execute(text("ALTER TABLE round ADD COLUMN colour TEXT"))
        [found] = differences(session.connection())
        assert "colour" in str(found)


def test_the_way_down_leaves_nothing_and_the_way_up_is_open_again(url: str) -> None:
    with History(url) as history:
        with history.database.write() as session:
            migrate.downgrade(session.connection())
            assert tables_and_views(session.connection()) == {"alembic_version"}
        with history.database.write() as session:
            migrate.upgrade(session.connection())
            assert differences(session.connection()) == []


def test_a_migration_that_fails_leaves_nothing_behind(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_after(connection: Connection) -> None:
        upgrade(connection)
        raise RuntimeError("power is gone")

    upgrade = migrate.upgrade
    monkeypatch.setattr(migrate, "upgrade", fail_after)
    with pytest.raises(RuntimeError, match="power is gone"):
        History(url)
    monkeypatch.undo()
    with pytest.raises(SchemaError, match=r"holds no Flowscout history"):
        History(url, create=False)
    History(url).close()


def test_the_revision_of_this_version_is_the_newest_on_disk() -> None:
    script = ScriptDirectory(str(MIGRATIONS))
    assert script.get_heads() == [migrate.HEAD]
    newest = max(path.name for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    assert newest.startswith(f"{migrate.HEAD}_")


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("9999", r"has schema 9999, newer than .*upgrade Flowscout"),
        ("0000", r"has schema 0000, older than .*`flowscout db upgrade FILE`"),
        ("c53781abb07d", r"'c53781abb07d', which is none of Flowscout's.*another program"),
    ],
)
def test_another_schema_is_refused_and_left_as_it_is(url: str, revision: str, message: str) -> None:
    with History(url) as history, history.database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})
    for create in (True, False):
        with pytest.raises(SchemaError, match=message):
            History(url, create=create)
    assert revision_of(url) == revision


def revision_of(url: str) -> str | None:
    engine = create_engine(parse_url(url))
    with engine.connect() as connection:
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    engine.dispose()
    return found


def test_a_database_without_a_history_is_told_so_unless_one_is_to_be_made(url: str) -> None:
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).touch()
    with pytest.raises(SchemaError, match=r"holds no Flowscout history"):
        History(url, create=False)
    History(url).close()
    History(url, create=False).close()


def test_a_missing_file_is_not_made_by_a_reader(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"no history at .*nothing has been run there yet"):
        History(str(tmp_path / "history.db"), create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"folder .* does not exist"):
        History(str(tmp_path / "missing" / "history.db"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "plate.csv"
    path.write_text("object,affinity\nACGT,0.5\n" * 100)
    with pytest.raises(SchemaError, match=r"is not a database that Flowscout can read"):
        History(str(path), create=create)
    assert path.read_text() == "object,affinity\nACGT,0.5\n" * 100
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"cannot be opened"):
        History(str(tmp_path))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/name", r"is of kind 'mysql', expected sqlite or postgresql"),
        ("sqlite://", r"cannot be shared"),
        ("sqlite:///:memory:", r"cannot be shared"),
        ("postgresql://host:port/name", r"is not a URL"),
        ("://", r"is not a URL"),
        ("postgresql://127.0.0.1:1/name?connect_timeout=2", r"cannot be opened"),
    ],
)
def test_a_wrong_url_says_what_is_expected(url: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        History(url)


def test_a_database_that_the_server_does_not_have_is_said(new_postgresql: Callable[[], str]) -> None:
    url = parse_url(new_postgresql()).set(database="missing").render_as_string(hide_password=False)
    with pytest.raises(SchemaError, match=r"cannot be opened.*missing"):
        History(url)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(SchemaError) as caught:
        History("postgresql://user:hunter2@127.0.0.1:1/name?connect_timeout=2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("lab.db", "sqlite"),
        ("sqlite:///lab.db", "sqlite"),
        ("sqlite+aiosqlite:///lab.db", "sqlite"),
        ("postgres://host/name", "postgresql+psycopg"),
        ("postgresql://host/name", "postgresql+psycopg"),
        ("postgresql+asyncpg://host/name", "postgresql+psycopg"),
    ],
)
def test_any_usual_url_means_the_driver_that_is_used(url: str, driver: str) -> None:
    assert parse_url(url).drivername == driver


def test_files_of_a_history_lie_beside_it(tmp_path: Path) -> None:
    assert sidecar_folder(parse_url(f"{tmp_path}/lab.db")) == tmp_path / "lab.files"
    assert sidecar_folder(parse_url(f"{tmp_path}/lab.2024")) == tmp_path / "lab.2024.files"
    assert sidecar_folder(parse_url("postgresql://host/name")) is None


def test_a_history_that_stands_is_opened_without_alembic(sqlite_url: str) -> None:
    code = (
        f"import sys; from flowscout.db import History; History({sqlite_url!r}); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("folder", ["with space", "100% sure", "ünïcode", "a?b#c"])
def test_any_folder_holds_a_history(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "history.db"
    path.parent.mkdir()
    History(str(path)).close()
    assert path.exists()
