"""The draft of a campaign: from what somebody has to a campaign file and an oracle to begin with.

What is asked and where it is written belongs in `flowscout.cli`, the oracles' texts in `loop.skeletons`.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import yaml

from flowscout.errors import ConfigError
from flowscout.loop import skeletons
from flowscout.loop.config import CampaignConfig, parse_campaign
from flowscout.loop.oracles import build_oracle
from flowscout.loop.schema import SCHEMA_FILE
from flowscout.loop.workbench import rules_of

OracleType = Literal["callable", "process", "http", "lab", "table"]
Direction = Literal["maximize", "minimize"]
ORACLE_TYPES: tuple[str, ...] = get_args(OracleType)

CAMPAIGN_FILE = "campaign.yaml"
USUAL_BATCH = 16
_COMMENTS_AT = 40
_NEEDS_NO_QUOTES = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-:")


@dataclass(frozen=True)
class SequencePlan:
    """Sequences of one length, all of them or those within so many mutations of a wild type."""

    alphabet: str
    length: int
    wild_type: str | None = None
    max_mutations: int | None = None


@dataclass(frozen=True)
class ListPlan:
    """What is listed in a CSV file; `object` is its column of names."""

    path: Path
    object: str | None = None


@dataclass(frozen=True)
class OraclePlan:
    """Who measures, at which price in US dollars; `table` is a CSV file, `value` its column of values."""

    type: OracleType = "callable"
    url: str | None = None
    table: Path | None = None
    value: str | None = None
    cost_usd: float | None = None


@dataclass(frozen=True)
class CampaignPlan:
    """What somebody has and wants. Without a `batch` it is the usual one, or all that there is."""

    name: str
    space: SequencePlan | ListPlan
    oracle: OraclePlan = OraclePlan()
    objective: str = "score"
    direction: Direction = "maximize"
    unit: str | None = None
    batch: int | None = None
    rounds: int = 5
    cost: float | None = None


def read_space(text: str) -> SequencePlan | ListPlan:
    """Return the space that is written as `dna:8`, `protein:12`, `LETTERS:6` or the name of a CSV file.

    Raises:
        ConfigError: it is none of them.
    """
    if text.endswith((".csv", ".csv.gz")):
        return ListPlan(Path(text))
    alphabet, colon, length = text.rpartition(":")
    if not (colon and alphabet and length.isascii() and length.isdecimal()):
        raise ConfigError(
            f"the space is {text!r}, expected letters and a length such as dna:8, protein:12 or ABCD:6, or "
            "the name of a CSV file with a list. Write one of these."
        )
    return SequencePlan(alphabet, int(length))


def draft(plan: CampaignPlan, folder: Path) -> dict[Path, str]:
    """Return the files of a campaign in `folder`, by their paths: checked, and not written.

    Raises:
        ConfigError, LabelError: what is planned cannot be.
    """
    plan = completed(plan)
    files = {folder / CAMPAIGN_FILE: campaign_text(plan, relative_to=folder)}
    skeleton = _skeleton(plan, folder)
    if skeleton is not None:
        name, text = skeleton
        files[folder / name] = text
    return files


def campaign_text(plan: CampaignPlan, *, relative_to: Path | None = None) -> str:
    """Return a campaign file with comments; the paths in it are relative to a folder, or else absolute."""

    def place(path: Path) -> str:
        return str(path.absolute()) if relative_to is None else _relative(path, relative_to)

    head = [
        f"# yaml-language-server: $schema={SCHEMA_FILE}",
        "# A campaign file. docs/campaign-file.md explains every key; `flowscout validate` checks it.",
        _line(f"campaign: {_scalar(plan.name)}", f"results are kept in {plan.name}.db beside this file"),
    ]
    parts = [
        head,
        _space(plan, place),
        _objectives(plan),
        _oracle(plan.oracle, place),
        _batch(plan),
        _budget(plan),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def completed(plan: CampaignPlan) -> CampaignPlan:
    """Return the plan with a batch that fits the space, once all of it is found to be right.

    Raises:
        ConfigError, LabelError: what is planned cannot be.
    """
    if plan.oracle.type == "table" and plan.oracle.table is None:
        raise ConfigError("the oracle is a table, and none was named; name its CSV file with --table.")
    config = _read(replace(plan, batch=1))
    found = replace(plan, batch=plan.batch or min(USUAL_BATCH, rules_of(config, Path()).size))
    config = _read(found)
    rules_of(config, Path())
    if plan.oracle.type == "table":
        build_oracle(config.oracle.model_dump(), folder=Path(), property=config.objective.name)
    return found


def _read(plan: CampaignPlan) -> CampaignConfig:
    return parse_campaign(campaign_text(plan), name="the draft")


def _space(plan: CampaignPlan, place: Callable[[Path], str]) -> list[str]:
    space = plan.space
    if isinstance(space, ListPlan):
        lines = [
            "# What can be built: the names in a CSV file. The columns of numbers in it are learned from.",
            "space:",
            "  type: catalogue",
            f"  path: {_scalar(place(space.path))}",
        ]
        if space.object is not None:
            lines.append(f"  object: {_scalar(space.object)}")
        return [*lines, _line("  # metric: tanimoto", "for counts and fingerprints")]
    lines = [
        "# What can be built.",
        "space:",
        "  type: sequence",
        _line(f"  alphabet: {_scalar(space.alphabet)}", "dna, rna, protein, or letters of your own"),
        f"  length: {space.length}",
    ]
    if space.wild_type is not None:
        lines.append(f"  wild_type: {_scalar(space.wild_type)}")
        lines.append(
            _line(f"  max_mutations: {space.max_mutations}", "letters that may differ from the wild type")
        )
    elif space.alphabet in ("dna", "rna"):
        lines.append(_line("  # strand: double", "a sequence and its reverse complement are one object"))
    return lines


def _objectives(plan: CampaignPlan) -> list[str]:
    unit = _line("    # unit: nM", "a table in another unit is refused")
    return [
        "# What is wanted.",
        "objectives:",
        f"  - name: {_scalar(plan.objective)}",
        _line(f"    direction: {plan.direction}", "maximize or minimize"),
        unit if plan.unit is None else f"    unit: {_scalar(plan.unit)}",
    ]


def _oracle(oracle: OraclePlan, place: Callable[[Path], str]) -> list[str]:
    """Return the lines that say who measures."""
    price = f"  cost_usd: {oracle.cost_usd:g}" if oracle.cost_usd else "  # cost_usd: 0.10"
    price = _line(price, "US dollars a measurement")
    if oracle.type == "callable":
        lines = [
            "# Who measures: the function `score` in oracle.py beside this file.",
            "oracle:",
            "  type: callable",
            "  function: oracle:score",
        ]
    elif oracle.type == "process":
        lines = [
            "# Who measures: a program that is started in this folder, and reads and writes lines of JSON.",
            "oracle:",
            "  type: process",
            "  command: [python, program.py]",
            _line("  # batch: 8", "objects given to one start of it, at most"),
            _line("  # concurrency: 2", "how many run at the same time"),
            _line("  timeout_s: 600", "killed, with what it started, if it takes longer"),
        ]
    elif oracle.type == "http":
        promise = "a repeated key neither acts nor bills again"
        lines = [
            "# Who measures: a service that takes requests as JSON.",
            "oracle:",
            "  type: http",
            f"  url: {_scalar(oracle.url or skeletons.SERVICE_URL)}",
            _line("  idempotent: true" if _is_ours(oracle) else "  # idempotent: true", promise),
            _line("  # secret_env: ASSAY_TOKEN", "the environment variable with its token"),
            _line("  batch: 24", "objects in one call, at most"),
            _line("  timeout_s: 60", "how long an answer may take"),
        ]
    elif oracle.type == "lab":
        lines = [
            "# Who measures: people. `flowscout ask` says what, `flowscout tell` takes the results.",
            "oracle:",
            "  type: lab",
            _line("  name: bench", "its name in the history"),
        ]
    else:
        assert oracle.table is not None
        lines = [
            "# Who measures: nobody. Values are looked up in a CSV file.",
            "oracle:",
            "  type: table",
            f"  path: {_scalar(_table_path(oracle.table, place))}",
        ]
        if oracle.value is not None:
            lines.append(f"  value: {_scalar(oracle.value)}")
    return [*lines, price]


def _batch(plan: CampaignPlan) -> list[str]:
    return [
        "# How many are measured in a round.",
        "batch:",
        f"  size: {plan.batch}",
        _line("  # replicates: 2", "how often each of them is measured"),
    ]


def _budget(plan: CampaignPlan) -> list[str]:
    cost = "  # cost: 400" if plan.cost is None else f"  cost: {plan.cost:.15g}"
    return [
        "# When to stop.",
        "budget:",
        f"  rounds: {plan.rounds}",
        _line(cost, "US dollars in all; a call that would exceed them is not made"),
    ]


def _skeleton(plan: CampaignPlan, folder: Path) -> tuple[str, str] | None:
    """Return the name and the text of an oracle to begin with, or None where none is to be written."""
    kind, space = plan.oracle.type, plan.space
    if kind == "process":
        return "program.py", skeletons.PROGRAM
    if kind == "http" and _is_ours(plan.oracle):
        return "service.py", skeletons.SERVICE
    if kind != "callable":
        return None
    if isinstance(space, ListPlan):
        config = _read(plan)
        column = space.object or _first_column(config)
        path = _relative(space.path, folder)
        return "oracle.py", skeletons.LISTED.format(path=json.dumps(path), column=json.dumps(column))
    return "oracle.py", skeletons.PEPTIDES if space.alphabet == "protein" else skeletons.SEQUENCES


def _is_ours(oracle: OraclePlan) -> bool:
    """Return whether the service is the one that is written beside the campaign file."""
    return oracle.url in (None, skeletons.SERVICE_URL)


def _first_column(config: CampaignConfig) -> str:
    """Return the name of the first column of the list, which holds the objects."""
    import pandas as pd

    assert config.space.type == "catalogue"
    return str(pd.read_csv(config.space.path, nrows=0).columns[0])


def _table_path(path: Path, place: Callable[[Path], str]) -> str:
    """Return how a table is named: one that is shipped keeps its name."""
    return str(path) if str(path).startswith("flowscout:") else place(path)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


def _line(text: str, comment: str) -> str:
    return f"{text:<{_COMMENTS_AT}} # {comment}" if len(text) <= _COMMENTS_AT else f"{text}  # {comment}"


def _scalar(text: str) -> str:
    """Return a text as YAML 1.1 and 1.2 both read it back, without quotes where it needs none."""
    plain = text[:1].isalpha() and set(text) <= _NEEDS_NO_QUOTES and not text.endswith(":")
    if plain and text.lower() not in _SWITCHES and yaml.safe_load(text) == text:
        return text
    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf"))
    return quoted.strip()


_SWITCHES = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))
