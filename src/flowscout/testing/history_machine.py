"""A model of evaluations, attempts and money, driven beside a history at random: both must always agree.

`HistoryMachine` is a hypothesis `RuleBasedStateMachine`. Its oracles keep ledgers of their own, as real ones do:
one knows keys again, one can be asked, one can neither. Processes die, freeze and go on.
"""

from collections.abc import Iterable
from itertools import count
from math import fsum
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import text
from sqlalchemy.orm import Session

from flowscout.db import (
    FailureClass,
    History,
    HistoryFilter,
    OracleRecord,
    Outcome,
    RoundRecord,
    RoundState,
    Ruling,
    Told,
    TrainingSet,
    Verdict,
)
from flowscout.db.states import TRANSITIONS, TRIES, EvaluationState
from flowscout.errors import LabelError, StateError
from flowscout.testing.histories import CONFIG, PROPERTY, Scene, begin, failed, measured, result
from flowscout.testing.history_model import ModelAttempt, ModelEvaluation, Reading, Row

KEYED = OracleRecord("keyed", unit_cost_minor=100)
ASKED = OracleRecord("asked", unit_cost_minor=70, idempotent=False, lookup=True)
BARE = OracleRecord("bare", unit_cost_minor=30, idempotent=False)
ORACLES = (KEYED, ASKED, BARE)

_numbers = count()
_State = EvaluationState


class HistoryMachine(RuleBasedStateMachine):
    """Do at random what can happen to a campaign, and compare with the model after each step.

    Subclass it with a class attribute `history`: an open history. Each run is a campaign of its own.
    """

    history: History
    steps = 0
    _snapshot: Session | None = None

    @initialize(limit=st.sampled_from([None, 500, 2_000]))
    def begin(self, limit: int | None) -> None:
        """Register a campaign, and begin to measure a batch by each oracle."""
        self.scene: Scene = begin(self.history, limit_minor=limit, name=f"machine {next(_numbers)}")
        self.limit, self.reserved, self.spent = limit, 0, 0
        self.evaluations: dict[int, ModelEvaluation] = {}
        self.attempts: list[ModelAttempt] = []
        self.rows: dict[Row, list[Reading]] = {}
        self.bills: dict[str, int] = {}
        self.void: set[str] = set()
        self.conflicts: set[tuple[Row, int, float]] = set()
        self.round, self.names = 0, count()
        self.held: dict[int, RoundRecord] = {}
        self.fits: list[tuple[TrainingSet, list[Reading]]] = []
        self.before: dict[int, EvaluationState] = {}
        for oracle in ORACLES:
            self._propose(oracle, size=2, again=False)
            self._claim(limit=1)

    # What a runner does

    @rule(oracle=st.sampled_from(ORACLES), size=st.integers(1, 4), again=st.booleans())
    def propose(self, oracle: OracleRecord, size: int, again: bool) -> None:
        """Propose and dispatch a batch, of new objects and of such as were cancelled."""
        self._propose(oracle, size=size, again=again)

    @rule(oracle=st.sampled_from(ORACLES), size=st.integers(1, 4), again=st.booleans())
    def propose_for_approval(self, oracle: OracleRecord, size: int, again: bool) -> None:
        """Propose a batch that waits for a person, whatever other rounds are under way."""
        self._propose(oracle, size=size, again=again, held=True)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def approve(self, data: st.DataObject) -> None:
        """Approve a batch; again it changes nothing."""
        record = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
        approvals = self.history.approvals
        seen = approvals.batch(record.id)
        wanted = [e for e in self.evaluations.values() if e.round_id == record.id]
        assert len(seen.candidate_ids) == sum(e.state is not _State.CANCELLED for e in wanted)
        assert approvals.add(self.scene.lease, record, actor="ada", people=False, seen=seen.code)
        assert not approvals.add(self.scene.lease, record, actor="ada", people=False)

    @rule()
    def fit(self) -> None:
        """Remember what a fit sees now."""
        self._remember()

    # What workers do

    @rule(limit=st.sampled_from([1, 2, None]))
    def claim(self, limit: int | None) -> None:
        """Claim what is queued, as far as the budget goes; propose something first where nothing is."""
        if not self._claimable():
            self._propose(ORACLES[self.round % len(ORACLES)], size=3, again=False)
        self._claim(limit=limit)

    @precondition(lambda self: self._alive())
    @rule(data=st.data())
    def call(self, data: st.DataObject) -> None:
        """Let an oracle act and bill, and nothing more."""
        self._act(self._pick(data, self._alive()))

    @precondition(lambda self: self._answering())
    @rule(data=st.data(), odd=st.integers(0, 9), bill=st.sampled_from([None, None, None, 10, 250]))
    def settle(self, data: st.DataObject, odd: int, bill: int | None) -> None:
        """Bring a value, by an owner that still holds its lease or by a stale one; sometimes another value."""
        attempt = self._pick(data, self._answering())
        self._act(attempt)
        attempt.alive = False
        value = _value_of(attempt.evaluation.object) + (1.0 if odd == 0 else 0.0)
        if attempt.running:
            price = attempt.evaluation.oracle.unit_cost_minor if bill is None else bill
            self._end(attempt, spent=price)
            attempt.evaluation.state = _State.DONE
        self._store("oracle:assay", attempt.claim.idempotency_key, attempt.evaluation.object, value)
        self.scene.settle(result(attempt.claim, value, cost_minor=bill))

    @precondition(lambda self: self._idle())
    @rule(data=st.data(), failure=st.sampled_from(FailureClass), bill=st.sampled_from([None, None, 10]))
    def fail(self, data: st.DataObject, failure: FailureClass, bill: int | None) -> None:
        """Bring a failure: the oracle has not acted, or will know the key again."""
        attempt = self._pick(data, self._idle())
        attempt.alive = False
        evaluation = attempt.evaluation
        if attempt.running:
            self._end(attempt, spent=bill or 0)
            evaluation.failure_bills += bill or 0
            number = evaluation.failures[failure] = evaluation.failures.get(failure, 0) + 1
            if evaluation.state is _State.RUNNING:
                evaluation.state = _State.QUEUED if number % TRIES[failure] else _State.FAILED
        self.scene.settle(failed(attempt.claim, failure, cost_minor=bill))

    @precondition(lambda self: self._unrepeatable())
    @rule(data=st.data())
    def lose_the_answer(self, data: st.DataObject) -> None:
        """Have no answer from an oracle that cannot be called again."""
        attempt = self._pick(data, self._unrepeatable())
        attempt.alive = False
        if attempt.running:
            self._leave_unknown(attempt)
        self.scene.settle(Outcome(attempt.claim, unknown=True, message="no answer"))

    @precondition(lambda self: self._alive())
    @rule(data=st.data(), dies=st.booleans())
    def stand_still(self, data: st.DataObject, dies: bool) -> None:
        """Let a process stand still until its lease has run out, or die."""
        attempt = self._pick(data, self._alive())
        attempt.alive, attempt.lease_over = not dies, True
        lost = self.history.experiments.renew([attempt.claim], lease_s=0)
        assert bool(lost) is not attempt.running

    @precondition(lambda self: self._alive())
    @rule()
    def renew(self) -> None:
        """Renew all leases of living processes; those that are lost are told."""
        alive = self._alive()
        lost = self.history.experiments.renew([attempt.claim for attempt in alive])
        assert lost == [attempt.claim for attempt in alive if not attempt.running]
        for attempt in alive:
            attempt.lease_over = False

    @rule()
    def recover(self) -> None:
        """End the attempts whose leases have run out."""
        expected = {"queued": 0, "unknown": 0}
        for attempt in [a for a in self.attempts if a.running and a.lease_over]:
            evaluation = attempt.evaluation
            if evaluation.oracle.idempotent and evaluation.state is _State.RUNNING:
                self._end(attempt, spent=0)
                evaluation.state = _State.QUEUED
            else:
                self._leave_unknown(attempt)
            if evaluation.state in expected:
                expected[evaluation.state] += 1
        assert self.scene.recover() == expected

    @precondition(lambda self: self._unknown(ASKED))
    @rule()
    def look_up(self) -> None:
        """Ask the oracle that can be asked; what it says never happened it refuses from then on."""
        self._reconcile(self._unknown(ASKED), actor="oracle:asked", sure=True)

    # What people do

    @precondition(lambda self: self._in(_State.UNKNOWN))
    @rule(data=st.data())
    def reconcile(self, data: st.DataObject) -> None:
        """Say of an unknown call what the oracle's ledger says."""
        self._reconcile([self._pick(data, self._in(_State.UNKNOWN))], actor="ada", sure=False)

    @precondition(lambda self: self._in(_State.UNKNOWN))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """Have an unknown call made again with the same key."""
        evaluation = self._pick(data, self._in(_State.UNKNOWN))
        self._rule(Ruling(evaluation.id, Verdict.RETRY), actor="ada")
        self._end(self._last(evaluation), spent=None)
        evaluation.state, evaluation.sure, evaluation.retried = _State.QUEUED, False, True

    @rule(data=st.data(), stranger=st.booleans(), value=st.floats(-1e6, 1e6))
    def tell(self, data: st.DataObject, stranger: bool, value: float) -> None:
        """Tell a value of an object that waits, was measured, or that nobody has asked about."""
        known = sorted(e.object for e in self.evaluations.values())
        obj = f"t{next(self.names)}" if stranger or not known else data.draw(st.sampled_from(known))
        row = f"row {next(self.names)}"
        self._store("plate", row, obj, value)
        for evaluation in [e for e in self.evaluations.values() if e.object == obj]:
            self._answer(evaluation)
        assert self.scene.tell(measured(obj, value, row_id=row)).added == 1

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), other=st.booleans())
    def tell_again(self, data: st.DataObject, other: bool) -> None:
        """Tell a row that is known: the same changes nothing, another value is refused whole."""
        source, row = data.draw(st.sampled_from(list(self.rows)))  # not sorted: keys are other hashes each time
        obj, value = data.draw(st.sampled_from([one for one in self.rows[source, row] if one[1] is not None]))
        most = max(known for _, known in self.rows[source, row] if known is not None)
        record = measured(obj, most + 1.0 + abs(most) if other else value, source=source, row_id=row)
        if other:
            new = measured("never stored", row_id="never stored")
            try:
                self.scene.tell(new, record)
            except LabelError:
                return
            raise AssertionError("another value of a known row was not refused")
        assert self.scene.tell(record).added == 0

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), value=st.floats(-1e6, 1e6), back=st.booleans())
    def correct(self, data: st.DataObject, value: float, back: bool) -> None:
        """Supersede what counts of a row, by a value of its own or `back` by its first one."""
        self._remember()
        source, row = data.draw(st.sampled_from(list(self.rows)))
        versions = self.rows[source, row]
        obj, first = versions[0]
        reading = (obj, first if back else value)
        record = measured(*reading, source=source, row_id=row)
        told = self.history.measurements.add(self.scene.campaign.id, [record], actor="ada", correct="a slip")
        if reading == versions[-1]:
            assert told == Told(0, 1)
            return
        assert told == Told(1, 0, corrected=1)
        versions.append(reading)
        for evaluation in self.evaluations.values():  # a stale owner's value, once corrected, is an answer
            if source != "plate" and row in {a.claim.idempotency_key for a in self._attempts_at(evaluation)}:
                self._answer(evaluation)

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), whole=st.booleans())
    def retract(self, data: st.DataObject, whole: bool) -> None:
        """Take back the `whole` of an object's values, or one row."""
        self._remember()
        chosen = data.draw(st.sampled_from(list(self.rows)))
        obj = self.rows[chosen][0][0]
        meant = [
            versions for row, versions in self.rows.items() if versions[0][0] == obj and (whole or row == chosen)
        ]
        count = self.history.measurements.retract(
            self.scene.campaign.id,
            key=obj.upper() if whole else None,
            row=None if whole else chosen,
            reason="test",
            actor="ada",
        )
        standing = [versions for versions in meant if versions[-1][1] is not None]
        assert count == len(standing)
        for versions in standing:
            versions.append((obj, None))

    @precondition(lambda self: self.evaluations)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancel a measurement: done where nobody has begun it, else refused."""
        evaluation = self._pick(data, list(self.evaluations.values()))
        wanted = {evaluation.object.upper(): evaluation.object}
        try:
            new = self.history.experiments.cancel(self.scene.campaign.id, wanted, reason="test", actor="ada")
        except StateError:
            assert evaluation.state not in (_State.QUEUED, _State.CANCELLED)
        else:
            assert new == (evaluation.state is _State.QUEUED)
            evaluation.state = _State.CANCELLED

    @precondition(lambda self: self.evaluations)
    @rule(data=st.data())
    def cancel_for_budget(self, data: st.DataObject) -> None:
        """Cancel what the budget does not reach in a round."""
        number = self._pick(data, list(self.evaluations.values())).round_id
        out = []
        for evaluation in self._in(_State.QUEUED):
            committed = self.reserved + self.spent + evaluation.oracle.unit_cost_minor
            if evaluation.round_id == number and self.limit is not None and committed > self.limit:
                out.append(evaluation)
                evaluation.state = _State.CANCELLED
        assert self.history.experiments.cancel_queued(number, actor="runner") == len(out)

    @precondition(lambda self: self._in(_State.FAILED))
    @rule(data=st.data())
    def dispatch_again(self, data: st.DataObject) -> None:
        """Queue what has failed in a round."""
        number = self._pick(data, self._in(_State.FAILED)).round_id
        out = [e for e in self._in(_State.FAILED) if e.round_id == number]
        for evaluation in out:
            evaluation.state = _State.QUEUED
        assert self.history.experiments.requeue_failed(number) == len(out)

    @rule(limit=st.sampled_from([None, 100, 1_000, 5_000]))
    def change_the_budget(self, limit: int | None) -> None:
        """Register the campaign with another budget; what is committed already stays."""
        self.limit = limit
        self.history.campaigns.register(
            self.scene.campaign.name, CONFIG, objectives=[], seed=1, limit_minor=limit, actor="ada"
        )

    # What must hold

    @invariant()
    def history_and_model_agree(self) -> None:
        """Compare everything, in one snapshot."""
        with self.history.database.read() as self._snapshot:
            self.states_are_those_of_the_model_and_were_legal()
            self.money_is_that_of_the_ledger_and_of_the_model()
            self.nothing_is_paid_twice()
            self.nothing_of_a_batch_that_waits_for_approval_is_called()
            self.every_value_is_kept_once_and_in_order()
            self.what_is_known_is_the_mean_of_what_counts()
        self._snapshot = None

    def states_are_those_of_the_model_and_were_legal(self) -> None:
        """Compare every evaluation and attempt with the model's, whose last state must lead to it."""
        type(self).steps += 1
        found = self._read(
            "SELECT id, state, generation, idempotency_key FROM evaluation WHERE campaign_id = :campaign "
            "ORDER BY id"
        )
        model = sorted((e.id, str(e.state), e.generation, e.key) for e in self.evaluations.values())
        assert found == model
        legal = TRANSITIONS[EvaluationState]
        for evaluation in self.evaluations.values():
            before = self.before.get(evaluation.id, evaluation.state)
            assert before is evaluation.state or evaluation.state in legal[before], (before, evaluation)
            self.before[evaluation.id] = evaluation.state
        running = self._read(
            "SELECT a.id FROM attempt a JOIN evaluation e ON e.id = a.evaluation_id "
            "WHERE e.campaign_id = :campaign AND a.state = 'running' ORDER BY a.id"
        )
        assert running == [(a.claim.attempt_id,) for a in self.attempts if a.running]
        owned = [a.evaluation.id for a in self.attempts if a.running and a.evaluation.state is _State.RUNNING]
        assert sorted(owned) == sorted(e.id for e in self._in(_State.RUNNING))

    def money_is_that_of_the_ledger_and_of_the_model(self) -> None:
        """Compare the balance with the sum of its ledger, and both with what the model has counted."""
        [balance] = self._read("SELECT reserved_minor, spent_minor FROM balance WHERE campaign_id = :campaign")
        sums = dict(
            self._read("SELECT kind, SUM(amount_minor) FROM ledger WHERE campaign_id = :campaign GROUP BY kind")
        )
        reserved = int(sums.get("reserve", 0)) - int(sums.get("release", 0))
        assert balance == (reserved, int(sums.get("spend", 0))) == (self.reserved, self.spent)
        assert self.reserved == sum(a.reserved for a in self.attempts)

    def nothing_is_paid_twice(self) -> None:
        """Look in the ledgers of oracles that know keys again, or that can be asked."""
        paid = dict(
            self._read(
                "SELECT e.id, COUNT(*) FROM attempt a JOIN evaluation e ON e.id = a.evaluation_id "
                "WHERE e.campaign_id = :campaign AND a.state = 'succeeded' GROUP BY e.id"
            )
        )
        keys: dict[int, set[str]] = {}
        for attempt in self.attempts:
            keys.setdefault(attempt.evaluation.id, set()).add(attempt.claim.idempotency_key)
        for evaluation in self.evaluations.values():
            assert paid.get(evaluation.id, 0) <= 1
            billed = sum(self.bills.get(key, 0) for key in keys.get(evaluation.id, ()))
            if evaluation.oracle.idempotent or (evaluation.oracle.lookup and not evaluation.retried):
                assert billed <= 1, evaluation
            if evaluation.sure and evaluation.state is _State.DONE:
                assert billed >= 1, evaluation

    def nothing_of_a_batch_that_waits_for_approval_is_called(self) -> None:
        """Look for calls of what nobody has approved yet."""
        found = self._read(
            "SELECT r.id, COUNT(a.id) FROM round r JOIN evaluation e ON e.round_id = r.id "
            "LEFT JOIN attempt a ON a.evaluation_id = e.id AND a.state = 'running' "
            "WHERE r.campaign_id = :campaign AND r.state = 'awaiting_approval' GROUP BY r.id"
        )
        assert {number for number, _ in found} <= set(self.held)
        assert not any(running for _, running in found)

    def every_value_is_kept_once_and_in_order(self) -> None:
        """Find every value that came among the measurements, none twice, each with what supersedes it."""
        found = self._read(
            "SELECT m.id, m.supersedes_id, m.source, m.row_id, c.object, m.value, m.seq FROM measurement m "
            "JOIN candidate c ON c.id = m.candidate_id WHERE m.campaign_id = :campaign ORDER BY m.seq"
        )
        assert [row[-1] for row in found] == list(range(1, len(found) + 1))
        assert self._read("SELECT clock FROM campaign WHERE id = :campaign") == [(len(found),)]
        chains: dict[int, list[Reading]] = {}
        stored: dict[Row, list[Reading]] = {}
        for number, supersedes, source, row, obj, value, _ in found:
            if supersedes is None:
                assert (source, row) not in stored
                chains[number] = stored[source, row] = [(obj, value)]
            else:  # it comes after what it supersedes, which nothing else does
                chains[number] = chains.pop(supersedes)
                chains[number].append((obj, value))
        assert stored == self.rows
        query = "SELECT COUNT(*) FROM event WHERE campaign_id = :campaign AND kind = 'conflict'"
        assert self._read(query) == [(len(self.conflicts),)]

    def what_is_known_is_the_mean_of_what_counts(self) -> None:
        """Compare `current_value` with the mean of each object's values that nothing supersedes."""
        values: dict[str, list[float]] = {}
        for obj, value in self._current():
            if value is not None:
                values.setdefault(obj, []).append(value)
        found = self._read(
            "SELECT c.object, v.value, v.count FROM current_value v JOIN candidate c ON c.id = v.candidate_id "
            "WHERE v.campaign_id = :campaign"
        )
        assert sorted(found) == sorted((obj, fsum(told) / len(told), len(told)) for obj, told in values.items())

    def teardown(self) -> None:
        """Rebuild what can be rebuilt: what is known now, and what every fit has seen."""
        if not hasattr(self, "scene"):
            return
        number = self.scene.campaign.id
        query = (
            "SELECT candidate_id, property, value, count, seq FROM current_value "
            "WHERE campaign_id = :campaign ORDER BY 1, 2"
        )
        before = self._read(query)
        self.history.measurements.rebuild_current_values(number)
        assert self._read(query) == before
        for fit, counted in self.fits:
            again = self.history.measurements.training_set(number, PROPERTY, upto_seq=fit.upto_seq)
            assert again == fit
            pieces = self.history.queries.iterate_history(number, HistoryFilter(upto_seq=fit.upto_seq))
            rows = [row for piece in pieces for row in piece if not row["superseded"]]
            assert sorted((row["object"], row["value"]) for row in rows if row["value"] is not None) == counted

    # The model

    def _propose(self, oracle: OracleRecord, *, size: int, again: bool, held: bool = False) -> None:
        self.round += 1
        old = [e for e in self._in(_State.CANCELLED) if again and e.oracle == oracle]
        objects = [e.object for e in old] + [f"o{next(self.names)}" for _ in range(size)]
        record = self.scene.propose(objects, number=self.round, oracle=oracle, dispatch=not held)
        if held:
            self.history.rounds.advance(self.scene.lease, record, RoundState.AWAITING_APPROVAL)
            self.held[record.id] = record
        for evaluation in old:
            evaluation.state, evaluation.round_id = _State.QUEUED, record.id
        query = (
            "SELECT e.id, c.object, e.idempotency_key FROM evaluation e JOIN candidate c ON c.id = e.candidate_id "
            "WHERE e.round_id = :round"
        )
        for number, obj, key in self._read(query, round=record.id):
            self.evaluations.setdefault(number, ModelEvaluation(number, obj, oracle, record.id, key))

    def _claim(self, *, limit: int | None) -> None:
        expected: list[int] = []
        committed = self.reserved + self.spent
        for evaluation in sorted(self._claimable(), key=lambda e: e.id)[:limit]:
            committed += evaluation.oracle.unit_cost_minor
            if self.limit is not None and committed > self.limit:
                break
            expected.append(evaluation.id)
        claims = self.history.experiments.claim_any(self.scene.campaign.id, owner="worker", limit=limit)
        assert [claim.evaluation_id for claim in claims] == expected
        for claim in claims:
            evaluation = self.evaluations[claim.evaluation_id]
            evaluation.state, evaluation.attempts = _State.RUNNING, evaluation.attempts + 1
            assert (claim.number, claim.idempotency_key) == (evaluation.attempts, evaluation.key)
            price = evaluation.oracle.unit_cost_minor
            self.reserved += price
            self.attempts.append(ModelAttempt(claim, evaluation, price))
        assert not claims or self.limit is None or self.reserved + self.spent <= self.limit

    def _act(self, attempt: ModelAttempt) -> None:
        """Let an oracle act and bill; one that knows the key again does neither, nor one that has refused it."""
        key, oracle = attempt.claim.idempotency_key, attempt.evaluation.oracle
        if attempt.acted or key in self.void:
            return
        attempt.acted = True
        if not (oracle.idempotent and key in self.bills):
            self.bills[key] = self.bills.get(key, 0) + 1

    def _in(self, state: EvaluationState) -> list[ModelEvaluation]:
        return [e for e in self.evaluations.values() if e.state is state]

    def _claimable(self) -> list[ModelEvaluation]:
        return [e for e in self._in(_State.QUEUED) if e.round_id not in self.held]

    def _unknown(self, oracle: OracleRecord) -> list[ModelEvaluation]:
        return [e for e in self._in(_State.UNKNOWN) if e.oracle == oracle]

    def _alive(self) -> list[ModelAttempt]:
        return [a for a in self.attempts if a.alive]

    def _answering(self) -> list[ModelAttempt]:
        return [a for a in self._alive() if a.acted or a.claim.idempotency_key not in self.void]

    def _idle(self) -> list[ModelAttempt]:
        return [a for a in self._alive() if a.evaluation.oracle.idempotent or not a.acted]

    def _unrepeatable(self) -> list[ModelAttempt]:
        return [a for a in self._alive() if not a.evaluation.oracle.idempotent]

    def _last(self, evaluation: ModelEvaluation) -> ModelAttempt:
        return self._attempts_at(evaluation)[-1]

    def _attempts_at(self, evaluation: ModelEvaluation) -> list[ModelAttempt]:
        return [a for a in self.attempts if a.evaluation is evaluation]

    def _end(self, attempt: ModelAttempt, *, spent: int | None) -> None:
        """Release what is reserved for an attempt and spend this much (None: what was reserved)."""
        self.reserved -= attempt.reserved
        self.spent += attempt.reserved if spent is None else spent
        attempt.reserved, attempt.running = 0, False

    def _leave_unknown(self, attempt: ModelAttempt) -> None:
        if attempt.evaluation.state is _State.RUNNING:
            attempt.evaluation.state, attempt.running = _State.UNKNOWN, False
        else:  # told meanwhile: nobody can say that it was not paid
            self._end(attempt, spent=None)

    def _reconcile(self, evaluations: Iterable[ModelEvaluation], *, actor: str, sure: bool) -> None:
        """Settle unknown evaluations as their oracle's ledger says."""
        for evaluation in evaluations:
            attempt, value = self._last(evaluation), _value_of(evaluation.object)
            key = evaluation.key
            stored = self.rows.get(("oracle:assay", key), [(evaluation.object, value)])[0][1]
            assert stored is not None
            evaluation.sure = evaluation.sure and sure
            if self.bills.get(key):
                rows = result(attempt.claim, stored).measurements
                self._store("oracle:assay", key, evaluation.object, stored)
                self._rule(Ruling(evaluation.id, Verdict.DONE, rows), actor=actor)
                self._end(attempt, spent=None)
                evaluation.state = _State.DONE
                continue
            self.void.add(key)
            self._rule(Ruling(evaluation.id, Verdict.NEVER), actor=actor)
            self._end(attempt, spent=0)
            evaluation.state, evaluation.generation = _State.QUEUED, evaluation.generation + 1
            [(evaluation.key,)] = self._read(
                "SELECT idempotency_key FROM evaluation WHERE id = :id", id=evaluation.id
            )
            assert evaluation.key not in {a.claim.idempotency_key for a in self.attempts}

    def _rule(self, ruling: Ruling, *, actor: str) -> None:
        settled = self.history.experiments.reconcile(self.scene.campaign.id, [ruling], actor=actor)
        assert settled == [ruling.evaluation_id]

    def _store(self, source: str, row: str, obj: str, value: float) -> None:
        """Keep a value, unless any version of its row says so; another value of a known row is a conflict."""
        versions = self.rows.setdefault((source, row), [(obj, value)])
        if (obj, value) not in versions:
            self.conflicts.add(((source, row), len(versions), value))

    def _answer(self, evaluation: ModelEvaluation) -> None:
        """Have an evaluation done by what a person says."""
        if evaluation.state is _State.UNKNOWN:
            self._end(self._last(evaluation), spent=None)
        evaluation.sure = evaluation.sure and evaluation.state is _State.DONE
        evaluation.state = _State.DONE

    def _remember(self) -> None:
        """Remember what a fit sees now, and which values count."""
        fit = self.history.measurements.training_set(self.scene.campaign.id, PROPERTY)
        self.fits.append((fit, sorted(reading for reading in self._current() if reading[1] is not None)))

    def _current(self) -> list[Reading]:
        """Return what each row says now."""
        return [versions[-1] for versions in self.rows.values()]

    def _pick(self, data: st.DataObject, choices: list[Any]) -> Any:
        return choices[data.draw(st.integers(0, len(choices) - 1))]

    def _read(self, query: str, **values: int) -> list[tuple[Any, ...]]:
        """Return the rows of a query, in which `:campaign` is the campaign's id."""
        if ":campaign" in query:
            values["campaign"] = self.scene.campaign.id
        if self._snapshot is not None:
            return [tuple(row) for row in self._snapshot.execute(text(query), values)]
        with self.history.database.read() as session:
            return [tuple(row) for row in session.execute(text(query), values)]


def _value_of(obj: str) -> float:
    """Return what every oracle measures of an object."""
    return sum(map(ord, obj)) / 7.0
