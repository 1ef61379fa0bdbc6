"""The history of all campaigns in one database: the one door through which other rooms reach SQL."""

from types import TracebackType

from flowscout.db.answering import Answers
from flowscout.db.approvals import Approvals
from flowscout.db.archive import Archive
from flowscout.db.budgets import Budgets
from flowscout.db.bulk import Bulk
from flowscout.db.campaigns import Campaigns
from flowscout.db.conflicts import Conflicts
from flowscout.db.database import Database
from flowscout.db.deliveries import Deliveries
from flowscout.db.events import Events
from flowscout.db.experiments import Experiments
from flowscout.db.export import Export
from flowscout.db.gauges import Gauges
from flowscout.db.measurements import Measurements
from flowscout.db.queries import Queries
from flowscout.db.rounds import Rounds
from flowscout.db.schedules import Schedules
from flowscout.db.vetoes import Vetoes
from flowscout.db.workers import Workers


class History:
    """An open history. Each aggregate has its repository; all return frozen records.

    Guarantees: `seq` grows in the order of commits; a measurement is stored once for each source and row id
    and never changed; an attempt is committed before its oracle is called; every write of a runner holds the
    campaign's lease in its own transaction.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        """Open the history at `url` (`sqlite:///FILE`, `postgresql://...`, or the path of a SQLite file).

        Raises:
            SchemaError: it cannot be opened by this version.
        """
        self.database = Database(url, create=create)
        self.campaigns = Campaigns(self.database)
        self.rounds = Rounds(self.database)
        self.experiments = Experiments(self.database)
        self.answers = Answers(self.database)
        self.measurements = Measurements(self.database)
        self.budgets = Budgets(self.database)
        self.conflicts = Conflicts(self.database)
        self.deliveries = Deliveries(self.database)
        self.events = Events(self.database)
        self.bulk = Bulk(self.database)
        self.export = Export(self.database)
        self.approvals = Approvals(self.database)
        self.gauges = Gauges(self.database)
        self.archive = Archive(self.database)
        self.schedules = Schedules(self.database)
        self.vetoes = Vetoes(self.database)
        self.queries = Queries(self.database)
        self.workers = Workers(self.database)

    def close(self) -> None:
        """Close every connection."""
        self.database.close()

    def __enter__(self) -> "History":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
