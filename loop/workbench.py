"""What a stage needs at hand: the history, the campaign with its configuration, and the lease.

What is done with it belongs in `loop.stages`.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from sqlalchemy.exc import SQLAlchemyError

from flowscout.db import (
    CampaignRecord,
    ConfigRecord,
    History,
    Lease,
    ObjectiveRecord,
    OracleRecord,
    sidecar_folder,
    this_owner,
)
from flowscout.errors import ConfigError, LeaseLostError
from flowscout.loop.artefacts import ArtefactStore
from flowscout.loop.config import CampaignConfig, CampaignFile, parse_campaign
from flowscout.loop.oracles import Oracle, build_oracle
from flowscout.loop.spaces import SequenceSpace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workbench:
    """A campaign laid out for work. `lease` is None where nothing that needs it is done."""

    history: History
    campaign: CampaignRecord
    config: CampaignConfig
    version: ConfigRecord
    lease: Lease | None = None

    @cached_property
    def space(self) -> SequenceSpace:
        """What can be built."""
        section = self.config.space
        return SequenceSpace(section.alphabet, section.length, strand=section.strand)

    @cached_property
    def oracle(self) -> Oracle:
        """Who measures."""
        folder, prop = Path(self.version.folder), self.config.objective.name
        return build_oracle(self.config.oracle.model_dump(), folder=folder, property=prop)

    @cached_property
    def artefacts(self) -> ArtefactStore:
        """Where files are kept."""
        folder = sidecar_folder(self.history.database.url)
        return ArtefactStore((Path("flowscout.files") if folder is None else folder) / "artefacts")

    @cached_property
    def device(self) -> torch.device:
        """Where the sampler is trained."""
        wanted = self.config.device
        if wanted == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                "device is 'cuda', but torch finds no GPU here; set `device: auto` or mend the driver."
            )
        return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")

    @property
    def sign(self) -> float:
        """1 where the objective is to be large, -1 where it is to be small: the loop always maximises."""
        return 1.0 if self.config.objective.direction == "maximize" else -1.0

    @property
    def held(self) -> Lease:
        """The lease, which whoever runs a stage must hold."""
        if self.lease is None:
            raise LeaseLostError(
                f"campaign {self.campaign.name!r}: a stage was run without the campaign's lease; "
                "run it within hold_campaign()."
            )
        return self.lease

    def oracle_record(self) -> OracleRecord:
        """Return what is stored of the oracle."""
        info = self.oracle.info
        return OracleRecord(
            name=info.name,
            version=info.version,
            fidelity=info.fidelity,
            unit_cost_minor=round(info.cost_usd * 100),
            idempotent=info.idempotent,
            lookup=info.lookup,
        )


def register(
    history: History, file: CampaignFile, *, package_version: str, git_commit: str | None, actor: str
) -> Workbench:
    """Store a campaign file as a version of its campaign, which is made if it is new."""
    config = file.config
    version = ConfigRecord(
        sha256=file.sha256,
        yaml=file.text,
        folder=str(file.folder),
        package_version=package_version,
        git_commit=git_commit,
    )
    cost = config.budget.cost
    campaign = history.campaigns.register(
        config.campaign,
        version,
        objectives=[ObjectiveRecord(o.name, o.direction, o.unit) for o in config.objectives],
        seed=config.seed,
        limit_minor=None if cost is None else round(cost * 100),
        actor=actor,
    )
    stored = history.campaigns.config(campaign.id, sha256=file.sha256)
    return Workbench(history, campaign, config, stored)


def lay_out(history: History, campaign: int | str, *, config_sha256: str | None = None) -> Workbench:
    """Return the workbench of a registered campaign, from what the history holds of it.

    Raises:
        NotFoundError: no such campaign or version.
    """
    record = history.campaigns.get(campaign)
    version = history.campaigns.config(record.id, sha256=config_sha256)
    config = parse_campaign(version.yaml, name=f"campaign {record.name}, version {version.number}")
    return Workbench(history, record, config, version)


@contextmanager
def hold_campaign(bench: Workbench) -> Iterator[Workbench]:
    """Hold the campaign's lease, renewing it in the background, and give it back at the end.

    Raises:
        CampaignBusyError: another live process holds it.
    """
    campaigns = bench.history.campaigns
    lease = campaigns.acquire_lease(bench.campaign.id, owner=this_owner())
    ended = threading.Event()

    def keep() -> None:
        # When the lease is lost, the next write of the runner says so: nothing is to be done here.
        while not ended.wait(lease.ttl_s / 4):
            try:
                campaigns.renew_lease(lease)
            except LeaseLostError:
                return
            except SQLAlchemyError as error:  # the database is away for a moment: the next tick tries again
                logger.warning("the lease of %s could not be renewed: %s", bench.campaign.name, error)

    keeper = threading.Thread(target=keep, name="flowscout-lease", daemon=True)
    keeper.start()
    try:
        yield replace(bench, lease=lease)
    finally:
        ended.set()
        keeper.join()
        campaigns.release_lease(lease)
