"""The command that looks for what is wrong with an installation, a machine or what a campaign needs: doctor."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flowscout.cli.campaigns import AsJson, Database
from flowscout.cli.output import print_json, say

_STYLES = {"ok": "green", "warning": "yellow", "broken": "red"}


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: flowscout doctor campaign.yaml")(doctor)


def doctor(
    campaign: Annotated[
        Path | None, typer.Argument(metavar="[CAMPAIGN]", help="A campaign file, whose needs are looked at too.")
    ] = None,
    db: Database = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="That of `flowscout serve-results`.")] = 8765,
    as_json: AsJson = False,
) -> None:
    """Check versions, database, Prefect, device, secrets and more; exit code 1 if something is broken.

    Each line says what was found, and how it is mended. Nothing is changed, and the oracle is not called.
    """
    from flowscout.doctor import examine
    from flowscout.flows.settings import server_url

    checks = examine(campaign, db=db, prefect_url=server_url(), port=port)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            say(f"{check.state:<8} {check.name}: {check.found}", style=_STYLES[check.state])
            if check.mend:
                say(f"         mend: {check.mend}")
    if any(check.state == "broken" for check in checks):
        raise typer.Exit(1)
