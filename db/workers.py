"""Workers: processes that call oracles beside the round's runner, and when each was last heard of."""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError

from flowscout.db import owners
from flowscout.db.candidates import insert_for
from flowscout.db.database import Database
from flowscout.db.models import Worker, utc_now
from flowscout.db.timings import SILENT_AFTER_S


class Workers:
    """What is stored of workers. `queue` is the uuid of the campaign that one works for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, owner: str, *, queue: str) -> bool:
        """Say that a worker lives; return False if the database did not answer."""
        try:
            with self._database.write() as session:
                row = {"owner": owner, "queue": queue, "heartbeat_at": utc_now()}
                insert = insert_for(session)(Worker).values(row)
                session.execute(
                    insert.on_conflict_do_update(
                        index_elements=["owner"], set_={"queue": queue, "heartbeat_at": utc_now()}
                    )
                )
        except SQLAlchemyError:
            return False
        return True

    def leave(self, owner: str) -> None:
        """Say that a worker ends."""
        with self._database.write() as session:
            session.execute(delete(Worker).where(Worker.owner == owner))

    def living(self, queue: str) -> Sequence[str]:
        """Return the owners of the workers of a campaign that live, the first to start first."""
        with self._database.read() as session:
            now = session.scalars(select(utc_now())).one()
            rows = session.scalars(select(Worker).where(Worker.queue == queue).order_by(Worker.id)).all()
        return [
            row.owner
            for row in rows
            if (now - row.heartbeat_at).total_seconds() < SILENT_AFTER_S and not owners.is_dead(row.owner)
        ]
