"""An embedded Prefect server: nothing to start, nothing left behind."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from flowscout.errors import WorkError
from flowscout.flows import settings

STARTUP_TIMEOUT_S = 180.0


class EmbeddedServer:
    """A Prefect server in a process of its own, for as long as this one lives.

    The constructor returns at once; `wait` returns when the server answers, which takes 10 to 25 s on a small
    machine. Its database and log stand under `home`.
    """

    def __init__(self, home: Path) -> None:
        home = home.absolute()
        home.mkdir(parents=True, exist_ok=True)
        self._log = home / "server.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flowscout.flows.server_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=settings.embedded_environment(home),
                cwd=home,  # a user's folder may hold modules named like those the server imports
            )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip().decode()
        if not port:
            raise WorkError(f"the embedded Prefect server did not start; see {str(self._log)!r}.")
        self.url = f"http://127.0.0.1:{port}/api"
        settings.use_server(self.url, home=home)

    def wait(self, timeout_s: float = STARTUP_TIMEOUT_S) -> None:
        """Return when the server answers.

        Raises:
            WorkError: it ended, or does not answer in time.
        """
        deadline = time.monotonic() + timeout_s
        while not answers(self.url):
            if self._process.poll() is not None:
                raise WorkError(
                    f"the embedded Prefect server ended with code {self._process.returncode}; "
                    f"see {str(self._log)!r}."
                )
            if time.monotonic() > deadline:
                raise WorkError(
                    f"the embedded Prefect server did not answer within {timeout_s:.0f} s; the machine may be "
                    f"busy: try again, or see {str(self._log)!r}."
                )
            time.sleep(0.1)

    def stop(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def answers(url: str) -> bool:
    """Return whether a Prefect server answers at an API's URL, whatever it says."""
    try:
        # Not its health, of which it tells before it is ready: the first other request takes it half a second.
        with urllib.request.urlopen(f"{url}/admin/version", timeout=5):  # noqa: S310 - the user's own server
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
