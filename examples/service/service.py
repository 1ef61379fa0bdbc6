"""Stands for a service that measures: it takes requests as JSON, knows its callers, and acts once for each key.

ASSAY_TOKEN=... python service.py
"""

import hmac
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 8700
MEASURED: dict[str, float] = {}  # by key; a real service keeps this in a database


def affinity(sequence: str) -> float:
    """Return a made-up affinity: this one likes GATA and a C beside it."""
    return 5.0 * sequence.count("GATA") + sequence.count("GAT") + sequence.count("AC")


class Handler(BaseHTTPRequestHandler):
    """POST /measure with {"requests": [{"key": ..., "object": ...}, ...]}."""

    def do_POST(self) -> None:
        """Measure what is new, answer what is known."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        came = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(came, f"Bearer {os.environ['ASSAY_TOKEN']}".encode()):
            self.answer(401, {"message": "a token is needed"})
            return
        answers = []
        for request in json.loads(body)["requests"]:
            key = request["key"]
            if key not in MEASURED:
                MEASURED[key] = affinity(request["object"])
            answers.append({"key": key, "value": MEASURED[key], "unit": "uM", "cost_usd": 0.25})
        self.answer(200, {"answers": answers})

    def answer(self, status: int, content: dict[str, object]) -> None:
        """Send JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Keep the terminal quiet."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
