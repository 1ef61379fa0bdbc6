"""The process of an embedded Prefect server: `python -m flowscout.flows.server_process`.

It listens on a free port of the loopback interface, prints the port, and ends when its standard input does:
a parent that is killed takes its server with it.
"""

import os
import signal
import socket
import sys
import threading


def main() -> None:
    """Serve until the parent is gone."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    os.dup2(2, 1)  # whatever else is printed goes to the log
    threading.Thread(target=_end_with_parent, daemon=True).start()

    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(ephemeral=True), log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[listener])


def _end_with_parent() -> None:
    while os.read(0, 1):  # nothing is ever sent: it returns when the parent is gone
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    # A server that is still starting ignores the signal for long; nothing it holds is needed any more.
    threading.Event().wait(5.0)
    os._exit(0)


if __name__ == "__main__":
    main()
