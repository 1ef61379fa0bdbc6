"""The command for the results endpoint."""

import ipaddress
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowscout.cli.campaigns import Database
from flowscout.cli.output import say, warn
from flowscout.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from flowscout.serving.opening import Served


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: flowscout serve-results campaign.yaml --port 8765")(serve_results)


def serve_results(
    campaigns: Annotated[
        list[Path] | None, typer.Argument(metavar="[CAMPAIGN]...", help="Campaign files, of one or more oracles.")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option("--campaign", metavar="NAME", help="A registered campaign, with --db.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; other machines do not reach 127.0.0.1.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: a free one.")] = 8765,
    max_body: Annotated[int, typer.Option(min=1_000, max=2**30, help="Bytes of a post at most.")] = 2**20,
    db: Database = None,
) -> None:
    """Take results that oracles post by themselves, until told to stop. Each oracle has a token."""
    from flowscout.serving.app import make_app
    from flowscout.serving.opening import open_doors

    with ExitStack() as stack:
        doors = open_doors(_served(campaigns or [], names or [], db, stack))
        app = make_app(doors, max_body=max_body)
        if not is_loopback(host):
            warn(
                f"listening at {host}: whoever reads along on the network learns the tokens; let a proxy with TLS "
                "stand before it."
            )
        _run(app, host, port, oracles=[desk.oracle for desk in doors.desks])


def _served(files: list[Path], names: list[str], db: str | None, stack: ExitStack) -> "list[Served]":
    """Return what is to be served; histories are opened once each, and closed with the stack."""
    from flowscout.db import History
    from flowscout.loop.config import database_url, read_campaign_file
    from flowscout.serving.opening import Served

    if not files and not names:
        raise ConfigError("no campaign came, expected campaign files, or --campaign NAME with --db; name one.")
    if names and db is None:
        raise ConfigError("--campaign came without --db, expected the database that it is in; give --db.")
    histories: dict[str, History] = {}

    def history(url: str) -> History:
        if url not in histories:
            histories[url] = stack.enter_context(History(url, create=False))
            histories[url].database.patience_s = 0.0  # who posts is told at once to come again
        return histories[url]

    found: list[Served] = []
    for path in files:
        file = read_campaign_file(path)
        found.append(Served(file.config.campaign, history(database_url(file, db)), file.config))
    found += [Served(name, history(str(db))) for name in names]
    return found


def _run(app: "FastAPI", host: str, port: int, *, oracles: list[str]) -> None:
    import socket

    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        server_header=False,
        limit_concurrency=200,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=30,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{host} port {port} cannot be listened at ({error.strerror or error}), expected a free one; give "
                "another --port or --host."
            ) from error
        shown = f"[{host}]" if ":" in host else host
        say(
            f"taking results of {', '.join(oracles)} at http://{shown}:{listening.getsockname()[1]}/results "
            "(described at /docs); Ctrl-C ends"
        )
        uvicorn.Server(config).run(sockets=[listening])


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
