"""The command for money: what is spent and reserved, and what may be."""

from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer

from flowscout.cli.campaigns import AsJson, CampaignPath, Database, opened
from flowscout.cli.output import print_json, print_rows, say
from flowscout.db import BudgetRecord
from flowscout.errors import ConfigError

MOST_USD = 10**12
"""A larger limit is none: what is counted in cents fits a column of 64 bits, and a float is exact."""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: flowscout budget campaign.yaml --set 500 --reason 'second grant'")(budget)


def budget(
    campaign: CampaignPath,
    limit: Annotated[
        str | None, typer.Option("--set", metavar="USD", help="A new limit; `none` for no limit.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why it is set; kept in the history.")] = "",
    actor: Annotated[str | None, typer.Option(help="Who sets it; default: you.")] = None,
    db: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show what is spent and reserved, by round and oracle, or set the limit."""
    if limit is not None:
        from flowscout.loop.campaign import Campaign

        wanted = _amount(limit)
        with Campaign.from_yaml(campaign, db=db, actor=actor) as found:
            found.set_budget(wanted, reason=reason, actor=actor)
    with opened(campaign, db) as (history, record, _):
        money: BudgetRecord = history.budgets.get(record.id)
    rows = [_usd(asdict(row)) for row in money.rows]
    if as_json:
        print_json(_usd(asdict(money) | {"rows": None}) | {"rows": rows, "overspent": money.overspent})
        return
    of = "" if money.limit_minor is None else f"of {money.limit_minor / 100:.2f} "
    say(f"{money.spent_minor / 100:.2f} {of}{money.currency} spent, {money.reserved_minor / 100:.2f} reserved")
    if money.overspent:
        say(overspent(money), style="yellow")
    print_rows(rows, as_json=False, title="by round and oracle")


def overspent(money: BudgetRecord) -> str:
    """Return what a person is told whose campaign has spent more than it may."""
    assert money.limit_minor is not None
    committed = money.spent_minor + money.reserved_minor
    return (
        f"overspent: {committed / 100:.2f} of {money.limit_minor / 100:.2f} {money.currency} are spent or "
        "reserved, since a bill was above its estimate. Nothing more is dispatched; raise the limit with "
        "`flowscout budget FILE --set USD --reason WHY`."
    )


def _amount(text: str) -> float | None:
    if text == "none":
        return None
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or not 0 <= found <= MOST_USD or found * 100 != int(found * 100):
        raise ConfigError(
            f"a limit of {text!r} came, expected US dollars in whole cents, such as 500 or 499.50, or `none`."
        )
    return float(found)


def _usd(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its minor units as dollars."""
    return {
        key.replace("_minor", "_usd"): value / 100 if key.endswith("_minor") and value is not None else value
        for key, value in row.items()
    }
