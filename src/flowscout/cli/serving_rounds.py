"""The command that runs what scheduled rounds need: Prefect's server and workers."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from flowscout.cli.output import say, warn
from flowscout.cli.serving import is_loopback
from flowscout.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: flowscout serve --db postgresql://lab@db.example.org/flowscout")(serve)


def serve(
    host: Annotated[str, typer.Option(help="The address to listen at; other machines do not reach 127.0.0.1.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port of Prefect's page and API.")] = 4200,
    db: Annotated[
        str | None,
        typer.Option(
            "--db", envvar="FLOWSCOUT_DB", help="The history of the campaigns: database URL or SQLite file."
        ),
    ] = None,
    prefect_db: Annotated[
        str | None,
        typer.Option(
            "--prefect-db",
            envvar="FLOWSCOUT_PREFECT_DB",
            help="Where Prefect keeps its runs: PostgreSQL for a group; default: a SQLite file.",
        ),
    ] = None,
    queues: Annotated[
        str, typer.Option(metavar="QUEUE,...", help="Queues with a worker here: cpu, gpu; none: the server alone.")
    ] = "cpu",
) -> None:
    """Run Prefect's server and a worker a queue until told to stop; what dies is started again.

    Workers know the campaigns of one history, that of --db or FLOWSCOUT_DB: schedule them with the same.

    Logs lie in NAME.files/serve beside a SQLite history, else in flowscout.files/serve or PREFECT_HOME.
    """
    from flowscout.flows import serving, settings

    if db is None:
        raise ConfigError(
            "no history came, expected the one that the scheduled campaigns are in; give --db, or set "
            "FLOWSCOUT_DB."
        )
    if not is_loopback(host):
        serving.check_password(settings.server_password())
        warn(
            f"listening at {host}: whoever reads along on the network learns the password; let a proxy with TLS "
            "stand before it."
        )
    database, home = _places(db)
    wanted = serving.Serving(host, port, database, prefect_db, _queues(queues), home)
    with _stopped_by_signals() as stopped:
        serving.serve(wanted, stopped, say=say)


def _places(db: str) -> tuple[str, Path]:
    """Return the history's URL, the same from any folder, and where Prefect's files lie."""
    from flowscout.db import parse_url, sidecar_folder
    from flowscout.flows.settings import prefect_home

    url = parse_url(db)
    folder = sidecar_folder(url)
    home = prefect_home() or (folder or Path.cwd() / "flowscout.files") / "serve"
    if folder is None:
        return db, home.absolute()
    return f"sqlite:///{Path(str(url.database)).absolute()}", home.absolute()


def _queues(text: str) -> tuple[str, ...]:
    from flowscout.flows.pool import QUEUES

    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip() not in ("", "none")))
    strange = [name for name in found if name not in QUEUES]
    if strange:
        raise ConfigError(f"--queues has {strange[0]!r}, expected some of {', '.join(QUEUES)}; correct it.")
    return found


@contextmanager
def _stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """Yield whether SIGTERM or SIGINT has come."""
    came: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
