"""A small campaign in an empty history: what the tests of a storage begin with."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
from sqlalchemy import text

from flowscout.db import (
    ArtefactRecord,
    CampaignRecord,
    Claim,
    ConfigRecord,
    Decision,
    FailureClass,
    FitRecord,
    History,
    Lease,
    MeasurementRecord,
    ObjectiveRecord,
    OracleRecord,
    Outcome,
    ProposalRecord,
    RoundRecord,
    RoundState,
    SamplerRecord,
    Told,
    this_owner,
)

PROPERTY = "affinity"
FOREIGN_OWNER = "another-host/boot|1|1"
ORACLE = OracleRecord("assay", unit_cost_minor=100)
CONFIG = ConfigRecord(sha256="0" * 64, yaml="campaign: c\n", folder="/lab", package_version="1.0")


@cache
def dead_owner() -> str:
    """Return the owner text of a process of this host that has ended."""
    code = "from flowscout.db import this_owner; print(this_owner())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def measured(obj: str, value: float | None = 1.0, **changes: Any) -> MeasurementRecord:
    """Return a measurement of `obj` whose row id is the object, with `changes`."""
    record = MeasurementRecord(
        key=obj.upper(), object=obj, property=PROPERTY, value=value, source="plate", row_id=obj
    )
    return replace(record, **changes)


def proposal(obj: str, rank: int | None = None, **changes: Any) -> ProposalRecord:
    """Return a proposal of `obj`, selected if it has a rank."""
    decision = Decision.OUTRANKED if rank is None else Decision.SELECTED
    record = ProposalRecord(key=obj.upper(), object=obj, origin="gflownet", decision=decision, rank=rank)
    return replace(record, **changes)


def result(claim: Claim, value: float = 1.0, **changes: Any) -> Outcome:
    """Return what an oracle answers to a claim: `value`, identified by the claim's key."""
    row = measured(claim.object, value, source="oracle:assay", row_id=claim.idempotency_key)
    return replace(Outcome(claim, [row]), **changes)


def failed(claim: Claim, failure: FailureClass, **changes: Any) -> Outcome:
    """Return the outcome of a call that gave no number."""
    return replace(Outcome(claim, failure=failure, message=f"{failure}!"), **changes)


@dataclass(frozen=True)
class Scene:
    """A history with one campaign, and the right to run its rounds."""

    history: History
    campaign: CampaignRecord
    config: ConfigRecord
    lease: Lease

    def tell(self, *records: MeasurementRecord) -> Told:
        """Record measurements as a person does."""
        return self.history.measurements.add(self.campaign.id, records, actor="bench")

    def start(self, number: int = 1) -> RoundRecord:
        """Plan a round."""
        assert self.config.id is not None
        return self.history.rounds.start(self.lease, number, seed=number, config_version_id=self.config.id)

    def train(self, number: int = 1, *, diagnostics: dict[str, Any] | None = None) -> RoundRecord:
        """Bring a round to where a sampler was trained on a fit of everything that is known."""
        record = self.start(number)
        self.history.rounds.advance(self.lease, record, RoundState.FITTING)
        data = self.history.measurements.training_set(self.campaign.id, PROPERTY)
        fit = FitRecord(
            kind="gp",
            seed=7,
            data_upto_seq=data.upto_seq,
            data_count=len(data.rows),
            data_sha256=data.sha256,
            params={"kernel": {"name": "tanimoto"}},
            diagnostics=diagnostics or {"spearman": 0.5},
            artefact=ArtefactRecord("a" * 64, "gp", 2**40),
        )
        stored = self.history.rounds.record_fit(self.lease, record, fit)
        assert stored.id is not None
        run = SamplerRecord(kind="gflownet", seed=8, model_fit_id=stored.id, diagnostics={"unique": 0.8})
        self.history.rounds.record_sampler(self.lease, record, run)
        return self.history.rounds.get(self.campaign.id, number)

    def propose(
        self, objects: Sequence[str], number: int = 1, *, oracle: OracleRecord = ORACLE, dispatch: bool = True
    ) -> RoundRecord:
        """Propose `objects` in a round, all of them selected, and dispatch it."""
        record = self.train(number)
        batch = [proposal(obj, rank) for rank, obj in enumerate(objects, start=1)]
        sampler = self.history.rounds.sampler(record.id)
        assert sampler is not None
        self.history.rounds.record_proposals(self.lease, record, batch, sampler_run_id=sampler.id, oracle=oracle)
        if dispatch:
            self.history.rounds.advance(self.lease, record, RoundState.DISPATCHED)
        return self.history.rounds.get(self.campaign.id, number)

    def claim(self, record: RoundRecord, *, owner: str | None = None, lease_s: float = 600.0) -> list[Claim]:
        """Begin attempts at what is queued in a round, as this process unless told otherwise."""
        return self.history.experiments.claim(record.id, owner=owner or this_owner(), lease_s=lease_s)

    def settle(self, *outcomes: Outcome) -> int:
        """Record what came of attempts."""
        return self.history.experiments.settle(outcomes, actor="oracle:assay")

    def recover(self) -> dict[str, int]:
        """End the attempts that nobody works at any more."""
        return self.history.experiments.recover(self.campaign.id, actor="test")

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query of the campaign's tables."""
        with self.history.database.read() as session:
            return [tuple(row) for row in session.execute(text(sql))]

    def table(self, name: str) -> list[tuple[Any, ...]]:
        """Return all rows of a table, in an order of their own."""
        return sorted(self.rows(f"SELECT * FROM {name}"), key=repr)  # noqa: S608 - the names are ours

    def states(self) -> list[str]:
        """Return the states of all evaluations, in the order they were queued."""
        return [state for (state,) in self.rows("SELECT state FROM evaluation ORDER BY id")]

    def money(self) -> tuple[int, int]:
        """Return what is reserved and what is spent, which the ledger must add up to."""
        [(reserved, spent)] = self.rows("SELECT reserved_minor, spent_minor FROM balance")
        sums = {kind: int(n) for kind, n in self.rows("SELECT kind, SUM(amount_minor) FROM ledger GROUP BY kind")}
        assert reserved == sums.get("reserve", 0) - sums.get("release", 0)
        assert spent == sums.get("spend", 0)
        return reserved, spent

    def events(self, kind: str) -> int:
        """Return how many events of a kind there are."""
        return sum(found == kind for (found,) in self.rows("SELECT kind FROM event"))


class HistoryFixtures:
    """What every test of a storage needs. Subclasses provide `url`, or `history` and `reopen`."""

    @pytest.fixture
    def history(self) -> History:
        """Return the open, empty history under test."""
        raise NotImplementedError("Provide a fixture `history` that yields an open, empty History.")

    @pytest.fixture
    def reopen(self, history: History) -> Callable[[], History]:
        """Return a function that opens the same database a second time, as another process would."""
        return lambda: History(history.database.location)

    @pytest.fixture
    def scene(self, history: History) -> Scene:
        """Return a campaign without a limit, held by this process."""
        return begin(history)

    @pytest.fixture
    def poor_scene(self, history: History) -> Scene:
        """Return a campaign that can pay for two calls of the oracle and a half."""
        return begin(history, limit_minor=250)


def begin_campaign(history: History, *, limit_minor: int | None = None, name: str = "campaign") -> CampaignRecord:
    """Register a campaign."""
    return history.campaigns.register(
        name,
        CONFIG,
        objectives=[ObjectiveRecord(PROPERTY, "maximize", unit="nM")],
        seed=2**62 - 1,
        limit_minor=limit_minor,
        actor="test",
    )


def begin(history: History, *, limit_minor: int | None = None, name: str = "campaign") -> Scene:
    """Register a campaign and take its lease."""
    campaign = begin_campaign(history, limit_minor=limit_minor, name=name)
    lease = history.campaigns.acquire_lease(campaign.id, owner=this_owner())
    return Scene(history, campaign, history.campaigns.config(campaign.id), lease)
