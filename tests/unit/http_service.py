"""A little service on this machine that measures, and misbehaves as it is told to."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Seen:
    """A request as it came: `content` is its JSON."""

    method: str
    path: str
    headers: dict[str, str]
    content: Any


@dataclass
class Service:
    """What the service has seen, and what it does next: `plan` is used up first, then it measures."""

    values: dict[str, float]
    seen: list[Seen] = field(default_factory=list)
    plan: list[Callable[["Handler", Seen], Reply | None]] = field(default_factory=list)
    url: str = ""

    def measure(self, content: Any) -> Reply:
        """Answer each request of a call."""
        answers = [
            {"key": one["key"], "value": self.values[one["object"]]}
            if one["object"] in self.values
            else {"key": one["key"], "failure": "infeasible", "message": "it cannot be made"}
            for one in content["requests"]
        ]
        return reply(200, {"answers": answers[::-1]})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(json.loads(body) if body else None)

    def do_GET(self) -> None:
        self._answer(None)

    def _answer(self, content: Any) -> None:
        seen = Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, content)
        self.service.seen.append(seen)
        step = self.service.plan.pop(0) if self.service.plan else None
        answer = self.service.measure(content) if step is None else step(self, seen)
        if answer is None:  # it has misbehaved itself
            self.close_connection = True
            return
        status, headers, body = answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


def reply(status: int, content: Any = None, **headers: str) -> Reply:
    """Return an answer with JSON, or with bytes as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body


def always(status: int, content: Any = None, **headers: str) -> Callable[[Handler, Seen], Reply]:
    """Return a step that answers so."""
    return lambda handler, seen: reply(status, content, **headers)


def drop(handler: Handler, seen: Seen) -> None:
    """Act, and break off without an answer."""
    handler.service.measure(seen.content)
    handler.connection.shutdown(socket.SHUT_RDWR)


def half(handler: Handler, seen: Seen) -> None:
    """Answer half of what was announced."""
    _, _, body = handler.service.measure(seen.content)
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[: len(body) // 2])
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(values: dict[str, float]) -> Iterator[Service]:
    """Run the service until the end of the block."""
    service = Service(values)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"service": service}))
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_address[1]}/measure"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
