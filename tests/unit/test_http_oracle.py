"""The oracle that is a service: what it sends, and what it makes of whatever comes back."""

import logging
import threading
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from http_service import always, drop, half, reply, serving

from flowscout.errors import ConfigError, OracleError
from flowscout.loop.config import parse_campaign
from flowscout.loop.oracles import Calling, Result, build_oracle
from flowscout.loop.oracles import exchange as exchange_module
from flowscout.loop.oracles.exchange import Answered, origin
from flowscout.loop.oracles.http import MIN_POLL_S, HttpOracle, pause_s
from flowscout.testing.oracles import requests_for

SECRET = "s3cr3t-token-of-the-assay"
VALUES = {"AAAA": 1.5, "ACGT": -2.0, "TTTT": 0.0}


@pytest.fixture
def service():
    with serving(VALUES) as found:
        yield found


@pytest.fixture
def build(service, tmp_path):
    def build(*, idempotent=True, **section):
        slept = []
        whole = {"type": "http", "url": service.url, "name": "assay", "timeout_s": 5.0, "idempotent": idempotent}
        found = build_oracle({**whole, **section}, folder=tmp_path, property="y")
        assert isinstance(found, HttpOracle)
        object.__setattr__(found.pauses, "begin", lambda: (slept.append, slept.append))
        object.__setattr__(found, "slept", slept)
        return found

    return build


def test_each_request_is_sent_with_its_key_and_the_call_with_a_hash_of_them(service, build):
    oracle, requests = build(), requests_for(["AAAA", "ACGT"])
    oracle(requests)
    oracle(requests[::-1])
    first, second = service.seen
    assert [one["key"] for one in first.content["requests"]] == [request.key for request in requests]
    assert [one["object"] for one in first.content["requests"]] == ["AAAA", "ACGT"]
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert len(first.headers["idempotency-key"]) == 64
    assert "authorization" not in first.headers


def test_no_more_than_a_batch_is_sent_at_once(service, build):
    results = build(batch=2)(requests_for(list(VALUES)))
    assert [len(one.content["requests"]) for one in service.seen] == [2, 1]
    assert [result.values["y"] for result in results] == list(VALUES.values())


def test_secret_is_sent_and_read_anew_at_each_call(service, build, monkeypatch):
    oracle = build(secret_env="ASSAY_TOKEN")
    for token in ("one", "two\n"):
        monkeypatch.setenv("ASSAY_TOKEN", token)
        oracle(requests_for(["AAAA"]))
    assert [one.headers["authorization"] for one in service.seen] == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("token", [None, "", "two words", "l\u00e4nge", "a\nb", "tab\there"])
def test_without_a_secret_that_can_be_sent_nothing_is_sent(service, build, monkeypatch, token):
    monkeypatch.delenv("ASSAY_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("ASSAY_TOKEN", token)
    [result] = build(idempotent=False, secret_env="ASSAY_TOKEN")(requests_for(["AAAA"]))
    assert (result.failure, service.seen) == ("transient", [])
    assert "'assay' was not called: the environment variable ASSAY_TOKEN" in result.message
    assert not token or token not in result.message


@pytest.mark.parametrize("idempotent", [True, False])
def test_refusal_for_now_is_tried_again_after_as_long_as_was_asked(service, build, idempotent):
    service.plan = [always(429, Retry_After="7"), always(503, Retry_After="3"), always(429)]
    oracle = build(idempotent=idempotent)
    [result] = oracle(requests_for(["AAAA"]))
    assert result == Result(values={"y": 1.5})
    assert oracle.slept[:2] == [7.0, 3.0]
    assert 1.0 <= oracle.slept[2] <= 2.0  # the third pause of its own: 2 s, of which at least half
    assert len({one.headers["idempotency-key"] for one in service.seen}) == 1


def test_refusal_until_a_date_is_waited_for():
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < Answered(429, {"retry-after": until}, b"").retry_after_s <= 60
    for text in ("", "soon", "nan", "inf", "Wed, 99 Foo"):
        assert Answered(429, {"retry-after": text}, b"").retry_after_s is None
    assert Answered(429, {"retry-after": "-5"}, b"").retry_after_s == 0


def test_service_that_asks_for_hours_is_left_alone_until_a_later_turn(service, build):
    service.plan = [always(429, {"error": "quota"}, Retry_After="86400")]
    oracle = build(idempotent=False)
    [result] = oracle(requests_for(["AAAA"]))
    assert (result.failure, oracle.slept, len(service.seen)) == ("transient", [], 1)
    assert "asks to be left alone for 86400 s" in result.message


def test_tries_end(service, build):
    service.plan = [always(429)] * 9
    [result] = build(tries=3)(requests_for(["AAAA"]))
    assert (result.failure, len(service.seen)) == ("transient", 3)
    assert "'assay' answered 429 'null', expected 200" in result.message


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
def test_refusal_for_good_is_permanent_and_says_the_first_line(service, build, status):
    service.plan = [always(status, b"\n  no such \x07 well \n and more")]
    [result] = build()(requests_for(["AAAA"]))
    assert (result.failure, len(service.seen)) == ("permanent", 1)
    assert f"'assay' answered {status} 'no such well', expected 200" in result.message


def test_redirect_is_not_followed_nor_shown(service, build, monkeypatch):
    monkeypatch.setenv("ASSAY_TOKEN", SECRET)
    service.plan = [always(307, Location="http://127.0.0.1:9/?secret=x")]
    [result] = build(secret_env="ASSAY_TOKEN")(requests_for(["AAAA"]))
    assert (result.failure, len(service.seen)) == ("permanent", 1)
    assert "a redirect, which is not followed; put the right address in `url`" in result.message
    assert "secret=x" not in result.message


LOSSES = {
    "drop": drop,
    "half": half,
    "garbage": always(200, b"<html>busy</html>"),
    "no JSON": always(200, b"\xff\xfe"),
    "no answers": always(200, {"ok": True}),
    "nested": always(200, b"[" * 500 + b"]" * 500),
    "empty": always(204, b""),
    "error": always(500, b"Traceback"),
    "proxy": always(502, b"bad gateway"),
    "unavailable": always(503, b"upstream reset"),
    "packed": always(200, b"\x1f\x8b", Content_Encoding="gzip"),
}


@pytest.mark.parametrize("step", LOSSES.values(), ids=LOSSES)
def test_answer_that_is_lost_is_asked_for_again_with_the_same_key(service, build, step):
    service.plan = [step]
    oracle = build()
    assert oracle(requests_for(["AAAA", "ACGT"])) == [Result(values={"y": 1.5}), Result(values={"y": -2.0})]
    assert len({one.headers["idempotency-key"] for one in service.seen}) == 1
    assert len(service.seen) == 2


@pytest.mark.parametrize("step", LOSSES.values(), ids=LOSSES)
def test_answer_that_is_lost_is_unknown_where_a_repeated_call_may_act_again(service, build, step):
    service.plan = [step]
    results = build(idempotent=False)(requests_for(["AAAA", "ACGT"]))
    assert [result.failure for result in results] == ["unknown", "unknown"]
    assert len(service.seen) == 1
    assert "expected" in results[0].message or "gave no whole answer" in results[0].message


def test_answer_that_is_too_large_is_not_read(service, build, monkeypatch):
    monkeypatch.setattr(exchange_module, "MAX_BODY", 1000)
    service.plan = [always(200, b" " * 5000)]
    [result] = build(idempotent=False)(requests_for(["AAAA"]))
    assert result.failure == "unknown"
    assert "answered more than 1,000 bytes" in result.message


@pytest.mark.parametrize(("idempotent", "calls"), [(True, 2), (False, 1)])
def test_answer_after_the_time_out_is_unknown(service, build, idempotent, calls):
    def late(handler, seen):
        time.sleep(0.4)
        return reply(200, {"answers": []})

    service.plan = [late, late]
    [result] = build(idempotent=idempotent, timeout_s=0.1, tries=2)(requests_for(["AAAA"]))
    assert (result.failure, len(service.seen)) == ("unknown", calls)
    assert "did not answer within 0.1 s" in result.message


def test_answer_that_drips_ends_with_the_time_of_the_whole(service, build):
    def drip(handler, seen):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
        with suppress(OSError):  # the reader goes away
            for _ in range(20):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.05)

    service.plan = [drip]
    [result] = build(idempotent=False, timeout_s=0.3)(requests_for(["AAAA"]))
    assert "did not answer whole within 0.3 s" in result.message


def test_service_that_is_not_there_was_not_called(build):
    oracle = build(idempotent=False, url="http://127.0.0.1:9/measure", tries=2)
    [result] = oracle(requests_for(["AAAA"]))
    assert result.failure == "transient"
    assert result.message == (
        "oracle 'assay' was not called: the service at 127.0.0.1 cannot be reached (ConnectError)"
    )
    assert len(oracle.slept) == 1


def test_missing_doubled_and_foreign_answers_are_failures_of_just_these(service, build):
    first, second, third = requests_for(list(VALUES))
    answers = [
        {"key": first.key, "value": 1.0},
        {"key": second.key, "value": 1.0},
        {"key": second.key, "value": 2.0},
        {"key": "foreign", "value": 3.0},
    ]
    service.plan = [always(200, {"answers": answers})]
    good, doubled, missing = build()([first, second, third])
    assert good == Result(values={"y": 1.0})
    assert (doubled.failure, missing.failure) == ("unknown", "unknown")
    assert "answered twice" in doubled.message
    assert "gave no answer" in missing.message


def test_texts_that_no_database_keeps_and_messages_without_end_are_mended(service, build):
    [request] = requests_for(["AAAA"])
    odd = b'{"answers": [{"key": "%s", "failure": "permanent", "message": "a\\u0000b\\ud800%s"}]}'
    service.plan = [always(200, odd % (request.key.encode(), b"x" * 5000))]
    [result] = build()([request])
    assert result.message.startswith("a\ufffdb?xxx")
    assert len(result.message) == 1000


# Polling


def test_accepted_call_is_polled_at_its_address_until_the_answer_is_there(service, build, monkeypatch):
    monkeypatch.setenv("ASSAY_TOKEN", SECRET)
    [request] = requests_for(["AAAA"])
    service.plan = [
        always(202, b"", Location="/jobs/7", Retry_After="0.3"),
        always(202, b"", Retry_After="0.2"),
        always(503, b""),
        lambda handler, seen: None,
        always(200, {"answers": [{"key": request.key, "value": 4.0}]}),
    ]
    oracle = build(answers="poll", secret_env="ASSAY_TOKEN")
    assert oracle([request]) == [Result(values={"y": 4.0})]
    assert [(one.method, one.path) for one in service.seen] == [("POST", "/measure")] + [("GET", "/jobs/7")] * 4
    assert {one.headers["authorization"] for one in service.seen} == {f"Bearer {SECRET}"}
    assert oracle.slept[:2] == [0.3, 0.2]


def test_address_to_poll_may_stand_in_the_answer(service, build):
    [request] = requests_for(["AAAA"])
    service.plan = [
        always(202, {"poll": "jobs/8"}),
        always(200, {"answers": [{"key": request.key, "value": 4.0}]}),
    ]
    assert build()([request]) == [Result(values={"y": 4.0})]
    assert service.seen[1].path == "/jobs/8"


PLACES = [
    "http://127.0.0.1:9/x",
    "https://127.0.0.1/x",
    "//elsewhere/x",
    "http://u:p@127.0.0.1:{}/",
    "http://[",
    "",
]


@pytest.mark.parametrize("place", PLACES)
def test_address_to_poll_elsewhere_is_refused_before_the_secret_is_sent(service, build, place):
    service.plan = [always(202, b"", Location=place.format(origin(service.url)[2]))]
    [result] = build(answers="poll")(requests_for(["AAAA"]))
    assert (result.failure, len(service.seen)) == ("unknown", 1)
    assert "expected an address of its own" in result.message or "not where to ask again" in result.message


def test_poll_ends_with_the_time_of_the_oracle(service, build):
    service.plan = [always(202, b"", Location="/jobs/7", Retry_After="6")]
    [result] = build(answers="poll", timeout_s=5.0)(requests_for(["AAAA"]))
    assert (result.failure, len(service.seen)) == ("unknown", 1)
    assert "had no answer after 5 s" in result.message


def test_accepted_call_whose_job_is_gone_is_unknown(service, build):
    service.plan = [always(202, b"", Location="/jobs/7", Retry_After="0"), always(404, b"no such job")]
    [result] = build(answers="poll")(requests_for(["AAAA"]))
    assert result.failure == "unknown"
    assert "what was accepted is not to be had: oracle 'assay' answered 404 'no such job'" in result.message


# Call-backs


def test_accepted_call_waits_for_its_call_back(service, build):
    first, second = requests_for(["AAAA", "ACGT"])
    service.plan = [always(202, {"answers": [{"key": second.key, "value": 4.0}]})]
    waits, early = build(answers="call_back", timeout_s=900.0)([first, second])
    assert early == Result(values={"y": 4.0})
    assert waits == Result(pending_s=900.0, message="accepted by assay, which calls back")


@pytest.mark.parametrize("body", [b"", b"thank you", b'"ok"', b'{"answers": 3}'])
def test_accepted_call_needs_no_body(service, build, body):
    service.plan = [always(202, body)]
    [waits] = build(answers="call_back")(requests_for(["AAAA"]))
    assert waits.pending_s == 5.0


def test_call_that_is_answered_at_once_is_not_waited_for(service, build):
    assert build(answers="call_back")(requests_for(["AAAA"])) == [Result(values={"y": 1.5})]


# Look-up


def test_look_up_says_what_is_known_what_never_was_and_nothing_of_the_rest(service, build):
    oracle = build(idempotent=False, lookup_url=service.url.replace("measure", "lookup"))
    service.plan = [
        always(500, b""),
        always(200, {"answers": [{"key": "a", "value": 1.0}, {"key": "z", "value": 2.0}], "never": ["b", "y"]}),
    ]
    assert oracle.info.lookup
    assert dict(oracle.lookup(["a", "b", "c"])) == {"a": Result(values={"y": 1.0}), "b": None}
    assert [(one.path, one.content) for one in service.seen] == [("/lookup", {"keys": ["a", "b", "c"]})] * 2


def test_look_up_that_says_nothing_raises(service, build):
    service.plan = [always(404, b"what?")]
    with pytest.raises(OracleError, match=r"'assay' answered 404 'what\?', expected 200; the calls stay unknown"):
        build(lookup_url=service.url).lookup(["a"])
    assert not build().info.lookup
    assert build().lookup(["a"]) == {}


# Secrets


def test_secret_is_in_no_result_log_or_traceback(service, build, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ASSAY_TOKEN", SECRET)
    [request] = requests_for(["AAAA"])

    def echo(status):
        return always(status, f"your header was Bearer {SECRET}".encode(), Server=SECRET)

    said = {"key": request.key, "value": 1.0, "message": SECRET, "as_run": {SECRET: [f"x{SECRET}"]}}
    service.plan = [
        echo(500), echo(401), echo(200), echo(429), always(200, {"answers": [said]}),
        always(400, {"detail": SECRET}), echo(403),
    ]  # fmt: skip
    oracle = build(secret_env="ASSAY_TOKEN", lookup_url=service.url)
    shown = [repr(oracle), *(repr(oracle([request])) for _ in range(3))]
    try:
        oracle.lookup(["a"])
    except OracleError as error:
        shown.append("".join(traceback.format_exception(error)))
    assert service.plan == []
    assert any("[secret]" in text for text in shown)
    assert SECRET not in "".join(shown) + caplog.text
    assert caplog.text


# The campaign file


def campaign(line):
    return parse_campaign(
        f"campaign: c\nspace: {{type: sequence, alphabet: dna, length: 4}}\noracle: {line}\n"
        "objectives: [{name: y, direction: maximize}]\nbatch: {size: 2}\nbudget: {rounds: 1}\n",
        name="c.yaml",
    )


def test_section_says_all_that_the_oracle_needs(tmp_path):
    section = campaign(
        "{type: http, url: 'https://assay.example.org/measure', secret_env: ASSAY_TOKEN, answers: call_back, "
        "batch: 8, concurrency: 2, timeout_s: 3600, tries: 3, idempotent: true, cost_usd: 3, version: '2', "
        "lookup_url: 'https://assay.example.org/lookup', token_env: ASSAY_POSTS}"
    ).oracle
    found = build_oracle(section.model_dump(), folder=tmp_path, property="y")
    assert (found.info.name, found.info.version, found.info.cost_usd) == ("assay.example.org", "2", 3.0)
    assert (found.info.idempotent, found.info.lookup) == (True, True)
    assert (found.info.calling, found.tries) == (Calling(batch=8, concurrency=2, timeout_s=3600.0), 3)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/x", "expected http or https"),
        ("https:///x", "expected http or https"),
        ("https://ho st/x", "no blanks"),
        ("https://host:99999/x", "expected http or https"),
        ("http://[::1/x", "expected http or https"),
        ("https://ada:hunter22@host/x", "holds a user or a password"),
        ("https://hunter22@host/x", "holds a user or a password"),
        ("https://host/x#hunter22", "a part after '#'"),
    ],
)
def test_address_with_a_password_or_none_is_refused_without_being_shown(url, said):
    for line in (f"{{type: http, url: '{url}'}}", f"{{type: http, url: 'https://h/', lookup_url: '{url}'}}"):
        with pytest.raises(ConfigError, match=said) as caught:
            campaign(line)
        assert "hunter22" not in "".join(traceback.format_exception_only(caught.value))


def test_secret_in_place_of_its_name_is_not_shown():
    with pytest.raises(ConfigError, match="name an environment variable") as caught:
        campaign("{type: http, url: 'https://h/', secret_env: 'hunter22-xyz'}")
    assert "hunter22" not in str(caught.value)


def test_pauses_grow_to_a_limit_and_are_never_the_same_for_all():
    for turn in range(1, 40):
        most = min(30.0, 0.5 * 2 ** (turn - 1))
        assert all(most / 2 <= pause_s(turn) <= most for _ in range(20))
    assert len({pause_s(3) for _ in range(20)}) > 1


def called_until(oracle, end, service):
    """Return the result of a call, during whose pauses somebody does `end` again and again."""
    found = []
    call = threading.Thread(target=lambda: found.extend(oracle(requests_for(["AAAA"]))))
    call.start()
    while not service.seen:
        time.sleep(0.01)
    while call.is_alive():  # the pause begins a little after the service has answered
        end()
        call.join(0.05)
    return found[0]


@pytest.mark.parametrize("end", ["hurry", "close"])
def test_pause_before_another_try_ends_when_nobody_wants_to_wait(service, tmp_path, end):
    service.plan = [always(429, {}, Retry_After="299")]
    section = {"type": "http", "url": service.url, "idempotent": False}
    oracle = build_oracle(section, folder=tmp_path, property="y")
    assert called_until(oracle, getattr(oracle, end), service).failure == "transient"
    assert len(service.seen) == 1
    assert oracle(requests_for(["AAAA"]))[0].values == {"y": 1.5}


@pytest.mark.parametrize(("end", "pause", "values"), [("hurry", "0.2", {"y": 7.0}), ("close", "50", {})])
def test_poll_goes_on_for_who_hurries_and_ends_for_who_breaks_off(service, tmp_path, end, pause, values):
    [request] = requests_for(["AAAA"])
    service.plan = [always(202, {"poll": service.url + "/1"}, Retry_After=pause)]
    service.plan.append(always(200, {"answers": [{"key": request.key, "value": 7.0}]}))
    section = {"type": "http", "url": service.url, "idempotent": False, "answers": "poll", "timeout_s": 60}
    oracle = build_oracle(section, folder=tmp_path, property="y")
    result = called_until(oracle, getattr(oracle, end), service)
    assert (result.values, len(service.seen)) == (values, 2 if values else 1)
    assert values or (result.failure == "unknown" and "broke off" in result.message)


def test_service_that_asks_to_be_polled_at_once_is_not_polled_without_end(service, build):
    service.plan = [always(202, {"poll": service.url + "/1"}, Retry_After="0")] * 3
    oracle = build(answers="poll")
    oracle(requests_for(["AAAA"]))
    assert oracle.slept[:3] == [MIN_POLL_S] * 3
