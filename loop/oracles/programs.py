"""Programs that are started, fed, read within bounds, and killed with all that they have started.

What is written to them and what their lines mean belongs in `process.py` and `spawned.py`.

Each program leads a process group of its own. If this process is killed, a guard ends them (`guard.py`): the end
of standard input alone does not reach a program that reads none.
"""

import atexit
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from flowscout.loop.oracles import guard

logger = logging.getLogger(__name__)

MAX_LINE = 16 * 2**20
"""Bytes of one line of output that are kept at most; the rest of a longer line is passed over."""
LAST_WORDS = 4_096
"""Bytes of the end of standard error that are kept."""
CHUNK = 65_536
LINGER_S = 0.1
"""How often is looked whether a program has ended whose output something else still holds open."""


class Program:
    """A program under way. `kill` it in the end, whatever happened.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: Sequence[str], *, folder: Path) -> None:
        _GUARD.stand_by()
        self._process = subprocess.Popen(  # noqa: S603 - the campaign's owner registered it
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            start_new_session=True,
            bufsize=0,
        )
        _GUARD.watch(self._process.pid)
        for stream in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(stream.fileno(), False)
        self._line, self._last_words = bytearray(), bytearray()
        self._left = memoryview(b"")
        self._take: Callable[[bytes], bool] = _refuse
        self._enough = False

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def _stderr(self) -> IO[bytes]:
        assert self._process.stderr is not None
        return self._process.stderr

    @property
    def alive(self) -> bool:
        """Whether it is running."""
        return self._process.poll() is None

    def exchange(
        self,
        content: bytes,
        take: Callable[[bytes], bool],
        *,
        timeout_s: float | None,
        last: bool = True,
    ) -> bool:
        """Write `content`, and give each line of output to `take` until it says that it has enough.

        `last` closes standard input after the content; then all is read, and the program's end awaited. Return
        whether the program was in time.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._left, self._take, self._enough = memoryview(content), take, False
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdin, selectors.EVENT_WRITE, self._write)
            selector.register(self._stdout, selectors.EVENT_READ, self._read)
            selector.register(self._stderr, selectors.EVENT_READ, self._hear)
            while not self._enough or last:
                wait = LINGER_S if deadline is None else min(LINGER_S, deadline - time.monotonic())
                if wait < 0:
                    return False
                ready = selector.select(wait)
                if not ready and not self.alive:
                    ready = selector.select(0)  # it may have said its last since we looked
                    if not ready:
                        break  # what still holds its output open is none of ours
                for key, _ in ready:
                    if not key.data():
                        selector.unregister(key.fileobj)
                        if last and key.fileobj is self._stdin:
                            self._stdin.close()
                if not {self._stdout, self._stderr} & {key.fileobj for key in selector.get_map().values()}:
                    break
        return self._wait(deadline) if last else True

    def _write(self) -> bool:
        """Write what the pipe takes; return whether anything is left that the program may still read."""
        try:
            self._left = self._left[os.write(self._stdin.fileno(), self._left[:CHUNK]) :]
        except BlockingIOError:
            return True
        except OSError:  # a closed pipe: it has read enough, or has ended
            return False
        return bool(self._left)

    def _hear(self) -> bool:
        """Keep the end of what it says on standard error; return whether more may come."""
        chunk = _read_now(self._stderr)
        self._last_words = (self._last_words + (chunk or b""))[-LAST_WORDS:]
        return chunk != b""

    def _read(self) -> bool:
        """Give away the lines that have come; return whether more may come."""
        chunk = _read_now(self._stdout)
        if chunk is None:
            return True
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            self._keep(piece)
            self._give()
        self._keep(rest)
        if chunk == b"" and self._line:
            self._give()
        return chunk != b""

    def _keep(self, piece: bytes) -> None:
        self._line += piece[: MAX_LINE - len(self._line)]

    def _give(self) -> None:
        self._enough = self._take(bytes(self._line)) or self._enough
        self._line.clear()

    def _wait(self, deadline: float | None) -> bool:
        """Wait for its end; return whether it came in time."""
        try:
            self._process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def interrupt(self) -> None:
        """End it and all that it has started, from another thread than the one that reads it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End it and all that it has started, and let go of it."""
        self.interrupt()
        self._process.wait()
        _GUARD.forget(self._process.pid)
        for stream in (self._stdin, self._stdout, self._stderr):
            with suppress(OSError):
                stream.close()

    def last_words(self) -> str:
        """Say how it ended, and the last line of what it said on standard error."""
        code = self._process.poll()
        lines = [line.strip() for line in self._last_words.decode(errors="replace").splitlines() if line.strip()]
        said = f" Its last words: {lines[-1][:200]!r}." if lines else ""
        if code is None:
            return f"It is running.{said}"
        if code < 0:
            return f"It was ended by signal {-code}.{said}"
        return f"It ended with code {code}.{said}"


def _refuse(_line: bytes) -> bool:
    return True


def _read_now(stream: IO[bytes]) -> bytes | None:
    """Return what has come; nothing at the end, None if nothing has come yet."""
    try:
        return os.read(stream.fileno(), CHUNK)
    except BlockingIOError:
        return None


class Programs:
    """The programs of one oracle that are under way, and those that are kept for the next call."""

    def __init__(self, command: Sequence[str], *, folder: Path) -> None:
        self._command, self._folder = command, folder
        self._lock = threading.Lock()
        self._running: set[Program] = set()
        self._closed = 0  # how many times
        self._idle: list[Program] = []

    @contextmanager
    def one(self, *, keep: bool, command: Sequence[str] | None = None) -> Iterator[tuple[Program, bool]]:
        """Yield a program for one call, and whether it is new; afterwards it is killed, or kept while it runs.

        A call that breaks off leaves nothing to be kept.
        """
        with self._lock:
            kept = next((p for p in self._idle if p.alive), None) if keep else None
            dead = [p for p in self._idle if not p.alive]
            self._idle = [p for p in self._idle if p is not kept and p not in dead]
            closed = self._closed
        for program in dead:
            program.kill()
        found = kept or Program(self._command if command is None else command, folder=self._folder)
        with self._lock:
            self._running.add(found)
            if self._closed > closed:  # while it was started
                found.interrupt()
        whole = False
        try:
            yield found, kept is None
            whole = True
        finally:
            with self._lock:
                self._running.discard(found)
                stays = keep and whole and found.alive
                if stays:
                    self._idle.append(found)
            if not stays:
                found.kill()

    def close(self) -> None:
        """End all of them; the calls under way learn that their program has ended."""
        with self._lock:
            self._closed += 1
            idle, self._idle = self._idle, []
            for program in self._running:
                program.interrupt()
        for program in idle:
            program.kill()


class _Guard:
    """Our end of the guard, which is started with the first program."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._watched: set[int] = set()

    def stand_by(self) -> None:
        """Be there before a program is started, so that it is unwatched for no longer than a line takes."""
        with self._lock:
            self._tell("")

    def watch(self, group: int) -> None:
        """Have a process group ended if this process dies. Where no guard can be had, it runs on."""
        with self._lock:
            self._watched.add(group)
            self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Let go of a process group that has ended."""
        with self._lock:
            self._watched.discard(group)
            self._tell(f"-{group}\n")

    def close(self) -> None:
        """Let the guard end, and what is still under way with it."""
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                with suppress(OSError):
                    self._process.stdin.close()
                self._process.wait()
            self._process = None

    def _tell(self, line: str) -> None:
        try:
            if self._process is None or self._process.poll() is not None:  # not started yet, or killed
                self._start()
                line = "".join(f"+{group}\n" for group in sorted(self._watched))
            assert self._process is not None
            assert self._process.stdin is not None
            if line:
                self._process.stdin.write(line.encode())
        except OSError:
            logger.warning("programs that are called have no guard: they run on if this process is killed")

    def _start(self) -> None:
        if self._process is None:
            atexit.register(self.close)
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )


_GUARD = _Guard()
