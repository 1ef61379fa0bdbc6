"""A simulator as an oracle: it gets requests, knows its price, and may be asked again with the same key."""

import itertools

from flowscout import Request, Result, oracle

CHARGE = {"K": 1, "R": 1, "D": -1, "E": -1}


@oracle(cost_usd=0.40, idempotent=True, version="2")
def simulate(requests: list[Request]) -> list[Result]:
    """Count neighbours of opposite charge; refuse what could not be synthesised."""
    return [_simulate(request.object) for request in requests]


def _simulate(peptide: str) -> Result:
    if "CCC" in peptide:
        return Result(failure="infeasible", message=f"{peptide}: three cysteines in a row")
    pairs = itertools.pairwise(peptide)
    return Result(values={"score": float(sum(-CHARGE.get(a, 0) * CHARGE.get(b, 0) for a, b in pairs))})
