"""The process that `round_cost` times: it runs rounds of a campaign and prints what each part of them took.

    python benchmarks/round_cost_run.py FOLDER --rounds 2 --born 1700000000.0

It runs them on the Prefect server that PREFECT_API_URL names, else it starts an embedded one, as `flowscout run`
does. One line of JSON for each round: its parts in seconds.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path


def main() -> int:
    """Run rounds, each with a line of what it took."""
    entered = time.time()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--db", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--born", type=float, default=entered, help="when this process was started, as Unix time")
    options = parser.parse_args()
    setting_up = {"process start": entered - options.born}
    server = None
    if "PREFECT_API_URL" not in os.environ:
        from flowscout.flows import settings
        from flowscout.flows.embedded import EmbeddedServer

        settings.quiet()
        begun = time.perf_counter()
        server = EmbeddedServer(options.folder / "prefect")
        server.wait()
        setting_up["server start"] = time.perf_counter() - begun
    try:
        begun = time.perf_counter()
        from round_cost_clock import IMPORTS, Clock

        from flowscout.db import History
        from flowscout.flows import settings
        from flowscout.flows.runner import run_rounds

        watched = Clock()
        watched.watch()  # loads what a round is made of
        setting_up[IMPORTS] = time.perf_counter() - begun
        settings.set_database_url(options.db)
        print(json.dumps({"seconds": setting_up}), flush=True)
        with History(options.db, create=False) as history:
            campaign = history.campaigns.get("cost")
            sha256 = history.campaigns.config(campaign.id).sha256
        rounds = run_rounds(campaign.uuid, sha256)
        for _ in range(options.rounds):
            with watched.running():
                next(rounds)
            print(json.dumps({"seconds": watched.seconds, "cpu": watched.cpu}), flush=True)
    finally:
        if server is not None:
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
