"""The commands for the log of a campaign, and for who is told of it."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from flowscout.cli.campaigns import AsJson, CampaignPath, Database, opened
from flowscout.cli.output import print_json, print_rows, say, who
from flowscout.db import EventRecord, Events
from flowscout.errors import ConfigError

POLL_S = 1.0
OVERLAP = 1000
"""So many ids are looked at again: on PostgreSQL an event may be committed after one with a higher id."""


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(epilog="Example: flowscout notify campaign.yaml")(notify)
    app.command(epilog="Example: flowscout events campaign.yaml --kind conflict --kind overspent --json")(events)


def notify(campaign: CampaignPath, db: Database = None, as_json: AsJson = False) -> None:
    """Tell the hooks of the campaign file what they have not been told yet, as every command that works does."""
    from flowscout.loop.campaign import Campaign

    with Campaign.from_yaml(campaign, db=db) as found:
        told = found.notify()
    if as_json:
        print_json({"notices": told})
    else:
        say(f"{told} notices went out")


def events(
    campaign: CampaignPath,
    kind: Annotated[list[str] | None, typer.Option(help="Only of this kind; once for each.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only since then, such as 2026-11-22 or 2026-11-22T08:00.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes, until you stop it.")] = False,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show the log: what happened, when, in which round, and who did it."""
    from flowscout.loop.campaign_questions import check_kinds

    kinds = kind or []
    check_kinds(kinds)
    start = _time(since)
    with opened(campaign, db) as (history, record, _):
        if follow:
            for event in watch(history.events, record.id, kinds=kinds, since=start):
                _print_line(event, as_json=as_json)
            return
        found = history.events.read(record.id, kinds=kinds, since=start)
    rows = [vars(event) for event in found]
    if not as_json:
        rows = [row | {"actor": who(row["actor"]), "detail": _short(row["detail"])} for row in rows]
    print_rows(rows, as_json=as_json, title=f"events of {record.name}")


def watch(
    log: Events, campaign_id: int, *, kinds: Sequence[str] = (), since: datetime | None = None
) -> Iterator[EventRecord]:
    """Yield the events there are, then each that comes, once."""
    seen: set[int] = set()
    last = 0
    while True:
        for event in log.read(campaign_id, kinds=kinds, since=since, after=max(0, last - OVERLAP)):
            if event.id not in seen:
                seen.add(event.id)
                last = max(last, event.id)
                yield event
        seen = {number for number in seen if number > last - OVERLAP}
        time.sleep(POLL_S)


def _print_line(event: EventRecord, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(vars(event), default=_plain) + "\n")
        sys.stdout.flush()
        return
    where = "" if event.round is None else f" round {event.round}"
    say(f"{event.at:%Y-%m-%d %H:%M:%S}{where} {event.kind} by {who(event.actor)} {_short(event.detail)}".rstrip())


def _short(detail: Any) -> str:
    told = {name: value[:12] if name == "sha256" else value for name, value in detail.items()}
    return ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _time(text: str | None) -> datetime | None:
    """Return a time; without a zone it is the machine's own."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise ConfigError(f"--since is {text!r}, expected a time such as 2026-11-22T08:00.") from error
