"""The command that checks a campaign file: validate, and by one real call its oracle."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowscout.cli.campaigns import AsJson, CampaignPath
from flowscout.cli.output import complain, print_json, say
from flowscout.errors import ConfigError

if TYPE_CHECKING:
    from flowscout.loop.config import CampaignFile
    from flowscout.loop.oracles import OracleInfo
    from flowscout.loop.trying import Trial


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: flowscout validate campaign.yaml --call")(validate)


def validate(
    campaign: CampaignPath,
    text: Annotated[str | None, typer.Argument(metavar="[OBJECT]", help="With --call: what to measure.")] = None,
    call: Annotated[
        bool, typer.Option("--call", help="Call the oracle, really, for one object; nothing is stored.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a call that costs or acts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a campaign file and that its oracle can be had. Nothing is written, nor measured without --call."""
    from flowscout.loop.campaign import check_campaign_file
    from flowscout.loop.objectives import label_of
    from flowscout.loop.workbench import rules_of

    if text is not None and not call:
        raise ConfigError(f"the object {text!r} came without --call; add it to have the oracle called, really.")
    file, oracle = check_campaign_file(campaign)
    config, info = file.config, oracle.info
    found = {
        "campaign": config.campaign,
        "objects": rules_of(config, file.folder).size,
        "objective": f"{config.objective.direction} {config.objective.name}",
        "learned": label_of(config.objective),
        "oracle": info.name,
        "calls": config.batch.size * config.batch.replicates * config.budget.rounds,
        "sha256": file.sha256,
    }
    if not as_json:
        say(f"{campaign}: right", style="green")
        say(
            f"{config.campaign}: {found['objective']} over {found['objects']:,} objects, measured by {info.name}, "
            f"{config.budget.rounds} rounds of {config.batch.size}"
            + (f", each {config.batch.replicates} times" if config.batch.replicates > 1 else "")
        )
        if config.objective.transform != "none":
            say(
                f"learned and predicted is {found['learned']}; {config.objective.name} is stored as it is measured"
            )
    if not call:
        if as_json:
            print_json(found)
        return
    trial = _call(file, text, yes=yes, quiet=as_json)
    if as_json:
        print_json(found | {"call": _as_json(trial, info)})
    else:
        _show(trial, info)
    if not trial.succeeded:
        raise typer.Exit(1)


def _call(file: "CampaignFile", text: str | None, *, yes: bool, quiet: bool) -> "Trial":
    """Call the oracle for one object, once a person has agreed to what it may cost."""
    from flowscout.loop.trying import any_object, bench_for_trial, try_oracle

    bench = bench_for_trial(file)
    info, chosen = bench.oracle.info, text if text is not None else any_object(bench)
    harmless = info.idempotent and not info.cost_usd
    if not (yes or harmless or info.waits_for_people):
        price = f"costs {info.cost_usd:g} USD" if info.cost_usd else "is not idempotent: it may act"
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise ConfigError(f"a call of oracle {info.name!r} {price}; add --yes to have it made.")
        typer.confirm(f"A call of {info.name} for {chosen} {price}. Make it?", abort=True)
    if not quiet:
        say(f"calling {info.name} for {chosen}, really; nothing is stored ...", style="dim")
    return try_oracle(bench, chosen)


def _as_json(trial: "Trial", info: "OracleInfo") -> dict[str, Any]:
    from flowscout.loop.trying import declared

    outcome = trial.outcome
    return {
        "object": trial.object,
        "key": trial.key,
        "seconds": trial.seconds,
        "values": trial.values,
        "measurements": [
            {name: getattr(one, name) for name in ("property", "value", "qualifier", "sem", "n", "unit", "as_run")}
            for one in outcome.measurements
        ],
        "cost_usd": None if outcome.cost_minor is None else outcome.cost_minor / 100,
        "failure": "unknown" if outcome.unknown else outcome.failure,
        "message": outcome.message,
        "pending_s": outcome.pending_s,
        "declared": declared(info),
    }


def _show(trial: "Trial", info: "OracleInfo") -> None:
    outcome = trial.outcome
    for one in outcome.measurements:
        exactly = "" if one.qualifier == "=" else str(one.qualifier)
        error = "" if one.sem is None else f" +- {one.sem:g}"
        unit = "" if one.unit is None else f" {one.unit}"
        conditions = f"  {one.as_run}" if one.as_run else ""
        say(f"{one.property} of {trial.object}: {exactly}{one.value:g}{error}{unit}{conditions}", style="bold")
    if outcome.pending_s is not None:
        say(f"accepted; the answer is to come by itself within {outcome.pending_s:g} s", style="bold")
    if outcome.message:
        (say if trial.succeeded else complain)(outcome.message)
    if not trial.succeeded:
        kind = "unknown" if outcome.unknown else outcome.failure
        say(f"no value for {trial.object}; what kind of failure the call is: {kind}", style="red")
    bill = "" if outcome.cost_minor is None else f"; billed {outcome.cost_minor / 100:.2f} USD"
    say(f"took {trial.seconds:.3g} s{bill}")
    say(_declared(info))


def _declared(info: "OracleInfo") -> str:
    """Return in one line what an oracle says of itself."""
    again = "a repeated key neither acts nor bills again" if info.idempotent else "not idempotent"
    asked = "can be asked what came of a call" if info.lookup else "no look-up"
    calling = info.calling
    limits = [
        f"{'all' if calling.batch is None else calling.batch} in a call, {calling.concurrency} at the same time",
        *([f"{calling.timeout_s:g} s at most"] if calling.timeout_s is not None else []),
        *([f"{calling.rate_per_s:g} a second at most"] if calling.rate_per_s is not None else []),
    ]
    price = f"{info.cost_usd:g} USD a call" if info.cost_usd else "no price"
    who = f"version {info.version}, fidelity {info.fidelity}"
    return f"declared: {who}; {price}; {again}; {asked}; {', '.join(limits)}"
