"""The tables. ORM rows never leave `db`: its public functions return the frozen records of `db.records`."""

from flowscout.db.models.base import Base, utc_now
from flowscout.db.models.campaigns import (
    Balance,
    Campaign,
    ConfigVersion,
    Delivery,
    Event,
    Objective,
    Oracle,
    Schedule,
    Worker,
)
from flowscout.db.models.experiments import Attempt, CurrentValue, Evaluation, Ledger, Measurement
from flowscout.db.models.rounds import (
    Approval,
    Artefact,
    Candidate,
    ModelFit,
    Proposal,
    Round,
    SamplerRun,
)

__all__ = [
    "Approval",
    "Artefact",
    "Attempt",
    "Balance",
    "Base",
    "Campaign",
    "Candidate",
    "ConfigVersion",
    "CurrentValue",
    "Delivery",
    "Evaluation",
    "Event",
    "Ledger",
    "Measurement",
    "ModelFit",
    "Objective",
    "Oracle",
    "Proposal",
    "Round",
    "SamplerRun",
    "Schedule",
    "Worker",
    "utc_now",
]
