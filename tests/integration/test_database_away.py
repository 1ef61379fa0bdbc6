"""A PostgreSQL server that goes away: what has not begun waits for it, and says so; no answer is given up."""

import logging
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from flowscout import Campaign
from flowscout.db import History, parse_url, passing
from flowscout.loop import dispatching
from flowscout.loop.working import Worked, work

CAMPAIGN = """\
campaign: away
space: {type: sequence, alphabet: dna, length: 6}
objectives: [{name: y, direction: maximize}]
oracle: slow:measure
proposer: {type: random}
batch: {size: 8}
budget: {rounds: 1}
"""
SLOW = """\
import time
from flowscout import Result, oracle

calls = []

@oracle(cost_usd=1, concurrency=2, batch=1)
def measure(requests):
    calls.extend(request.object for request in requests)
    time.sleep(0.2)
    return [Result({"y": 1.0}) for _ in requests]
"""


class Switch:
    """Lets nobody into a database, and cuts who is in, as a server that stops does."""

    def __init__(self, server: str, url: str) -> None:
        self._engine = create_engine(server, isolation_level="AUTOCOMMIT")
        self._name = parse_url(url).database

    def off(self) -> None:
        self._do(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS false")
        self._do(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'")

    def on(self) -> None:
        self._do(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS true")

    def on_after(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self.on)
        timer.start()
        return timer

    def _do(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.execute(text(statement))

    def close(self) -> None:
        self.on()
        self._engine.dispose()


@pytest.fixture
def history(postgresql_url: str) -> Iterator[History]:
    with History(postgresql_url) as found:
        yield found


@pytest.fixture
def switch(postgresql_server, postgresql_url: str) -> Iterator[Switch]:
    found = Switch(postgresql_server, postgresql_url)
    yield found
    found.close()


def test_a_transaction_waits_until_the_server_is_back(history, switch, caplog):
    with history.database.read() as session:
        session.execute(text("SELECT 1"))  # a connection that will be cut
    switch.off()
    timer = switch.on_after(1.5)
    begun = time.monotonic()
    with caplog.at_level(logging.WARNING), history.database.write() as session:
        assert session.execute(text("SELECT count(*) FROM campaign")).scalar_one() == 0
    assert time.monotonic() - begun >= 1.0  # less the time of the first try
    timer.join()
    assert any("does not answer" in message for message in caplog.messages)


def test_patience_ends(history, switch):
    history.database.patience_s = 0.5
    switch.off()
    with pytest.raises(DBAPIError) as caught, history.database.read() as session:
        session.execute(text("SELECT 1"))
    assert passing(caught.value) is not None


def test_a_transaction_that_is_cut_is_not_done_again(history, switch):
    done = []

    def cut() -> None:
        with history.database.write() as session:
            done.append(1)
            switch.off()
            session.execute(text("SELECT 1"))

    with pytest.raises(DBAPIError) as caught:
        cut()
    assert done == [1]
    assert passing(caught.value) is not None


def test_what_is_wrong_for_good_does_not_pass(history):
    with pytest.raises(IntegrityError) as caught, history.database.write() as session:
        session.execute(text("INSERT INTO balance (campaign_id) VALUES (7)"))
    assert passing(caught.value) is None


@pytest.mark.parametrize("patience_s", [0.0, 60.0])
def test_a_worker_outlives_a_server_that_is_away_and_no_answer_is_lost_or_paid_twice(
    postgresql_url, switch, tmp_path, monkeypatch, caplog, patience_s
):
    monkeypatch.setattr(dispatching, "PASSING_S", 0.2)
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    (tmp_path / "slow.py").write_text(SLOW)
    worked: list[Worked] = []
    with Campaign.from_yaml(tmp_path / "campaign.yaml", db=postgresql_url) as campaign:
        bench = campaign.workbench
        bench.history.database.patience_s = patience_s
        campaign.ask()
        calls = sys.modules["slow"].calls
        worker = threading.Thread(target=lambda: worked.append(work(bench, once=True)))
        worker.start()
        while len(calls) < 3:
            time.sleep(0.01)
        switch.off()
        switch.on_after(2.0).join()
        worker.join(timeout=60)
        assert len(worked) == 1, caplog.text
        assert campaign.status().evaluations == {"done": 8}
        assert len(campaign.history()) == 8
    assert sorted(calls) == sorted(set(calls))
