"""Commands for calls of oracles: work beside a runner, settle what was cut off, cancel what has not begun."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowscout.cli.campaigns import AsJson, CampaignPath, Database
from flowscout.cli.gating import CampaignFileOrNone, CampaignName, which
from flowscout.cli.output import print_json, print_rows, say
from flowscout.errors import ConfigError

if TYPE_CHECKING:
    from flowscout.loop.working import Stop

Objects = Annotated[list[str], typer.Argument(metavar="OBJECT...", help="Objects that wait in a batch.")]
Actor = Annotated[str | None, typer.Option(help="Who says so; default: you.")]
Some = list[str] | None


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(epilog="Example: flowscout worker campaign.yaml --idle-s 60")(worker)
    app.command(epilog="Example: flowscout reconcile campaign.yaml --done ACGTACGT=0.42 --never TTTTACGT")(
        reconcile
    )
    app.command(epilog="Example: flowscout cancel campaign.yaml ACGTACGT --reason 'no stock'")(cancel)


def worker(
    campaign: CampaignFileOrNone = None,
    name: CampaignName = None,
    db: Database = None,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is left to be called.")] = False,
    idle_s: Annotated[float | None, typer.Option(min=0, help="End after so long without anything to do.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="How many evaluations to take at a time; default: as the oracle is called."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            envvar="FLOWSCOUT_FOLDER", help="With --campaign: where this machine keeps what its file names."
        ),
    ] = None,
    lease_s: Annotated[
        float | None,
        typer.Option(min=1, help="After how long of silence others take its calls for cut off; default: 600."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Call the oracle of a campaign beside whoever runs its rounds, until told to stop.

    On SIGTERM or Ctrl-C the calls in hand are finished first. Workers on several machines need PostgreSQL.
    """
    from flowscout.db import History
    from flowscout.loop.workbench import lay_out
    from flowscout.loop.working import work

    name, url = which(campaign, name, db)
    with History(url, create=False) as history, _stopped_by_signals() as stop:
        here = folder if campaign is None else campaign.absolute().parent
        bench = replace(lay_out(history, name, folder=here), lease_s=lease_s)
        if bench.oracle.info.waits_for_people:
            raise ConfigError(
                f"campaign {name!r} is measured by people ({bench.oracle.info.name}), expected an oracle that can "
                "be called; tell its results with `flowscout tell`."
            )
        if not as_json:
            say(f"{name}: calling {bench.oracle.info.name}; Ctrl-C ends after the calls in hand")
        found = work(bench, limit=limit, once=once, idle_s=idle_s, stop=stop, lease_s=bench.attempt_lease_s)
    if as_json:
        print_json({"campaign": name, "calls": found.calls, "added": found.added})
    else:
        say(f"{name}: {found.calls} calls, {found.added} values added")


def reconcile(
    campaign: CampaignPath,
    done: Annotated[
        Some, typer.Option(metavar="OBJECT[=VALUE]", help="It happened; without a value: the one that came late.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="A CSV file of values, as `tell` takes: they happened.")
    ] = None,
    never: Annotated[Some, typer.Option(metavar="OBJECT", help="It never happened: call it again.")] = None,
    retry: Annotated[Some, typer.Option(metavar="OBJECT", help="Call it again with the same key.")] = None,
    actor: Actor = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Settle calls that were cut off, where nobody can say whether they happened; without options list them."""
    from flowscout.loop.campaign import Campaign
    from flowscout.loop.reconciling import COLUMNS

    if done and table:
        raise ConfigError("--done and --table came together, expected one of them; put the values in the table.")
    never, retry = never or [], retry or []
    with Campaign.from_yaml(campaign, db=db) as found:
        unsafe = set(retry) & {row["object"] for row in _rows(found.reconcile()) if not row["idempotent"]}
        values = table if table is not None else dict(map(_value, done or []))
        left = _rows(found.reconcile(values or None, never=never, retry=retry, actor=actor))
        name = found.name
    if as_json:
        print_json(left)
        return
    for text in sorted(unsafe):
        say(f"{text}: its oracle is not idempotent, so that it may be paid twice; the first call counts as paid")
    if never or retry:
        say(f"queued again: {', '.join([*never, *retry])}; `flowscout worker {campaign} --once` calls them")
    print_rows(left, as_json=False, title=f"unknown in {name}", columns=COLUMNS)
    if left:
        say(f"settle with: flowscout reconcile {campaign} --done OBJECT=VALUE | --never OBJECT | --retry OBJECT")


def cancel(
    campaign: CampaignPath,
    objects: Objects,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")],
    actor: Actor = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Cancel measurements that nobody has begun. A later round may propose the objects again."""
    from flowscout.loop.campaign import Campaign

    with Campaign.from_yaml(campaign, db=db) as found:
        count = found.cancel(objects, reason=reason, actor=actor)
        name = found.name
    if as_json:
        print_json({"cancelled": count})
    else:
        say(f"{name}: {count} cancelled, {len(objects) - count} were already")


@contextmanager
def _stopped_by_signals() -> "Iterator[Stop]":
    """Yield what SIGTERM and SIGINT set: the call in hand goes on."""
    from flowscout.loop.working import Stop

    stop = Stop()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _value(text: str) -> tuple[str, float | None]:
    """Return object and value of `OBJECT=VALUE`; None where there is no value."""
    named, equals, value = text.rpartition("=")
    if not equals:
        return text, None
    try:
        return named, float(value)
    except ValueError as error:
        raise ConfigError(
            f"--done {text!r} has no number after '=', expected OBJECT=VALUE; correct it."
        ) from error


def _rows(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a table, None for what is missing."""
    return [
        {str(key): None if value != value else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]
