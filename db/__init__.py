"""What the project remembers: tables, states, repositories, queries, migrations.

What a round computes does not belong here, nor anything that needs torch or Prefect.
"""

from flowscout.db.answering import Received
from flowscout.db.approvals import ApprovalRecord, BatchRecord
from flowscout.db.archive import Archived
from flowscout.db.asking import HISTORY_COLUMNS, AsOf, HistoryFilter, parse_as_of, parse_time
from flowscout.db.budgets import BudgetRecord, BudgetRow
from flowscout.db.bulk import Imported
from flowscout.db.conflicts import ConflictRecord, Keep
from flowscout.db.database import parse_url, passing, shown_url, sidecar_folder
from flowscout.db.events import MEANINGS, EventKind, EventRecord, Events
from flowscout.db.filestore import FileStore, Place, check_place
from flowscout.db.history import History
from flowscout.db.lineage import Lineage
from flowscout.db.measurements import Told
from flowscout.db.owners import describe as describe_owner
from flowscout.db.owners import is_dead, is_living, this_owner
from flowscout.db.queries import BestRow, RoundRow, StatusRecord, WaitingRow
from flowscout.db.readonly import Answer
from flowscout.db.records import (
    ArtefactRecord,
    AwaitedRecord,
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
    Reply,
    RoundRecord,
    Ruling,
    RunnerRecord,
    SamplerRecord,
    TrainingRow,
    TrainingSet,
    UnknownRecord,
    VetoRecord,
)
from flowscout.db.schedules import ScheduleRecord
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
from flowscout.db.timings import ATTEMPT_LEASE_S, HEARTBEAT_S, LEASE_TTL_S, RENEWALS
from flowscout.db.versions import Said

__all__ = [
    "ATTEMPT_LEASE_S",
    "HEARTBEAT_S",
    "HISTORY_COLUMNS",
    "LEASE_TTL_S",
    "MEANINGS",
    "RENEWALS",
    "Answer",
    "ApprovalRecord",
    "Archived",
    "ArtefactRecord",
    "AsOf",
    "AttemptState",
    "AwaitedRecord",
    "BatchRecord",
    "BestRow",
    "BoundedRow",
    "BudgetRecord",
    "BudgetRow",
    "CampaignRecord",
    "CampaignState",
    "Claim",
    "ConfigRecord",
    "ConflictRecord",
    "Decision",
    "EvaluationState",
    "EventKind",
    "EventRecord",
    "Events",
    "FailureClass",
    "FileStore",
    "FitRecord",
    "History",
    "HistoryFilter",
    "Imported",
    "Keep",
    "Lease",
    "Lineage",
    "MeasurementRecord",
    "ObjectiveRecord",
    "OracleRecord",
    "Outcome",
    "Place",
    "ProposalRecord",
    "Qualifier",
    "Reading",
    "Received",
    "Reply",
    "RoundRecord",
    "RoundRow",
    "RoundState",
    "Ruling",
    "RunnerRecord",
    "Said",
    "SamplerRecord",
    "ScheduleRecord",
    "StatusRecord",
    "Told",
    "TrainingRow",
    "TrainingSet",
    "UnknownRecord",
    "Verdict",
    "VetoRecord",
    "WaitingRow",
    "check_place",
    "describe_owner",
    "is_dead",
    "is_living",
    "parse_as_of",
    "parse_time",
    "parse_url",
    "passing",
    "shown_url",
    "sidecar_folder",
    "this_owner",
]
