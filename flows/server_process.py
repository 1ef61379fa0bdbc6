"""The process of an embedded Prefect server: `python -m flowscout.flows.server_process`.

It listens on a free port of the loopback interface, prints the port, and ends when its standard input does:
a parent that is killed takes its server with it.
"""

import os
import socket
import sys

from flowscout.flows.tether import end_with_parent


def main() -> None:
    """Serve until the parent is gone."""
    # Named as TCP: only then does asyncio send an answer at once, and not when the other side has acknowledged
    # its beginning, which takes 40 ms of each of ten requests in a round.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    os.dup2(2, 1)  # whatever else is printed goes to the log
    end_with_parent()

    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(ephemeral=True), log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
