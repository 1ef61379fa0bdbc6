"""Oracles to begin with: each runs as it is, until its body is replaced by what really measures.

Which of them a campaign needs belongs in `loop.drafts`.
"""

PEPTIDES = '''\
"""Who measures. Put your simulator in place of the body; `flowscout validate campaign.yaml --call` tries it."""

from itertools import pairwise


def score(objects: list[str]) -> list[float]:
    """Return one number for each object, in order. This example likes charge in alternation."""
    charge = {"K": 1, "R": 1, "D": -1, "E": -1}
    return [
        sum(-charge.get(a, 0) * charge.get(b, 0) for a, b in pairwise(text))
        + 0.1 * len(set(text))
        for text in objects
    ]
'''

SEQUENCES = '''\
"""Who measures. Put your simulator in place of the body; `flowscout validate campaign.yaml --call` tries it."""

from itertools import pairwise


def score(objects: list[str]) -> list[float]:
    """Return one number for each object, in order. This example likes many different pairs of neighbours."""
    return [len(set(pairwise(text))) + 0.1 * len(set(text)) for text in objects]
'''

LISTED = '''\
"""Who measures. Put your simulator in place of the body; `flowscout validate campaign.yaml --call` tries it."""

from pathlib import Path

import pandas as pd

LIST = pd.read_csv(Path(__file__).parent / {path}, dtype={{{column}: str}}, keep_default_na=False)
NUMBERS = LIST.set_index(LIST[{column}].str.strip()).select_dtypes("number")


def score(objects: list[str]) -> list[float]:
    """Return one number for each object, in order. This example takes the mean of its row of the list."""
    return [float(NUMBERS.loc[name].mean()) for name in objects]
'''

PROGRAM = '''\
"""A program that measures. A request comes in as a line of JSON, its answer goes out as one with the same key.

Any language will do. What is printed besides goes to the error stream.
"""

import json
import sys


def measure(text: str) -> float:
    """Return the value of one object. Put your own in place of this example."""
    return len(set(zip(text, text[1:]))) + 0.1 * len(set(text))


for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({"key": request["key"], "value": measure(request["object"])}), flush=True)
'''

SERVICE = '''\
"""A service that measures: it takes requests as JSON and answers at once. Start it with: python service.py"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def measure(text: str) -> float:
    """Return the value of one object. Put your own in place of this example."""
    return len(set(zip(text, text[1:]))) + 0.1 * len(set(text))


class Handler(BaseHTTPRequestHandler):
    """Answers requests. A key that comes again must be neither measured nor billed again."""

    def do_POST(self) -> None:
        """Read requests, write answers."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["requests"]
        answers = [{"key": one["key"], "value": measure(one["object"])} for one in asked]
        body = json.dumps({"answers": answers}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 8700), Handler).serve_forever()
'''

SERVICE_URL = "http://127.0.0.1:8700/measure"
"""Where the service above listens."""
