"""The benchmark of faults: its seed decides what it does, and what is lost or paid twice does not escape it."""

import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faults
import faults_campaign
import pytest
from crash_campaign import Layout
from crash_oracle import TABLES
from faults_campaign import Clock

from flowscout import Campaign


def test_thirty_faults_are_of_every_kind_and_their_order_is_that_of_the_seed():
    found = faults.plan(faults.FAULTS, 30, random.Random(1))
    assert Counter(found) == faults.FAULTS
    assert found == faults.plan(faults.FAULTS, 30, random.Random(1))
    assert found != faults.plan(faults.FAULTS, 30, random.Random(2))


def test_every_kind_of_fault_has_a_deed():
    for kind in faults.FAULTS:
        assert callable(getattr(faults.Breaker, f"_{kind.replace(' ', '_')}"))


@pytest.fixture
def place(tmp_path: Path) -> Any:
    """Yield a campaign at rest after a round, as far as the audit looks at it, with the books of its oracle."""
    layout = Layout(tmp_path, str(tmp_path / "history.db"), "idempotent", pause_s=0.0)
    faults_campaign.write(layout, artefacts=tmp_path / "disk")
    (tmp_path / "assay.py").write_text("def measure(objects): return [float(len(o)) for o in objects]")
    with Campaign.from_yaml(tmp_path / "campaign.yaml", db=layout.url) as campaign:
        campaign.run_round()
        rows = campaign.sql(
            "SELECT idempotency_key, object, value FROM evaluation "
            "JOIN measurement ON evaluation_id = evaluation.id "
            "JOIN candidate ON candidate.id = measurement.candidate_id"
        )
    with closing(sqlite3.connect(tmp_path / "oracle.db")) as ledger, ledger:
        ledger.executescript(TABLES)
        columns = "key, object, visit, callers, entered, billed, value"
        insert = f"INSERT INTO call ({columns}) VALUES (?, ?, '', '[]', 0, 300, ?)"
        ledger.executemany(insert, rows.itertuples(index=False, name=None))
    return SimpleNamespace(layout=layout, url=layout.url, halves=list)


def books(place: Any, statement: str) -> None:
    with closing(sqlite3.connect(place.layout.folder / "oracle.db")) as ledger, ledger:
        ledger.execute(statement)


def test_a_campaign_that_lost_nothing_is_right(place):
    lost, twice, wrong = faults.at_rest(place)
    assert (lost, twice) == (0, 0)
    assert [one for one in wrong if "spent" not in one] == []  # this oracle is free
    assert faults.so_far(place) == (0, 0)


def test_an_object_that_was_billed_twice_is_found(place):
    books(
        place,
        "INSERT INTO call SELECT 99, 'another', object, '', '[]', 0, 300, value, NULL, NULL FROM call LIMIT 1",
    )
    assert faults.so_far(place) == (0, 1)
    lost, twice, _ = faults.at_rest(place)
    assert (lost, twice) == (1, 1)  # the second call is of no evaluation


def test_a_value_that_was_paid_for_and_is_not_in_the_history_is_found(place):
    books(place, "UPDATE call SET value = -1 WHERE id = 1")
    assert faults.so_far(place) == (1, 0)
    assert faults.at_rest(place)[:2] == (1, 0)


def test_a_clock_jumps_by_a_file(tmp_path):
    clock = Clock(tmp_path, Path("library.so"))
    clock.jump(-3600)
    assert (tmp_path / "offset").read_text() == "-3600\n"
    environment = clock.environment("elsewhere")
    assert environment["LD_PRELOAD"] == "library.so"
    assert environment["PYTHONPATH"] == f"{tmp_path / 'site'}:elsewhere"
