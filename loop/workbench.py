"""What a stage needs at hand: the history, the campaign with its configuration, and the lease.

What is done with it belongs in `loop.stages`.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flowscout.db import (
    ATTEMPT_LEASE_S,
    LEASE_TTL_S,
    RENEWALS,
    CampaignRecord,
    ConfigRecord,
    FileStore,
    History,
    Lease,
    OracleRecord,
    Place,
    sidecar_folder,
    this_owner,
)
from flowscout.errors import CampaignBusyError, ConfigError, LeaseLostError
from flowscout.loop import notices
from flowscout.loop.config import (
    CampaignConfig,
    CampaignFile,
    artefacts_url,
    parse_campaign,
    version_hash,
)
from flowscout.loop.objectives import objective_record
from flowscout.loop.oracle_sections import TableSection
from flowscout.loop.oracles import Oracle, build_oracle
from flowscout.loop.scales import Scale
from flowscout.loop.space_sections import SequenceSection
from flowscout.loop.spaces.alphabets import SequenceRules
from flowscout.loop.spaces.listing import Listing, read_listing

if TYPE_CHECKING:
    import torch

    from flowscout.loop.artefacts import ArtefactStore
    from flowscout.loop.spaces import CatalogueSpace, SequenceSpace

HELD_AGAIN_S = 0.2
"""How often a campaign that another process holds is asked for."""

ARTEFACTS = "artefacts"
"""The folder of artefacts among the files of a campaign."""


def rules_of(config: CampaignConfig, folder: Path) -> SequenceRules | Listing:
    """Return what is in a campaign's space, without tensors; a catalogue is read from `folder`.

    Raises:
        ConfigError: the catalogue cannot be read, holds what cannot be, or is smaller than a batch.
    """
    section = config.space
    if isinstance(section, SequenceSection):
        return section.rules
    # What is to be learned is no feature to learn it from, where both stand in one file.
    values = {one.name for one in config.measured}
    if isinstance(config.oracle, TableSection) and config.oracle.path == section.path and config.oracle.value:
        values.add(config.oracle.value)
    values |= {f"{name}_{suffix}" for name in values for suffix in ("sem", "n")}
    listing = read_listing(
        folder / section.path, column=section.object, features=section.features, without=sorted(values)
    )
    complaint = config.too_large_for(listing.size)
    if complaint is not None:
        raise ConfigError(f"{complaint}.")
    return listing


class Tools:
    """What is made of a configuration when it is first used, and kept.

    `places` is where artefacts are kept: new ones at the first. `here` is where this process keeps what the file
    names, an oracle's module or a table; None: where the file stood when it was registered.
    """

    def __init__(
        self, config: CampaignConfig, version: ConfigRecord, *, places: Sequence[Place], here: Path | None = None
    ) -> None:
        self._config, self._version = config, version
        self.places, self.here = tuple(places), here
        self.folder = Path(version.folder) if here is None else here

    @cached_property
    def rules(self) -> SequenceRules | Listing:
        """What is in the space, without tensors.

        Raises:
            ConfigError: a catalogue is not the one that this version of the campaign was registered with.
        """
        section, version = self._config.space, self._version
        if not isinstance(section, SequenceSection):
            found = version_hash(version.yaml, self._config, self.folder)
            if found != version.sha256:
                raise ConfigError(
                    f"catalogue {section.path!r} has changed: it gives hash {found[:12]}, expected "
                    f"{version.sha256[:12]}, that of version {version.number} of the campaign. Put the file back "
                    "as it was if a round that began with it is unfinished; else run, ask or tell with the "
                    "campaign file, which registers the new one as a version."
                )
        return rules_of(self._config, self.folder)

    @cached_property
    def space(self) -> "SequenceSpace | CatalogueSpace":
        """What can be built."""
        from flowscout.loop.spaces import CatalogueSpace, SequenceSpace

        section = self._config.space
        if isinstance(section, SequenceSection):
            return SequenceSpace.of_rules(section.rules)
        assert isinstance(self.rules, Listing)
        return CatalogueSpace.of_listing(self.rules, metric=section.metric)

    @cached_property
    def oracle(self) -> Oracle:
        """Who measures."""
        section, prop = self._config.oracle, self._config.objective.name
        return build_oracle(section.model_dump(), folder=self.folder, property=prop)

    @cached_property
    def artefacts(self) -> "ArtefactStore":
        """Where files are kept.

        Raises:
            ConfigError: beside the campaign file, which is on another machine.
        """
        from flowscout.loop.artefacts import ArtefactStore

        place = self.places[0]
        if isinstance(place, Path) and not any(folder.is_dir() for folder in (place, *place.parents[:2])):
            raise ConfigError(
                f"the artefacts of this campaign lie beside its file in {str(place.parent.parent)!r}, which is "
                "not on this machine. Set `artefacts` in the campaign file to a store that all machines reach, "
                "such as s3://BUCKET/FOLDER, or say with FLOWSCOUT_FOLDER where that folder is here."
            )
        return ArtefactStore(*self.places)

    @cached_property
    def device(self) -> "torch.device":
        """Where the sampler is trained."""
        import torch

        wanted, found = self._config.device, torch.cuda.is_available()
        if wanted == "cuda" and not found:
            raise ConfigError(
                "device is 'cuda', but torch finds no GPU here; set `device: auto` or mend the driver."
            )
        return torch.device("cuda" if wanted != "cpu" and found else "cpu")


@dataclass(frozen=True)
class Workbench:
    """A campaign laid out for work. `lease` is None where nothing that needs it is done.

    `lease_s` is how long the leases that are taken for it last; None: as long as the history's own.
    """

    history: History
    campaign: CampaignRecord
    config: CampaignConfig
    version: ConfigRecord
    tools: Tools
    lease: Lease | None = None
    lease_s: float | None = None

    @property
    def attempt_lease_s(self) -> float:
        """How long the lease of an attempt lasts."""
        return ATTEMPT_LEASE_S if self.lease_s is None else self.lease_s

    @property
    def space(self) -> "SequenceSpace | CatalogueSpace":
        """What can be built."""
        return self.tools.space

    @property
    def oracle(self) -> Oracle:
        """Who measures."""
        return self.tools.oracle

    @property
    def artefacts(self) -> "ArtefactStore":
        """Where files are kept."""
        return self.tools.artefacts

    @property
    def device(self) -> "torch.device":
        """Where the sampler is trained."""
        return self.tools.device

    @property
    def scale(self) -> Scale:
        """The scale on which the objective is learned and predicted; the loop always maximises."""
        return Scale.of(self.config.objective.transform, self.config.objective.direction)

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
        objectives=[objective_record(one) for one in config.objectives],
        seed=config.seed,
        limit_minor=None if cost is None else round(cost * 100),
        actor=actor,
    )
    notices.subscribe(history, campaign, config)
    stored = history.campaigns.config(campaign.id, sha256=file.sha256)
    # Another user may have registered the same file from another folder since.
    return _lay_out(history, campaign, config, replace(stored, folder=str(file.folder)))


def lay_out(
    history: History, campaign: int | str, *, config_sha256: str | None = None, folder: Path | None = None
) -> Workbench:
    """Return the workbench of a registered campaign, from what the history holds of it.

    `folder` is where this machine keeps the files of campaigns, or those of this one: a folder in it that has the
    campaign's name is taken first. By default they are where the file stood when it was registered.

    Raises:
        NotFoundError: no such campaign or version.
    """
    record = history.campaigns.get(campaign)
    version = history.campaigns.config(record.id, sha256=config_sha256)
    config = parse_campaign(version.yaml, name=f"campaign {record.name}, version {version.number}")
    if folder is not None and (folder / record.name).is_dir():
        folder = folder / record.name
    return _lay_out(history, record, config, version, here=folder)


def at_version(bench: Workbench, version_id: int) -> Workbench:
    """Return the bench as an earlier version of the campaign file lays it out; the lease stays.

    Where that one's folder is on another machine, what it names is looked for in this bench's.
    """
    if bench.version.id == version_id:
        return bench
    version = bench.history.campaigns.config(bench.campaign.id, version_id=version_id)
    config = parse_campaign(version.yaml, name=f"campaign {bench.campaign.name}, version {version.number}")
    here = bench.tools.here
    if here is None and not Path(version.folder).is_dir():
        here = bench.tools.folder
    then = _lay_out(bench.history, bench.campaign, config, version, here=here)
    return replace(then, lease=bench.lease, lease_s=bench.lease_s)


def _lay_out(
    history: History,
    campaign: CampaignRecord,
    config: CampaignConfig,
    version: ConfigRecord,
    *,
    here: Path | None = None,
) -> Workbench:
    tools = Tools(config, version, places=_places(history, campaign, version, here), here=here)
    return Workbench(history, campaign, config, version, tools)


def _places(
    history: History, campaign: CampaignRecord, version: ConfigRecord, here: Path | None
) -> tuple[Place, ...]:
    """Return where the artefacts of a version of a campaign lie: its store first, then where others put theirs."""
    home = version.folder if here is None or Path(version.folder).is_dir() else str(here)
    beside = files_of(history, campaign.name, home) / ARTEFACTS
    others = [one for one in history.campaigns.configs(campaign.id) if one.sha256 != version.sha256]
    urls = [artefacts_url(one.yaml) for one in (version, *others)]
    first: Place = beside if urls[0] is None else urls[0]
    return tuple(dict.fromkeys([first, *(url for url in urls if url is not None), beside]))


def files_of(history: History, campaign: str, folder: str) -> Path:
    """Return where a campaign's files lie: beside the database, or beside the campaign file in `folder`.

    The latter where the database is no file: a worker may run in any folder.
    """
    return sidecar_folder(history.database.url) or Path(folder) / f"{campaign}.files"


def artefacts_of(history: History, campaign: CampaignRecord) -> FileStore:
    """Return the store that a registered campaign's artefacts lie in."""
    return FileStore(*_places(history, campaign, history.campaigns.config(campaign.id), None))


@contextmanager
def hold_campaign(bench: Workbench) -> Iterator[Workbench]:
    """Hold the campaign's lease, renewing it in the background, and give it back at the end.

    Raises:
        CampaignBusyError: another live process holds it.
    """
    campaigns = bench.history.campaigns
    ttl_s = LEASE_TTL_S if bench.lease_s is None else bench.lease_s
    lease = campaigns.acquire_lease(bench.campaign.id, owner=this_owner(), ttl_s=ttl_s)
    ended = threading.Event()

    def keep() -> None:
        # When the lease is lost, the next write of the runner says so: nothing is to be done here.
        while not ended.wait(lease.ttl_s / RENEWALS):
            try:
                campaigns.renew_lease(lease)  # a database that is away is tried again at the next tick
            except LeaseLostError:
                return

    keeper = threading.Thread(target=keep, name="flowscout-lease", daemon=True)
    keeper.start()
    with ExitStack() as telling:  # told last, when the lease is given back
        try:
            # Within: it asks the database, and where that has gone away nobody may be left holding the lease.
            telling.enter_context(
                notices.delivering(bench.history, bench.campaign, bench.config, folder=bench.tools.folder)
            )
            yield replace(bench, lease=lease)
        finally:
            ended.set()
            keeper.join()
            campaigns.release_lease(lease)


@contextmanager
def hold_patiently(bench: Workbench, *, patience_s: float) -> Iterator[Workbench]:
    """Hold the campaign as `hold_campaign` does, once a process that holds it now lets it go.

    Raises:
        CampaignBusyError: another live process holds it all the while.
    """
    deadline = time.monotonic() + patience_s
    with ExitStack() as stack:
        while True:
            try:
                held = stack.enter_context(hold_campaign(bench))
            except CampaignBusyError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(HELD_AGAIN_S)
            else:
                break
        yield held
