"""Names of the work pool and its queues, and what runs at a time. No Prefect is needed to know them."""

POOL = "flowscout"
CPU, GPU = "cpu", "gpu"
QUEUES = (CPU, GPU)
LIMITS = {CPU: 4, GPU: 1}
"""How many runs a worker of each queue has in hand: rounds of different campaigns side by side, one training."""
