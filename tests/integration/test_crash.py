"""Killed runs: nothing is lost, paid twice or changed, and whoever comes next goes on."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import crash
import crash_books
import pytest
from crash_audit import BILL, HISTORY, audit, reading, where_killed
from crash_nursery import Forked
from crash_runner import Starter, Trial, lay_out, left_behind, run_trial, start

from flowscout import Campaign
from flowscout.db import EvaluationState
from flowscout.errors import CampaignBusyError

PRICE_MINOR = 100


def wait_until(true: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def nursery() -> Iterator[crash.Nursery]:
    """Yield the process that campaigns are forked from: loading the libraries is most of the time."""
    with crash.nursery() as found:
        yield found


@pytest.fixture
def begin(nursery) -> Starter:
    return lambda _trial, folder: Forked(nursery, folder)


def kill_at(trial: Trial, folder: Path, what: str, begin: Starter) -> int:
    """Start the campaign of a folder, kill it at `what`, and return its process id."""
    process = begin(trial, folder)
    try:
        wait_until(lambda: process.poll() is not None or where_killed(folder, process.pid) == what)
    finally:
        process.kill()
        process.wait()
    assert where_killed(folder, process.pid) == what, (folder / "log.txt").read_text()
    return process.pid


def events(folder: Path, kind: str) -> int:
    with reading(folder / HISTORY) as history:
        (count,) = history.execute("SELECT count(*) FROM event WHERE kind = ?", (kind,)).fetchone()
    return int(count)


def test_killed_campaign_ends_as_an_undisturbed_one(begin, tmp_path):
    # The calls are long, so that a kill aimed at one lands in it on a busy machine too.
    aims = ("train", "in the call", "call to write")
    trial = Trial(kills=3, seed=1, scheduler="none", rounds=2, pause_s=0.15, aims=aims)
    report = run_trial(trial, tmp_path, begin=begin)
    assert report.faults == []
    assert len(report.landed) == 3
    counts = {k: report.row[k] for k in ("lost", "paid_twice", "unknown", "rounds_missing", "differs")}
    assert set(counts.values()) == {0}, counts
    assert report.row["calls"] > 2 * 8  # a call that was cut off was made again, with its key


def test_live_run_is_not_disturbed_by_a_second_one_and_a_dead_one_is_succeeded_at_once(begin, tmp_path):
    trial = Trial(kills=1, scheduler="none", rounds=1, pause_s=240.0)
    folder = lay_out(trial, tmp_path / "campaign")
    first = begin(trial, folder)
    try:
        wait_until(lambda: where_killed(folder, first.pid) == "claim to call")  # its oracle sleeps 120 s
        # For whoever imports the oracle from now on; the live one is in its call already.
        lay_out(Trial(kills=1, scheduler="none", rounds=1, pause_s=0.0), folder)
        second = subprocess.run(
            [sys.executable, "-m", "flowscout", "run", "campaign.yaml"],
            cwd=folder, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert second.returncode == 2
        assert len(second.stderr.splitlines()) == 1
        assert f"campaign 'crash' is being run by process {first.pid}" in second.stderr
        assert "wait for it to end, or stop it" in second.stderr
        with (
            Campaign.from_yaml(folder / "campaign.yaml") as campaign,
            pytest.raises(CampaignBusyError, match=f"process {first.pid}"),
        ):
            campaign.ask()
        assert first.poll() is None
        assert events(folder, "lease_taken_over") == 0
    finally:
        first.kill()
        first.wait()
    # The lease of the dead process has minutes to run, the lease of its attempts as well.
    with Campaign.from_yaml(folder / "campaign.yaml") as campaign:
        progress = campaign.run_round()
    assert progress is not None
    assert progress.complete
    assert events(folder, "lease_taken_over") == 1
    assert audit(folder, rounds=1, price_minor=PRICE_MINOR).faults == []
    assert left_behind(folder, grace_s=5.0) == []


def test_call_that_cannot_be_repeated_and_was_cut_off_stays_unknown_and_the_round_completes(begin, tmp_path):
    trial = Trial(kills=1, scheduler="none", idempotent=False, rounds=2)
    folder = lay_out(trial, tmp_path / "campaign")
    kill_at(trial, folder, "in the call", begin)
    with reading(folder / BILL) as bill:
        cut_off = {key for (key,) in bill.execute("SELECT key FROM call")}
    with Campaign.from_yaml(folder / "campaign.yaml") as campaign:
        first = campaign.run_round()
        assert first is not None
        assert (first.number, first.complete) == (1, True)
        status = campaign.status()
        assert status.evaluations == {EvaluationState.UNKNOWN: 8}
        assert status.rounds[0].message == "without a value: 8 unknown"
        assert (status.spent_minor, status.reserved_minor) == (0, 8 * PRICE_MINOR)
        second = campaign.run_round()
        assert second is not None
        assert second.complete
        assert campaign.run_round() is None
    with reading(folder / BILL) as bill:
        calls = [key for (key,) in bill.execute("SELECT key FROM call")]
    assert len(calls) == len(set(calls))  # nothing was called twice,
    assert len(set(calls) - cut_off) == 8  # and nothing of the first batch again
    found = audit(folder, rounds=2, price_minor=PRICE_MINOR)
    assert (found.faults, found.unknown) == ([], 8)


@pytest.mark.parametrize("delay_s", [0.6, 1.2])
def test_run_killed_before_its_first_round_leaves_nothing_in_the_way(delay_s, tmp_path):
    trial = Trial(kills=1, scheduler="none", rounds=1, pause_s=0.0)
    folder = lay_out(trial, tmp_path / "campaign")
    process = start(trial, folder)
    time.sleep(delay_s)
    process.kill()
    process.wait()
    with Campaign.from_yaml(folder / "campaign.yaml") as campaign:
        assert campaign.run_round() is not None
    assert audit(folder, rounds=1, price_minor=PRICE_MINOR).faults == []


@pytest.mark.parametrize(
    ("oracle", "kind", "kills"), [("callable", "idempotent", 10), ("process", "neither", 4), ("http", "lookup", 4)]
)
def test_swarm_that_is_killed_loses_nothing_and_pays_nothing_twice(oracle, kind, kills, nursery, tmp_path):
    # Of the bad manners only coming too late is left out: each time costs as long as a time-out.
    manners = crash.Manners(**{name: 0.1 for name in crash.MISDEEDS[oracle] if name != "late"})
    trial = crash.Trial(
        kills=kills, kind=kind, seed=1, manners=manners, pause_s=0.02, oracle=oracle, answers="call_back"
    )
    report = crash.run_trial(trial, tmp_path, str(tmp_path / "crash.db"), nursery)
    assert report.faults == []
    assert (report.row["kills"], report.row["lost"], report.row["paid_twice"]) == (kills, 0, 0)
    assert report.row["calls"] >= 12
    if kind == "idempotent":
        assert report.row["unknown"] == 0
        spoil_and_audit(crash.Layout(tmp_path, str(tmp_path / "crash.db"), kind, trial.seed))


def spoil_and_audit(layout: crash.Layout) -> None:
    """See to it that the audit finds what it is there to find."""
    with closing(sqlite3.connect(layout.folder / "oracle.db")) as ledger, ledger:
        ledger.execute(
            "INSERT INTO call (key, object, visit, callers, entered, billed, value) "
            "SELECT key, object, visit, callers, entered, billed, value FROM call WHERE billed LIMIT 1"
        )
    found = crash_books.audit(layout, crash_books.Deeds(), settled=True)
    assert (found.paid_twice, found.lost) == (1, 0)
    assert any("the oracle's bill" in fault for fault in found.faults)
    with closing(sqlite3.connect(layout.url)) as history, history:
        for [trigger] in history.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            history.execute(f'DROP TRIGGER "{trigger}"')  # which refuse to let anything be deleted
        history.execute(
            "DELETE FROM measurement WHERE id IN (SELECT min(id) FROM measurement GROUP BY evaluation_id)"
        )
    found = crash_books.audit(layout, crash_books.Deeds(), settled=True)
    assert found.lost == evaluations_in(layout)
    assert any("1 told values are missing" in fault for fault in found.faults)
    assert any("current values are not those" in fault for fault in found.faults)


def evaluations_in(layout: crash.Layout) -> int:
    """Return how many evaluations the history has."""
    with reading(Path(layout.url)) as history:
        return int(history.execute("SELECT count(*) FROM evaluation").fetchone()[0])
