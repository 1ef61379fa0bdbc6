"""Which process holds a lease, and whether it still lives."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowscout.db import this_owner
from flowscout.db.owners import describe, is_dead
from flowscout.testing.histories import FOREIGN_OWNER, dead_owner


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that lives until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def owner_of(pid: int) -> str:
    host, _, _ = this_owner().split("|")
    start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{host}|{pid}|{start}"


def test_this_process_lives_and_says_the_same_each_time() -> None:
    assert this_owner() == this_owner()
    assert not is_dead(this_owner())
    assert this_owner().split("|")[1] == str(os.getpid())


def test_a_process_that_ended_is_dead() -> None:
    assert is_dead(dead_owner())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc, as Linux has it")
def test_a_killed_process_is_dead_before_its_parent_has_asked_for_it(child: subprocess.Popen[bytes]) -> None:
    owner = owner_of(child.pid)
    assert not is_dead(owner)
    child.kill()
    until = time.monotonic() + 30
    while not is_dead(owner) and time.monotonic() < until:
        time.sleep(0.01)
    assert is_dead(owner)  # a zombie: nobody has waited for it yet
    assert Path(f"/proc/{child.pid}").exists()


def test_another_process_that_has_got_the_same_id_is_not_taken_for_the_first() -> None:
    host, pid, start = this_owner().split("|")
    assert is_dead(f"{host}|{pid}|{int(start) - 1}")


def test_a_process_of_another_host_is_never_called_dead() -> None:
    assert not is_dead(FOREIGN_OWNER)
    host, pid, start = dead_owner().split("|")
    assert not is_dead(f"another-{host}|{pid}|{start}")


@pytest.mark.parametrize("text", ["", "bench-2", "a|b", "host|pid|start|more", "host|not a number|1"])
def test_a_text_that_names_no_process_is_never_called_dead(text: str) -> None:
    assert not is_dead(text)
    assert text in describe(text)


def test_a_person_is_told_process_and_host() -> None:
    assert describe(FOREIGN_OWNER) == "process 1 on another-host"
