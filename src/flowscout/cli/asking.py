"""Commands that ask the history: best, history, lineage, pending, sql. None of them calls an oracle or writes."""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowscout.cli.campaigns import AsJson, CampaignPath, Database
from flowscout.cli.output import cell, print_json, print_json_list, print_rows, say, warn, who
from flowscout.errors import ConfigError

if TYPE_CHECKING:
    from flowscout.db import Lineage
    from flowscout.loop.campaign import Campaign

AsOf = Annotated[
    str | None,
    typer.Option("--as-of", metavar="MOMENT", help="'round 7', 'seq 120', or a time: 2026-01-31T12:00Z."),
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(epilog="Example: flowscout best campaign.yaml -k 20 --diverse")(best)
    app.command(epilog="Example: flowscout history campaign.yaml --as-of 'round 3'")(history)
    app.command(epilog="Example: flowscout lineage campaign.yaml ACGTACGT")(lineage)
    app.command(epilog="Example: flowscout pending campaign.yaml --json")(pending)
    app.command(epilog='Example: flowscout sql campaign.yaml "select object, value from history"')(sql)


def best(
    campaign: CampaignPath,
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    diverse: Annotated[bool, typer.Option("--diverse", help="Leave out what is near a better one.")] = False,
    distance: Annotated[float | None, typer.Option(help="How far apart, in the space's own distance.")] = None,
    as_of: AsOf = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show the best candidates measured so far, and the round that proposed each."""
    from flowscout.loop.asking import best_rows

    with _opened(campaign, db) as found:
        bench = found.workbench
        rows = best_rows(bench, k, diverse=diverse, distance=distance, as_of=as_of)
        title = f"best {len(rows)} by {bench.config.objective.name}"
    columns = ("rank", "object", "value", "count", "round", "candidate_id")
    print_rows([asdict(row) for row in rows], as_json=as_json, title=title, columns=columns)


def history(
    campaign: CampaignPath,
    round_number: Annotated[int | None, typer.Option("--round", min=1, help="Only this round.")] = None,
    prop: Annotated[str | None, typer.Option("--property", help="Only this property.")] = None,
    origin: Annotated[str | None, typer.Option(help="Only what this proposed: gflownet, user, ...")] = None,
    source: Annotated[str | None, typer.Option(help="Only values from here.")] = None,
    text: Annotated[str | None, typer.Option("--object", help="Only this object.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Recorded then or later.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Recorded then or earlier.")] = None,
    as_of: AsOf = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the latest so many.")] = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show every measurement with where it came from; with --json the whole provenance."""
    from flowscout.loop.asking import make_filter

    columns = ("seq", "round", "object", "property", "value", "predicted_mean", "predicted_sd", "source")
    with _opened(campaign, db) as found:
        bench = found.workbench
        wanted = make_filter(
            bench, round=round_number, property=prop, origin=origin, source=source, object=text,
            since=_time(since, "--since"), until=_time(until, "--until"), as_of=as_of,
        )  # fmt: skip
        lists = bench.history.queries.iterate_history(bench.campaign.id, wanted, limit=limit)
        if as_json:
            print_json_list(row for rows in lists for row in rows)
            return
        shown = [{name: row[name] for name in columns} for rows in lists for row in rows]
        title = f"history of {found.name}"
    print_rows(shown, as_json=False, title=title, columns=columns)


def lineage(
    campaign: CampaignPath,
    text: Annotated[str, typer.Argument(metavar="OBJECT", help="An object, or a candidate_id.")],
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show why an object was proposed, by which model, from which data, and what came of it."""
    with _opened(campaign, db) as found:
        known = found.lineage(text)
    if as_json:
        print_json(asdict(known))
    else:
        _print_lineage(known)


def pending(campaign: CampaignPath, db: Database = None, as_json: AsJson = False) -> None:
    """Show what waits to be measured: since when, in which state, who runs it, the money held for it."""
    with _opened(campaign, db) as found:
        rows = [asdict(row) for row in found.workbench.history.queries.waiting(found.workbench.campaign.id)]
        name = found.name
    if not as_json:
        rows = [row | _for_people(row) for row in rows]
    columns = ["object", "round", "state", "since", "oracle", "attempts", "reserved"]
    if any(row["owner"] is not None for row in rows):
        columns[6:6] = ["owner", "lease_until"]
    print_rows(rows, as_json=as_json, title=f"pending in {name}", columns=columns)


def sql(
    campaign: CampaignPath,
    statement: Annotated[str, typer.Argument(metavar="SELECT", help="One question in SQL.")],
    limit: Annotated[int, typer.Option(min=1, help="At most so many rows.")] = 1000,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="It is ended after so long.")] = 30.0,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, as it stands in the database.")] = False,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Ask the history in SQL. The database itself keeps the question from changing or reaching anything."""
    from flowscout.db import History
    from flowscout.loop.config import database_url, read_campaign_file

    if as_csv and as_json:
        raise ConfigError("--csv and --json came together, expected one of them; leave one out.")
    with History(database_url(read_campaign_file(campaign), db), create=False) as found:
        answer = found.queries.sql(statement, limit=limit, timeout_s=timeout)
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([answer.columns, *answer.rows])
    else:
        rows = [dict(zip(_unlike(answer.columns), row, strict=True)) for row in answer.rows]
        print_rows(rows, as_json=as_json, title=f"{len(rows)} rows")
    if answer.cut:
        warn(f"there are more rows than these {limit}; ask for more with --limit")


def _for_people(row: dict[str, Any]) -> dict[str, str | None]:
    """Return what holds a measurement up, who runs it, and the money held for it, as a person would say it."""
    from flowscout.db import RoundState, describe_owner

    unapproved = row["round_state"] is RoundState.AWAITING_APPROVAL
    return {
        "state": "awaits approval" if unapproved and row["state"] == "queued" else row["state"],
        "owner": row["owner"] and describe_owner(row["owner"]),
        "reserved": f"{row['reserved_minor'] / 100:.2f}",
    }


def _unlike(names: Sequence[str]) -> list[str]:
    """Return the names with a number behind those that stood before: a row is printed by its names."""
    found: list[str] = []
    for name in names:
        free, number = name, 2
        while free in found:
            free, number = f"{name}_{number}", number + 1
        found.append(free)
    return found


def _time(text: str | None, name: str) -> datetime | None:
    from flowscout.db import parse_time

    return None if text is None else parse_time(text, name=name)


@contextmanager
def _opened(path: Path, db: str | None) -> Iterator["Campaign"]:
    """Yield the campaign of a file as its history holds it, which must have been started."""
    from flowscout.loop.campaign import Campaign
    from flowscout.loop.config import database_url, read_campaign_file

    file = read_campaign_file(path)
    with Campaign.open(database_url(file, db), file.config.campaign) as found:
        yield found


def _print_lineage(known: "Lineage") -> None:
    from flowscout.db import describe_owner

    say(
        f"{known.object}: candidate {known.candidate_id} of {known.campaign}, known since {cell(known.created_at)}"
    )
    for one in known.proposals:
        said = f" ({one.reason})" if one.reason else ""
        say(f"round {one.round}, {one.round_state}: {one.decision}{said}, rank {cell(one.rank)}", style="bold")
        _say_fields(
            origin=one.origin, acquisition=one.acquisition, log_reward=one.log_reward, log_prob=one.log_prob,
            predicted_mean=one.predicted_mean, predicted_sd=one.predicted_sd,
        )  # fmt: skip
        if one.sampler is not None:
            _say_made("sampler", one.sampler)
        if one.fit is not None:
            _say_made("fit", one.fit)
            data = f"{one.fit.data_count} candidates by seq {one.fit.data_upto_seq}"
            say(f"    data: {data}, sha256 {one.fit.data_sha256}")
        version = one.config
        say(
            f"  campaign file: version {version.number}, sha256 {version.sha256}, flowscout "
            f"{version.package_version}, commit {version.git_commit or 'none'}"
        )
    for wanted in known.evaluations:
        oracle = f"{wanted.oracle} {wanted.oracle_version} ({wanted.fidelity})"
        say(f"evaluation {wanted.id}, replicate {wanted.replicate}, by {oracle}: {wanted.state}", style="bold")
        for call in wanted.attempts:
            why = f" ({call.failure}: {call.message})" if call.failure else ""
            by = describe_owner(call.owner)
            say(f"  attempt {call.number} at {cell(call.started_at)} by {by}: {call.state}{why}")
            _say_fields(cost_minor=call.cost_minor)
    for row in known.measurements:
        bound = "" if row.qualifier == "=" else f"{row.qualifier} "
        say(f"seq {row.seq}: {row.property} {bound}{cell(row.value)} {row.unit or ''}".rstrip(), style="bold")
        _say_fields(
            sem=row.sem, n=row.n, supersedes=row.supersedes, superseded_by=row.superseded_by, source=row.source,
            row_id=row.row_id, actor=row.actor, recorded=row.created_at,
        )  # fmt: skip
    for event in known.events:
        say(f"{cell(event.created_at)} {event.kind} by {who(event.actor)}: {dict(event.detail)}")


def _say_made(what: str, made: Any) -> None:
    start = "" if made.parent_id is None else f", from that of round {made.parent_round}"
    kept = "" if made.artefact_sha256 is None else f", artefact {made.artefact_sha256}"
    say(f"  {what} {made.id}: {made.kind}, seed {made.seed}{start}{kept}")


def _say_fields(**values: Any) -> None:
    said = [f"{name} {cell(value)}" for name, value in values.items() if value is not None]
    if said:
        say(f"  {', '.join(said)}")
