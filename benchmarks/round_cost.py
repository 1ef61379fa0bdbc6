"""Say what one round costs beyond fitting, training and the oracle, and how that grows with the labels.

    python benchmarks/round_cost.py
    python benchmarks/round_cost.py --labels 100,10000,100000 --mode embedded --json rows.json

A campaign on the landscape of `cost_growth.py` is told so many labels, and its rounds are run in a process of
their own: `embedded`, as `flowscout run` does it, with a Prefect server of its own and SQLite; and on a
`server`, as a worker's process does it, with PostgreSQL for the history and for Prefect. In that process every
second of a round belongs to one part (`round_cost_clock`). Process start, imports and the server's start are
told apart, and so are `fitting`, `training` and the `oracle`, a function that returns at once; all the rest is
`beyond`, of which the parts are shown: `drawing` a pool of candidates and `selecting` of it, what a stage does
itself, reading the labels (`labels`), what Prefect's page shows (`pages`), other transactions (`database`), and
`prefect`. In brackets, and in `cpu_s`, is what the process computed of it: the rest it waited, for the server
or for the core. `round 1` is the first in its process, as every round is that a worker runs; `round 2` is the
next one.

Up to --full labels the surrogate and the proposer are the product's defaults. With more they would take minutes
that are not counted here, so that a surrogate that believes nothing is fitted, and a local search asks it 500
times: what reads and writes the history is the same. How long it takes from `flowscout schedule` to the first task
of a round is told beside, with `flowscout serve` running.
"""

import argparse
import csv
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from cost_growth import landscape
from crash_campaign import BELIEF
from postgres_server import Postgres
from rich.console import Console
from rich.table import Table
from round_cost_clock import APART, beyond, parts

from flowscout import Campaign

LETTERS, LENGTH = "ACGT", 14
MODES = ("embedded", "server")
LIMIT_S = {"embedded": 3.0, "server": 2.0}
"""What a round may cost beyond fitting, training and the oracle."""

BEYOND = "beyond"
PATIENCE_S = 600.0
Row = dict[str, Any]

CAMPAIGN = """\
campaign: cost
seed: 0
space: {{type: sequence, alphabet: dna, length: {length}}}
objectives: [{{name: y, direction: maximize}}]
oracle: measuring:score
batch: {{size: 24}}
budget: {{rounds: 1000}}
device: cpu
{cheap}
"""

CHEAP = """\
surrogate: {type: belief:nothing}
proposer: {type: local_search, evaluations: 500}
"""

ORACLE = """\
def score(objects):
    return [float(sum(text.count(letter) * n for n, letter in enumerate("ACGT"))) for text in objects]
"""


def measure(n_labels: int, mode: str, *, rounds: int, full: int) -> list[Row]:
    """Return a row for each part of rounds that begin with so many labels."""
    cheap = n_labels > full
    with tempfile.TemporaryDirectory(prefix="fs-cost-") as name:
        folder = Path(name)
        _write(folder, cheap=cheap)
        with _place(mode, folder) as (url, environment):
            with Campaign.from_yaml(folder / "campaign.yaml", db=url) as campaign:
                campaign.import_table(_table(folder, n_labels), source="labels")
            lines = _run(folder, url, environment, rounds=rounds)
    what = {"mode": mode, "labels": n_labels, "cheap": cheap}
    rows = [what | {"part": part, "seconds": seconds} for part, seconds in lines[0]["seconds"].items()]
    for number, line in enumerate(lines[1:], start=1):
        seconds, cpu = Counter(line["seconds"]), Counter(line["cpu"])
        for part in [*parts([*seconds]), BEYOND]:
            took = [beyond(one) if part == BEYOND else one[part] for one in (seconds, cpu)]
            rows.append(what | {"part": f"round {number}: {part}", "seconds": took[0], "cpu_s": took[1]})
    return rows


def _write(folder: Path, *, cheap: bool) -> None:
    text = CAMPAIGN.format(length=LENGTH, cheap=CHEAP if cheap else "")
    (folder / "campaign.yaml").write_text(text, encoding="utf-8")
    (folder / "measuring.py").write_text(ORACLE, encoding="utf-8")
    (folder / "belief.py").write_text(BELIEF, encoding="utf-8")


def _table(folder: Path, n: int) -> Path:
    codes, labels = landscape(n, LENGTH, 0)
    path = folder / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["object", "y"])
        for row, label in zip(codes.tolist(), labels.squeeze(-1).tolist(), strict=True):
            rows.writerow(["".join(LETTERS[int(code)] for code in row), label])
    return path


@contextmanager
def _place(mode: str, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the URL of the history, and what the environment says of Prefect."""
    quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "ERROR"}
    if mode == "embedded":
        yield f"sqlite:///{folder / 'cost.db'}", quiet
        return
    with _postgresql() as databases:
        for one in ("history", "prefect"):
            databases.make(one)
        url, prefect = databases.url("history"), databases.url("prefect", driver="postgresql+asyncpg")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        quiet |= {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": prefect,
        }
        with (folder / "server.log").open("wb") as log:
            command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
            server = subprocess.Popen([*command, "--no-ui"], env=os.environ | quiet, stdout=log, stderr=log)
        try:
            begun = time.monotonic()
            while not _answers(quiet["PREFECT_API_URL"]):
                if server.poll() is not None or time.monotonic() > begun + PATIENCE_S:
                    raise SystemExit((folder / "server.log").read_text(encoding="utf-8")[-3000:])
                time.sleep(0.1)
            yield url, quiet | {"SERVER_STARTED_S": str(time.monotonic() - begun)}
        finally:
            server.terminate()
            server.wait()


def measure_schedule() -> list[Row]:
    """Return how long it takes from `flowscout schedule` to the first task of a round, on `flowscout serve`."""
    with tempfile.TemporaryDirectory(prefix="fs-cost-") as name, _postgresql() as databases:
        folder = Path(name)
        _write(folder, cheap=True)
        for one in ("history", "prefect"):
            databases.make(one)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        url, api = databases.url("history"), f"http://127.0.0.1:{port}/api"
        command = _flowscout("serve", "--port", port, "--db", url, "--prefect-db", databases.url("prefect"))
        begun, log = time.time(), folder / "serve.log"
        with log.open("wb") as file:
            home = os.environ | {"PREFECT_HOME": str(folder / "prefect")}
            serve = subprocess.Popen(command, cwd=folder, env=home, stdout=file, stderr=file)
        try:
            while "workers of pool" not in log.read_text(encoding="utf-8"):
                if serve.poll() is not None or time.time() > begun + PATIENCE_S:
                    raise SystemExit(log.read_text(encoding="utf-8")[-3000:])
                time.sleep(0.1)
            served = time.time()
            command = _flowscout("schedule", "campaign.yaml", "--every", "15", "--db", url, "--json")
            environment = os.environ | {"PREFECT_API_URL": api}
            said = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True).stdout
            scheduled, deployment = time.time(), json.loads(said)["deployment_id"]
            due, started, task = _first_task(api, deployment)
        finally:
            serve.terminate()
            serve.wait()
    parts = {
        "serve: until it serves": served - begun,
        "schedule: the command": scheduled - served,
        "schedule: until a run is due": max(0.0, due - scheduled),
        "schedule: from then to the flow": started - max(due, scheduled),
        "schedule: from there to the first task": task - started,
        "schedule: command to first task": task - scheduled,
    }
    return [{"mode": "server", "labels": 0, "cheap": True, "part": p, "seconds": s} for p, s in parts.items()]


def _first_task(api: str, deployment: str) -> tuple[float, float, float]:
    """Return when the first run of a deployment that began a task was due, when it and its task began."""
    deadline = time.time() + PATIENCE_S
    while time.time() < deadline:
        runs = _post(f"{api}/flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [deployment]}}})
        begun = sorted(one["start_time"] for one in runs if one["start_time"] is not None)
        for run in (one for one in runs if begun and one["start_time"] == begun[0]):
            tasks = _post(f"{api}/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
            times = [one["start_time"] for one in tasks if one["start_time"] is not None]
            if times:
                found = (run["expected_start_time"], run["start_time"], min(times))
                return tuple(datetime.fromisoformat(one).timestamp() for one in found)  # type: ignore[return-value]
        time.sleep(0.2)
    raise SystemExit("no task has begun")


def _post(url: str, content: Any) -> Any:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data=json.dumps(content).encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def _flowscout(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flowscout", *arguments]


@contextmanager
def _postgresql() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="fs-pg-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        server = Postgres(Path(name) / "pg")
        try:
            server.start()
            yield server
        finally:
            server.end()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/admin/version", timeout=2):
            return True
    except OSError:
        return False


def _run(folder: Path, url: str, environment: dict[str, str], *, rounds: int) -> list[dict[str, dict[str, float]]]:
    """Run rounds in a process of their own; return what setting up took, and the parts of each round."""
    started = environment.pop("SERVER_STARTED_S", None)
    command = [sys.executable, str(Path(__file__).with_name("round_cost_run.py")), str(folder), "--db", url]
    command += ["--rounds", str(rounds), "--born", repr(time.time())]
    with (folder / "run.log").open("wb") as log:
        done = subprocess.run(
            command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=log, check=False
        )
    if done.returncode:
        raise SystemExit((folder / "run.log").read_text(encoding="utf-8")[-3000:])
    lines: list[dict[str, dict[str, float]]] = [json.loads(line) for line in done.stdout.splitlines()]
    if started is not None:
        lines[0]["seconds"]["server start"] = float(started)
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments say, print a table, and write rows as JSON where asked."""
    options = _parser().parse_args(arguments)
    rows: list[Row] = [] if options.no_schedule else measure_schedule()
    for mode in options.mode or MODES:
        for n in options.labels:
            rows += measure(n, mode, rounds=options.rounds, full=options.full)
            last = rows[-1]
            print(f"{mode}, {n} labels: {last['seconds']:.2f} s beyond in {last['part']}", file=sys.stderr)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    Console(width=110).print(_shown(rows))
    over = [
        f"{row['mode']}, {row['labels']} labels: {row['seconds']:.2f} s, expected {LIMIT_S[row['mode']]:g} at most"
        for row in rows
        if row["part"].endswith("beyond") and row["seconds"] > LIMIT_S[row["mode"]]
    ]
    print("\n".join(over))
    return 0


def _shown(rows: Sequence[Row]) -> Table:
    """Return the table of all parts, a column for each mode and number of labels."""
    places = list(dict.fromkeys((row["mode"], row["labels"], row["cheap"]) for row in rows))
    table = Table(title="seconds (computed) of a round; * apart", title_justify="left")
    table.add_column("part")
    for mode, n, cheap in places:
        table.add_column(f"{mode}\n{n:,}{' cheap' if cheap else ''}", justify="right")
    for part in dict.fromkeys(row["part"] for row in rows):
        found = {(row["mode"], row["labels"], row["cheap"]): row for row in rows if row["part"] == part}
        apart = not part.startswith("round") or part.rpartition(": ")[2] in APART
        table.add_row(f"{part} *" if apart else part, *[_seconds(found.get(place)) for place in places])
    return table


def _seconds(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row['seconds']:.2f}" + (f" ({row['cpu_s']:.2f})" if "cpu_s" in row else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--labels", type=lambda text: [int(part) for part in text.split(",")], default=[100, 10_000, 100_000]
    )
    parser.add_argument("--mode", choices=MODES, action="append", default=None, help="by default both")
    parser.add_argument("--rounds", type=int, default=2, help="how many rounds one process runs")
    parser.add_argument("--full", type=int, default=1_000, help="up to how many labels all is the default")
    parser.add_argument("--no-schedule", action="store_true", help="leave out the time to the first task")
    parser.add_argument("--json", type=Path, default=None)
    return parser


if __name__ == "__main__":
    sys.exit(main())
