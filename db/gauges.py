"""Gauges: the few figures by which gates open and campaigns stop. Each is cheap at 100,000 measurements.

What is made of them belongs in `loop.gates` and `loop.stopping`.
"""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from flowscout.db.database import Database
from flowscout.db.events import EventKind
from flowscout.db.models import Candidate, CurrentValue, Evaluation, Event, Measurement, ModelFit, Round, utc_now
from flowscout.db.states import EvaluationState, RoundState


class Gauges:
    """What is read of a campaign to decide whether it goes on."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def results(self, campaign_id: int, prop: str) -> int:
        """Return how many wanted measurements of a property came in since the latest fit; all, if there is none.

        One that is corrected or taken back afterwards has come in once.
        """
        cut_off = (
            select(ModelFit.data_upto_seq)
            .join(Round, Round.id == ModelFit.round_id)
            .where(Round.campaign_id == campaign_id)
            .order_by(Round.number.desc())
            .limit(1)
        )
        with self._database.read() as session:
            query = select(func.count(Measurement.evaluation_id.distinct())).where(
                Measurement.campaign_id == campaign_id,
                Measurement.seq > (session.scalar(cut_off) or 0),
                Measurement.property == prop,
                Measurement.supersedes_id.is_(None),
            )
            return session.scalar(query) or 0

    def hours(self, campaign_id: int) -> float | None:
        """Return the hours since the latest round was planned, by the database's clock; None before the first."""
        query = select(Round.created_at).where(Round.campaign_id == campaign_id).order_by(Round.number.desc())
        with self._database.read() as session:
            began = session.scalar(query.limit(1))
            return None if began is None else _seconds_since(session, began) / 3600.0

    def candidates(self, campaign_id: int) -> int:
        """Return how many objects the campaign has ever considered: at least as many as it knows."""
        with self._database.read() as session:
            query = select(func.count()).select_from(Candidate).where(Candidate.campaign_id == campaign_id)
            return session.scalar(query) or 0

    def handed_over_s(self, campaign_id: int, round_id: int) -> float | None:
        """Return how many seconds ago a round's training was handed over; None if it was not.

        None too where a run has taken it up since, by an event `flow_run` with the stage `train`.
        """
        kinds = (EventKind.TRAINING_HANDED_OVER, EventKind.FLOW_RUN)
        own = (Event.campaign_id == campaign_id, Event.round_id == round_id)
        query = select(Event).where(*own, Event.kind.in_(kinds)).order_by(Event.id.desc())
        with self._database.read() as session:
            for event in session.scalars(query):
                if event.kind == EventKind.TRAINING_HANDED_OVER:
                    return _seconds_since(session, event.created_at)
                if event.detail.get("stage") == "train":
                    return None
        return None

    def runs(self, campaign_id: int, round_id: int) -> tuple[int, float]:
        """Return how many flow runs have worked for a round, and how many seconds ago the latest of them began."""
        query = select(func.count(), func.max(Event.created_at)).where(
            Event.campaign_id == campaign_id, Event.round_id == round_id, Event.kind == EventKind.FLOW_RUN
        )
        with self._database.read() as session:
            count, latest = session.execute(query).one()
            return count, 0.0 if latest is None else _seconds_since(session, latest)

    def measured_rounds(self, campaign_id: int, latest: int) -> list[int]:
        """Return the ids of the latest so many complete rounds that had a measurement, the latest first."""
        done = select(Evaluation.id).where(
            Evaluation.round_id == Round.id, Evaluation.state == EvaluationState.DONE
        )
        query = (
            select(Round.id)
            .where(Round.campaign_id == campaign_id, Round.state == RoundState.COMPLETE, done.exists())
            .order_by(Round.number.desc())
            .limit(latest)
        )
        with self._database.read() as session:
            return list(session.scalars(query))

    def best_since(self, campaign_id: int, prop: str, *, direction: str, seq: int) -> bool | None:
        """Return whether the best candidate of a property was first measured after `seq`; None without a value.

        Values are those that count now, as `best` ranks them. Where several are level, all of them were.
        """
        order = func.max if direction == "maximize" else func.min
        own = (CurrentValue.campaign_id == campaign_id, CurrentValue.property == prop)
        with self._database.read() as session:
            best = session.scalar(select(order(CurrentValue.value)).where(*own))
            if best is None:
                return None
            earlier = (
                select(CurrentValue.candidate_id)
                .join(Measurement, Measurement.candidate_id == CurrentValue.candidate_id)
                .where(*own, CurrentValue.value == best, Measurement.property == prop, Measurement.seq <= seq)
                .limit(1)
            )
            return session.scalar(earlier) is None


def _seconds_since(session: Session, moment: datetime) -> float:
    """Return how far a moment is from now; one to come was written by a clock that was ahead: it is past too."""
    now = session.scalars(select(utc_now())).one()
    return abs((now - moment).total_seconds())
