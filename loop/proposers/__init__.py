"""Who proposes: samplers behind one protocol, each trained on a frozen reward and then drawn from.

What is measured of their samples is decided in `loop.selection`.
"""

from flowscout.loop.proposers.exhaustive import ExhaustiveProposer
from flowscout.loop.proposers.genetic import GeneticProposer
from flowscout.loop.proposers.gflownet import SLOPE_RANGE, GFlowNetProposer
from flowscout.loop.proposers.local_search import LocalSearchProposer
from flowscout.loop.proposers.mixture import MixtureProposer
from flowscout.loop.proposers.nearby import NearbyGFlowNetProposer, is_edited
from flowscout.loop.proposers.protocol import UNIQUE_RANGE, Problem, Proposer, Samples, Trained
from flowscout.loop.proposers.uniform import RandomProposer, uniform_states

__all__ = [
    "SLOPE_RANGE",
    "UNIQUE_RANGE",
    "ExhaustiveProposer",
    "GFlowNetProposer",
    "GeneticProposer",
    "LocalSearchProposer",
    "MixtureProposer",
    "NearbyGFlowNetProposer",
    "Problem",
    "Proposer",
    "RandomProposer",
    "Samples",
    "Trained",
    "is_edited",
    "uniform_states",
]
