"""Announcing: post what happens in a scheduled campaign to its Prefect server, as events that may start runs.

Plain HTTP, so that telling a result does not import Prefect; best effort: the schedule's own times are the
backstop, and the history decides what is done. When a round is due is decided in `loop.gates`.
"""

import base64
import http.client
import json
import logging
import time
import urllib.error
import urllib.request
import uuid as uuids
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from flowscout.db import MEANINGS, CampaignRecord, EventKind, EventRecord, History
from flowscout.errors import ConfigError, WorkError
from flowscout.loop.secrets import prefect_credentials

logger = logging.getLogger(__name__)

PREFIX = "flowscout."
ROUND_DUE = f"{PREFIX}round_due"
TIMEOUT_S = 5.0
LEASE_S = 30.0
MOST_S = 5.0
"""How long one call goes on telling; the rest is told the next time."""
NEVER_TAKEN = (413, 422)
"""What a server answers that cannot read an event or finds it too large: it will say so each time."""
DEFAULT_URL = "http://127.0.0.1:4200/api"


class ServerAwayError(WorkError):
    """No Prefect server answers."""


class ServerRefusedError(WorkError):
    """A Prefect server answered that it will not: of another password, or of something that it does not have."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


# That a hook failed says nothing to a server, and would never end where it is the server that fails.
_TOLD = frozenset(EventKind) - {EventKind.NOTICE_FAILED}


@dataclass(frozen=True)
class Server:
    """A Prefect server: its API's URL, and what is said to be let in."""

    url: str
    authorization: str | None = field(default=None, repr=False)


def hook_of(deployment_id: str) -> str:
    """Return what a deployment is known by among those who are told of the log (`db.deliveries`)."""
    return f"prefect {deployment_id}"


def is_scheduled(history: History, campaign: CampaignRecord) -> bool:
    """Return whether a Prefect server is to be told of a campaign."""
    schedule = history.schedules.get(campaign.id)
    return schedule is not None and schedule.deployment_id is not None


def is_started_by(history: History, campaign: CampaignRecord, deployment_id: str) -> bool:
    """Return whether a deployment is the one that a campaign's schedule names."""
    schedule = history.schedules.get(campaign.id)
    return schedule is not None and schedule.deployment_id == deployment_id


def tell_server(history: History, campaign: CampaignRecord) -> int:
    """Post what the server of a scheduled campaign has not been told of its log yet; return how many entries.

    One that fails is logged and left for later; one that the server can never take holds up no other.
    """
    schedule = history.schedules.get(campaign.id)
    if schedule is None or schedule.deployment_id is None:
        return 0
    told, end = 0, time.monotonic() + MOST_S
    hook = hook_of(schedule.deployment_id)
    while time.monotonic() < end:
        notice = history.deliveries.take(campaign.id, hook, _TOLD, lease_s=LEASE_S)
        if notice is None:
            break
        try:
            post(server_of(schedule.server_url), [event_of(campaign, notice.event)])
        except (WorkError, ConfigError) as error:
            if isinstance(error, ServerRefusedError) and error.status in NEVER_TAKEN:
                logger.warning("Prefect is never told of event %d: %s", notice.event.id, error)
                history.deliveries.done(notice)
                continue
            history.deliveries.failed(notice, name="Prefect's server", error=str(error))
            logger.warning("Prefect is told of event %d later: %s", notice.event.id, error)
            break
        history.deliveries.done(notice)
        told += 1
    return told


def server_of(stored: str | None) -> Server:
    """Return the server to talk to: the one the environment names, else the stored one, else one of this machine.

    Raises:
        ConfigError: its URL is none.
    """
    named, basic, key = prefect_credentials()
    url = (named or stored or DEFAULT_URL).rstrip("/")
    parts = urlsplit(url)
    if "@" in parts.netloc:  # it would stand in errors, in the log and in what is stored
        raise ConfigError(
            "the Prefect server's URL holds a name or a password, expected http://HOST:PORT/api; set "
            "PREFECT_API_AUTH_STRING to NAME:PASSWORD, and PREFECT_API_URL without them."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"the Prefect server's URL is {url!r}, expected http://HOST:PORT/api; correct PREFECT_API_URL."
        )
    if basic is not None:
        return Server(url, "Basic " + base64.b64encode(basic.encode()).decode())
    return Server(url, None if key is None else f"Bearer {key}")


def without_password(url: str) -> str:
    """Return a URL as it may be shown: the name and password that it may hold are left out."""
    head, slashes, rest = url.rpartition("//")
    host, slash, path = rest.partition("/")
    return f"{head}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def call(server: Server, method: str, path: str, content: Any = None, *, timeout_s: float = TIMEOUT_S) -> Any:
    """Return what a server answers to a request, as JSON; None for nothing.

    Raises:
        ServerAwayError: nobody answers.
        ServerRefusedError: it answers with another status than 2xx.
    """
    headers = {"Content-Type": "application/json"}
    if server.authorization is not None:
        headers["Authorization"] = server.authorization
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"{server.url}/{path}", data=body, headers=headers, method=method)  # noqa: S310
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_s) as answer:
            text = answer.read()
        return json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(500).decode(errors="replace")
        raise ServerRefusedError(_refusal(server, error.code, said), status=error.code) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        if isinstance(why, TimeoutError):
            raise ServerAwayError(
                f"the Prefect server at {server.url} did not answer within {timeout_s:g} s: it may be busy; "
                "try again."
            ) from error
        raise ServerAwayError(
            f"no Prefect server answers at {server.url} ({why}); start one with `flowscout serve`, or name "
            "another by PREFECT_API_URL."
        ) from error


def check(server: Server) -> None:
    """Return if a server is there and lets us in.

    Raises:
        ServerAwayError, ServerRefusedError: it is not, or does not.
    """
    found = call(server, "GET", "admin/version", timeout_s=10.0)
    if not isinstance(found, str):
        raise ServerAwayError(
            f"what answers at {server.url} is no Prefect server, expected its API; correct PREFECT_API_URL, such "
            f"as {DEFAULT_URL}."
        )


def page_of(url: str, deployment_id: str) -> str:
    """Return the address of a deployment in Prefect's page."""
    return f"{url.rstrip('/').removesuffix('/api')}/deployments/deployment/{deployment_id}"


def resource_of(uuid: str) -> str:
    """Return what a campaign is called in Prefect's events."""
    return f"{PREFIX}campaign.{uuid}"


def event_of(campaign: CampaignRecord, event: EventRecord) -> dict[str, Any]:
    """Return an entry of the log as one of Prefect's events. Told twice, it is the same."""
    payload = {
        "campaign": campaign.name,
        "uuid": campaign.uuid,
        "id": event.id,
        "kind": event.kind,
        "meaning": _meaning(event.kind),
        "actor": event.actor,
        "round": event.round,
        "detail": dict(event.detail),
    }
    number = uuids.uuid5(uuids.UUID(campaign.uuid), str(event.id))
    return _event(campaign, event.kind, str(number), event.at.isoformat(), payload)


def _meaning(kind: str) -> str:
    return MEANINGS[EventKind(kind)] if kind in set(EventKind) else ""


def due_event(campaign: CampaignRecord, *, at: str, why: str) -> dict[str, Any]:
    """Return the event that starts a run of the campaign's deployment."""
    payload = {"campaign": campaign.name, "uuid": campaign.uuid, "why": why}
    return _event(campaign, ROUND_DUE.removeprefix(PREFIX), str(uuids.uuid4()), at, payload)


def post(server: Server, events: Sequence[Mapping[str, Any]], *, timeout_s: float = TIMEOUT_S) -> None:
    """Post events.

    Raises:
        ServerAwayError, ServerRefusedError: nobody answers, or with another status than 2xx.
    """
    call(server, "POST", "events", list(events), timeout_s=timeout_s)


def is_coming(server: Server, deployment_id: str, *, at: str) -> bool:
    """Return whether a run of a deployment is due by a time and has not begun: it will see what is stored now.

    Raises:
        ServerAwayError, ServerRefusedError: nobody answers, or with another status than 2xx.
    """
    waiting = {
        "deployment_id": {"any_": [deployment_id]},
        "state": {"type": {"any_": ["SCHEDULED", "PENDING"]}},
        "expected_start_time": {"before_": at},
    }
    return bool(call(server, "POST", "flow_runs/count", {"flow_runs": waiting}))


def pause(server: Server, deployment_id: str, *, paused: bool) -> None:
    """Let a deployment start no more runs at the times of its schedule, or let it again.

    Raises:
        ServerAwayError, ServerRefusedError: nobody answers, or it has no such deployment.
    """
    what = "pause" if paused else "resume"
    call(server, "POST", f"deployments/{deployment_id}/{what}_deployment", {}, timeout_s=10.0)


def _event(
    campaign: CampaignRecord, kind: str, number: str, at: str, payload: Mapping[str, Any]
) -> dict[str, Any]:
    resource = {
        "prefect.resource.id": resource_of(campaign.uuid),
        "prefect.resource.name": campaign.name,
        "prefect.resource.role": "flowscout-campaign",
    }
    return {"id": number, "occurred": at, "event": PREFIX + kind, "resource": resource, "payload": dict(payload)}


def _refusal(server: Server, status: int, said: str) -> str:
    if status in (401, 403):
        came = "no password came" if server.authorization is None else "another password came"
        return (
            f"the Prefect server at {server.url} refused us ({status}): {came}, expected the one that it was "
            "started with. Set PREFECT_API_AUTH_STRING to NAME:PASSWORD as the server has it."
        )
    return f"the Prefect server at {server.url} answered {status}, expected 2xx: {said}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A server answers itself: elsewhere the password would go along."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None
