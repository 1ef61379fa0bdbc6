"""The contract that every oracle keeps, as one class of pytest tests.

What is special to one oracle (its errors, its values) belongs in that oracle's own tests.

    class TestMyOracle(OracleContract):
        @pytest.fixture
        def oracle(self): return build_oracle({...}, folder=..., property="y")

        @pytest.fixture
        def objects(self): return ["...", "..."]        # at least two objects that it can measure
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest

from flowscout.errors import OracleError, OracleTimeoutError
from flowscout.loop.oracles.protocol import Closing, Failure, Oracle, OracleInfo, Request, Result

FAILURES = get_args(Failure)
SLACK_S = 30.0
"""How much longer than its limit a call may take on a machine that has much else to do."""


def requests_for(objects: Sequence[str], *, replicate: int = 1) -> list[Request]:
    """Return a request for each object, with a key that follows from the object and the replicate."""
    return [
        Request(text, candidate_id, hashlib.sha256(f"{text}/{replicate}".encode()).hexdigest(), replicate)
        for candidate_id, text in enumerate(objects, start=1)
    ]


class OracleContract:
    """Test one oracle against `flowscout.loop.oracles.Oracle`.

    Subclass it and provide the fixtures `oracle` and `objects`. Where there is an object that the oracle
    cannot measure, provide `impossible` too; where its calls are limited in time, `stuck`; where what it calls may
    answer with nonsense, `babbling`. The tests call the oracle: give a simulator or a sandbox.
    """

    @pytest.fixture
    def oracle(self) -> Oracle:
        """Return the oracle under test."""
        raise NotImplementedError("Provide a fixture `oracle` that returns the oracle to test.")

    @pytest.fixture
    def objects(self) -> Sequence[str]:
        """Return at least two different objects that the oracle can measure."""
        raise NotImplementedError("Provide a fixture `objects` that returns texts the oracle can measure.")

    @pytest.fixture
    def impossible(self) -> str | None:
        """Return an object that the oracle cannot measure; None if there is none."""
        return None

    @pytest.fixture
    def stuck(self) -> Oracle | None:
        """Return such an oracle whose calls take for ever, limited to a second at most; None if there is none."""
        return None

    @pytest.fixture
    def babbling(self) -> Oracle | None:
        """Return such an oracle that is answered with nonsense for every object; None if there is none."""
        return None

    def test_info_is_complete(self, oracle: Oracle) -> None:
        info = oracle.info
        assert isinstance(oracle, Oracle)
        assert isinstance(info, OracleInfo)
        assert info.name
        assert info.version
        assert info.fidelity
        assert math.isfinite(info.cost_usd)
        assert info.cost_usd >= 0
        assert not info.waits_for_people

    def test_info_does_not_change_with_calls(self, oracle: Oracle, objects: Sequence[str]) -> None:
        before = dataclasses.replace(oracle.info)
        oracle(requests_for(objects))
        assert oracle.info == before

    def test_there_is_one_result_for_each_request(self, oracle: Oracle, objects: Sequence[str]) -> None:
        results = oracle(requests_for(objects))
        assert len(results) == len(objects)
        assert all(isinstance(result, Result) for result in results)

    def test_results_stand_in_the_order_of_the_requests(self, oracle: Oracle, objects: Sequence[str]) -> None:
        if not oracle.info.idempotent:
            pytest.skip("calling it again with the same keys may give other values")
        requests = requests_for(objects)
        forwards, backwards = oracle(requests), oracle(requests[::-1])
        assert [result.values for result in forwards] == [result.values for result in backwards][::-1]

    def test_repeated_key_gives_the_same_answer(self, oracle: Oracle, objects: Sequence[str]) -> None:
        if not oracle.info.idempotent:
            pytest.skip("it does not promise to")
        requests = requests_for(objects)
        assert oracle(requests) == oracle(requests)

    def test_values_are_finite_and_named(self, oracle: Oracle, objects: Sequence[str]) -> None:
        for result in oracle(requests_for(objects)):
            assert result.failure is None, result.message
            assert result.values
            assert all(name and math.isfinite(value) for name, value in result.values.items())

    def test_bill_is_a_finite_amount(self, oracle: Oracle, objects: Sequence[str]) -> None:
        for result in oracle(requests_for(objects)):
            assert result.cost_usd is None or (math.isfinite(result.cost_usd) and result.cost_usd >= 0)

    def test_failure_says_why_and_has_no_values(
        self, oracle: Oracle, objects: Sequence[str], impossible: str | None
    ) -> None:
        if impossible is None:
            pytest.skip("it measures every object")
        first, failed = oracle(requests_for([objects[0], impossible]))
        assert first.failure is None
        assert failed.failure in FAILURES
        assert failed.message
        assert not failed.values

    def test_no_request_gives_no_result(self, oracle: Oracle) -> None:
        assert list(oracle([])) == []

    def test_calling_is_sound(self, oracle: Oracle) -> None:
        calling = oracle.info.calling
        assert calling.batch is None or calling.batch >= 1
        assert calling.concurrency >= 1
        assert calling.timeout_s is None or calling.timeout_s > 0
        assert calling.rate_per_s is None or calling.rate_per_s > 0

    def test_calls_at_the_same_time_are_answered_each_with_its_own(
        self, oracle: Oracle, objects: Sequence[str]
    ) -> None:
        calls = [requests_for(objects, replicate=number) for number in range(1, 5)]
        with ThreadPoolExecutor(len(calls)) as pool:
            together = list(pool.map(oracle, calls))
        assert [len(results) for results in together] == [len(objects)] * len(calls)
        if oracle.info.idempotent:
            assert [list(results) for results in together] == [list(oracle(call)) for call in calls]

    def test_lone_request_is_answered(self, oracle: Oracle, objects: Sequence[str]) -> None:
        [result] = oracle(requests_for(objects[:1]))
        assert result.failure is None
        assert result.values

    def test_call_that_takes_too_long_ends(self, stuck: Oracle | None, objects: Sequence[str]) -> None:
        if stuck is None:
            pytest.skip("its calls are not limited in time")
        limit = stuck.info.calling.timeout_s
        assert limit is not None
        assert limit <= 1
        begun = time.monotonic()
        for _ in range(2):  # the first call in the way of no other
            answered = _answered(stuck, requests_for(objects[:1]))
            if isinstance(answered, OracleError):
                assert isinstance(answered, OracleTimeoutError)
            else:
                assert [result.failure in ("transient", "unknown") for result in answered] == [True]
                assert answered[0].message
        assert time.monotonic() - begun < 2 * limit + SLACK_S

    def test_nonsense_is_a_failure_and_never_a_number(
        self, babbling: Oracle | None, objects: Sequence[str]
    ) -> None:
        if babbling is None:
            pytest.skip("it cannot be answered with nonsense")
        answered = _answered(babbling, requests_for(objects))
        if isinstance(answered, OracleError):
            assert str(answered)
            return
        assert len(answered) == len(objects)
        for result in answered:
            assert result.failure in FAILURES
            assert result.message
            assert not result.values

    def test_closed_oracle_can_be_called_again(self, oracle: Oracle, objects: Sequence[str]) -> None:
        if not isinstance(oracle, Closing):
            pytest.skip("it keeps nothing between calls")
        oracle(requests_for(objects))
        oracle.close()
        oracle.close()
        assert all(result.failure is None for result in oracle(requests_for(objects)))
        oracle.close()


def _answered(oracle: Oracle, requests: Sequence[Request]) -> Sequence[Result] | OracleError:
    """Return what an oracle answers, or how it says that it cannot; any other exception is raised."""
    try:
        return oracle(requests)
    except OracleError as error:
        return error
