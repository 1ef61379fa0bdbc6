"""The campaign file: what a user may write in it, and what is said when it is wrong.

What the words do belongs in the other modules; nothing here loads torch.
"""

import difflib
import hashlib
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from flowscout.db import EventKind, check_place, parse_url
from flowscout.errors import ConfigError
from flowscout.loop.gate_sections import StopSection
from flowscout.loop.oracle_sections import OracleSection
from flowscout.loop.scales import TransformName
from flowscout.loop.section import MAX_USD, Section
from flowscout.loop.space_sections import CatalogueSection, SequenceSection, SpaceSection

EXHAUSTIVE_LIMIT = 2**20
"""The most objects that an exhaustive proposer scores: all of 10 letters of DNA, or a list of a million."""


class PropertySection(Section):
    """A further property that results may bring: kept and shown, and not optimised."""

    name: str = Field(min_length=1)
    unit: str | None = None


class NormalizeSection(Section):
    """How an objective is made, plate by plate, from a further property `raw` and the plate's controls.

    `percent_of_control` is 100 (raw - negative) / (positive - negative), of the means of the control wells.
    """

    raw: str = Field(min_length=1)
    formula: Literal["percent_of_control"] = "percent_of_control"


class ObjectiveSection(PropertySection):
    """A property to be made large or small. `direction` is of the value as it is measured and stored.

    The surrogate learns it as `transform` makes it: `-log10` turns an IC50 into a pIC50.
    """

    direction: Literal["maximize", "minimize"]
    transform: TransformName = "none"
    normalize: NormalizeSection | None = None

    @model_validator(mode="after")
    def _means_one_direction(self) -> "ObjectiveSection":
        if self.transform == "-log10" and self.direction == "maximize":
            raise ValueError(
                f"objective {self.name!r} is to be maximized with transform -log10, but the direction is that of "
                f"the value as measured, and a large {self.name} is a small -log10 of it. Write direction: "
                "minimize, or transform: log10 if large values are wanted"
            )
        return self


SURROGATES = ("auto", "gp", "linear", "ensemble", "svgp")


class SurrogateSection(Section):
    """What the surrogate is. `auto` chooses and says why; `module:function` makes a user's own."""

    type: str = "auto"
    kernel: Literal["product", "additive", "pairs", "mixture"] = "product"

    @field_validator("type")
    @classmethod
    def _is_known(cls, value: str) -> str:
        module, _, function = value.partition(":")
        if value not in SURROGATES and not (module and function):
            raise ValueError(
                f"surrogate.type is {value!r}, expected one of {', '.join(SURROGATES)}, or module:function for a "
                "surrogate of your own"
            )
        return value

    @model_validator(mode="after")
    def _kernel_is_of_a_gp(self) -> "SurrogateSection":
        if "kernel" in self.model_fields_set and self.type != "gp":
            raise ValueError(
                f"surrogate.kernel is {self.kernel!r} and surrogate.type {self.type!r}; only a gp takes a kernel: "
                "set `type: gp`, or leave the kernel out"
            )
        return self


class AcquisitionSection(Section):
    """What makes a candidate worth measuring. `kappa` is of `ucb` and `q_ucb`."""

    type: Literal["ucb", "log_ei", "q_log_ei", "q_ucb", "mes", "thompson"] = "ucb"
    kappa: float = Field(default=8.0, ge=0)

    @model_validator(mode="after")
    def _kappa_is_of_a_bound(self) -> "AcquisitionSection":
        if "kappa" in self.model_fields_set and self.type not in ("ucb", "q_ucb"):
            raise ValueError(
                f"acquisition.kappa is {self.kappa} and acquisition.type {self.type!r}; only ucb and q_ucb take a "
                "kappa: leave it out"
            )
        return self


class ProposerSection(Section):
    """Who proposes. `exponent` scales the log-reward; without one it follows from the size of the space.

    `auto` is a mixture of a GFlowNet and local search. `shares` belong to a mixture; `loss`, `steps`, `anchors`
    and `warm_start` to a GFlowNet, `evaluations` to a search, also as parts of one. A GFlowNet of long sequences
    edits what is known, unless `anchors` are given.
    """

    type: Literal["auto", "gflownet", "local_search", "genetic", "exhaustive", "random", "mixture"] = "auto"
    loss: Literal["trajectory_balance", "log_partition_variance"] | None = None
    steps: int = Field(default=150, ge=1)
    exponent: float | None = Field(default=None, gt=0)
    anchors: float | None = Field(default=None, ge=0, le=1)
    warm_start: bool = True
    evaluations: int = Field(default=7_680, ge=1)
    shares: dict[Literal["gflownet", "local_search", "genetic", "exhaustive", "random"], float] | None = None

    @model_validator(mode="after")
    def _shares_of_a_mixture(self) -> "ProposerSection":
        if self.shares is not None and self.type != "mixture":
            raise ValueError(
                f"proposer.type is {self.type!r} with proposer.shares, which only a mixture has; write for "
                "example {type: mixture, shares: {gflownet: 0.5, genetic: 0.5}}"
            )
        shares = [1.0] if self.shares is None else list(self.shares.values())
        if not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(
                f"proposer.shares are {self.shares!r}, expected positive numbers that sum to 1; correct them, or "
                "leave out a proposer that is to have none"
            )
        return self


MAX_BATCH = 3_000
"""Objects in a batch at most: no pool is larger, because joint posterior draws of it take the cube of its size."""


MAX_REPLICATES = 100
"""Measurements asked of one object in a round at most."""


class BatchSection(Section):
    """How many are measured in a round, and which share of them elsewhere than where the best lie.

    `replicates` is how often each is measured. `explore: early` spends half of the first rounds so, and nothing of
    the later ones. `drift` is the share that leaves a plateau, see `loop.drift`. `select` is how a batch is chosen
    from the pool; no two of it are nearer than `distance`, while there are others: `auto` is a share of the length
    of sequences, see `loop.selection`, and None is no distance at all.
    """

    size: int = Field(ge=1, le=MAX_BATCH)
    explore: Annotated[float, Field(ge=0, le=1)] | Literal["early"] = 0.0
    drift: float = Field(default=0.5, ge=0, le=1)
    select: Literal["thompson", "greedy", "dpp", "top"] = "thompson"
    distance: Annotated[float, Field(gt=0)] | Literal["auto"] | None = "auto"
    replicates: int = Field(default=1, ge=1, le=MAX_REPLICATES)

    @model_validator(mode="after")
    def _distance_with_a_ranking(self) -> "BatchSection":
        if isinstance(self.distance, float) and self.select in ("greedy", "dpp"):
            raise ValueError(
                f"batch.distance is {self.distance:g} and batch.select is {self.select!r}, which spreads a batch "
                "by itself; leave out the distance, or set batch.select to thompson or top"
            )
        return self


NOTICES: dict[str, EventKind] = {
    "round_complete": EventKind.ROUND_COMPLETE,
    "round_failed": EventKind.ROUND_FAILED,
    "approval_needed": EventKind.ROUND_AWAITING_APPROVAL,
    "unknown_attempt": EventKind.UNKNOWN_ATTEMPT,
    "conflict": EventKind.CONFLICT,
    "budget_80": EventKind.BUDGET_80,
    "overspent": EventKind.OVERSPENT,
    "campaign_finished": EventKind.CAMPAIGN_FINISHED,
}
"""What a hook may be told of, and the event that it is. Not that a hook failed: that would go round in a ring."""


class NotifySection(Section):
    """Who is told when something happens: a command, or a webhook signed with a secret of the environment."""

    on: list[str] = Field(min_length=1)
    command: list[str] | None = Field(default=None, min_length=1)
    webhook: str | None = None
    secret_env: str | None = None
    timeout_s: float = Field(default=10.0, gt=0, le=300)

    @model_validator(mode="after")
    def _is_one_hook(self) -> "NotifySection":
        unknown = [name for name in self.on if name not in NOTICES]
        if unknown:
            raise ValueError(f"notify.on has {unknown[0]!r}, expected some of {', '.join(NOTICES)}")
        if (self.command is None) == (self.webhook is None):
            raise ValueError("notify needs either a command or a webhook; give one of them in each entry")
        if self.webhook is not None and not self.webhook.startswith(("http://", "https://")):
            raise ValueError("notify.webhook is no http:// or https:// address; correct it")
        if self.secret_env is not None and self.webhook is None:
            raise ValueError("notify.secret_env signs a webhook, and a command came; leave it out")
        return self


class BudgetSection(Section):
    """When to stop: after so many rounds, or when so much is spent (in US dollars)."""

    rounds: int = Field(ge=1)
    cost: float | None = Field(default=None, ge=0, le=MAX_USD)


class CampaignConfig(Section):
    """A campaign file."""

    campaign: str = Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    space: SpaceSection
    objectives: list[ObjectiveSection] = Field(min_length=1)
    properties: list[PropertySection] = Field(default_factory=list)
    oracle: OracleSection
    surrogate: SurrogateSection = SurrogateSection()
    acquisition: AcquisitionSection = AcquisitionSection()
    proposer: ProposerSection = ProposerSection()
    batch: BatchSection
    budget: BudgetSection
    stop: StopSection = StopSection()
    approve: bool = False
    health: Literal["warn", "hold"] = "warn"
    notify: list[NotifySection] = Field(default_factory=list)
    seed: int | None = Field(default=None, ge=0, lt=2**62)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    artefacts: str | None = None

    @field_validator("artefacts")
    @classmethod
    def _is_a_store(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                check_place(value)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return value

    @field_validator("oracle", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """Read `oracle: module:function` as the callable that it names."""
        return {"type": "callable", "function": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> "CampaignConfig":
        if len(self.objectives) > 1:
            raise ValueError(
                f"{len(self.objectives)} objectives came, expected one: campaigns of several objectives are "
                "not supported yet"
            )
        section = self.objective.normalize
        if section is not None and section.raw not in [one.name for one in self.properties]:
            raise ValueError(
                f"objective {self.objective.name!r} is made from {section.raw!r}, expected one of the further "
                f"properties; add `properties: [{{name: {section.raw}}}]`, where its raw values are kept"
            )
        names = [one.name for one in self.measured]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"property {twice[0]!r} is named twice, expected each once; rename or leave out one")
        if isinstance(self.space, SequenceSection):  # how long a catalogue is, only its file tells
            complaint = self.too_large_for(self.space.rules.size)
            if complaint is not None:
                raise ValueError(complaint)
        elif self.surrogate.type != "auto":
            raise ValueError(
                f"surrogate.type is {self.surrogate.type!r}, which learns from letters; a catalogue's "
                "features are numbers, so leave it out: space.metric chooses the kernel"
            )
        return self

    def too_large_for(self, size: int) -> str | None:
        """Return why the batch or the proposer does not fit a space of so many objects, or None if they do."""
        if self.batch.size > size:
            return (
                f"batch.size is {self.batch.size}, larger than the space, which has {size} objects; "
                "make the batch smaller or the space larger"
            )
        if "exhaustive" in (self.proposer.type, *(self.proposer.shares or ())) and size > EXHAUSTIVE_LIMIT:
            return (
                f"the proposer is exhaustive in a space of {size:,} objects, expected at most "
                f"{EXHAUSTIVE_LIMIT:,}; choose gflownet, local_search or genetic"
            )
        return None

    @property
    def measured(self) -> list[PropertySection]:
        """Everything that results may bring: the objectives, then the further properties."""
        return [*self.objectives, *self.properties]

    @property
    def objective(self) -> ObjectiveSection:
        """The one objective."""
        return self.objectives[0]


class CampaignFile(BaseModel):
    """A campaign file as read: its text, its meaning, and the folder that its names are relative to."""

    model_config = ConfigDict(frozen=True)

    text: str
    config: CampaignConfig
    folder: Path

    @cached_property
    def sha256(self) -> str:
        """The hash by which this version is known, a catalogue included; taken once."""
        return version_hash(self.text, self.config, self.folder)


def version_hash(text: str, config: CampaignConfig, folder: Path) -> str:
    """Return the hash of a version of a campaign: of the text of its file, and of the catalogue that it names.

    Raises:
        ConfigError: the catalogue cannot be read.
    """
    digest = hashlib.sha256(text.encode())
    if isinstance(config.space, CatalogueSection):
        path = folder / config.space.path
        try:
            with path.open("rb") as file:
                digest.update(b"\0" + hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ConfigError(
                f"catalogue {str(path)!r} cannot be read ({error.strerror}), expected a CSV file. Check the path, "
                "which is relative to the campaign file."
            ) from error
    return digest.hexdigest()


def read_campaign_file(path: Path) -> CampaignFile:
    """Read and check a campaign file.

    Raises:
        ConfigError: it is missing, is no YAML, or says what cannot be.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"campaign file {str(path)!r} cannot be read ({error.strerror}); check the path, or write one with "
            "`flowscout init`."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"campaign file {str(path)!r} is not text in UTF-8: {error.reason}.") from error
    return CampaignFile(text=text, config=parse_campaign(text, name=path.name), folder=path.absolute().parent)


def database_url(file: CampaignFile, db: str | None) -> str:
    """Return `db`, or else the path of the SQLite file named after the campaign, beside the campaign file.

    Raises:
        SchemaError: `db` names no database that can hold a history.
    """
    if db is None:
        return str(file.folder / f"{file.config.campaign}.db")
    parse_url(db)
    return db


class _Loader(yaml.SafeLoader):
    """The safe loader, which refuses a key that is given twice instead of taking the last.

    `on`, `off`, `yes` and `no` are texts, as in YAML 1.2, which editors read: YAML 1.1 takes the key `on` of a
    notice for the value true.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - typed so by the base class
        first: [pair for pair in pairs if first in "tTfF" or pair[0] != "tag:yaml.org,2002:bool"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node whose keys all differ."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def parse_campaign(text: str, *, name: str) -> CampaignConfig:
    """Return what the text of a campaign file means.

    Raises:
        ConfigError: it is no YAML, or says what cannot be; the message names the first three mistakes.
    """
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - it derives from the safe one
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise ConfigError(f"{name}{place}: not valid YAML: {problem}; mend that line.") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{name}: holds {type(content).__name__}, expected keys and values such as `campaign: my-name`; "
            "`flowscout init` writes an example."
        )
    try:
        return CampaignConfig.model_validate(content)
    except ValidationError as error:
        # Unknown keys first: a key that is missing is often the one that was misspelt.
        details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
        raise ConfigError(f"{name}: {'; '.join(map(_explain, details[:3]))}.") from error
    except ConfigError as error:
        raise ConfigError(f"{name}: space: {error}") from error


def artefacts_url(text: str) -> str | None:
    """Return the store of artefacts that a registered campaign file names, or None; older ones are read too."""
    if "artefacts" not in text:
        return None
    content = yaml.load(text, Loader=_Loader)  # noqa: S506 - it derives from the safe one
    found = content.get("artefacts") if isinstance(content, dict) else None
    return found if isinstance(found, str) else None


def _explain(detail: ErrorDetails) -> str:
    """Return one mistake as a person would say it."""
    known, place = _keys_at(detail["loc"])
    where = ".".join(place) or "the file"
    if detail["type"] == "extra_forbidden":
        key = str(detail["loc"][-1])
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        advice = f"did you mean {close[0]!r}" if close else f"known keys are {', '.join(known)}"
        return f"unknown key {key!r} in {'.'.join(place[:-1]) or 'the file'}; {advice}"
    if detail["type"] == "missing":
        return f"{where} is missing; add it"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    came = detail["input"]
    shown = f" is {came!r}" if isinstance(came, str | int | float | bool | None) else ""
    return f"{where}{shown}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _keys_at(location: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """Return the keys that are known where a mistake was made, and the place in the user's own words."""
    model: Any = CampaignConfig
    known: list[str] = []
    place: list[str] = []
    for part in location:
        model, tagged = _member(model, part)
        if tagged:
            continue  # the tag of a union is not something the user wrote as a key
        place.append(str(part))
        if isinstance(model, type) and issubclass(model, BaseModel):
            known = list(model.model_fields)
            field = model.model_fields.get(str(part))
            model = None if field is None else field.annotation
    return known, place


def _member(annotation: Any, part: int | str) -> tuple[Any, bool]:
    """Return the model that `part` leads into, and whether `part` is the tag of a union."""
    origin = get_origin(annotation)
    if origin is list:
        return get_args(annotation)[0], isinstance(part, int)
    if origin is Annotated:
        return _member(get_args(annotation)[0], part)
    if origin in (Union, UnionType):
        for choice in get_args(annotation):
            choice = get_args(choice)[0] if get_origin(choice) is Annotated else choice  # a choice with its tag
            fields = getattr(choice, "model_fields", {})
            if "type" in fields and part in get_args(fields["type"].annotation):
                return choice, True
    return annotation, False
