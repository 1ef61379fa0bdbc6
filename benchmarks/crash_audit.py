"""What a campaign's history and its oracle's own bill say, and whether the two agree.

Killing the runs is the work of `crash_runner`. Both files are read with nothing but `sqlite3`: an audit that
used the code under test would believe what it believes.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HISTORY, BILL = "crash.db", "bill.db"

Rows = list[tuple[Any, ...]]

# Everything that follows from the seed and the data. Times, attempts and the campaign's uuid do not.
CONTENT = {
    "rounds": "SELECT number, state, seed, message FROM round ORDER BY number",
    "fits": """
        SELECT r.number, f.kind, f.seed, f.data_upto_seq, f.data_count, f.data_sha256, a.sha256
        FROM model_fit f JOIN round r ON r.id = f.round_id LEFT JOIN artefact a ON a.id = f.artefact_id
        ORDER BY r.number""",
    "samplers": """
        SELECT r.number, s.kind, s.seed, s.reward, a.sha256
        FROM sampler_run s JOIN round r ON r.id = s.round_id LEFT JOIN artefact a ON a.id = s.artefact_id
        ORDER BY r.number""",
    "proposals": """
        SELECT r.number, c.key, c.object, p.rank, p.decision, p.reason, p.origin, p.acquisition, p.log_reward,
               p.log_prob, p.mean, p.sd
        FROM proposal p JOIN round r ON r.id = p.round_id JOIN candidate c ON c.id = p.candidate_id
        ORDER BY r.number, c.key""",
    "measurements": """
        SELECT m.seq, r.number, c.key, m.property, m.value, m.qualifier, m.source
        FROM measurement m JOIN candidate c ON c.id = m.candidate_id
        LEFT JOIN evaluation e ON e.id = m.evaluation_id LEFT JOIN round r ON r.id = e.round_id
        ORDER BY m.seq""",
}


@dataclass(frozen=True)
class Audit:
    """What was found. All but `calls` and `unknown` are 0 or empty where nothing went wrong.

    `lost` counts paid evaluations that have neither a value nor the state unknown, and evaluations that are
    still open; `paid_twice` counts objects that the bill holds more than once.
    """

    calls: int
    lost: int
    paid_twice: int
    unknown: int
    rounds_missing: int
    money: tuple[str, ...]

    @property
    def faults(self) -> list[str]:
        """What went wrong, in words."""
        counts = {
            "paid evaluations lost": self.lost,
            "candidates paid twice": self.paid_twice,
            "rounds missing": self.rounds_missing,
        }
        return [f"{n} {what}" for what, n in counts.items() if n] + list(self.money)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a SQLite file that another process may be writing."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        yield connection


def audit(folder: Path, *, rounds: int, price_minor: int) -> Audit:
    """Compare the history in `folder` with the bill of its oracle."""
    with reading(folder / BILL) as bill:
        calls = bill.execute("SELECT count(*) FROM call").fetchone()[0]
        paid: Rows = bill.execute("SELECT key, object, value FROM bill").fetchall()
    with reading(folder / HISTORY) as history:
        found: Rows = history.execute(
            """
            SELECT e.idempotency_key, e.state, c.object, m.value
            FROM evaluation e JOIN candidate c ON c.id = e.candidate_id
            LEFT JOIN measurement m ON m.evaluation_id = e.id"""
        ).fetchall()
        complete = history.execute("SELECT number FROM round WHERE state = 'complete'").fetchall()
        balance = history.execute("SELECT reserved_minor, spent_minor FROM balance").fetchone()
        booked = dict(history.execute("SELECT kind, sum(amount_minor) FROM ledger GROUP BY kind").fetchall())
    values = {key: (text, value) for key, text, value in paid}
    unknown = sum(state == "unknown" for _, state, _, _ in found)
    kept = sum(
        state == "unknown" or (state == "done" and values.get(key) == (text, value))
        for key, state, text, value in found
    )
    settled = sum(key in values and state != "unknown" for key, state, _, _ in found)
    strangers = values.keys() - {key for key, *_ in found}
    return Audit(
        calls=calls,
        lost=len(found) - kept + len(strangers),
        paid_twice=sum(count > 1 for count in Counter(text for _, text, _ in paid).values()),
        unknown=unknown,
        rounds_missing=rounds - len({number for (number,) in complete} & set(range(1, rounds + 1))),
        money=tuple(_money(balance, booked, paid=settled, unknown=unknown, price_minor=price_minor)),
    )


def _money(
    balance: tuple[int, int], booked: dict[str, int], *, paid: int, unknown: int, price_minor: int
) -> Iterator[str]:
    """Say where the balance, its ledger and the bill disagree. What is unknown stays reserved."""
    reserved, spent = balance
    if spent != paid * price_minor:
        yield f"the balance says {spent} spent, the bill {paid * price_minor}"
    if reserved != unknown * price_minor:
        yield f"the balance says {reserved} reserved, expected {unknown * price_minor}"
    if booked.get("spend", 0) != spent or booked.get("reserve", 0) - booked.get("release", 0) != reserved:
        yield f"the ledger {booked} does not sum up to the balance {balance}"


def differences(folder: Path, other: Path) -> list[str]:
    """Return the first difference of each kind of row between the histories of two folders."""
    found = []
    with reading(folder / HISTORY) as one, reading(other / HISTORY) as two:
        for what, query in CONTENT.items():
            left: Rows = one.execute(query).fetchall()
            right: Rows = two.execute(query).fetchall()
            if left != right:
                pairs = zip(left, right, strict=False)
                first = next((f"{a} / {b}" for a, b in pairs if a != b), f"{len(left)} / {len(right)} rows")
                found.append(f"{what} differ: {first}")
    return found


def where_killed(folder: Path, pid: int) -> str:
    """Return what the process `pid` was doing when it died, from what it left behind."""
    if not (folder / HISTORY).exists():
        return "starting"
    with reading(folder / HISTORY) as history:
        if not history.execute("SELECT 1 FROM sqlite_master WHERE name = 'campaign'").fetchone():
            return "starting"
        owner = history.execute("SELECT lease_owner FROM campaign").fetchone()
        if owner is None or owner[0] is None or owner[0].split("|")[1] != str(pid):
            return "starting"
        last = history.execute("SELECT id, state FROM round ORDER BY number DESC LIMIT 1").fetchone()
        if last is None or last[1] == "complete":
            return "between rounds"
        round_id, state = last
        if state != "dispatched":
            trained = history.execute("SELECT 1 FROM sampler_run WHERE round_id = ?", (round_id,)).fetchone()
            names = {"planned": "fit", "fitting": "fit", "training": "propose" if trained else "train"}
            return names.get(state, "handing over")
        running: Rows = history.execute(
            """
            SELECT e.idempotency_key FROM attempt a JOIN evaluation e ON e.id = a.evaluation_id
            WHERE a.state = 'running' AND e.round_id = ? AND a.owner LIKE ?""",
            (round_id, f"%|{pid}|%"),
        ).fetchall()
        waiting = history.execute(
            "SELECT 1 FROM evaluation WHERE round_id = ? AND state IN ('queued', 'running')", (round_id,)
        ).fetchone()
    if not running:
        return "before the claim" if waiting else "after the write"
    entered, left = _last_visit(folder / BILL, pid)
    if entered is None:
        return "claim to call"
    return "in the call" if left is None or left < entered else "call to write"


def _last_visit(path: Path, pid: int) -> tuple[float | None, float | None]:
    """Return when the process entered the oracle last and when it left it last."""
    if not path.exists():
        return None, None
    with reading(path) as bill:
        if not bill.execute("SELECT 1 FROM sqlite_master WHERE name = 'visit'").fetchone():
            return None, None
        row = bill.execute("SELECT max(entered), max(left) FROM visit WHERE pid = ?", (pid,)).fetchone()
    return row[0], row[1]
