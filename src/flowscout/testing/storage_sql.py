"""What a storage guarantees of questions in a user's own SQL: they are answered, and can do nothing else."""

import math
from pathlib import Path

import pytest

from flowscout.errors import QueryError
from flowscout.testing.histories import HistoryFixtures, Scene, measured

# Each must be refused, on every database: as no SQL of it at all, or as more than reading.
WRITES = (
    "INSERT INTO event (campaign_id, kind, actor, detail) VALUES (1, 'k', 'me', '{}')",
    "INSERT INTO event (campaign_id, kind, actor, detail) VALUES (1, 'k', 'me', '{}') RETURNING id",
    "WITH new AS (DELETE FROM measurement RETURNING id) SELECT * FROM new",
    "UPDATE measurement SET value = 99",
    "DELETE FROM measurement",
    "DROP TABLE measurement",
    "CREATE TABLE mine (x int)",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "SELECT 1; DELETE FROM measurement",
    "SELECT 1; SELECT 2",
    "COMMIT",
    "ROLLBACK",
    "BEGIN",
    "",
    "-- nothing",
    "SELEKT 1",
)
SQLITE = (
    "ATTACH DATABASE '{folder}/other.db' AS other",
    "PRAGMA query_only = OFF",
    "PRAGMA writable_schema = ON",
    "SELECT * FROM pragma_table_info('measurement')",
    "SELECT load_extension('{folder}/evil.so')",
    "SELECT LOAD_EXTENSION('{folder}/evil.so', 'entry')",
    "VACUUM INTO '{folder}/copy.db'",
    "SELECT writefile('{folder}/out', 'x')",
    "SELECT zeroblob(1000000000)",
    "SAVEPOINT mine",
)
POSTGRESQL = (
    "SET TRANSACTION READ WRITE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "RESET ROLE",
    "SET ROLE NONE",
    "RESET SESSION AUTHORIZATION",
    "SELECT set_config('transaction_read_only', 'off', true)",
    "SELECT set_config('role', 'none', true)",
    "SELECT set_config('role', session_user, true)",
    "SELECT set_config('session_authorization', 'default', true)",
    "SELECT set_config('role', 'none', true), query_to_xml('SELECT pg_read_file(''PG_VERSION'')', true, true, '')",
    "SELECT set_config('role', 'none', true), w.* FROM ts_stat('SELECT to_tsvector(pg_read_file(''base''))') w",
    "SELECT query_to_xml('DELETE FROM measurement RETURNING id', true, true, '')",
    "SELECT query_to_xml('RESET ROLE', true, true, '')",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT pg_read_binary_file('PG_VERSION')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/hostname')",
    "SELECT lo_export(1, '{folder}/out')",
    "SELECT lo_create(7)",
    "COPY measurement TO '{folder}/out'",
    "COPY measurement TO PROGRAM 'cat > {folder}/out'",
    "COPY (SELECT 1) TO STDOUT",
    "SELECT * FROM dblink('dbname=postgres', 'SELECT 1') AS t(x int)",
    "SELECT nextval('measurement_id_seq')",
    "SELECT * FROM measurement FOR UPDATE",
    "LOCK TABLE measurement",
    "SELECT rolpassword FROM pg_authid",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DO $$ BEGIN DELETE FROM measurement; END $$",
    "PREPARE mine AS SELECT 1",
    "EXPLAIN ANALYZE DELETE FROM measurement",
)
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


class SqlContract(HistoryFixtures):
    """Test questions in SQL."""

    def test_a_question_in_sql_is_answered(self, scene: Scene) -> None:
        scene.tell(measured("a", 0.5, unit="nM"), measured("b", 1.5))
        ask = scene.history.queries.sql
        found = ask("SELECT object, value, unit, value AS value FROM history ORDER BY seq")
        assert found.columns == ("object", "value", "unit", "value")
        assert found.rows == (("a", 0.5, "nM", 0.5), ("b", 1.5, None, 1.5))
        assert not found.cut
        assert ask("SELECT count(*) AS n FROM measurement WHERE value > 1").rows == ((1,),)
        assert ask("WITH known AS (SELECT value FROM measurement) SELECT max(value) FROM known").rows == ((1.5,),)
        assert ask("VALUES (1, 'x')").rows == ((1, "x"),)
        assert ask("SELECT object FROM history WHERE object = 'nobody'").columns == ("object",)

    def test_a_limit_cuts_and_says_so(self, scene: Scene) -> None:
        scene.tell(*(measured(name) for name in "abc"))
        ask = scene.history.queries.sql
        assert [len(ask("SELECT seq FROM measurement", limit=n).rows) for n in (1, 2, 3, 4)] == [1, 2, 3, 3]
        assert [ask("SELECT seq FROM measurement", limit=n).cut for n in (1, 2, 3, 4)] == [
            True,
            True,
            False,
            False,
        ]
        assert len(ask("SELECT seq FROM measurement", limit=None).rows) == 3

    @pytest.mark.parametrize(("limit", "timeout_s"), [(0, 1.0), (1, 0.0), (1, -1.0), (1, math.nan), (1, math.inf)])
    def test_a_limit_or_a_time_that_is_none_is_refused(self, scene: Scene, limit: int, timeout_s: float) -> None:
        with pytest.raises(QueryError, match=r"expected a limit of 1 row or more"):
            scene.history.queries.sql("SELECT 1", limit=limit, timeout_s=timeout_s)

    def test_a_question_that_takes_too_long_is_ended(self, scene: Scene) -> None:
        with pytest.raises(QueryError, match=r"took longer than 0\.2 s"):
            scene.history.queries.sql(ENDLESS, timeout_s=0.2)

    @pytest.mark.parametrize("statement", WRITES)
    def test_sql_that_does_not_read_is_refused(self, scene: Scene, statement: str) -> None:
        self._refused(scene, statement)

    def test_sql_cannot_get_out(self, scene: Scene, tmp_path: Path) -> None:
        sqlite = scene.history.database.url.get_backend_name() == "sqlite"
        before = set(tmp_path.iterdir())
        for statement in SQLITE if sqlite else POSTGRESQL:
            self._refused(scene, statement.replace("{folder}", str(tmp_path)))
        assert {
            path for path in set(tmp_path.iterdir()) - before if not path.name.startswith("history.db-")
        } == set()

    def _refused(self, scene: Scene, statement: str) -> None:
        if not scene.table("measurement"):
            scene.tell(measured("a", 0.5))
        tables = ("measurement", "event", "campaign")
        before = [scene.table(name) for name in tables]
        with pytest.raises(QueryError, match=r"the database refuses .*expected one SELECT"):
            scene.history.queries.sql(statement, timeout_s=5.0)
        assert [scene.table(name) for name in tables] == before, statement
