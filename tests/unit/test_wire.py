"""Requests and answers as JSON: an answer is somebody's, or nobody's; no number is invented or lost."""

import json
from decimal import Decimal

import numpy as np
import pytest

from flowscout.errors import OracleError
from flowscout.loop.oracles import Request, Result
from flowscout.loop.oracles.wire import Answers, match_answers, parse, read_answer, write_answer, write_request
from flowscout.testing.oracles import requests_for


def match(requests, answers, **options):
    return match_answers(requests, answers, property="y", oracle="dock", **options)


def test_request_says_everything_about_itself():
    request = Request("ACGT", 7, "3f", replicate=2, fidelity="high")
    written = write_request(request)
    assert written == {"key": "3f", "object": "ACGT", "candidate_id": 7, "replicate": 2, "fidelity": "high"}
    assert Request(**json.loads(json.dumps(written))) == request


def test_full_answer_is_the_result_that_it_says():
    answer = {
        "key": "3f", "values": {"y": -7.2, "mass": 300}, "sem": 0.1, "n": 3, "qualifier": "<", "unit": "nM",
        "as_run": {"plate": 4}, "cost_usd": 2.5, "failure": None, "message": "warm",
    }  # fmt: skip
    result = Result({"y": -7.2, "mass": 300.0}, 0.1, 3, "<", "nM", {"plate": 4}, 2.5, None, "warm")
    assert read_answer(answer, "y") == ("3f", result)


def test_short_answer_is_a_value_of_the_objective():
    assert read_answer({"key": "3f", "value": 2}, "y") == ("3f", Result({"y": 2.0}))


@pytest.mark.parametrize("failure", ["transient", "permanent", "infeasible", "unknown"])
def test_failure_has_no_values(failure):
    answer = {"key": "3f", "value": 2.0, "failure": failure, "message": "no", "cost_usd": 1}
    assert read_answer(answer, "y") == ("3f", Result(failure=failure, message="no", cost_usd=1.0))


def test_failure_of_no_known_kind_is_permanent():
    _, result = read_answer({"key": "3f", "failure": "tired", "message": "no"}, "y")
    assert result == Result(
        failure="permanent",
        message="no (failure is 'tired', expected one of transient, permanent, infeasible, unknown)",
    )


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e999", "true", '"3"', "null", "[1]", "1" * 400]
)
def test_value_that_is_no_finite_number_is_a_permanent_failure(value):
    _, result = read_answer(parse(f'{{"key": "3f", "value": {value}}}'), "y")
    assert (result.failure, result.values) == ("permanent", {})
    assert "no finite number for 'y'" in result.message


def test_misspelt_field_is_named():
    _, result = read_answer({"key": "3f", "vlaue": 2.0}, "y")
    assert "it has vlaue, which nobody reads" in result.message


@pytest.mark.parametrize(
    "odd", [{"sem": "wide"}, {"n": True}, {"n": 2.5}, {"unit": 3}, {"cost_usd": "free"}, {"values": {"z": None}}]
)
def test_number_that_was_paid_for_is_kept_whatever_else_is_odd(odd):
    _, result = read_answer({"key": "3f", "value": 2.0, **odd}, "y")
    assert (result.failure, dict(result.values)) == (None, {"y": 2.0})


@pytest.mark.parametrize("answer", [None, 3.0, "key", [], {}, {"value": 1.0}, {"key": 3, "value": 1.0}])
def test_answer_without_a_key_is_nobodys(answer):
    with pytest.raises(OracleError, match="names no key"):
        read_answer(answer, "y")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5_000, b"\xff\xfe", "pinned to GPU 0"])
def test_text_that_is_no_json_is_refused_in_one_short_line(text):
    with pytest.raises(OracleError, match="is no JSON") as caught:
        parse(text)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_answers_in_any_order_go_to_their_requests():
    requests = requests_for(["AC", "GT", "TT"])
    answers = [{"key": request.key, "value": place} for place, request in enumerate(requests)]
    assert [dict(r.values) for r in match(requests, answers[::-1])] == [{"y": 0.0}, {"y": 1.0}, {"y": 2.0}]


def test_lone_request_needs_no_key():
    assert match(requests_for(["AC"]), [{"value": 3.0}]) == [Result({"y": 3.0})]
    assert match(requests_for(["AC"]), [{"value": 3.0, "key": "other"}])[0].failure == "unknown"


def test_missing_answer_is_unknown_and_its_neighbours_are_not():
    first, second = requests_for(["AC", "GT"])
    missing, good = match([first, second], [{"key": second.key, "value": 1.0}], reason="It ended with code 3.")
    assert good == Result({"y": 1.0})
    assert missing.failure == "unknown"
    assert "'dock' gave no answer for 'AC', expected one answer with the key" in missing.message
    assert missing.message.endswith(".... It ended with code 3.")


def test_same_answer_twice_is_one_and_two_that_differ_are_none():
    first, second = requests_for(["AC", "GT"])
    answers = [
        {"key": first.key, "value": 1.0},
        {"key": first.key, "value": 1.0},
        {"key": second.key, "value": 1.0},
        {"key": second.key, "value": 2.0},
    ]
    same, differing = match([first, second], answers)
    assert same == Result({"y": 1.0})
    assert differing.failure == "unknown"
    assert "answered twice for 'GT', with {'y': 1.0} and {'y': 2.0}" in differing.message


def test_answer_to_another_call_is_left_out_and_named_where_one_is_missing():
    first, second = requests_for(["AC", "GT"])
    answers = [{"key": "elsewhere", "value": 9.0}, {"key": first.key, "value": 1.0}]
    good, missing = match([first, second], answers)
    assert good == Result({"y": 1.0})
    assert "An answer came to the key 'elsewhere', which is of no request" in missing.message


def test_answer_that_is_written_reads_as_the_result_it_was():
    full = Result({"y": -7.2, "mass": 300.0}, 0.1, 3, "<", "nM", {"plate": 4}, 2.5, None, "warm")
    for result in (full, Result({"y": 1.0}), Result(failure="infeasible", message="no", cost_usd=1.0)):
        assert read_answer(json.loads(json.dumps(write_answer("3f", result))), "y") == ("3f", result)


def test_answer_is_written_with_numbers_of_other_libraries():
    result = Result({"y": np.float32(0.5)}, sem=Decimal("0.25"), n=np.int64(3), as_run={"at": {1, 2}})
    answer = json.loads(json.dumps(write_answer("3f", result)))
    assert read_answer(answer, "y")[1] == Result({"y": 0.5}, sem=0.25, n=3, as_run={"at": "{1, 2}"})


def test_flood_of_answers_and_noise_is_bounded():
    first, second = requests_for(["AC", "GT"])
    answers = Answers([first, second], property="y", oracle="dock")
    for place in range(1000):
        answers.add({"key": first.key, "value": place})
        answers.add_line(b"noise " * 50)
        answers.add_line(b" \n")
    assert not answers.complete
    twice, missing = answers.results()
    assert "with {'y': 0.0} and {'y': 1.0}" in twice.message
    assert len(missing.message) < 600
    answers.add_line(json.dumps([{"key": second.key, "value": 1.0}]).encode())
    assert answers.complete
