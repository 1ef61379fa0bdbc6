"""How long leases last, how often those who work say so, how long is waited: each number once, with its reason.

docs/from-laptop-to-cluster.md explains them beside Prefect's. How long an oracle may take stands in the campaign
file, since only its owner can say.
"""

LEASE_TTL_S = 120.0
"""How long a campaign is its runner's without a renewal; then another host takes it over.

On the same host a dead runner is known at once."""

ATTEMPT_LEASE_S = 600.0
"""How long a call of an oracle is its caller's without a renewal; then it is repeated, asked about, or unknown."""

RENEWALS = 4
"""How often a lease is renewed while it lasts: three renewals may be lost to a database that is away."""

HEARTBEAT_S = 10.0
"""How often a worker says that it lives."""

SILENT_AFTER_S = 6 * HEARTBEAT_S
"""After how long without a heartbeat a worker no longer counts as living: nothing is kept for it then. Its calls
stay its own for as long as their leases last."""

BUSY_TIMEOUT_S = 60.0
"""How long a writer waits for another one of the same SQLite file."""

AWAY_S = 90.0
"""How long a transaction waits to begin while PostgreSQL is away: an upgrade or a fail-over takes no longer."""

ARTEFACTS_AGAIN_S = (1.0, 5.0, 15.0)
"""The pauses before a store of artefacts that did not answer is asked again."""

PATIENCE_S, BUSY_S = 60.0, 15.0
"""How long a run that cannot be put off, and an approval, wait for another process to leave a campaign."""

POLLED_S = 60.0
"""How recently somebody must have asked a queue for work to count on being heard there: workers ask each 15 s."""

HANDED_OVER_S = 300.0
"""How long a training that was handed over may lie before the next round trains itself."""

STARTING_S = 120.0
"""How long a flow run may take from its start until it holds its campaign."""

SILENT_S = 600.0
"""After how long a process elsewhere that has not given its lease back, nor renewed it, counts as dead; and one
that never took it, as far as the history knows. Starting takes seconds, and the sweep itself less than this."""

RESTS_S, RESTS_MOST_S = 60.0, 3600.0
"""How long the sweep waits before it starts a round again that was started twice in vain; longer each time."""

SWEEP_TIMEOUT_S = 300
"""When a sweep ends itself: well before another one may call it dead."""
