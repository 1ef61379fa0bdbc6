"""Who proposes: samplers behind one protocol, each trained on a frozen reward and then drawn from.

What is measured of their samples is decided in `loop.selection`.
"""

from flowscout.loop.proposers.gflownet import SLOPE_RANGE, UNIQUE_RANGE, GFlowNetProposer
from flowscout.loop.proposers.local_search import LocalSearchProposer
from flowscout.loop.proposers.protocol import Problem, Proposer, Samples, Trained
from flowscout.loop.proposers.uniform import RandomProposer, uniform_states

__all__ = [
    "SLOPE_RANGE",
    "UNIQUE_RANGE",
    "GFlowNetProposer",
    "LocalSearchProposer",
    "Problem",
    "Proposer",
    "RandomProposer",
    "Samples",
    "Trained",
    "uniform_states",
]
