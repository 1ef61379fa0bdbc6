"""Opening an endpoint: from campaign files or names to the doors of their oracles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowscout.db import History
from flowscout.errors import ConfigError
from flowscout.loop.config import CampaignConfig
from flowscout.loop.receiving import Desk
from flowscout.loop.secrets import MIN_TOKEN, read_token
from flowscout.loop.workbench import Workbench, files_of, lay_out
from flowscout.serving.doors import Door, Doors, Seen


@dataclass(frozen=True)
class Served:
    """A campaign to be served: its name, its history, and its file as it stands now, where one was named."""

    name: str
    history: History
    config: CampaignConfig | None = None


def open_doors(campaigns: Sequence[Served]) -> Doors:
    """Return the doors of the oracles of campaigns: one for each oracle and token.

    Raises:
        ConfigError: an oracle names no token, it is not set or too short, or two oracles have the same.
        NotFoundError: a campaign is not in its history.
    """
    behind: dict[str, tuple[str, list[Workbench]]] = {}
    for served in campaigns:
        bench = lay_out(served.history, served.name)
        config = bench.config if served.config is None else served.config
        oracle, token = bench.oracle.info.name, _token(served.name, config)
        other, benches = behind.setdefault(token, (oracle, []))
        if other != oracle:
            raise ConfigError(
                f"oracles {other!r} and {oracle!r} have the same token, expected one each: either could post for "
                "the other. Set another one for one of them."
            )
        benches.append(bench)
    first = next(iter(behind.values()))[1][0]
    folder = files_of(first.history, first.campaign.name, first.version.folder)
    doors = [Door(Desk(oracle, benches), token) for token, (oracle, benches) in behind.items()]
    return Doors(doors, Seen(Path(folder) / "signatures.db"))


def _token(campaign: str, config: CampaignConfig) -> str:
    name = getattr(config.oracle, "token_env", None)
    if not isinstance(name, str):
        raise ConfigError(
            f"the oracle of campaign {campaign!r} (type {config.oracle.type}) names no token_env, expected the "
            "name of an environment variable with the token that its results are posted with; add for example "
            "`token_env: BENCH_TOKEN` to the section `oracle`."
        )
    return read_token(name, at_least=MIN_TOKEN)
