"""Notices: tell the commands and webhooks of a campaign file what has happened, after it was committed.

Each is told at least once, in order; one that fails is tried again later and stops nothing. What has been told is
kept in `db.deliveries`.
"""

import hashlib
import hmac
import http.client
import json
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flowscout.db import CampaignRecord, EventRecord, History
from flowscout.errors import ConfigError, WorkError
from flowscout.loop.announcing import is_scheduled, tell_server
from flowscout.loop.config import NOTICES, CampaignConfig, NotifySection
from flowscout.loop.secrets import read_secret

logger = logging.getLogger(__name__)

POLL_S = 5.0
SLACK_S = 30.0
"""How much longer than a hook's time-out its delivery is leased: what a dead process was telling is told again."""
MOST_S = 60.0
"""How long one call goes on telling; the rest is told the next time."""
SIGNATURE = "X-Flowscout-Signature"


class NoticeError(WorkError):
    """A hook could not be told."""


def hook_id(section: NotifySection) -> str:
    """Return what a hook is known by: the hash of what it says, its time-out apart."""
    said = section.model_dump(mode="json", exclude={"timeout_s"})
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def subscribe(history: History, campaign: CampaignRecord, config: CampaignConfig) -> None:
    """Let the hooks of a campaign file that are new be told of what happens from now on."""
    if config.notify:
        history.deliveries.subscribe(campaign.id, [hook_id(section) for section in config.notify])


def deliver(history: History, campaign: CampaignRecord, config: CampaignConfig, *, folder: Path) -> int:
    """Tell each hook what it has not been told yet; return how many notices went out.

    Prefect's server, where the campaign is scheduled, is told first. A hook that fails is logged and left for
    later. `folder` is where commands run.
    """
    tell_server(history, campaign)
    told, end = 0, time.monotonic() + MOST_S
    for section in config.notify:
        kinds = {NOTICES[name] for name in section.on}
        lease_s = section.timeout_s + SLACK_S
        while time.monotonic() < end:
            notice = history.deliveries.take(campaign.id, hook_id(section), kinds, lease_s=lease_s)
            if notice is None:
                break
            try:
                _tell(section, _body(campaign, notice.event), notice.event, folder=folder)
            except (NoticeError, ConfigError) as error:
                history.deliveries.failed(notice, name=_name(section), error=str(error))
                logger.warning("notice of event %d failed: %s", notice.event.id, error)
                break
            history.deliveries.done(notice)
            told += 1
    return told


def deliver_quietly(history: History, campaign: CampaignRecord, config: CampaignConfig, *, folder: Path) -> None:
    """Tell the hooks; whatever goes wrong is logged, and is tried again the next time."""
    try:
        deliver(history, campaign, config, folder=folder)
    except Exception:
        logger.warning("notices of campaign %s were not delivered", campaign.name, exc_info=True)


@contextmanager
def delivering(
    history: History, campaign: CampaignRecord, config: CampaignConfig, *, folder: Path
) -> Iterator[None]:
    """Tell the hooks in the background while something runs, and once more when it has ended."""
    if not config.notify and not is_scheduled(history, campaign):
        yield
        return
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(POLL_S):
            deliver_quietly(history, campaign, config, folder=folder)

    teller = threading.Thread(target=keep, name="flowscout-notices", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
        deliver_quietly(history, campaign, config, folder=folder)


def _body(campaign: CampaignRecord, event: EventRecord) -> bytes:
    content: dict[str, Any] = {
        "campaign": campaign.name,
        "uuid": campaign.uuid,
        "id": event.id,
        "kind": event.kind,
        "at": event.at.isoformat(),
        "actor": event.actor,
        "round": event.round,
        "detail": dict(event.detail),
    }
    return json.dumps(content).encode()


def _tell(section: NotifySection, body: bytes, event: EventRecord, *, folder: Path) -> None:
    if section.command is not None:
        _run(section.command, body, folder=folder, timeout_s=section.timeout_s)
    else:
        assert section.webhook is not None
        _post(section.webhook, body, event, secret_env=section.secret_env, timeout_s=section.timeout_s)


def _run(command: list[str], body: bytes, *, folder: Path, timeout_s: float) -> None:
    """Run a command with the notice on its standard input. No shell reads it.

    Raises:
        NoticeError: it cannot be started, ends with another code than 0, or takes too long.
    """
    with tempfile.TemporaryFile() as errors:  # a file: what a command leaves running may hold a pipe open for ever
        try:
            process = subprocess.Popen(  # noqa: S603 - the campaign's owner registered it
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            raise NoticeError(f"command {command[0]!r} cannot be started: {error.strerror}.") from error
        try:
            process.communicate(body, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            _kill_all(process)
            raise NoticeError(f"command {command[0]!r} took longer than {timeout_s:g} s and was ended.") from error
        if process.returncode != 0:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
            raise NoticeError(f"command {command[0]!r} ended with code {process.returncode}: {last[:200]}")


def _kill_all(process: "subprocess.Popen[bytes]") -> None:
    """End a command and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A webhook answers itself: elsewhere the notice would arrive without its body."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _post(url: str, body: bytes, event: EventRecord, *, secret_env: str | None, timeout_s: float) -> None:
    """Post a notice, signed with the secret if there is one.

    Raises:
        NoticeError: nobody answers in time, or with another status than 2xx.
        ConfigError: the secret is not set.
    """
    headers = {"Content-Type": "application/json", "X-Flowscout-Event": str(event.id)}
    if secret_env is not None:
        digest = hmac.new(read_secret(secret_env), body, hashlib.sha256).hexdigest()
        headers[SIGNATURE] = f"sha256={digest}"
    host = urlsplit(url).hostname  # what follows the host may be a secret
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310 - checked as http
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=timeout_s):
            return
    except urllib.error.HTTPError as error:
        error.close()
        raise NoticeError(f"webhook at {host} answered {error.code}, expected 2xx.") from error
    except OSError as error:
        raise NoticeError(f"webhook at {host} did not answer: {getattr(error, 'reason', error)}.") from error
    except http.client.HTTPException as error:  # its message may hold parts of the address
        raise NoticeError(f"webhook at {host} did not speak HTTP ({type(error).__name__}).") from error


def _name(section: NotifySection) -> str:
    """Return what a hook is called in the log: its program, or its host; arguments and paths may hold secrets."""
    if section.command is not None:
        return section.command[0]
    return str(urlsplit(section.webhook or "").hostname)
