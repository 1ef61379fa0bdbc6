"""Run a campaign's rounds one after another in this process, on an embedded or a named Prefect server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flowscout.errors import WorkError
from flowscout.flows import settings
from flowscout.flows.embedded import EmbeddedServer, answers
from flowscout.loop.announcing import without_password

if TYPE_CHECKING:
    from flowscout.flows.outcomes import RoundOutcome


@contextmanager
def prefect_server(home: Path) -> Iterator[EmbeddedServer | None]:
    """Provide a server for this process: the one the environment names (None), or else an embedded one.

    An embedded server is starting when this yields; call its `wait` before the first flow. Prefect must not
    have been imported yet.

    Raises:
        WorkError: the server that the environment names does not answer.
    """
    settings.quiet()
    named = settings.server_url()
    if named is not None:
        if not answers(named):
            raise WorkError(
                f"no Prefect server answers at {without_password(named)!r}, which PREFECT_API_URL names; start "
                "it, or unset the variable to have one started with the command."
            )
        yield None
        return
    server = EmbeddedServer(home)
    try:
        yield server
    finally:
        _send_logs()
        server.stop()


def run_rounds(campaign_uuid: str, config_sha256: str) -> Iterator["RoundOutcome"]:
    """Yield what came of each round until one does not complete; the last may have begun nothing."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flowscout.flows.round import discovery_round

    # Nobody looks at the heartbeats of a run whose server ends with it, and each run waits at its end for the
    # thread that sends them: half a second on average.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        while True:
            outcome = discovery_round(campaign_uuid, config_sha256)
            yield outcome
            if outcome["state"] != "complete":
                return


def _send_logs() -> None:
    """Send what Prefect still holds of the runs' logs, so that it does not complain at exit."""
    import sys

    if "prefect" in sys.modules:
        from prefect.logging.handlers import APILogHandler

        APILogHandler().flush()
