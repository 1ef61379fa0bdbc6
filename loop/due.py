"""Due: tell the Prefect server of a scheduled campaign that a run has something to do now.

When that is, the history says (`loop.gates`); how the server is told belongs in `loop.announcing`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from flowscout.db import EventKind
from flowscout.errors import ConfigError, WorkError
from flowscout.loop.announcing import due_event, is_coming, pause, post, server_of
from flowscout.loop.gates import look
from flowscout.loop.workbench import Workbench

logger = logging.getLogger(__name__)

_OPENING = (
    EventKind.VALUES_TOLD,
    EventKind.RESULTS_IMPORTED,
    EventKind.MEASUREMENT_RETRACTED,
    EventKind.CONFLICT_SETTLED,
    EventKind.EVALUATION_RECONCILED,
    EventKind.EVALUATION_CANCELLED,
    EventKind.CANDIDATE_VETOED,
    EventKind.BATCH_APPROVED,
    EventKind.BUDGET_SET,
    EventKind.CAMPAIGN_ACTIVE,
)
"""What may open a gate."""


def announce_due(bench: Workbench) -> bool:
    """Have a run of the campaign's deployment started if one has something to do; return whether one will come.

    Quick, and whatever goes wrong is logged only: the schedule starts a run at its next time. Where somebody holds
    the campaign nothing is done, since whoever held it looks again (`looking_again`, or this).
    """
    history, campaign = bench.history, bench.campaign
    try:
        schedule = history.schedules.get(campaign.id)
        if schedule is None or schedule.deployment_id is None:
            return False
        if history.campaigns.lease_holder(campaign.id) is not None:
            return False
        gate = look(bench)
        by_time = gate.kind == "due" and schedule.gate is None  # it starts when the schedule says
        if not gate.open or gate.again or by_time:
            return False
        server, at = server_of(schedule.server_url), datetime.now(UTC).isoformat()
        if not is_coming(server, schedule.deployment_id, at=at):
            post(server, [due_event(campaign, at=at, why=gate.why)])
    except (WorkError, ConfigError) as error:
        logger.warning(
            "campaign %s: a round is due, and starts at the next time of its schedule: %s", campaign.name, error
        )
        return False
    except Exception:
        logger.warning("campaign %s: nobody could say whether a round is due", campaign.name, exc_info=True)
        return False
    return True


def pause_deployment(bench: Workbench, *, paused: bool) -> None:
    """Let Prefect plan no runs of a paused campaign, if it can be told: they would find the campaign paused."""
    schedule = bench.history.schedules.get(bench.campaign.id)
    if schedule is None or schedule.deployment_id is None:
        return
    try:
        pause(server_of(schedule.server_url), schedule.deployment_id, paused=paused)
    except (WorkError, ConfigError) as error:
        what = (
            "the pause holds, though Prefect goes on starting runs, which end at once"
            if paused
            else "it is resumed, but Prefect may start no runs yet; resume it again"
        )
        logger.warning("campaign %s: %s: %s", bench.campaign.name, what, error)


@contextmanager
def looking_again(bench: Workbench) -> Iterator[None]:
    """Look again at the end, after the campaign is let go, for whatever was told while it was held."""
    log, campaign = bench.history.events, bench.campaign
    since = log.last_id(campaign.id)
    try:
        yield
    finally:  # a run that failed leaves what came meanwhile to another one
        if log.read(campaign.id, kinds=_OPENING, after=since, limit=1):
            announce_due(bench)
