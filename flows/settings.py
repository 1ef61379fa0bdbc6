"""The one place that reads and sets the environment for Prefect, and where the flows' database is named.

Prefect reads its settings when it is imported, so `quiet` and `use_server` must run before.
"""

import os
import sys
from pathlib import Path

from flowscout.errors import ConfigError

DATABASE = "FLOWSCOUT_DB"
"""The variable that tells flows, workers and the command line which history to open."""

FOLDER = "FLOWSCOUT_FOLDER"
"""The variable that tells where this machine keeps the files that campaigns name, each in a folder of its name."""

_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The terminal belongs to the command line; what a run logs is kept with the run.
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
}

_SHARED = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flowscout",  # what a round logs is kept with its run
    "PREFECT_WORKER_QUERY_SECONDS": "5",
    # Leases in memory die with the server, and the slots that they held are then held for ever.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}

_OF_THE_SERVER = (
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "FLOWSCOUT_PREFECT_DB",
)
"""A run has no business with these."""

_EMBEDDED = {
    # A server that runs for one campaign in one process needs none of the services of a shared one.
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
}


def database_url() -> str:
    """Return the URL of the history that flows work on.

    Raises:
        ConfigError: the environment does not name one.
    """
    url = os.environ.get(DATABASE)
    if not url:
        raise ConfigError(
            f"the environment variable {DATABASE} is not set, expected the URL of the history that this "
            f"worker shares with the campaign's owner; set it, for example {DATABASE}=sqlite:////data/lab.db."
        )
    return url


def set_database_url(url: str) -> None:
    """Name the history for the flows of this process and of those it starts."""
    os.environ[DATABASE] = url


def campaigns_folder() -> Path | None:
    """Return where this machine keeps the files that campaigns name; None: where they were registered."""
    found = os.environ.get(FOLDER)
    return Path(found).absolute() if found else None


def server_url() -> str | None:
    """Return the URL of the Prefect server that the environment names, if any."""
    return os.environ.get("PREFECT_API_URL") or None


def server_password() -> str | None:
    """Return `name:password` that a server started here demands, if the environment says so."""
    return os.environ.get("PREFECT_SERVER_API_AUTH_STRING") or None


def server_environment(home: Path, url: str, *, page: str, prefect_db: str | None) -> dict[str, str]:
    """Return the environment of a server for many campaigns at `url`, with its files under `home`.

    `page` is where people see it, `prefect_db` the database that it keeps its runs in; None: a SQLite file under
    `home`.
    """
    found = _shared_environment(home, url)
    # No page of another site may talk to the server through the browser of a person who is allowed to.
    here = url.removesuffix("/api")
    origins = dict.fromkeys([page, here, here.replace("127.0.0.1", "localhost")])
    found.setdefault("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", ",".join(origins))
    found.setdefault("PREFECT_UI_API_URL", f"{page}/api")
    found.setdefault("PREFECT_SERVER_MEMO_STORE_PATH", str(home / "memo_store.toml"))
    if prefect_db is not None:
        found.pop("PREFECT_SERVER_DATABASE_CONNECTION_URL", None)
        found["PREFECT_API_DATABASE_CONNECTION_URL"] = prefect_database_url(prefect_db)
    return found


def worker_environment(home: Path, url: str, *, database: str) -> dict[str, str]:
    """Return the environment of a worker of the server at `url` that finds its campaigns in a history."""
    found = _shared_environment(home, url)
    password = server_password()
    if password is not None:
        found.setdefault("PREFECT_API_AUTH_STRING", password)
    for name in _OF_THE_SERVER:
        found.pop(name, None)
    return found | {DATABASE: database}


def prefect_database_url(text: str) -> str:
    """Return the URL of Prefect's own database with the drivers that it needs, which are asynchronous.

    Raises:
        ConfigError: it is neither SQLite nor PostgreSQL.
    """
    if "://" not in text:
        return f"sqlite+aiosqlite:///{Path(text).absolute()}"
    kind, _, rest = text.partition("://")
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
    driver = drivers.get(kind.partition("+")[0])
    if driver is None:
        raise ConfigError(
            f"Prefect's database is of kind {kind!r}, expected sqlite or postgresql; give one of these with "
            "--prefect-db."
        )
    return f"{driver}://{rest}"


def _shared_environment(home: Path, url: str) -> dict[str, str]:
    return _SHARED | dict(os.environ) | {"PREFECT_HOME": str(home), "PREFECT_API_URL": url}


def quiet() -> None:
    """Keep Prefect's terminal output down, unless the environment says otherwise."""
    _refuse_late("quiet")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def name_server(url: str) -> None:
    """Point this process at a Prefect server that others use too; its files are the user's own."""
    _refuse_late("name_server")
    os.environ["PREFECT_API_URL"] = url


def prefect_home() -> Path | None:
    """Return the folder that the environment names for Prefect's files, if it does."""
    named = os.environ.get("PREFECT_HOME")
    return Path(named) if named else None


def use_server(url: str, *, home: Path) -> None:
    """Point this process at a Prefect server, with its files under `home`."""
    _refuse_late("use_server")
    os.environ["PREFECT_API_URL"] = url
    os.environ["PREFECT_HOME"] = str(home)


def embedded_environment(home: Path) -> dict[str, str]:
    """Return the environment in which an embedded server runs, with its database under `home`."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL", "PREFECT_API_KEY")}
    memo = {"PREFECT_SERVER_MEMO_STORE_PATH": str(home / "memo_store.toml")}
    return kept | _QUIET | _EMBEDDED | memo | {"PREFECT_HOME": str(home)}


def _refuse_late(what: str) -> None:
    assert "prefect" not in sys.modules, f"{what}() must run before Prefect is imported"
