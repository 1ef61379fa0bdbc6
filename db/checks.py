"""What can be wrong with a history, looked for: each fault with how it is mended. Nothing is written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Select, func, select, text
from sqlalchemy.orm import Session

from flowscout.db.candidates import chunks
from flowscout.db.database import Database
from flowscout.db.filestore import FileStore, store_of
from flowscout.db.models import (
    Approval,
    Artefact,
    Attempt,
    Campaign,
    Candidate,
    CurrentValue,
    Delivery,
    Evaluation,
    Event,
    Measurement,
    ModelFit,
    Objective,
    Round,
)
from flowscout.db.money import audit, handed_out_for
from flowscout.db.recording import expected_values
from flowscout.db.states import (
    ApprovalDecision,
    AttemptState,
    CampaignState,
    EvaluationState,
    RoundState,
)
from flowscout.db.training import read_training_set

_BACKUP = "restore the database from a backup, or from a folder that `flowscout export` has written"
_APPEND_ONLY = ("measurement", "ledger", "event")


@dataclass(frozen=True)
class Fault:
    """Something that is wrong: where it was found, what came and was expected, and what to do."""

    check: str
    found: str
    mend: str


def check_history(database: Database, campaign_id: int, *, artefacts: FileStore | Path) -> list[Fault]:
    """Return everything that is wrong with a campaign's history; nothing when all is right.

    One snapshot is looked at. `artefacts` is where the campaign's artefacts lie.
    """
    looks: list[tuple[str, Callable[[Session, int], Iterator[tuple[str, str]]]]] = [
        ("database", _database),
        ("triggers", _triggers),
        ("log", _log),
        ("states", _states),
        ("approvals", _approvals),
        ("seq", _seq),
        ("money", _money),
        ("current values", _current_values),
        ("fits", _fits),
        ("artefacts", lambda session, number: _artefacts(session, number, store_of(artefacts))),
    ]
    with database.read() as session:
        return [Fault(name, found, mend) for name, look in looks for found, mend in look(session, campaign_id)]


def _database(session: Session, _: int) -> Iterator[tuple[str, str]]:
    """Check pages and foreign keys of the whole database."""
    if session.get_bind().dialect.name == "postgresql":
        query = text("SELECT conname FROM pg_constraint WHERE contype = 'f' AND NOT convalidated ORDER BY 1")
        for name in session.scalars(query):
            yield f"the foreign key {name} is not validated", f"run: ALTER TABLE ... VALIDATE CONSTRAINT {name}"
        return
    for (line,) in session.execute(text("PRAGMA integrity_check")):
        if line != "ok":
            yield f"SQLite's integrity_check says {line!r}", _BACKUP
    for table, row, parent, _key in session.execute(text("PRAGMA foreign_key_check")):
        yield f"row {row} of {table} names a row of {parent} that is not there", _BACKUP


def _triggers(session: Session, _: int) -> Iterator[tuple[str, str]]:
    """Look whether the database still refuses to change and delete what is append-only."""
    changes = ["update", "delete"]
    if session.get_bind().dialect.name == "postgresql":
        query = text("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'")
        changes.append("truncate")
    else:
        query = text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    found = set(session.scalars(query))
    for table in _APPEND_ONLY:
        for change in changes:
            if f"{table}_no_{change}" not in found:
                yield f"nothing refuses to {change} rows of {table}", "somebody took a trigger away: " + _BACKUP


def _log(session: Session, campaign_id: int) -> Iterator[tuple[str, str]]:
    """Find events that name another campaign's candidate, and hooks that were told of what was never logged."""
    own = Event.campaign_id == campaign_id
    strange = select(Event.id).join(Candidate, Candidate.id == Event.candidate_id)
    for number in session.scalars(strange.where(own, Candidate.campaign_id != campaign_id).order_by(Event.id)):
        yield f"event {number} names a candidate of another campaign", _BACKUP
    last = session.scalar(select(func.max(Event.id)).where(own)) or 0
    query = select(Delivery.event_id).where(Delivery.campaign_id == campaign_id, Delivery.event_id > last)
    for number in session.scalars(query.order_by(Delivery.event_id)):
        yield f"a hook was told of event {number}, the last one is {last}", _BACKUP


def _states(session: Session, campaign_id: int) -> Iterator[tuple[str, str]]:
    """Find states that are none, and states that cannot stand beside each other."""
    by_hand = "somebody changed it by other means: " + _BACKUP
    mine = f"campaign_id = {campaign_id}"
    attempts = f"evaluation_id IN (SELECT id FROM evaluation WHERE {mine})"  # noqa: S608 - a number of ours
    tables = (
        ("campaign", CampaignState, f"id = {campaign_id}"),
        ("round", RoundState, mine),
        ("evaluation", EvaluationState, mine),
        ("attempt", AttemptState, attempts),
    )
    for table, states, where in tables:
        found = session.execute(text(f"SELECT id, state FROM {table} WHERE {where}"))  # noqa: S608
        for number, state in found:
            if state not in {str(one) for one in states}:
                yield f"{table} {number} is {state!r}, which is no state", by_hand
    running = select(Attempt.id).where(
        Attempt.evaluation_id == Evaluation.id, Attempt.state == AttemptState.RUNNING
    )
    own = Evaluation.campaign_id == campaign_id
    idle = select(Evaluation.id).where(own, Evaluation.state == EvaluationState.RUNNING, ~running.exists())
    for number in session.scalars(idle):
        yield f"evaluation {number} is running, and no attempt at it is", by_hand
    over = (EvaluationState.QUEUED, EvaluationState.FAILED)
    busy = select(Evaluation.id, Evaluation.state).where(own, Evaluation.state.in_(over), running.exists())
    for number, state in session.execute(busy):
        yield f"evaluation {number} is {state}, and an attempt at it is running", by_hand
    twice = (
        select(Attempt.evaluation_id)
        .join(Evaluation, Evaluation.id == Attempt.evaluation_id)
        .where(own, Attempt.state == AttemptState.RUNNING)
        .group_by(Attempt.evaluation_id)
        .having(func.count() > 1)
    )
    for number in session.scalars(twice):
        yield f"evaluation {number} has more than one running attempt", by_hand
    waiting = (EvaluationState.QUEUED, EvaluationState.RUNNING)
    early = (
        select(Round.number, func.count())
        .join(Evaluation, Evaluation.round_id == Round.id)
        .where(own, Round.state == RoundState.COMPLETE, Evaluation.state.in_(waiting))
        .group_by(Round.number)
    )
    for number, count in session.execute(early):
        yield f"round {number} is complete, and {count} of its evaluations still wait", by_hand


def _approvals(session: Session, campaign_id: int) -> Iterator[tuple[str, str]]:
    """Find batches that wait for approval and were called, paid or approved all the same."""
    asked = (Round.campaign_id == campaign_id, Round.state == RoundState.AWAITING_APPROVAL)
    wanted = select(Round.number, Evaluation.id).join(Evaluation, Evaluation.round_id == Round.id).where(*asked)
    called = select(Attempt.id).where(
        Attempt.evaluation_id == Evaluation.id, Attempt.state == AttemptState.RUNNING
    )
    for number, evaluation in session.execute(wanted.where(called.exists())):
        found = f"evaluation {evaluation} is being measured, and the batch of round {number} waits for approval"
        yield found, "somebody changed it by other means: " + _BACKUP
    rows = [(*row,) for row in session.execute(wanted)]
    for evaluation, amount in handed_out_for(session, [evaluation for _, evaluation in rows]).items():
        found = f"{amount} is reserved for evaluation {evaluation}, whose batch waits for approval"
        yield found, "somebody changed it by other means: " + _BACKUP
    approved = select(Approval.id).where(
        Approval.round_id == Round.id,
        Approval.candidate_id.is_(None),
        Approval.decision == ApprovalDecision.APPROVED,
    )
    for number in session.scalars(select(Round.number).where(*asked, approved.exists())):
        found = f"round {number} waits for approval, and its batch was approved"
        yield found, "somebody changed it by other means: " + _BACKUP


def _seq(session: Session, campaign_id: int) -> Iterator[tuple[str, str]]:
    """Look whether `seq` is given once, without gaps, up to the campaign's clock."""
    clock = session.scalars(select(Campaign.clock).where(Campaign.id == campaign_id)).one()
    columns = (
        func.count(),
        func.count(Measurement.seq.distinct()),
        func.min(Measurement.seq),
        func.max(Measurement.seq),
    )
    count, distinct, least, most = session.execute(
        select(*columns).where(Measurement.campaign_id == campaign_id)
    ).one()
    if (count, distinct, least or 1, most or 0) != (clock, clock, 1, clock):
        yield (
            f"{count} measurements have {distinct} different seq from {least} to {most}, expected 1 to {clock}, "
            "the campaign's clock",
            "measurements are missing or were added by other means: " + _BACKUP,
        )


def _money(session: Session, campaign_id: int) -> Iterator[tuple[str, str]]:
    """Compare balance, ledger and calls."""
    for found in audit(session, campaign_id):
        yield found, "compare the ledger with the bills; if it is right, set the balance to its sums"


def _current_values(session: Session, campaign_id: int) -> Iterator[tuple[str, str]]:
    """Compare the projection with what the measurements make of it, to the last bit."""
    mend = "call flowscout.db.History(...).measurements.rebuild_current_values(campaign_id)"
    wrong = 0
    first = ""
    own = Measurement.campaign_id == campaign_id
    ids = set(session.scalars(select(Measurement.candidate_id).where(own).distinct()))
    ids |= set(session.scalars(select(CurrentValue.candidate_id).where(CurrentValue.campaign_id == campaign_id)))
    for chunk in chunks(sorted(ids)):
        expected = {
            (row["candidate_id"], row["property"]): (row["value"], row["count"], row["seq"])
            for row in expected_values(session, campaign_id, chunk)
        }
        stored = {
            (row.candidate_id, row.property): (row.value, row.count, row.seq)
            for row in session.scalars(select(CurrentValue).where(CurrentValue.candidate_id.in_(chunk)))
        }
        for name in sorted(expected.keys() | stored.keys()):
            if expected.get(name) != stored.get(name):
                wrong += 1
                first = first or (
                    f"{name[1]} of candidate {name[0]} stands as {stored.get(name)}, its measurements make "
                    f"{expected.get(name)} (value, count, seq)"
                )
        session.expunge_all()
    if wrong:
        yield f"{first}{'' if wrong == 1 else f', and {wrong - 1} more like it'}", mend


def _fits(session: Session, campaign_id: int) -> Iterator[tuple[str, str]]:
    """Compare what each fit saw with what is there now, to the last bit."""
    properties = list(session.scalars(select(Objective.property).where(Objective.campaign_id == campaign_id)))
    query: Select[Any] = (
        select(Round.number, ModelFit).join(Round, Round.id == ModelFit.round_id).order_by(Round.number)
    )
    for number, fit in session.execute(query.where(Round.campaign_id == campaign_id)).all():
        counts = []
        for prop in properties:  # the campaign file names one of them
            data = read_training_set(session, campaign_id, prop, fit.data_upto_seq)
            if data.sha256 == fit.data_sha256:
                break
            counts.append(len(data.rows))
        else:
            yield (
                f"the rows that the fit of round {number} saw (seq up to {fit.data_upto_seq}) have another hash: "
                f"{' or '.join(map(str, counts))} rows now, {fit.data_count} then",
                "measurements were changed by other means: " + _BACKUP,
            )


def _artefacts(session: Session, campaign_id: int, store: FileStore) -> Iterator[tuple[str, str]]:
    """Look whether every file is there, and is what was stored."""
    for row in session.scalars(select(Artefact).where(Artefact.campaign_id == campaign_id)):
        wrong, path = store.look(row.sha256), store.path(row.sha256)
        if wrong == "missing":
            yield f"the {row.kind} file {path!r} is missing", "put it back from a backup"
        elif wrong == "damaged":
            yield f"the {row.kind} file {path!r} is not what was stored", "put it back from a backup"
