"""What one discovery round does: spaces, the sampler, oracles, rewards, selection, stages.

Schedules belong in `flows`; SQL in `db`; beliefs in `surrogates`. Nothing is imported here, so that the
engine (`loop.spaces`, `loop.gflownet`) loads without SQL.
"""
