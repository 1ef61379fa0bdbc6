"""Stands for a service that others run: GET /score/SEQUENCE.

python foreign.py
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 8701


class Handler(BaseHTTPRequestHandler):
    """Answers one sequence at a time."""

    def do_GET(self) -> None:
        """Score the sequence that the path names."""
        sequence = self.path.removeprefix("/score/")
        body = json.dumps({"score": sequence.count("A") / 2 + sequence.count("TT")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Keep the terminal quiet."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
