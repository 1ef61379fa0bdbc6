"""Methods under test by what the command line calls them: `flowscout`, `gp-ts`, `flowscout[batch.explore=0.25]`.

How a method works belongs in `rivals*.py` and `flowscout_method.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml
from rivals import RIVALS
from rivals_base import Method, Problem

from flowscout.errors import ConfigError

OURS = ("flowscout", "flowscout-nogfn", "exhaustive")
NAMES = (*OURS, *RIVALS)


@dataclass(frozen=True)
class MethodSpec:
    """A method, and for ours what is changed in the campaign file, by dotted keys."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What rows and tables call it: the name, and the settings if there are any."""
        if not self.settings:
            return self.name
        changed = ",".join(f"{key}={_written(value)}" for key, value in self.settings.items())
        return f"{self.name}[{changed}]"

    @property
    def is_ours(self) -> bool:
        """Whether it is Flowscout, and not a rival."""
        return self.name in OURS

    def check(self, problem: Problem) -> None:
        """Refuse, before anything is spent, what cannot run.

        Raises: ConfigError: the space cannot be enumerated, or the campaign file cannot say this.
        """
        if self.name == "exhaustive" and problem.sequences is None:
            raise ConfigError(
                f"exhaustive came for {len(problem.alphabet)}^{problem.length} sequences, expected a landscape "
                "that can be enumerated. Leave the method out."
            )
        if self.is_ours:
            from flowscout_method import PROPOSERS, campaign_file

            campaign_file(problem, proposer=PROPOSERS[self.name], settings=self.settings)

    def make(self, problem: Problem, rng: np.random.Generator) -> Method:
        """Return the method, ready to be told the initial labels."""
        if self.name in RIVALS:
            return RIVALS[self.name](problem, rng)
        # Imported here: the rivals run where the product's scheduler and database are not installed.
        from flowscout_method import PROPOSERS, FlowscoutMethod

        return FlowscoutMethod(problem, rng, proposer=PROPOSERS[self.name], settings=self.settings)


def read_methods(text: str, changes: Sequence[str] = ()) -> list[MethodSpec]:
    """Return the methods that `--methods` names; `changes` (`key=value`) are made in all of ours.

    Raises: ConfigError for an unknown name or a setting that cannot be read.
    """
    common = read_settings(changes)
    texts = list(NAMES) if text == "all" else re.findall(r"[^,\[\]\s]+(?:\[[^\[\]]*\])?", text)
    found = []
    for one in texts:
        name, _, inner = one.rstrip("]").partition("[")
        own = read_settings([part for part in inner.split(",") if part.strip()])
        if name not in NAMES:
            raise ConfigError(
                f"--methods is {text!r}, expected some of {', '.join(NAMES)}, or all. Separate them by commas; "
                f"remove {name}."
            )
        if own and name not in OURS:
            raise ConfigError(f"{one} came, expected settings for {', '.join(OURS)} only. Remove the brackets.")
        found.append(MethodSpec(name, {**common, **own} if name in OURS else {}))
    if not found:
        raise ConfigError(f"--methods is {text!r}, expected some of {', '.join(NAMES)}, or all. Name one.")
    return list({spec.label: spec for spec in found}.values())


def read_settings(changes: Sequence[str]) -> dict[str, Any]:
    """Return `key=value` texts as a mapping; values are read as YAML, so that 0.25 is a number.

    Raises: ConfigError for a text without an equals sign, or a value that is no YAML.
    """
    settings = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"the setting {change!r} came, expected key=value with a dotted key of the campaign file. "
                "Write for example batch.explore=0.25."
            )
        try:
            settings[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"the setting {change!r} has a value that is not valid YAML. Quote it.") from error
    return settings


def _written(value: Any) -> str:
    """Return a setting's value on one line, as it could be given again."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
