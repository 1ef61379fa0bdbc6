"""A service that measures, with bad manners and a ledger of its own. Nothing of Flowscout is imported here.

    python benchmarks/crash_service.py FOLDER --answers at_once --lose 0.02 --busy 0.05

`POST /measure` takes `{"requests": [{"key": ..., "object": ...}, ...]}` and answers in one of three ways:

- `at_once`: with `{"answers": [{"key": ..., "value": ...}, ...]}`;
- `poll`: with 202 and the place where the answers will be;
- `call_back`: with 202; the answers are posted to `--call-back URL` with the token of FOLDER/token.txt.

`POST /look-up` takes `{"keys": [...]}` and names those that will `never` act too. What it did stands in
FOLDER/oracle.db; of that, and of its kinds, `crash_oracle` speaks. Its faults: `--busy` asks to come again after a
second (429, or 503), before it acts; after it has acted, `--lose` drops the connection, as it does to what it has
accepted, or never calls back; `--late` answers when the caller has given up; `--garbage` answers with something
else; `--twice` says every answer twice, sends the whole response twice, or calls back twice.
"""

import hmac
import http.client
import json
import socket
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from crash_oracle import CUTTING, Books, Manners, open_books, parser, serve

ANSWERS = ("at_once", "poll", "call_back")

RETRY_S = 0.2
"""How long is waited before a call-back that found nobody is tried again."""

PATIENCE_S = 60.0

WHOLE = "whole"
"""Garbage that is sent as it stands, instead of a body in a response."""

GARBAGE: tuple[tuple[int | str, bytes, dict[str, str]], ...] = (
    (200, b"<html><body>Bad gateway</body></html>", {"Content-Type": "text/html"}),
    (200, b'{"answers": [{"key": ', {}),
    (200, b'{"answers": []}', {}),
    (200, b'{"answers": [{"key": "of somebody else", "value": 1.0}]}', {}),
    (200, b'{"answers": [{"value": 1.0}, 7, null]}', {}),
    (200, b'{"detail": "ok"}', {}),
    (200, b"not gzip at all", {"Content-Encoding": "gzip"}),
    (200, b"", {}),
    (200, b'{"answers"', {"Content-Length": "4000"}),
    (500, b"Internal server error", {}),
    (WHOLE, b"SSH-2.0-OpenSSH_9.6\r\n", {}),
)


class Service:
    """What is asked of it, and what has come of what was accepted."""

    def __init__(self, books: Books, *, answers: str, call_back: str | None, token: str | None) -> None:
        self.books, self.answers, self._call_back, self._token = books, answers, call_back, token
        self.done: dict[str, tuple[list[Any] | None, str | None, list[int]]] = {}
        self.jobs = 0
        """How many accepted requests are still worked at, or called back."""
        self._spoiled = 0

    def accept(self, requests: Sequence[dict[str, Any]]) -> str | None:
        """Begin to measure; return under which name the answers will be found, None where that is to be lost."""
        name = str(uuid.uuid4())
        self.done[name] = (None, None, [])
        self.jobs += 1
        lost = self.books.rng.random() < self.books.manners.lose
        numbers = self.books.enter(requests, visit=name, fault="lose" if lost else None)
        threading.Thread(target=self._measure, args=(name, requests, numbers), daemon=True).start()
        return None if lost else name

    def _measure(self, name: str, requests: Sequence[dict[str, Any]], numbers: list[int]) -> None:
        try:
            self._measure_and_call_back(name, requests, numbers)
        finally:
            self.jobs -= 1

    def _measure_and_call_back(self, name: str, requests: Sequence[dict[str, Any]], numbers: list[int]) -> None:
        time.sleep(self.books.pause_s)
        answers, fault = self.books.act(requests, numbers)
        time.sleep(self.books.late_s if fault == "late" else self.books.pause_s)
        self.done[name] = (answers, fault, numbers)
        if self.answers != "call_back" or fault == "lose":
            return
        if fault == "garbage":
            self._post({"answers": [{"key": "of somebody else", "value": 1.0}]})
        self.books.answer(numbers)
        for _ in range(2 if fault == "twice" else 1):
            self._post({"answers": answers})

    def spoil(self) -> tuple[int | str, bytes, dict[str, str]]:
        """Return the next garbage in turn."""
        self._spoiled += 1
        return GARBAGE[self._spoiled % len(GARBAGE)]

    def _post(self, content: dict[str, Any]) -> None:
        """Call back, with the token or with a signature, until somebody has heard it."""
        assert self._call_back is not None
        url, body = urlsplit(self._call_back), json.dumps(content).encode()
        assert url.hostname is not None
        deadline, signs = time.monotonic() + PATIENCE_S, self.books.rng.random() < 0.5
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
            try:
                connection.request("POST", url.path, body, self._headers(body, signs=signs))
                said = connection.getresponse()
                text = said.read().decode(errors="replace")
            except (OSError, http.client.HTTPException):  # nobody is there, or was killed
                time.sleep(RETRY_S)
                continue
            finally:
                connection.close()
            if said.status < 500 and said.status != 409:
                print(f"{said.status} to {content}: {text}" if said.status >= 400 else "heard", flush=True)
                return
            # A signature is good for one post of one second, even if whoever took it was killed.
            time.sleep(1.0 if said.status == 409 else RETRY_S)
        print(f"nobody has heard {content}", flush=True)

    def _headers(self, body: bytes, *, signs: bool) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        token = str(self._token)
        if not signs:
            return headers | {"Authorization": f"Bearer {token}"}
        stamp = str(int(time.time()))
        found = hmac.new(token.encode(), stamp.encode() + b"." + body, "sha256").hexdigest()
        return headers | {"X-Flowscout-Timestamp": stamp, "X-Flowscout-Signature": f"sha256={found}"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _service(self) -> Service:
        return self.server.service  # type: ignore[attr-defined,no-any-return]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        books = self._service.books
        if self.path == "/behave":
            books.manners = Manners()
            self._say({})
        elif self.path == "/look-up":
            found = books.look_up(body["keys"])
            known = [{"key": key, "value": value} for key, value in found.items() if value is not None]
            self._say({"answers": known, "never": [key for key, value in found.items() if value is None]})
        elif self.path == "/jobs":
            self._say({"jobs": self._service.jobs})
        elif books.turns_away():
            self._send(429 if books.rng.random() < 0.5 else 503, b"busy", {"Retry-After": "1"})
        elif self._service.answers == "at_once":
            self._answer(body["requests"])
        else:
            name = self._service.accept(body["requests"])
            if name is None:
                self._hang_up()
            else:
                place = f"/answers/{name}"
                self._say({"poll": place}, status=202, headers={"Location": place})

    def do_GET(self) -> None:
        """Say what has come of what was accepted; every fault comes once."""
        name = self.path.rpartition("/")[2]
        answers, fault, numbers = self._service.done[name]
        if answers is None:
            self._say({"state": "working"}, status=202)
            return
        self._service.done[name] = (answers, None, numbers)
        if fault not in CUTTING:
            self._service.books.answer(numbers)
        self._pass_on(answers, fault)

    def _answer(self, requests: Sequence[dict[str, Any]]) -> None:
        books = self._service.books
        answers, fault = books.measure(requests, visit=str(uuid.uuid4()))
        if fault == "late":
            time.sleep(books.late_s)
        self._pass_on(answers, fault)

    def _pass_on(self, answers: list[Any], fault: str | None) -> None:
        if fault == "lose":
            self._hang_up()
        elif fault == "garbage":
            status, spoiled, headers = self._service.spoil()
            if isinstance(status, int):
                self._send(status, spoiled, headers)
            else:
                self.wfile.write(spoiled)
            self.close_connection = True
        elif fault == "twice" and self._service.books.rng.random() < 0.5:
            self._say({"answers": [*answers, *answers]})
        else:
            for _ in range(2 if fault == "twice" else 1):
                self._say({"answers": answers})

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _say(self, body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        try:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # whoever asked was killed, or has given up
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing of every request."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # whoever asked was killed
            super().handle_error(request, client_address)


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer until told to end."""
    found = parser(__doc__)
    found.add_argument("--answers", choices=ANSWERS, default="at_once")
    found.add_argument("--call-back", metavar="URL", help="where answers are posted")
    options = found.parse_args(arguments)
    token = options.folder / "token.txt"
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.service = Service(  # type: ignore[attr-defined]
            open_books(options),
            answers=options.answers,
            call_back=options.call_back,
            token=token.read_text(encoding="utf-8") if token.exists() else None,
        )
        serve(server, options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
