"""Throw whatever one can think of at the results endpoint: it answers no 500, and the history stays exact.

    python benchmarks/fuzz_endpoint.py --posts 10000
    python benchmarks/fuzz_endpoint.py --schemathesis PATH/TO/schemathesis

The first posts bodies made here: right answers with one thing wrong in them, bytes that were cut, turned or
doubled. The second runs schemathesis, from an environment of its own, against the endpoint's OpenAPI description.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from flowscout.db import History
from flowscout.db.checks import check_history
from flowscout.loop.campaign import Campaign

TOKEN = "token-of-the-fuzzed-bench"
CAMPAIGN = """
campaign: fuzz
space: {type: sequence, alphabet: dna, length: 6}
objectives: [{name: y, direction: maximize, unit: nM}]
oracle: {type: lab, name: bench, cost_usd: 2, token_env: FUZZ_TOKEN}
proposer: {type: random}
batch: {size: 96}
budget: {rounds: 1}
seed: 0
"""
ODD: list[Any] = [
    None, True, "", "x" * 5000, -1, 0, 1e308, -1e308, 1e-320, 2**31, 2**63, 10**290, [], {}, [[]], {"": None},
    "\0", "\ud800", "NaN", {"y": 1.0}, {"y": None}, {"y": [1]}, {"\0": 1.0, "y": 2.0}, {"y": 1.0, "z" * 300: 1.0},
    "=", "<", ">", "infeasible", "transient", "permanent", "unknown", "nM", [[[[[[1]]]]]],
    {"a": {"b": {"c": "\ud800\0"}}},
]  # fmt: skip
FIELDS = (
    "key",
    "value",
    "values",
    "sem",
    "n",
    "qualifier",
    "unit",
    "as_run",
    "cost_usd",
    "failure",
    "message",
    "?",
)


def bodies(keys: list[str], seed: int) -> Iterator[bytes]:
    """Yield bodies without end: some right, most with something wrong."""
    draw = random.Random(seed)
    while True:
        answers: list[Any] = []
        for _ in range(draw.choice([1, 1, 1, 2, 5, 40])):
            answer: Any = {"key": draw.choice([*keys, "0" * 64]), "value": 1.0}
            for name in draw.sample(FIELDS, draw.choice([0, 1, 1, 2, 4])):
                answer[name] = draw.choice(ODD)
            answers.append(draw.choice(ODD) if draw.random() < 0.02 else answer)
        content: Any = draw.choice([{"answers": answers}, {"answers": answers}, answers, answers[0]])
        body = bytearray(json.dumps(content).encode())
        if draw.random() < 0.4 and body:
            place = draw.randrange(len(body))
            byte, depth = bytes([draw.randrange(256)]), draw.choice([5, 40, 20_000])
            head, tail = bytes(body[:place]), bytes(body[place:])
            inserted = draw.choice([b"", byte, b"NaN", b"9" * 400, b"[" * depth, b"\\u0000", bytes(body)])
            body = bytearray(head + inserted + draw.choice([tail, tail[1:], b""]))
        yield bytes(body)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a campaign whose batch was handed out; yield the address."""
    path = folder / "fuzz.yaml"
    path.write_text(CAMPAIGN)
    with Campaign.from_yaml(path) as campaign:
        campaign.tell([{"object": "ACGTAC", "y": 1.0}, {"object": "TTTTTT", "y": 2.0}])
        campaign.ask()
    command = [sys.executable, "-u", "-m", "flowscout", "serve-results", str(path), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "FUZZ_TOKEN": TOKEN})
    assert process.stdout is not None
    found = re.search(r"(http://\S+)/results", process.stdout.readline())
    assert found, "the endpoint did not start"
    try:
        yield found[1]
    finally:
        process.terminate()
        process.wait(30)


def post_all(url: str, count: int, seed: int) -> Counter[int]:
    """Post bodies; return how often each status came."""
    headers, said = {"Authorization": f"Bearer {TOKEN}"}, Counter[int]()
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
        keys = [one["key"] for one in client.get("/requests").json()["requests"]]
        for _, body in zip(range(count), bodies(keys, seed), strict=False):
            answered = client.post("/results", content=body)
            said[answered.status_code] += 1
            if answered.status_code >= 500:
                print(answered.status_code, body[:200])
    return said


def main() -> None:
    """Fuzz, and look whether the history is what it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--posts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schemathesis", metavar="PROGRAM")
    parser.add_argument("--examples", type=int, default=500, help="of schemathesis, for each route")
    options = parser.parse_args()
    os.environ["FUZZ_TOKEN"] = TOKEN
    with tempfile.TemporaryDirectory() as name:
        with serving(Path(name)) as url:
            start = time.monotonic()
            if options.schemathesis:
                command = [
                    options.schemathesis,
                    "run",
                    f"{url}/openapi.json",
                    "-H",
                    f"Authorization: Bearer {TOKEN}",
                ]
                command += ["--max-examples", str(options.examples), "--seed", str(options.seed)]
                failed = subprocess.run(command, check=False).returncode
            else:
                said = post_all(url, options.posts, options.seed)
                failed = sum(count for status, count in said.items() if status >= 500)
                print(f"{options.posts} posts in {time.monotonic() - start:.0f} s: {dict(sorted(said.items()))}")
        with History(str(Path(name) / "fuzz.db")) as history:
            campaign = history.campaigns.get("fuzz")
            faults = check_history(
                history.database, campaign.id, artefacts=Path(name) / "fuzz.files" / "artefacts"
            )
            counts = {str(state): n for state, n in history.experiments.counts(campaign.id).items()}
            print(f"the history: {counts}, {faults or 'nothing is wrong with it'}")
    sys.exit(1 if failed or faults else 0)


if __name__ == "__main__":
    main()
