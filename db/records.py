"""Frozen records that cross the border of `db`. ORM rows never do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flowscout.db.states import (
    CampaignState,
    Decision,
    EvaluationState,
    FailureClass,
    Qualifier,
    RoundState,
    Verdict,
)


@dataclass(frozen=True)
class ObjectiveRecord:
    """A property and whether it is to be made large (`maximize`) or small (`minimize`)."""

    property: str
    direction: str
    unit: str | None = None
    transform: str | None = None


@dataclass(frozen=True)
class OracleRecord:
    """Who measures. `unit_cost_minor` is in minor units of the campaign's currency, for one call."""

    name: str
    version: str = "1"
    fidelity: str = "default"
    unit_cost_minor: int = 0
    idempotent: bool = True
    lookup: bool = False


@dataclass(frozen=True)
class ConfigRecord:
    """A campaign file as registered: its text, the hash of it, and the folder its names are relative to."""

    sha256: str
    yaml: str
    folder: str
    package_version: str
    git_commit: str | None = None
    id: int | None = None
    number: int | None = None


@dataclass(frozen=True)
class CampaignRecord:
    """A campaign. `clock` is the last `seq` that was given out."""

    id: int
    uuid: str
    name: str
    seed: int
    clock: int
    state: CampaignState


@dataclass(frozen=True)
class Lease:
    """The right to run rounds of a campaign, as long as `token` stands in the campaign's row."""

    campaign_id: int
    token: str
    owner: str
    ttl_s: float


@dataclass(frozen=True)
class RunnerRecord:
    """Who holds a campaign's lease or has not given it back; `silent_s` is how long it has been over, or 0."""

    owner: str
    living: bool
    silent_s: float


@dataclass(frozen=True)
class RoundRecord:
    """One turn of the loop."""

    id: int
    campaign_id: int
    number: int
    state: RoundState
    seed: int
    config_version_id: int
    prefect_run_id: str | None
    message: str | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class ArtefactRecord:
    """A stored file, named by its content."""

    sha256: str
    kind: str
    size_bytes: int


@dataclass(frozen=True)
class FitRecord:
    """A surrogate as fitted on exactly the measurements with `seq <= data_upto_seq`."""

    kind: str
    seed: int
    data_upto_seq: int
    data_count: int
    data_sha256: str
    params: Mapping[str, Any] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    artefact: ArtefactRecord | None = None
    parent_id: int | None = None
    id: int | None = None


@dataclass(frozen=True)
class SamplerRecord:
    """A sampler as trained on a fit; `reward` holds the frozen acquisition and its scale."""

    kind: str
    seed: int
    model_fit_id: int
    params: Mapping[str, Any] = field(default_factory=dict)
    reward: Mapping[str, Any] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    artefact: ArtefactRecord | None = None
    parent_id: int | None = None
    id: int | None = None


@dataclass(frozen=True)
class ProposalRecord:
    """A candidate considered in a round. `rank` is its place in the batch, from 1, if it was selected."""

    key: str
    object: str
    origin: str
    decision: Decision
    rank: int | None = None
    acquisition: float | None = None
    log_reward: float | None = None
    log_prob: float | None = None
    mean: float | None = None
    sd: float | None = None
    reason: str | None = None
    candidate_id: int | None = None


@dataclass(frozen=True)
class VetoRecord:
    """What became of a vetoed object: who has its place in the batch now, and whether the veto was new."""

    object: str
    replacement: str | None
    new: bool


@dataclass(frozen=True)
class Claim:
    """One attempt at one evaluation, committed before the oracle is called."""

    attempt_id: int
    evaluation_id: int
    candidate_id: int
    number: int
    token: str
    object: str
    idempotency_key: str
    replicate: int
    fidelity: str
    version_id: int | None = None
    """The version of the campaign file that the evaluation's round began with."""


@dataclass(frozen=True)
class UnknownRecord:
    """A call of which nobody can say whether it happened, as a person needs it to find out.

    `values` are those that came too late, from an owner that had lost its lease.
    """

    evaluation_id: int
    object: str
    key: str
    idempotency_key: str
    oracle: str
    version_id: int | None
    attempt: int
    owner: str
    started_at: datetime
    reserved_minor: int
    idempotent: bool
    message: str | None
    values: Mapping[str, float]


@dataclass(frozen=True)
class MeasurementRecord:
    """One value of one property of one object, and where it came from.

    `source` and `row_id` are its identity: the same pair told again changes nothing. `replicate` is which of the
    measurements that are awaited it answers; None: the next one.
    """

    key: str
    object: str
    property: str
    value: float | None
    source: str
    row_id: str
    qualifier: Qualifier = Qualifier.EQUAL
    sem: float | None = None
    n: int | None = None
    unit: str | None = None
    as_run: Mapping[str, Any] | None = None
    replicate: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt: measurements, or why there are none.

    `unknown` says that the oracle was called and nobody can say whether it acted: the evaluation becomes
    unknown, and its money stays reserved. `pending_s` says that the call was accepted and its answer will come by
    itself within so many seconds: the attempt goes on without its caller.
    """

    claim: Claim
    measurements: Sequence[MeasurementRecord] = ()
    failure: FailureClass | None = None
    message: str | None = None
    cost_minor: int | None = None
    unknown: bool = False
    pending_s: float | None = None


@dataclass(frozen=True)
class AwaitedRecord:
    """The evaluation that an idempotency key names; `version_id` is the version of the file of its round."""

    idempotency_key: str
    evaluation_id: int
    campaign_id: int
    candidate_id: int
    object: str
    replicate: int
    fidelity: str
    state: EvaluationState
    version_id: int | None


@dataclass(frozen=True)
class Reply:
    """What an oracle says by itself of the evaluation with an idempotency key: measurements, or a failure."""

    idempotency_key: str
    measurements: Sequence[MeasurementRecord] = ()
    failure: FailureClass | None = None
    message: str | None = None
    cost_minor: int | None = None


@dataclass(frozen=True)
class Ruling:
    """What has become known of an unknown evaluation.

    `done`: it happened, and gave `measurements` or a `failure`, at `cost_minor` (None: the price that is
    reserved). `never`: it did not happen and never will; it is queued with another key. `retry`: it is queued
    with the same key, on the word of whoever says so. `attempt` is the number of the call that it was said of:
    of another, made since, it says nothing.
    """

    evaluation_id: int
    verdict: Verdict
    measurements: Sequence[MeasurementRecord] = ()
    failure: FailureClass | None = None
    message: str | None = None
    cost_minor: int | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One valid value as it was reported: with its standard error and the number of readings it is a mean of."""

    value: float
    sem: float | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """What was known of a candidate at a cut-off: the mean of its `count` valid values.

    `readings` are these values one by one, ordered by value, where there are several or one says how well it is
    known; else there are none.
    """

    key: str
    object: str
    value: float
    count: int
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True, slots=True)
class BoundedRow:
    """A candidate without a plain value, of which it is known that it lies above `lower` or below `upper`."""

    key: str
    object: str
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class TrainingSet:
    """Everything with `seq <= upto_seq`, in the order of candidate keys; `sha256` is over all of it.

    Candidates whose bounds contradict each other are in neither list.
    """

    rows: tuple[TrainingRow, ...]
    upto_seq: int
    sha256: str
    bounded: tuple[BoundedRow, ...] = ()
