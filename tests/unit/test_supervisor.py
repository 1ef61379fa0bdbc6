"""Services run on: what dies is started again, later each time; the end of the supervisor is the end of all."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flowscout.flows import supervisor as module
from flowscout.flows.supervisor import Service, Supervisor

PATIENCE_S = 30.0
SLEEPS = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
PARENT = f"""
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", {SLEEPS!r}]).pid, flush=True)
time.sleep(600)
"""


def service(folder: Path, code: str, *, name: str = "service") -> Service:
    return Service(name, [sys.executable, "-c", code], dict(os.environ), folder / f"{name}.log")


def wait_until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def test_what_is_killed_is_started_again_and_said(tmp_path: Path) -> None:
    supervisor = Supervisor()
    supervisor.add(service(tmp_path, SLEEPS, name="the worker"))
    try:
        first = supervisor.pids()["the worker"]
        assert supervisor.look() == []
        os.kill(first, signal.SIGKILL)
        lines: list[str] = []
        wait_until(
            lambda: lines.extend(supervisor.look()) or supervisor.pids().get("the worker", first) != first, ""
        )
        assert len(lines) == 1
        assert "the worker has ended with signal SIGKILL" in lines[0]
        assert str(tmp_path / "the worker.log") in lines[0]
    finally:
        supervisor.stop()


def test_what_dies_at_once_is_started_ever_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module, "now_s", lambda: now[0])
    supervisor = Supervisor()
    supervisor.add(service(tmp_path, "raise SystemExit(3)"))
    waits = []
    for _ in range(8):
        wait_until(lambda: not _lives(supervisor.pids()["service"]), "it has died")
        (line,) = supervisor.look()
        assert "ended with code 3" in line
        waits.append(float(line.split(" again in ")[1].split(" s")[0]))
        now[0] += waits[-1] - 0.01
        assert supervisor.look() == []
        assert supervisor.pids() == {}  # not before its time
        now[0] += 0.02
        supervisor.look()
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    supervisor.stop()


def test_stop_ends_what_ignores_it_and_what_a_service_has_started(tmp_path: Path) -> None:
    supervisor = Supervisor()
    supervisor.add(service(tmp_path, STUBBORN, name="stubborn"))
    supervisor.add(service(tmp_path, PARENT, name="parent"))
    wait_until(lambda: (tmp_path / "stubborn.log").read_text().strip(), "the stubborn one is up")
    wait_until(lambda: (tmp_path / "parent.log").read_text().strip(), "the child is up")
    child = int((tmp_path / "parent.log").read_text())
    pids = [*supervisor.pids().values(), child]
    supervisor.stop(grace_s=0.3)
    wait_until(lambda: not any(_lives(pid) for pid in pids), "all have ended")


def test_a_long_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_MOST", 10)
    (tmp_path / "service.log").write_text("what was said before\n")
    supervisor = Supervisor()
    supervisor.add(service(tmp_path, SLEEPS))
    supervisor.stop()
    assert (tmp_path / "service.log.1").read_text() == "what was said before\n"
    assert (tmp_path / "service.log").read_text() == ""


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_cannot_be_started_again_now_is_tried_later_and_ends_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(module, "now_s", lambda: now[0])
    supervisor = Supervisor()
    supervisor.add(service(tmp_path, SLEEPS, name="steady"))
    supervisor.add(service(tmp_path, "raise SystemExit(3)", name="broken"))
    try:
        wait_until(lambda: not _lives(supervisor.pids()["broken"]), "it has died")
        supervisor.look()
        log = tmp_path / "broken.log"
        log.unlink()
        log.mkdir()  # as on a full disk: no log can be made
        now[0] += 1.5
        (line,) = supervisor.look()
        assert "broken cannot be started" in line
        assert supervisor.look() == []
        log.rmdir()
        now[0] += 3.0
        assert supervisor.look() == []
        assert set(supervisor.pids()) == {"steady", "broken"}
    finally:
        supervisor.stop()


def test_a_terminal_that_takes_no_more_lines_ends_no_service(tmp_path: Path) -> None:
    supervisor = Supervisor()
    supervisor.add(service(tmp_path, "raise SystemExit(3)"))
    asked = []

    def say(line: str) -> None:
        asked.append(line)
        raise OSError(errno.ENOSPC, "No space left on device")

    supervisor.run(lambda: bool(asked), say=say)
    assert "has ended with code 3" in asked[0]
    supervisor.stop()
