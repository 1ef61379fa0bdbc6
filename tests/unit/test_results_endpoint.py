"""The results endpoint: who may post, what is taken, what is said, and that nothing posted ends in a 500."""

import asyncio
import json
import logging
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial, partialmethod

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from flowscout.db import History
from flowscout.errors import ConfigError, NoHistoryError, NotFoundError
from flowscout.loop.campaign import Campaign
from flowscout.loop.config import read_campaign_file
from flowscout.loop.receiving import Desk
from flowscout.loop.workbench import hold_campaign
from flowscout.serving import app as app_module
from flowscout.serving.app import make_app
from flowscout.serving.doors import WINDOW_S, sign
from flowscout.serving.opening import Served, open_doors

TOKEN, OTHER = "token-of-the-bench-0123", "token-of-the-other-4567"
CAMPAIGN = """
campaign: {name}
space: {{type: sequence, alphabet: dna, length: 4}}
objectives: [{{name: y, direction: maximize, unit: nM}}]
properties: [{{name: mass, unit: Da}}]
oracle: {{type: lab, name: {oracle}, cost_usd: 2, token_env: {env}}}
proposer: {{type: random}}
batch: {{size: 4}}
budget: {{rounds: 3}}
seed: 1
"""


class Client:
    """Asks an application on the loop of `portal`, as a server would: what it raises is a 500."""

    def __init__(self, app, portal):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://endpoint")
        self._portal = portal

    def _ask(self, *request, **more):
        return self._portal.call(partial(self._client.request, *request, **more))

    get, post, put = partialmethod(_ask, "GET"), partialmethod(_ask, "POST"), partialmethod(_ask, "PUT")


@pytest.fixture(scope="module")
def portal():
    with start_blocking_portal() as found:
        yield found


class Bench:
    """Two campaigns whose first batches were handed out, and an endpoint for their oracles."""

    def __init__(self, folder, stack, portal):
        self.folder, self._stack, self._portal = folder, stack, portal
        self.history = stack.enter_context(History(str(folder / "h.db"), create=False))
        self.files = [read_campaign_file(folder / f"{name}.yaml") for name in "cd"]
        self.restart()

    def restart(self):
        self.doors = open_doors([Served(f.config.campaign, self.history, f.config) for f in self.files])
        app = make_app(self.doors, max_body=20_000)
        lifespan = self._portal.wrap_async_context_manager(app.router.lifespan_context(app))
        self._stack.enter_context(lifespan)
        self.client = Client(app, self._portal)

    def post(self, content, *, token=TOKEN, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            named["Authorization"] = f"Bearer {token}"
        return self.client.post("/results", content=body, headers=named)

    def signed(self, content, *, token=TOKEN, at=None, **changes):
        body = json.dumps(content).encode()
        stamp = str(int(time.time()) if at is None else at)
        headers = {"X-Flowscout-Timestamp": stamp, "X-Flowscout-Signature": sign(token, stamp, body), **changes}
        return self.client.post("/results", content=body, headers=headers)

    def waiting(self, *, token=TOKEN):
        return self.client.get("/requests", headers={"Authorization": f"Bearer {token}"}).json()["requests"]

    def rows(self, sql):
        connection = sqlite3.connect(self.folder / "h.db")
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def values(self):
        return self.rows("SELECT value FROM measurement WHERE source = 'oracle:bench' ORDER BY seq")


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """Return a folder with two campaigns, made once: proposing takes seconds."""
    folder = tmp_path_factory.mktemp("ready")
    for name, oracle, env in (("c", "bench", "BENCH_TOKEN"), ("d", "other", "OTHER_TOKEN")):
        path = folder / f"{name}.yaml"
        path.write_text(CAMPAIGN.format(name=name, oracle=oracle, env=env))
        with Campaign.from_yaml(path, db=str(folder / "h.db")) as campaign:
            campaign.tell([{"object": "ACGT", "y": 1.0}, {"object": "TTTT", "y": 2.0}])
            campaign.ask()
    return folder


@pytest.fixture
def settled(monkeypatch):
    """Return which desks were settled; what that does is seen in a test of its own."""
    found = []
    monkeypatch.setattr(Desk, "settle", lambda desk: found.append(desk.oracle) is None)
    return found


@pytest.fixture
def bench(ready, tmp_path, monkeypatch, settled, portal):
    monkeypatch.setenv("BENCH_TOKEN", TOKEN)
    monkeypatch.setenv("OTHER_TOKEN", OTHER)
    source, target = sqlite3.connect(ready / "h.db"), sqlite3.connect(tmp_path / "h.db")
    source.backup(target)
    source.close()
    target.close()
    for name in "cd":
        (tmp_path / f"{name}.yaml").write_text((ready / f"{name}.yaml").read_text())
    with ExitStack() as stack:
        yield Bench(tmp_path, stack, portal)


@pytest.fixture
def keys(bench):
    return [one["key"] for one in bench.waiting()]


def answer(key, value=1.5, **more):
    return {"key": key, "value": value, **more}


def status(response):
    return [(one["status"]) for one in response.json()["results"]]


# Who may post


def test_what_waits_is_told_to_the_oracle_and_to_no_other(bench):
    mine, others = bench.waiting(), bench.waiting(token=OTHER)
    assert len(mine) == len(others) == 4
    assert {one["campaign"] for one in mine} == {"c"}
    assert set(mine[0]) == {"key", "object", "candidate_id", "replicate", "fidelity", "campaign"}
    assert not {one["key"] for one in mine} & {one["key"] for one in others}


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN]
)
def test_missing_and_wrong_tokens_are_refused_alike(bench, keys, header):
    headers = {} if header is None else {"Authorization": header}
    said = [
        bench.client.post("/results", content=body, headers=headers)
        for body in (json.dumps(answer(keys[0])), json.dumps(answer("none")), b"{", b"x" * 30_000)
    ]
    assert {one.status_code for one in said} == {401}
    assert len({one.text for one in said}) == 1
    assert said[0].headers["www-authenticate"] == "Bearer"
    assert bench.client.get("/requests", headers=headers).status_code == 401
    assert bench.values() == []


def test_token_of_another_oracle_learns_nothing_of_a_key(bench, keys):
    foreign = bench.post(answer(keys[0]), token=OTHER)
    invented = bench.post(answer("f" * 64), token=OTHER)
    assert foreign.status_code == invented.status_code == 404
    assert foreign.text.replace(keys[0], "") == invented.text.replace("f" * 64, "")
    assert bench.values() == []


def test_non_ascii_header_is_refused(bench):
    response = bench.client.post("/results", content=b"{}", headers={b"Authorization": b"Bearer \xff\xfe"})
    assert response.status_code == 401


def test_signed_answer_is_taken_once(bench, keys):
    at = int(time.time())
    first, again = bench.signed(answer(keys[0]), at=at), bench.signed(answer(keys[0]), at=at)
    assert (first.status_code, status(first)) == (200, ["recorded"])
    assert (again.status_code, again.json()["error"]) == (
        409,
        "this signature was used before; sign again with the time of now.",
    )
    later = bench.signed(answer(keys[0]), at=at - 1)
    assert (later.status_code, status(later)) == (200, ["known"])


def test_replay_is_refused_after_a_restart_too(bench, keys):
    at = int(time.time())
    assert bench.signed(answer(keys[0]), at=at).status_code == 200
    bench.restart()
    assert bench.signed(answer(keys[0]), at=at).status_code == 409


@pytest.mark.parametrize("off", [-WINDOW_S - 5, WINDOW_S + 5, -(10**9), 10**9])
def test_signature_of_another_time_is_refused(bench, keys, off):
    response = bench.signed(answer(keys[0]), at=int(time.time()) + off)
    assert response.status_code == 401
    assert "expected at most 300 s; sign again, and check the clock" in response.json()["error"]


@pytest.mark.parametrize(
    "changes",
    [
        {"X-Flowscout-Signature": "sha256=" + "0" * 64},
        {"X-Flowscout-Signature": ""},
        {"X-Flowscout-Timestamp": ""},
        {"X-Flowscout-Timestamp": "soon"},
        {"X-Flowscout-Timestamp": "9" * 5000},
        {"X-Flowscout-Timestamp": "-1"},
        {"X-Flowscout-Timestamp": str(int(time.time()) - 1)},
    ],
)
def test_signature_that_does_not_fit_is_refused(bench, keys, changes):
    assert bench.signed(answer(keys[0]), **changes).status_code == 401
    assert bench.signed(answer(keys[0]), token="not-the-token-at-all").status_code == 401
    assert bench.values() == []


def test_signature_does_not_hold_for_another_body_nor_oracle(bench, keys):
    stamp = str(int(time.time()))
    headers = {"X-Flowscout-Timestamp": stamp, "X-Flowscout-Signature": sign(TOKEN, stamp, b"{}")}
    changed = bench.client.post("/results", content=json.dumps(answer(keys[0])), headers=headers)
    assert changed.status_code == 401
    assert bench.signed(answer(keys[0]), token=OTHER).status_code == 404


# What is taken


def test_posted_values_settle_what_waits_and_its_money(bench, keys):
    posted = [
        answer(keys[0], 1.5, sem=0.1, n=3, unit="nM", as_run={"plate": 4}),
        {"key": keys[1], "values": {"y": 2.5, "mass": 300}, "cost_usd": 5},
        {"key": keys[2], "failure": "infeasible", "message": "insoluble"},
        {"key": keys[3], "failure": "permanent", "message": "spilled", "cost_usd": 1},
    ]
    response = bench.post({"answers": posted})
    assert (response.status_code, status(response)) == (200, ["recorded"] * 4)
    found = bench.rows(
        "SELECT property, value, qualifier, sem, n, unit, as_run, actor FROM measurement "
        "WHERE source = 'oracle:bench' ORDER BY seq"
    )
    assert found == [
        ("y", 1.5, "=", 0.1, 3, "nM", '{"plate": 4}', "oracle:bench"),
        ("y", 2.5, "=", None, None, None, None, "oracle:bench"),
        ("mass", 300.0, "=", None, None, "Da", None, "oracle:bench"),
        ("y", None, "infeasible", None, None, "nM", None, "oracle:bench"),
        ("y", None, "missing", None, None, "nM", None, "oracle:bench"),
    ]
    campaign = bench.history.campaigns.get("c")
    states = bench.rows(f"SELECT DISTINCT state FROM evaluation WHERE campaign_id = {campaign.id}")
    assert states == [("done",)]
    money = bench.rows(f"SELECT reserved_minor, spent_minor FROM balance WHERE campaign_id = {campaign.id}")
    assert money == [(0, 200 + 500 + 0 + 100)]


def test_same_post_again_changes_nothing_and_another_value_is_a_conflict(bench, keys):
    posted = {"answers": [answer(keys[0]), answer(keys[1])]}
    assert status(bench.post(posted)) == ["recorded", "recorded"]
    tables = ("measurement", "evaluation", "attempt", "ledger", "balance", "event")
    before = [bench.rows(f"SELECT * FROM {name}") for name in tables]
    assert (bench.post(posted).status_code, status(bench.post(posted))) == (200, ["known", "known"])
    assert [bench.rows(f"SELECT * FROM {name}") for name in tables] == before
    response = bench.post(answer(keys[0], 9.0))
    assert (response.status_code, status(response)) == (200, ["conflict"])
    assert "`flowscout conflicts` lists both" in response.json()["results"][0]["message"]
    assert bench.values() == [(1.5,), (1.5,)]


def test_forms_of_a_body(bench, keys):
    assert status(bench.post(answer(keys[0]))) == ["recorded"]
    assert status(bench.post([answer(keys[1]), answer(keys[2])])) == ["recorded", "recorded"]
    assert status(bench.post({"answers": [answer(keys[3])]})) == ["recorded"]


def test_each_answer_that_is_wrong_is_refused_alone(bench, keys):
    posted = [
        answer(keys[0]),
        answer("unheard of"),
        {"key": keys[1]},
        {"key": keys[1], "value": "high"},
        {"key": keys[1], "value": 1.0, "unit": "uM"},
        {"value": 1.0},
        {"key": 7, "value": 1.0},
        {"key": "x" * 65, "value": 1.0},
        {"key": keys[1], "failure": "tired"},
        17,
        None,
        [],
    ]
    response = bench.post({"answers": posted})
    assert response.status_code == 207
    assert status(response) == ["recorded", "unknown_key", *["refused"] * 10]
    said = [one.get("message", "") for one in response.json()["results"]]
    assert "expected a finite 'y'" in said[2] or "no finite number for 'y'" in said[2]
    assert "in 'uM', expected 'nM'" in said[4]
    assert "failure is 'tired', expected one of transient" in said[8]
    assert "int came, expected an answer such as" in said[9]
    assert bench.values() == [(1.5,)]


def test_same_key_twice_in_a_post_is_recorded_once(bench, keys):
    response = bench.post([answer(keys[0], 1.0), answer(keys[0], 1.0), answer(keys[0], 2.0)])
    assert status(response) == ["recorded", "known", "conflict"]


def test_numbers_that_the_history_cannot_hold_are_left_out(bench, keys):
    odd = answer(keys[0], 1e308, n=2**40, cost_usd=1e300, sem=1e308)
    assert status(bench.post(odd)) == ["recorded"]
    assert bench.rows("SELECT n, sem FROM measurement WHERE source = 'oracle:bench'") == [(None, 1e308)]
    other = {"key": keys[1], "values": {"y": 1.0, "z" * 300: 2.0}, "n": -1, "unit": None}
    assert status(bench.post(other)) == ["recorded"]


def test_texts_that_databases_refuse_are_mended(bench, keys):
    body = b'{"key": "%s", "value": 1.5, "as_run": {"a\\u0000": "\\ud800"}, "message": "\\u0000"}'
    assert status(bench.post(body % keys[0].encode())) == ["recorded"]


WRONG = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe\x00",
    "UTF-16": '{"key": "a"}'.encode("utf-16"),
    "NaN": b'{"key": "a", "value": NaN}',
    "infinity": b'{"key": "a", "value": -Infinity}',
    "too large": b'{"key": "a", "value": 1e999}',
    "long": b'{"key": "a", "value": ' + b"1" * 6000 + b"}",
    "deep": b"[" * 9000 + b"]" * 9000,
    "deep enough": b'{"key": "a", "as_run": ' + b"[" * 40 + b"]" * 40 + b"}",
    "twice": b'{"key": "a", "value": 1, "value": 2}',
    "null": b"null",
    "number": b"3",
    "text": b'"answers"',
    "empty": b"[]",
    "no answers": b'{"answers": null}',
    "other": b'{"answer": [1]}',
    "many": json.dumps([1] * 1001).encode(),
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_body_that_cannot_be_read_is_the_senders_mistake(bench, body):
    response = bench.post(body)
    assert response.status_code in (400, 422)
    assert "expected" in response.json()["error"] or "body" in response.json()["error"]
    assert bench.values() == []


@pytest.mark.parametrize("announced", [True, False])
def test_body_over_the_limit_is_not_read(bench, keys, announced):
    body = json.dumps(answer(keys[0], message="x" * 30_000)).encode()
    sent = 0

    async def pieces():
        nonlocal sent
        for place in range(0, len(body), 1000):
            sent += 1
            yield body[place : place + 1000]

    headers = {"Authorization": f"Bearer {TOKEN}"}
    response = bench.client.post("/results", content=body if announced else pieces(), headers=headers)
    assert response.status_code == 413
    assert "larger than 20,000 bytes" in response.json()["error"]
    assert bench.values() == []


@pytest.mark.parametrize(
    "path", ["/", "/results/", "/results/../campaigns", "/static/x", "/%2e%2e/%2e%2e/etc/passwd"]
)
def test_path_outside_is_not_there(bench, path):
    response = bench.client.post(path, content=b"{}", follow_redirects=False)
    assert response.status_code in (307, 404, 405)
    assert bench.client.put("/results", content=b"{}").status_code == 405


def test_concurrent_posts_of_the_same_are_recorded_once(bench, keys):
    posted = {"answers": [answer(key) for key in keys]}
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda _: status(bench.post(posted)), range(4)))
    assert sorted(word for words in said for word in words) == ["known"] * 12 + ["recorded"] * 4
    assert len(bench.values()) == 4


def test_history_that_is_busy_is_said_to_be_and_a_signature_is_not_used_up(bench, keys, monkeypatch):
    at = int(time.time())
    with bench.history.database._writer.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")  # of the connection that the post gets next
        connection.rollback()
    lock = sqlite3.connect(bench.folder / "h.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    try:
        response = bench.signed(answer(keys[0]), at=at)
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert (bench.signed(answer(keys[0]), at=at).status_code, bench.values()) == (200, [(1.5,)])


def test_body_that_does_not_come_is_given_up(bench, monkeypatch):
    monkeypatch.setattr(app_module, "BODY_S", 0.05)

    class Slow:
        def __init__(self):
            self.headers = {}

        async def stream(self):
            await asyncio.sleep(5)
            yield b""

    async def read():
        endpoint = app_module.Endpoint(bench.doors, max_body=100)
        with pytest.raises(app_module.RefusedError, match=r"did not come within 0\.05 s"):
            await endpoint._body(Slow())

    asyncio.run(read())


def test_desks_are_settled_once_something_has_come(bench, keys, settled):
    bench.post(answer("none"))
    assert settled == []
    bench.post({"answers": [answer(key) for key in keys]})
    end = time.monotonic() + 10
    while not settled and time.monotonic() < end:
        time.sleep(0.01)
    assert settled[0] == "bench"


def test_last_answer_completes_the_round_as_soon_as_its_runner_lets_go_of_it(bench, keys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(app_module, "SETTLE_AGAIN_S", 0.05)
    [desk, _] = bench.doors.desks
    with hold_campaign(desk._benches[0]):
        bench.post({"answers": [answer(key) for key in keys]})
        assert desk.settle() is False
    end = time.monotonic() + 10
    while bench.history.rounds.unfinished(bench.history.campaigns.get("c").id) and time.monotonic() < end:
        time.sleep(0.01)
    assert bench.history.rounds.unfinished(bench.history.campaigns.get("c").id) is None


# Secrets, the page, opening


def test_tokens_are_in_no_row_file_log_answer_or_page(bench, keys, caplog):
    caplog.set_level(logging.DEBUG)
    said = [
        bench.post(answer(keys[0], message=TOKEN, as_run={TOKEN: [TOKEN]})),
        bench.post(answer(keys[1], unit=TOKEN)),
        bench.post({"key": TOKEN, "value": 1.0}),
        bench.post(TOKEN.encode()),
        bench.post(answer(keys[1]), token=TOKEN + "x"),
        bench.signed(answer(keys[2], message=TOKEN)),
        bench.client.get("/openapi.json"),
        bench.client.get("/docs"),
    ]
    assert [one.status_code for one in said] == [200, 422, 404, 400, 401, 200, 200, 200]
    assert "[secret]" in bench.rows("SELECT as_run FROM measurement WHERE as_run IS NOT NULL")[0][0]
    assert TOKEN not in "".join(one.text + str(one.headers) for one in said)
    assert TOKEN not in caplog.text + repr(bench.doors) + repr(bench.doors._doors)
    kept = list(bench.folder.rglob("*"))
    assert any(path.name == "signatures.db" for path in kept)
    assert all(TOKEN.encode() not in path.read_bytes() for path in kept if path.is_file())


def test_page_describes_the_routes_and_the_ways_to_say_who_posts(bench):
    page = bench.client.get("/openapi.json").json()
    assert set(page["paths"]) == {"/results", "/requests", "/health"}
    assert set(page["components"]["securitySchemes"]) == {"token", "signature"}
    assert "requestBody" in page["paths"]["/results"]["post"]
    assert bench.client.get("/health").json() == {"status": "ok"}


def test_campaign_without_a_token_is_not_served(bench, monkeypatch):
    [one, _] = bench.files
    bare = one.config.model_copy(update={"oracle": one.config.oracle.model_copy(update={"token_env": None})})
    with pytest.raises(
        ConfigError, match=r"names no token_env, expected .* add for example `token_env: BENCH_TOK"
    ):
        open_doors([Served("c", bench.history, bare)])
    with pytest.raises(NotFoundError):
        open_doors([Served("z", bench.history)])
    monkeypatch.setenv("BENCH_TOKEN", "short")
    with pytest.raises(ConfigError, match=r"BENCH_TOKEN holds 5 characters, expected at least 16"):
        open_doors([Served("c", bench.history)])
    monkeypatch.setenv("BENCH_TOKEN", OTHER)
    with pytest.raises(ConfigError, match=r"oracles 'bench' and 'other' have the same token"):
        open_doors([Served("c", bench.history), Served("d", bench.history)])


def test_history_that_is_not_there_is_not_made(tmp_path):
    from flowscout.cli import app

    path = tmp_path / "c.yaml"
    path.write_text(CAMPAIGN.format(name="c", oracle="bench", env="BENCH_TOKEN"))
    with pytest.raises(NoHistoryError):
        app(["serve-results", str(path)], standalone_mode=False)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["c.yaml"]
