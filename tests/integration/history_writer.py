"""A process that works on a history together with others: `history_writer.py TASK URL NAME GATE`.

It says "ready", waits until the file GATE exists, does its task and prints what it saw as JSON.
"""

import json
import sys
import time
from pathlib import Path

from flowscout.db import FailureClass, History, RoundState, this_owner
from flowscout.testing.histories import begin_campaign, failed, measured, result

ROUNDS = 4


def open_empty(url: str, name: str) -> object:
    """Open a database that is empty, and register the campaign that everybody registers."""
    with History(url) as history:
        return begin_campaign(history, name="campaign").uuid


def work(url: str, name: str) -> object:
    """Tell rows, some of which everybody tells, and call oracles until nothing is queued."""
    claimed = []
    with History(url, create=False) as history:
        campaign = history.campaigns.get("campaign")
        rounds = [r.id for r in history.rounds.all(campaign.id) if r.state is RoundState.DISPATCHED]
        for turn in range(8):
            own = [measured(f"{name}-{turn}-{row}", float(row)) for row in range(3)]
            shared = [measured(f"shared-{turn}-{row}", float(row)) for row in range(3)]
            history.measurements.add(campaign.id, own + shared, actor=name)
            claims = history.experiments.claim(rounds[turn % ROUNDS], owner=this_owner())
            # The first attempt fails, so that every evaluation is fought for twice.
            outcomes = [
                failed(claim, FailureClass.TRANSIENT) if claim.number == 1 else result(claim, float(claim.number))
                for claim in claims
            ]
            history.experiments.settle(outcomes, actor=name)
            history.experiments.recover(campaign.id, actor=name)
            claimed += [[claim.evaluation_id, claim.number] for claim in claims]
    return claimed


def hang(url: str, name: str) -> object:
    """Take the campaign and an attempt, and never come back."""
    with History(url, create=False) as history:
        campaign = history.campaigns.get("campaign")
        history.campaigns.acquire_lease(campaign.id, owner=this_owner())
        [record] = history.rounds.all(campaign.id)
        claims = history.experiments.claim(record.id, owner=this_owner())
        print(json.dumps([claim.idempotency_key for claim in claims]), flush=True)
        time.sleep(600)
    return None


if __name__ == "__main__":
    task, url, name, gate = sys.argv[1:]
    print("ready", flush=True)
    while not Path(gate).exists():
        time.sleep(0.002)
    print(json.dumps({"open_empty": open_empty, "work": work, "hang": hang}[task](url, name)), flush=True)
