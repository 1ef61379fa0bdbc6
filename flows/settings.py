"""The one place that reads and sets the environment for Prefect, and where the flows' database is named.

Prefect reads its settings when it is imported, so `quiet` and `use_server` must run before.
"""

import os
import sys
from pathlib import Path

from flowscout.errors import ConfigError

DATABASE = "FLOWSCOUT_DB"
"""The variable that tells flows, workers and the command line which history to open."""

_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The terminal belongs to the command line; what a run logs is kept with the run.
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
}

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


def server_url() -> str | None:
    """Return the URL of the Prefect server that the environment names, if any."""
    return os.environ.get("PREFECT_API_URL") or None


def quiet() -> None:
    """Keep Prefect's terminal output down, unless the environment says otherwise."""
    _refuse_late("quiet")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


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
