"""The command that runs rounds: each a Prefect flow run, on an embedded server unless one is named."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from flowscout.cli.campaigns import AsJson, CampaignPath, Database
from flowscout.cli.live import RoundsDisplay
from flowscout.cli.money import overspent
from flowscout.cli.output import complain, print_json, say
from flowscout.errors import CampaignBusyError

if TYPE_CHECKING:
    from flowscout.flows.embedded import EmbeddedServer
    from flowscout.flows.outcomes import RoundOutcome
    from flowscout.loop.campaign import Campaign

INTERRUPTED = 130


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: flowscout run campaign.yaml")(run)


def run(
    campaign: CampaignPath,
    rounds: Annotated[int | None, typer.Option(min=1, help="Stop after so many rounds.")] = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Run the rounds that are due until the budget is used up or a batch waits for results.

    Stopped or killed, the same command goes on where it was.
    """
    from flowscout.db import parse_url, sidecar_folder
    from flowscout.loop.campaign import check_campaign_file
    from flowscout.loop.config import database_url

    file, _ = check_campaign_file(campaign)
    url = database_url(file, db)
    if not as_json:
        say(f"{file.config.campaign}: {campaign}")
    refuse_if_busy(file.config.campaign, url)
    home = (sidecar_folder(parse_url(url)) or Path.cwd() / "flowscout.files") / "prefect"
    with scheduler(home, quiet=as_json) as server:
        from flowscout.loop.campaign import Campaign

        with Campaign.from_yaml(campaign, db=url) as found:
            if server is not None:
                server.wait()
            outcomes = run_shown(found, rounds=rounds, quiet=as_json)
            report(found, outcomes, path=campaign, as_json=as_json)


@contextmanager
def scheduler(home: Path, *, quiet: bool) -> Iterator["EmbeddedServer | None"]:
    """Provide a Prefect server, starting in the background; a person who stops us gets a last line."""
    from flowscout.flows.runner import prefect_server

    try:
        with prefect_server(home) as server:
            if server is not None and not quiet:
                say("starting an embedded Prefect server meanwhile (10 to 25 s the first time) ...", style="dim")
            yield server
    except KeyboardInterrupt:
        complain("stopped; nothing is lost. `flowscout run` with the same campaign file goes on.")
        raise typer.Exit(INTERRUPTED) from None


def run_shown(found: "Campaign", *, rounds: int | None = None, quiet: bool = False) -> "list[RoundOutcome]":
    """Run rounds under the display and return what came of each; the last may have begun nothing.

    Raises:
        CampaignBusyError: another process runs the campaign.
    """
    from flowscout.flows import settings
    from flowscout.flows.runner import run_rounds
    from flowscout.loop.metrics import mean_pairwise_distance
    from flowscout.loop.objectives import objective_record
    from flowscout.loop.space_sections import SequenceSection

    bench = found.workbench
    settings.set_database_url(bench.history.database.location)
    wanted = bench.config.objective
    objective = objective_record(wanted)

    def spread(number: int) -> float | None:
        record = bench.history.rounds.get(bench.campaign.id, number)
        batch = [p.object for p in bench.history.rounds.proposals(record.id, selected=True)]
        section = bench.config.space
        if len(batch) < 2 or not isinstance(section, SequenceSection):
            return None
        return mean_pairwise_distance(batch, image=section.rules.image)

    outcomes: list[RoundOutcome] = []

    def work() -> None:
        for outcome in run_rounds(bench.campaign.uuid, bench.version.sha256):
            if outcome["state"] == "busy":
                raise CampaignBusyError(outcome["why"])
            outcomes.append(outcome)
            if rounds is not None and len(outcomes) >= rounds:
                return

    if quiet:
        work()
        return outcomes
    total = bench.config.budget.rounds
    with RoundsDisplay(bench.history, bench.campaign, objective, rounds=total, spread=spread):
        work()
    return outcomes


def refuse_if_busy(name: str, url: str) -> None:
    """Refuse at once what the lease would refuse after the server has started.

    Raises:
        CampaignBusyError: another live process runs the campaign.
    """
    from flowscout.db import History
    from flowscout.errors import NoHistoryError, NotFoundError

    try:
        with History(url, create=False) as history:
            holder = history.campaigns.lease_holder(history.campaigns.get(name).id)
    except (NoHistoryError, NotFoundError):
        return
    if holder is not None:
        raise CampaignBusyError(
            f"campaign {name!r} is being run by {holder}; wait for it to end, or stop it: "
            "a dead one is taken over at once."
        )


def report(found: "Campaign", outcomes: "list[RoundOutcome]", *, path: Path, as_json: bool) -> None:
    """Say where the campaign stands after a run."""
    status = found.status()
    waiting = sum(n for state, n in status.evaluations.items() if state in ("queued", "running"))
    unknown = status.evaluations.get("unknown", 0)
    if as_json:
        rounds = [one for one in outcomes if one["round"] is not None]
        print_json({"campaign": found.name, "state": status.state, "rounds": rounds, "waiting": waiting})
        return
    shown = quote(str(path))
    best = status.rounds[-1].best if status.rounds else None
    if best is not None:
        say(f"best so far: {best:.4g} after {status.candidates_measured} candidates")
    if unknown:
        say(
            f"{unknown} calls were cut off and their oracle is not idempotent: nobody can say whether they "
            f"happened. Their money stays reserved until `flowscout reconcile {shown}` settles them.",
            style="yellow",
        )
    money = found.budget()
    if money.overspent:
        say(overspent(money), style="yellow")
    last = outcomes[-1]
    if last["state"] == "awaiting_approval":
        say(
            f"the batch waits for approval: flowscout approve {shown}   flowscout veto {shown} OBJECT --reason WHY"
        )
    elif last["state"] == "paused":
        say(f"the campaign is paused: flowscout resume {shown}")
    elif waiting:
        say(f"{waiting} candidates wait for results: flowscout tell {shown} RESULTS.csv")
    elif all(one["round"] is None for one in outcomes):
        say(f"nothing to do: {last['why']}. Change the campaign file to go on.")
    say(f"next: flowscout best {shown}   flowscout history {shown}   flowscout status {shown}")
