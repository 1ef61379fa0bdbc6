"""What is known of candidates now, as `current_value` holds it: computed from the measurements at will.

How measurements are recorded belongs in `measurements.py`.
"""

from collections import defaultdict
from collections.abc import Sequence
from math import fsum
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, aliased

from flowscout.db.candidates import chunks
from flowscout.db.fastrows import insert_rows
from flowscout.db.models import CurrentValue, Measurement
from flowscout.db.states import Qualifier


def project(session: Session, campaign_id: int, candidate_ids: Sequence[int]) -> None:
    """Recompute `current_value` of these candidates from their measurements."""
    for chunk in chunks(candidate_ids):
        session.execute(delete(CurrentValue).where(CurrentValue.candidate_id.in_(chunk)))
        insert_rows(session, CurrentValue, expected_values(session, campaign_id, chunk))


def expected_values(session: Session, campaign_id: int, candidate_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows that `current_value` must hold of these candidates, of which one statement takes so many.

    A value is the mean of the valid ones: plain values that nothing supersedes.
    """
    later = aliased(Measurement)
    query = (
        select(Measurement.candidate_id, Measurement.property, Measurement.value, Measurement.seq)
        .where(
            Measurement.candidate_id.in_(candidate_ids),
            Measurement.qualifier == Qualifier.EQUAL,
            ~select(later.id).where(later.supersedes_id == Measurement.id).exists(),
        )
        .order_by(Measurement.seq)
    )
    values: dict[tuple[int, str], list[tuple[float, int]]] = defaultdict(list)
    for candidate_id, prop, value, seq in session.execute(query):
        values[candidate_id, prop].append((value, seq))
    return [
        {
            "campaign_id": campaign_id,
            "candidate_id": candidate_id,
            "property": prop,
            "value": fsum(value for value, _ in found) / len(found),
            "count": len(found),
            "seq": found[-1][1],
        }
        for (candidate_id, prop), found in values.items()
    ]
