"""Two users with two folders and two environments run one campaign: killing either changes nothing but speed."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from http_service import Handler, Seen, Service, serving

from flowscout import Campaign
from flowscout.db import History
from flowscout.db.checks import check_history
from flowscout.loop.workbench import artefacts_of

ROOT = Path(__file__).parents[2]
ROUNDS, BATCH = 3, 6
CAMPAIGN = """\
campaign: shared
seed: 3
space: {{type: sequence, alphabet: dna, length: 5}}
objectives: [{{name: score, direction: maximize}}]
oracle: {{type: http, url: "{url}", batch: 1, idempotent: true, cost_usd: 1, secret_env: ASSAY_TOKEN}}
proposer: {{type: gflownet, steps: 5}}
batch: {{size: {batch}}}
budget: {{rounds: {rounds}}}
device: cpu
artefacts: "file://{artefacts}"
"""
RUN = """\
import sys
import time

import flowscout
from flowscout import Campaign
from flowscout.errors import CampaignBusyError

print(flowscout.__file__, flush=True)
with Campaign.from_yaml("campaign.yaml", db=sys.argv[1]) as campaign:
    while True:
        try:
            if campaign.run_round() is None:
                break
        except CampaignBusyError:
            time.sleep(0.1)
"""


@dataclass
class User:
    """One who has a folder and an environment, and starts a runner and a worker there."""

    folder: Path
    python: str
    url: str
    path: str | None
    name: str | None = None
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self) -> None:
        """Start to run rounds, and a worker beside: by the file, or by the campaign's name."""
        which = ["campaign.yaml"] if self.name is None else ["--campaign", self.name]
        worker = ["-m", "flowscout", "worker", *which, "--db", self.url, "--limit", "1"]
        for command in (["-c", RUN, self.url], worker):
            process = subprocess.Popen(
                [self.python, *command], cwd=self.folder, env=environment(self.path), text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            self.started.append(process)

    def kill(self) -> list[str]:
        """Kill both, wherever they are; return what they had printed."""
        for process in self.started:
            process.kill()
        printed = [process.communicate()[0] for process in self.started]
        self.started.clear()
        return printed


def environment(path: str | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "FLOWSCOUT_DB")}
    return kept | {"ASSAY_TOKEN": "t0ken-of-the-assay"} | ({} if path is None else {"PYTHONPATH": path})


def other_environment(folder: Path) -> str:
    """Make an environment with a Flowscout of its own beside the packages that it needs; return its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    for package, source in sorted(packages.items()):
        shutil.copytree(ROOT / source, site.joinpath(*package.split(".")), dirs_exist_ok=True)
    (site / "needed.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    return str(folder / "bin" / "python")


def until(happened: Callable[[], bool], users: list[User], *, timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        for process in [one for user in users for one in user.started if one.poll() not in (None, 0)]:
            pytest.fail(f"a process ended: {process.communicate()}")
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@contextmanager
def slow(service: Service) -> Iterator[list[tuple[str, str]]]:
    """Let each call take a moment; yield the key and object of each that was answered."""
    answered: list[tuple[str, str]] = []

    def wait(handler: Handler, seen: Seen) -> Any:
        time.sleep(0.1)
        answered.extend((one["key"], one["object"]) for one in seen.content["requests"])
        return service.measure(seen.content)

    service.plan = [wait] * 1000
    yield answered
    service.plan = []


def rows(campaign: Campaign) -> list[tuple[Any, ...]]:
    wanted = ["round", "object", "value", "predicted_mean", "predicted_sd", "log_prob", "acquisition"]
    found = campaign.history()[wanted].astype(object)
    return sorted(tuple(None if one != one else one for one in row) for row in found.itertuples(index=False))


def test_two_users_of_two_environments_run_one_campaign_and_either_may_be_killed(
    tmp_path: Path, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSAY_TOKEN", "t0ken-of-the-assay")
    values = {one: one.count("A") + 0.1 * one.find("G") for one in map("".join, product("ACGT", repeat=5))}
    with serving(values) as service, ExitStack() as ends:
        for name, store in (("alone", "own"), ("ada", "shared"), ("ben", "shared")):
            text = CAMPAIGN.format(url=service.url, batch=BATCH, rounds=ROUNDS, artefacts=tmp_path / store)
            (tmp_path / name).mkdir()
            (tmp_path / name / "campaign.yaml").write_text(text)
        with Campaign.from_yaml(tmp_path / "alone" / "campaign.yaml") as alone:
            while alone.run_round() is not None:
                pass
            expected = rows(alone)
        here = os.environ.get("PYTHONPATH")
        python = other_environment(tmp_path / "environment")
        ada = User(tmp_path / "ada", sys.executable, postgresql_url, here)
        ben = User(tmp_path / "ben", python, postgresql_url, None, name="shared")
        ends.callback(ada.kill)
        ends.callback(ben.kill)
        Campaign.from_yaml(ada.folder / "campaign.yaml", db=postgresql_url).close()  # a worker wants it registered
        history = ends.enter_context(History(postgresql_url, create=False))
        record = history.campaigns.get("shared")

        def complete() -> int:
            return sum(one.state == "complete" for one in history.rounds.all(record.id))

        with slow(service) as answered:
            ada.start()
            until(lambda: history.campaigns.lease_holder(record.id) is not None, [ada])
            ben.start()  # whose runner waits for ada's, and whose worker shares the calls
            until(lambda: complete() >= 1 and len(answered) > BATCH, [ada, ben])
            ada.kill()
            until(lambda: complete() >= 2 and len(answered) > 2 * BATCH, [ben])
            ada.start()
            assert str(tmp_path / "environment") in ben.kill()[0]
            until(lambda: complete() == ROUNDS, [ada])
            runner = ada.started[0]
            assert runner.wait(timeout=60) == 0
        with Campaign.open(postgresql_url, "shared") as both:
            assert rows(both) == expected
            status = both.status()
        assert check_history(history.database, record.id, artefacts=artefacts_of(history, record)) == []
    assert (status.evaluations, status.measurements) == ({"done": ROUNDS * BATCH}, ROUNDS * BATCH)
    assert (status.spent_minor, status.reserved_minor) == (100 * ROUNDS * BATCH, 0)
    # A call that was cut off was made again with its own key; nothing was measured under two.
    assert len(set(answered)) == ROUNDS * BATCH
    assert len({text for _, text in answered}) == ROUNDS * BATCH
