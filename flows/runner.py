"""Run a campaign's rounds one after another in this process, on an embedded or a named Prefect server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowscout.flows import settings
from flowscout.flows.embedded import EmbeddedServer


@contextmanager
def prefect_server(home: Path) -> Iterator[EmbeddedServer | None]:
    """Provide a server for this process: the one the environment names (None), or else an embedded one.

    An embedded server is starting when this yields; call its `wait` before the first flow. Prefect must not
    have been imported yet.
    """
    settings.quiet()
    if settings.server_url() is not None:
        yield None
        return
    server = EmbeddedServer(home)
    try:
        yield server
    finally:
        _send_logs()
        server.stop()


def run_rounds(campaign_uuid: str, config_sha256: str) -> Iterator[dict[str, int | bool]]:
    """Yield what came of each round until the campaign is finished or a round waits for results."""
    from flowscout.flows.round import discovery_round

    while (outcome := discovery_round(campaign_uuid, config_sha256)) is not None:
        yield outcome
        if not outcome["complete"]:
            return


def _send_logs() -> None:
    """Send what Prefect still holds of the runs' logs, so that it does not complain at exit."""
    import sys

    if "prefect" in sys.modules:
        from prefect.logging.handlers import APILogHandler

        APILogHandler().flush()
