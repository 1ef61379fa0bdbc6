"""Pictures of what Prefect's page shows of a round, for docs/prefect-page.md: `python benchmarks/prefect_page.py`.

A campaign on the measured landscape SIX6 is scheduled on a local server until a few rounds are complete; a
headless Chromium then opens the pages. Needs chromium (apt-get install chromium).
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headless import Page, browser

from flowscout.db import History

NAME = "six6-binders"
CAMPAIGN = f"""\
campaign: {NAME}
seed: 0
space: {{type: sequence, alphabet: dna, length: 8, strand: double}}
objectives: [{{name: escore, direction: maximize}}]
oracle: {{type: table, path: flowscout:tfbind8_six6, value: score}}
batch: {{size: 24}}
budget: {{rounds: 8}}
"""
PATIENCE_S = 1800.0
PICTURED = {"surrogate": 1400, "sampler": 1200, "batch": 820, "best": 880}
"""The artifacts of which a picture is taken, and how high it is."""
WIDTH = 1280


@dataclass(frozen=True)
class Served:
    """A server with the campaign scheduled on it."""

    url: str
    history: History

    def artifact(self, key: str) -> str:
        """Return the id of the latest artifact of a key. What `artifacts/KEY/latest` calls its id is not one."""
        wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
        return str(self.ask("artifacts/filter", wanted)[0]["id"])

    def ask(self, path: str, content: Any = None) -> Any:
        """Return what Prefect's API answers to a GET, or to a POST of `content`."""
        body = None if content is None else json.dumps(content).encode()
        asked = urllib.request.Request(f"{self.url}/api/{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return json.load(answer)

    def complete(self) -> int:
        """Return how many rounds are complete."""
        campaign = self.history.campaigns.get(NAME)
        return sum(one.state == "complete" for one in self.history.rounds.all(campaign.id))


def flowscout(*arguments: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a command to its end and return what it printed."""
    command = [sys.executable, "-m", "flowscout", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


@contextmanager
def served(folder: Path, *, every_s: int) -> Iterator[Served]:
    """Serve in `folder`, schedule the campaign there, and yield once the server answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "campaign.yaml").write_text(CAMPAIGN)
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "FLOWSCOUT_DB": f"sqlite:///{folder / 'history.db'}",
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "2",
    }
    command = [sys.executable, "-m", "flowscout", "serve", "--port", str(port)]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until(lambda: "workers of pool" in (folder / "serve.log").read_text() or process.poll() is not None)
        asked = ("schedule", "campaign.yaml", "--every", str(every_s), "--when", "results >= 24")
        print(flowscout(*asked, folder=folder, environment=environment), end="")
        with History(environment["FLOWSCOUT_DB"], create=False) as history:
            yield Served(url, history)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        print((folder / "serve.log").read_text(), end="")


def until(happened: Any) -> None:
    """Wait until something has happened."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        if time.monotonic() > deadline:
            raise SystemExit("it did not happen in time")
        time.sleep(0.5)


def take(served: Served, page: Page, folder: Path, *, number: int) -> None:
    """Take the pictures of a round that is complete."""
    root, campaign = f"{served.url}/v2", served.history.campaigns.get(NAME)
    run = served.history.rounds.get(campaign.id, number).prefect_run_id
    page.open(f"{root}/runs/flow-run/{run}")
    page.wait("document.body.innerText.includes('Finished in state')")
    page.picture(folder / "prefect-round.png", width=WIDTH, height=880, settle_s=10.0)
    page.open(f"{root}/runs/flow-run/{run}?tab=Artifacts")
    page.wait("document.body.innerText.includes('-batch')")
    page.picture(folder / "prefect-artifacts.png", width=WIDTH, height=1130, settle_s=10.0)
    for key, height in PICTURED.items():
        named = f"{NAME}-best-so-far" if key == "best" else f"{NAME}-round-{number}-{key}"
        page.open(f"{root}/artifacts/artifact/{served.artifact(named)}")
        page.wait(f"document.body.innerText.includes('{campaign.uuid}')")
        page.picture(folder / f"prefect-{key}.png", width=WIDTH, height=height)
    deployment = served.ask(f"deployments/name/discovery-round/{NAME}")["id"]
    page.open(f"{root}/deployments/deployment/{deployment}")
    page.wait(f"document.body.innerText.includes('{NAME} round {number}')")
    page.picture(folder / "prefect-deployment.png", width=WIDTH, height=880)


def main() -> None:
    """Serve, schedule, wait, take the pictures and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="rounds that are to be complete")
    parser.add_argument("--every", type=int, default=20, help="seconds between the runs of the schedule")
    parser.add_argument("--to", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="prefect-page-") as folder,
        served(Path(folder), every_s=asked.every) as one,
    ):
        until(lambda: one.complete() >= asked.rounds)
        with browser() as page:
            take(one, page, asked.to, number=asked.rounds)
    for path in sorted(asked.to.glob("prefect-*.png")):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
