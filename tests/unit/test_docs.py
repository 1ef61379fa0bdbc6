"""The docs name every command, every key of the campaign file and every example that the help gives."""

import json
import re
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from flowscout.cli import app
from flowscout.loop import config

ROOT = Path(__file__).parents[2]


def test_every_command_is_in_the_docs_and_has_an_example() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert len(commands) >= 9
    for name, command in commands.items():
        assert f"`flowscout {name}" in text, f"docs/commands.md does not name {name}"
        assert (command.epilog or "").startswith(f"Example: flowscout {name}")
        assert command.help


def test_no_text_sends_anybody_to_a_command_that_is_not_there() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    rooms = ("src", "loop", "db", "flows", "surrogates", "docs", "examples")
    texts = [p for room in rooms for kind in ("*.py", "*.md", "*.yaml") for p in (ROOT / room).rglob(kind)]
    named = {
        (path.name, name)
        for path in [*texts, ROOT / "README.md"]
        for name in re.findall(r"(?:`|\$ |^|  )flowscout ([a-z][a-z-]+)", path.read_text(), flags=re.MULTILINE)
    }
    assert {name for _, name in named} >= {"run", "init"}
    assert {(path, name) for path, name in named if name not in commands} == set()


def test_every_key_of_the_campaign_file_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "campaign-file.md").read_text()
    sections = [v for v in vars(config).values() if isinstance(v, type) and issubclass(v, BaseModel)]
    keys = {key for s in sections if s is not config.CampaignFile for key in s.model_fields}
    assert len(keys) > 25
    missing = [key for key in sorted(keys) if f"{key}" not in text]
    assert missing == []


def test_the_example_in_the_docs_is_a_right_campaign_file() -> None:
    text = (ROOT / "docs" / "campaign-file.md").read_text()
    example = text.split("```yaml\n")[1].split("```")[0]
    parsed = config.parse_campaign(example, name="docs")
    assert parsed.space.rules.size == 32_896
    assert json.loads(parsed.model_dump_json())["budget"] == {"rounds": 8, "cost": 400.0}


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "NOTICE", "LICENSE"])
def test_what_a_project_must_say_is_there(name: str) -> None:
    assert len((ROOT / name).read_text()) > 300
