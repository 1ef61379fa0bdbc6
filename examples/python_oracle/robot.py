"""Who measures: a function that gets requests, has a price, and may fail. It stands for a robot."""

from hairpin import stem

from flowscout import Request, Result, oracle


@oracle(cost_usd=0.50, idempotent=True, version="2", concurrency=2)
def melt(request: Request) -> Result:
    """Measure one object. `request.key` is the same at every attempt at this measurement: the robot knows it."""
    if "GGGG" in request.object:
        return Result(failure="infeasible", message="four G in a row cannot be made")
    values = {"stem": stem(request.object), "purines": float(sum(map(request.object.count, "AG")))}
    return Result(values=values, n=2, as_run={"celsius": 37})
