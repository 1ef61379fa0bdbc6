"""The contract that every storage of the history keeps, as one class of pytest tests.

class TestMyStorage(HistoryContract):
    @pytest.fixture
    def history(self, tmp_path):
        with History(f"sqlite:///{tmp_path}/history.db") as history:
            yield history
"""

from flowscout.testing.storage_answers import AnswersContract
from flowscout.testing.storage_asking import AskingContract
from flowscout.testing.storage_bulk import BulkContract
from flowscout.testing.storage_corrections import CorrectionContract
from flowscout.testing.storage_events import EventContract
from flowscout.testing.storage_experiments import ExperimentContract
from flowscout.testing.storage_gates import GateContract
from flowscout.testing.storage_measurements import MeasurementContract
from flowscout.testing.storage_money import MoneyContract
from flowscout.testing.storage_queries import QueryContract
from flowscout.testing.storage_reconciling import ReconcilingContract
from flowscout.testing.storage_rounds import RoundContract
from flowscout.testing.storage_schedules import ScheduleContract
from flowscout.testing.storage_sharing import SharingContract
from flowscout.testing.storage_sql import SqlContract
from flowscout.testing.storage_vetoes import VetoContract


class HistoryContract(
    MeasurementContract,
    CorrectionContract,
    ExperimentContract,
    SharingContract,
    ReconcilingContract,
    AnswersContract,
    MoneyContract,
    RoundContract,
    QueryContract,
    AskingContract,
    SqlContract,
    VetoContract,
    EventContract,
    ScheduleContract,
    GateContract,
    BulkContract,
):
    """Test one storage against the guarantees of `flowscout.db.History`.

    Subclass it and provide the fixture `history`: an open, empty history. Where a second one cannot be opened
    by the first one's URL, provide `reopen` too: a function that opens the same database again.
    """
