"""What the project remembers: tables, states, repositories, queries, migrations.

What a round computes does not belong here, nor anything that needs torch or Prefect.
"""

from flowscout.db.archive import Archived
from flowscout.db.bulk import Imported
from flowscout.db.campaigns import LEASE_TTL_S
from flowscout.db.database import parse_url, sidecar_folder
from flowscout.db.experiments import ATTEMPT_LEASE_S
from flowscout.db.history import History
from flowscout.db.measurements import Told
from flowscout.db.owners import this_owner
from flowscout.db.queries import BestRow, RoundRow, StatusRecord
from flowscout.db.records import (
    ArtefactRecord,
    BoundedRow,
    CampaignRecord,
    Claim,
    ConfigRecord,
    FitRecord,
    Lease,
    MeasurementRecord,
    ObjectiveRecord,
    OracleRecord,
    Outcome,
    ProposalRecord,
    Reading,
    RoundRecord,
    Ruling,
    SamplerRecord,
    TrainingRow,
    TrainingSet,
    UnknownRecord,
    VetoRecord,
)
from flowscout.db.states import (
    AttemptState,
    CampaignState,
    Decision,
    EvaluationState,
    FailureClass,
    Qualifier,
    RoundState,
    Verdict,
)
from flowscout.db.workers import HEARTBEAT_S

__all__ = [
    "ATTEMPT_LEASE_S",
    "HEARTBEAT_S",
    "LEASE_TTL_S",
    "Archived",
    "ArtefactRecord",
    "AttemptState",
    "BestRow",
    "BoundedRow",
    "CampaignRecord",
    "CampaignState",
    "Claim",
    "ConfigRecord",
    "Decision",
    "EvaluationState",
    "FailureClass",
    "FitRecord",
    "History",
    "Imported",
    "Lease",
    "MeasurementRecord",
    "ObjectiveRecord",
    "OracleRecord",
    "Outcome",
    "ProposalRecord",
    "Qualifier",
    "Reading",
    "RoundRecord",
    "RoundRow",
    "RoundState",
    "Ruling",
    "SamplerRecord",
    "StatusRecord",
    "Told",
    "TrainingRow",
    "TrainingSet",
    "UnknownRecord",
    "Verdict",
    "VetoRecord",
    "parse_url",
    "sidecar_folder",
    "this_owner",
]
