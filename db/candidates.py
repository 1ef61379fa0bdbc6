"""Candidates: one row for each object of a campaign, found again by its canonical key."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from flowscout.db.fastrows import insert_rows
from flowscout.db.models import Candidate

T = TypeVar("T")

_CHUNK = 1000  # well under the number of variables that SQLite takes in one statement


def ensure_candidates(session: Session, campaign_id: int, objects: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Return the id of each key, making the rows that are missing. `objects` are pairs of key and object.

    The first way of writing an object that the campaign meets is the one it keeps. The caller has locked the
    campaign.
    """
    wanted = dict(reversed(list(objects)))
    known = candidate_ids(session, campaign_id, list(wanted))
    missing = sorted(key for key in wanted if key not in known)
    rows = [{"campaign_id": campaign_id, "key": key, "object": wanted[key]} for key in missing]
    insert_rows(session, Candidate, rows)  # nobody else makes any meanwhile: the caller holds the campaign
    return known | candidate_ids(session, campaign_id, missing)


def candidate_ids(session: Session, campaign_id: int, keys: Sequence[str]) -> dict[str, int]:
    """Return the ids of those `keys` that the campaign knows."""
    found: dict[str, int] = {}
    for chunk in chunks(keys):
        query = select(Candidate.key, Candidate.id)
        query = query.where(Candidate.campaign_id == campaign_id, Candidate.key.in_(chunk))
        found.update({key: number for key, number in session.execute(query)})
    return found


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield `items` in lists that fit one statement."""
    source = iter(items)
    while chunk := list(islice(source, _CHUNK)):
        yield chunk


def insert_for(session: Session) -> Any:
    """Return the INSERT of this database, which knows ON CONFLICT."""
    return {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[session.get_bind().dialect.name]
