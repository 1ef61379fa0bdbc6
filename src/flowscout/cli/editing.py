"""The command that helps an editor: schema."""

from pathlib import Path
from typing import Annotated

import typer

from flowscout.cli.output import say
from flowscout.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: flowscout schema --to campaign.schema.json")(schema)


def schema(
    to: Annotated[Path | None, typer.Option("--to", help="A file to write; else the schema is printed.")] = None,
) -> None:
    """Print the JSON schema of the campaign file: editors complete keys by it and mark mistakes.

    The first line of a campaign file names it: # yaml-language-server: $schema=campaign.schema.json
    """
    from flowscout.loop.schema import schema_text

    if to is None:
        typer.echo(schema_text(), nl=False)
        return
    try:
        to.write_text(schema_text(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{str(to)!r} cannot be written ({error.strerror}); name another with --to.") from error
    say(f"wrote {to}; name it in the first line of a campaign file: # yaml-language-server: $schema={to.name}")
