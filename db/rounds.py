"""Rounds: starting one, and recording what was fitted, trained and proposed in it.

Every write here is made by the runner of the campaign: it holds the campaign's lease within its transaction.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from flowscout.db.budgets import hand_out_round
from flowscout.db.campaigns import hold_lease
from flowscout.db.candidates import ensure_candidates
from flowscout.db.database import Database
from flowscout.db.events import add_event
from flowscout.db.experiments import requeue
from flowscout.db.fastrows import insert_rows
from flowscout.db.models import (
    Artefact,
    Candidate,
    ModelFit,
    Proposal,
    Round,
    SamplerRun,
    utc_now,
)
from flowscout.db.queueing import queue_evaluations
from flowscout.db.records import (
    ArtefactRecord,
    FitRecord,
    Lease,
    OracleRecord,
    ProposalRecord,
    RoundRecord,
    SamplerRecord,
)
from flowscout.db.states import Decision, RoundState, check_transition, sources_of
from flowscout.errors import NotFoundError

_FINAL = (RoundState.COMPLETE, RoundState.CANCELLED)


class Rounds:
    """What is stored of rounds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, campaign_id: int) -> list[RoundRecord]:
        """Return the campaign's rounds in order."""
        query = select(Round).where(Round.campaign_id == campaign_id).order_by(Round.number)
        with self._database.read() as session:
            return [_round(row) for row in session.scalars(query)]

    def get(self, campaign_id: int, number: int) -> RoundRecord:
        """Return round `number`.

        Raises:
            NotFoundError: the campaign has no such round.
        """
        query = select(Round).where(Round.campaign_id == campaign_id, Round.number == number)
        with self._database.read() as session:
            row = session.scalar(query)
            if row is None:
                raise NotFoundError(f"the campaign has no round {number}; `flowscout status` lists its rounds.")
            return _round(row)

    def under_way(self, campaign_id: int) -> list[RoundRecord]:
        """Return the rounds that are neither complete nor cancelled, in order.

        Of a campaign with a gate they are several: all but the last were handed out and wait for late results.
        """
        query = select(Round).where(Round.campaign_id == campaign_id, Round.state.not_in(_FINAL))
        with self._database.read() as session:
            return [_round(row) for row in session.scalars(query.order_by(Round.number))]

    def unfinished(self, campaign_id: int) -> RoundRecord | None:
        """Return the first of the rounds that are under way, or None."""
        return next(iter(self.under_way(campaign_id)), None)

    def start(
        self,
        lease: Lease,
        number: int,
        *,
        seed: int,
        config_version_id: int,
        prefect_run_id: str | None = None,
    ) -> RoundRecord:
        """Plan round `number`. The same number again returns the round that stands."""
        with self._database.write() as session:
            hold_lease(session, lease)
            query = select(Round).where(Round.campaign_id == lease.campaign_id, Round.number == number)
            row = session.scalar(query)
            if row is None:
                row = Round(
                    campaign_id=lease.campaign_id,
                    number=number,
                    seed=seed,
                    config_version_id=config_version_id,
                )
                session.add(row)
                session.flush()
                add_event(session, lease.campaign_id, "round_started", actor=lease.owner, round_id=row.id)
            if prefect_run_id is not None:
                row.prefect_run_id = prefect_run_id
            session.flush()
            session.refresh(row)
            return _round(row)

    def advance(
        self, lease: Lease, record: RoundRecord, target: RoundState, *, message: str | None = None
    ) -> None:
        """Move a round to `target`.

        Raises:
            StateError: the round is in a state that does not lead there.
            LeaseLostError: another process has taken the campaign over.
        """
        with self._under_lease(lease) as session:
            advance_round(session, record.id, target, actor=lease.owner, message=message)

    def hand_out(self, lease: Lease, record: RoundRecord, *, people: bool) -> None:
        """Move a round to dispatched, where it was proposed or has failed; queue what failed in it again.

        The prices of what `people` will measure are reserved, as far as the budget reaches; the rest is cancelled.

        Raises:
            StateError: the round is in a state that does not lead there.
            LeaseLostError: another process has taken the campaign over.
        """
        with self._under_lease(lease) as session:
            if session.get_one(Round, record.id).state is RoundState.FAILED:
                requeue(session, record.id)
            if people:
                hand_out_round(session, record.id, actor=lease.owner)
            advance_round(session, record.id, RoundState.DISPATCHED, actor=lease.owner)

    def record_fit(self, lease: Lease, record: RoundRecord, fit: FitRecord) -> FitRecord:
        """Store a fit and move the round from fitting to training, in one transaction."""
        with self._under_lease(lease) as session:
            row = ModelFit(
                round_id=record.id,
                kind=fit.kind,
                seed=fit.seed,
                params=dict(fit.params),
                data_upto_seq=fit.data_upto_seq,
                data_count=fit.data_count,
                data_sha256=fit.data_sha256,
                diagnostics=dict(fit.diagnostics),
                parent_id=fit.parent_id,
                artefact_id=_artefact(session, lease.campaign_id, fit.artefact),
            )
            session.add(row)
            session.flush()
            advance_round(session, record.id, RoundState.TRAINING, actor=lease.owner)
            return _fit(row, fit.artefact)

    def fit(self, round_id: int) -> FitRecord | None:
        """Return what was fitted in the round, or None if nothing was yet."""
        with self._database.read() as session:
            row = session.scalar(select(ModelFit).where(ModelFit.round_id == round_id))
            return None if row is None else _fit(row, _artefact_of(session, row.artefact_id))

    def record_sampler(self, lease: Lease, record: RoundRecord, run: SamplerRecord) -> SamplerRecord:
        """Store a trained sampler of a round in training."""
        with self._under_lease(lease) as session:
            row = SamplerRun(
                round_id=record.id,
                kind=run.kind,
                model_fit_id=run.model_fit_id,
                seed=run.seed,
                params=dict(run.params),
                reward=dict(run.reward),
                diagnostics=dict(run.diagnostics),
                parent_id=run.parent_id,
                artefact_id=_artefact(session, lease.campaign_id, run.artefact),
            )
            session.add(row)
            session.flush()
            return _sampler(row, run.artefact)

    def sampler(self, round_id: int) -> SamplerRecord | None:
        """Return the sampler trained in the round, or None if none was yet."""
        with self._database.read() as session:
            row = session.scalar(select(SamplerRun).where(SamplerRun.round_id == round_id))
            return None if row is None else _sampler(row, _artefact_of(session, row.artefact_id))

    def previous_sampler(self, campaign_id: int, number: int, *, kind: str) -> SamplerRecord | None:
        """Return the latest sampler of this kind that was trained before round `number`, or None."""
        query = (
            select(SamplerRun)
            .join(Round, Round.id == SamplerRun.round_id)
            .where(Round.campaign_id == campaign_id, Round.number < number, SamplerRun.kind == kind)
            .order_by(Round.number.desc())
            .limit(1)
        )
        with self._database.read() as session:
            row = session.scalar(query)
            return None if row is None else _sampler(row, _artefact_of(session, row.artefact_id))

    def record_proposals(
        self,
        lease: Lease,
        record: RoundRecord,
        proposals: Sequence[ProposalRecord],
        *,
        sampler_run_id: int | None,
        oracle: OracleRecord,
        replicates: int = 1,
    ) -> None:
        """Store all proposals, queue so many evaluations of each selected one, and move the round to proposed.

        Raises:
            StateError: a selected candidate has an evaluation already, or the round is not in training.
            LeaseLostError: another process has taken the campaign over.
        """
        with self._under_lease(lease) as session:
            ids = ensure_candidates(session, lease.campaign_id, [(p.key, p.object) for p in proposals])
            rows = [_proposal_row(p, record.id, ids[p.key], sampler_run_id) for p in proposals]
            insert_rows(session, Proposal, rows)
            selected = [p for p in proposals if p.decision is Decision.SELECTED]
            selected.sort(key=lambda p: p.rank or 0)
            queue_evaluations(session, record, selected, ids, oracle, replicates=replicates)
            advance_round(session, record.id, RoundState.PROPOSED, actor=lease.owner)

    def proposals(self, round_id: int, *, selected: bool = False) -> list[ProposalRecord]:
        """Return what a round considered: the batch by rank, then the rest by acquisition."""
        query = select(Proposal, Candidate).join(Candidate, Candidate.id == Proposal.candidate_id)
        query = query.where(Proposal.round_id == round_id)
        if selected:
            query = query.where(Proposal.decision == Decision.SELECTED)
        # Said outright: PostgreSQL puts NULL first in a descending order, SQLite last.
        by_acquisition = Proposal.acquisition.desc().nulls_last()
        query = query.order_by(Proposal.rank.is_(None), Proposal.rank, by_acquisition, Candidate.key)
        with self._database.read() as session:
            return [_proposal(row, candidate) for row, candidate in session.execute(query)]

    @contextmanager
    def _under_lease(self, lease: Lease) -> Iterator[Session]:
        with self._database.write() as session:
            hold_lease(session, lease)
            yield session


def advance_round(
    session: Session, round_id: int, target: RoundState, *, actor: str, message: str | None = None
) -> None:
    """Move a round to `target`, within the transaction of whoever holds the campaign's lease.

    Raises:
        StateError: the round is in a state that does not lead there.
    """
    changed = session.execute(
        update(Round)
        .where(Round.id == round_id, Round.state.in_(sources_of(target)))
        .values(state=target, message=message, finished_at=utc_now() if target in _FINAL else None)
        .execution_options(synchronize_session=False)
    )
    row = session.scalars(select(Round).where(Round.id == round_id)).one()
    if changed.rowcount == 0:  # type: ignore[attr-defined]
        check_transition(row.state, target, what=f"round {row.number}")
    detail = {} if message is None else {"message": message}
    add_event(session, row.campaign_id, f"round_{target}", actor=actor, round_id=round_id, detail=detail)


def _artefact(session: Session, campaign_id: int, record: ArtefactRecord | None) -> int | None:
    if record is None:
        return None
    query = select(Artefact).where(Artefact.campaign_id == campaign_id, Artefact.sha256 == record.sha256)
    row = session.scalar(query)
    if row is None:
        row = Artefact(
            campaign_id=campaign_id, sha256=record.sha256, kind=record.kind, size_bytes=record.size_bytes
        )
        session.add(row)
        session.flush()
    return row.id


def _artefact_of(session: Session, artefact_id: int | None) -> ArtefactRecord | None:
    row = None if artefact_id is None else session.get(Artefact, artefact_id)
    return None if row is None else ArtefactRecord(row.sha256, row.kind, row.size_bytes)


def _proposal_row(
    proposal: ProposalRecord, round_id: int, candidate_id: int, sampler_run_id: int | None
) -> dict[str, Any]:
    return {
        "round_id": round_id,
        "candidate_id": candidate_id,
        "sampler_run_id": sampler_run_id,
        "rank": proposal.rank,
        "origin": proposal.origin,
        "acquisition": proposal.acquisition,
        "log_reward": proposal.log_reward,
        "log_prob": proposal.log_prob,
        "mean": proposal.mean,
        "sd": proposal.sd,
        "decision": proposal.decision,
        "reason": proposal.reason,
    }


def _proposal(row: Proposal, candidate: Candidate) -> ProposalRecord:
    return ProposalRecord(
        key=candidate.key,
        object=candidate.object,
        origin=row.origin,
        decision=row.decision,
        rank=row.rank,
        acquisition=row.acquisition,
        log_reward=row.log_reward,
        log_prob=row.log_prob,
        mean=row.mean,
        sd=row.sd,
        reason=row.reason,
        candidate_id=candidate.id,
    )


def _round(row: Round) -> RoundRecord:
    return RoundRecord(
        id=row.id,
        campaign_id=row.campaign_id,
        number=row.number,
        state=row.state,
        seed=row.seed,
        config_version_id=row.config_version_id,
        prefect_run_id=row.prefect_run_id,
        message=row.message,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


def _fit(row: ModelFit, artefact: ArtefactRecord | None) -> FitRecord:
    return FitRecord(
        id=row.id,
        kind=row.kind,
        seed=row.seed,
        params=row.params,
        data_upto_seq=row.data_upto_seq,
        data_count=row.data_count,
        data_sha256=row.data_sha256,
        diagnostics=row.diagnostics,
        parent_id=row.parent_id,
        artefact=artefact,
    )


def _sampler(row: SamplerRun, artefact: ArtefactRecord | None) -> SamplerRecord:
    return SamplerRecord(
        id=row.id,
        kind=row.kind,
        seed=row.seed,
        model_fit_id=row.model_fit_id,
        params=row.params,
        reward=row.reward,
        diagnostics=row.diagnostics,
        parent_id=row.parent_id,
        artefact=artefact,
    )
