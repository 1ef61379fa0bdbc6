"""A laboratory in a process of its own: `python lab_at_work.py DATABASE CAMPAIGN ROUNDS`.

It answers late and out of order: one or two results at a time, the last proposed first, and one of each batch only
when two more rounds were handed out, or all of them.
"""

import sys
import time

from flowscout import Campaign

POLL_S = 0.5


def main(database: str, name: str, rounds: int) -> None:
    told = 0
    while True:
        time.sleep(POLL_S)
        with Campaign.open(database, name) as campaign:
            found = [row for row in campaign.status().rounds if row.state in ("dispatched", "complete")]
            ready = answers(campaign, done=max((row.number for row in found), default=0), rounds=rounds)
            if len(found) == rounds and not ready:
                return
            if ready:
                told += 1
                rows = [{"object": text, "score": float(text.count("G"))} for text in ready]
                campaign.tell(rows, source=f"plate {told}", actor="lab")


def answers(campaign: Campaign, *, done: int, rounds: int) -> list[str]:
    """Return what the lab has measured by now."""
    bench = campaign.workbench
    for number in range(done, 0, -1):  # the latest batch first
        record = bench.history.rounds.get(bench.campaign.id, number)
        if record.state != "dispatched":
            continue
        batch = [p.object for p in bench.history.rounds.proposals(record.id, selected=True)]
        waiting = {row.object for row in bench.history.queries.waiting(bench.campaign.id)}
        left = [text for text in reversed(batch) if text in waiting]
        held_back = 0 if done >= number + 2 or done == rounds else 1
        if len(left) > held_back:
            return left[: min(2, len(left) - held_back)]
    return []


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
