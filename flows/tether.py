"""Processes that end with the one that started them: `python -m flowscout.flows.tether prefect server start`.

Whoever starts one holds the other end of its standard input; nothing is ever sent, and when the holder is gone,
killed or not, the input ends. When one is started, and again, belongs in `flows.supervisor`.
"""

import os
import signal
import sys
import threading

GRACE_S = 5.0
"""A server that is still starting ignores SIGTERM for long; nothing it holds is needed any more."""
WORKER_GRACE_S = 600.0
"""A worker finishes the runs in hand; the history lets another go on with what takes longer."""


def end_with_parent(grace_s: float = GRACE_S) -> None:
    """Ask this process to end when its standard input does, and end it after `grace_s` at the latest."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(grace_s)
        os._exit(0)

    threading.Thread(target=watch, name="flowscout-tether", daemon=True).start()


def main() -> None:
    """Run Prefect's command line, `prefect ...`, at the end of a tether."""
    sys.argv = sys.argv[1:]
    assert sys.argv[:1] == ["prefect"], sys.argv
    end_with_parent(WORKER_GRACE_S if sys.argv[1:2] == ["worker"] else GRACE_S)

    from prefect.cli import app

    app()


if __name__ == "__main__":
    main()
