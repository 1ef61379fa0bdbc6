"""What we believe about objects that have been measured and objects that have not.

Imports torch, gpytorch and botorch alone: no SQL, no files, no scheduler.
"""

from flowscout.surrogates.acquisition import FrozenAcquisition, log_ei, ucb
from flowscout.surrogates.as_model import AsModel, from_botorch
from flowscout.surrogates.auto import AveragedGP, prior_weights
from flowscout.surrogates.batch_acquisition import q_log_ei, q_ucb
from flowscout.surrogates.botorch_model import BotorchSurrogate
from flowscout.surrogates.canonical import CanonicalSurrogate, canonical
from flowscout.surrogates.censored import censored_sites
from flowscout.surrogates.diagnostics import PredictionScores, leave_one_out, score_predictions, spearman
from flowscout.surrogates.ensemble import DeepEnsemble
from flowscout.surrogates.ensemble_training import TrainingOptions
from flowscout.surrogates.entropy_search import max_value_entropy
from flowscout.surrogates.exact_gp import ExactGP
from flowscout.surrogates.feasibility import FeasibilityClassifier
from flowscout.surrogates.greedy import dpp_batch, greedy_batch
from flowscout.surrogates.kernels import HammingKernel, SymmetricKernel, Symmetry
from flowscout.surrogates.linear import PairwiseLinear
from flowscout.surrogates.noise import PooledLabels, pool_replicates
from flowscout.surrogates.numeric import numeric_surrogate
from flowscout.surrogates.numeric_kernels import TanimotoKernel
from flowscout.surrogates.pending import PendingBelief, condition_on
from flowscout.surrogates.posterior_draw import HasPaths, thompson
from flowscout.surrogates.protocol import Surrogate
from flowscout.surrogates.svgp import SVGP

__all__ = [
    "SVGP",
    "AsModel",
    "AveragedGP",
    "BotorchSurrogate",
    "CanonicalSurrogate",
    "DeepEnsemble",
    "ExactGP",
    "FeasibilityClassifier",
    "FrozenAcquisition",
    "HammingKernel",
    "HasPaths",
    "PairwiseLinear",
    "PendingBelief",
    "PooledLabels",
    "PredictionScores",
    "Surrogate",
    "SymmetricKernel",
    "Symmetry",
    "TanimotoKernel",
    "TrainingOptions",
    "canonical",
    "censored_sites",
    "condition_on",
    "dpp_batch",
    "from_botorch",
    "greedy_batch",
    "leave_one_out",
    "log_ei",
    "max_value_entropy",
    "numeric_surrogate",
    "pool_replicates",
    "prior_weights",
    "q_log_ei",
    "q_ucb",
    "score_predictions",
    "spearman",
    "thompson",
    "ucb",
]
