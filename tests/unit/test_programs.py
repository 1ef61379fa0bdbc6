"""Programs that are started, fed and read: what a pipe and a clock can do to their answers."""

import selectors
import sys
from typing import Any

from flowscout.loop.oracles.programs import Program


def test_what_a_program_says_last_is_read_though_it_has_ended_when_it_is_looked_for(monkeypatch, tmp_path):
    # As where this process stands still while it waits, and the program goes on: the wait ends without anything.
    program = Program([sys.executable, "-c", "print('first'); print('last')"], folder=tmp_path)

    class Asleep(selectors.DefaultSelector):
        slept = False

        def select(self, timeout: float | None = None) -> list[Any]:
            if self.slept:
                return super().select(timeout)
            self.slept = True
            program._process.wait()
            return []

    monkeypatch.setattr(selectors, "DefaultSelector", Asleep)
    lines: list[bytes] = []
    try:
        assert program.exchange(b"", lambda line: bool(lines.append(line)), timeout_s=30)
    finally:
        program.kill()
    assert lines == [b"first", b"last"]
