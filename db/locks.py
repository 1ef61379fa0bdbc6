"""The one lock that orders the writers of a campaign."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from flowscout.db.models import Campaign


def lock_campaign(session: Session, campaign_id: int) -> None:
    """Make the campaign's other writers wait until this transaction ends.

    Every transaction that changes experiments, measurements, money or the log does this first, so that all take
    their locks in one order: without it PostgreSQL found deadlocks between telling and settling. On SQLite BEGIN
    IMMEDIATE has done so already. NO KEY UPDATE: rows that only refer to the campaign may still be inserted.
    """
    session.execute(select(Campaign.id).where(Campaign.id == campaign_id).with_for_update(key_share=True))
