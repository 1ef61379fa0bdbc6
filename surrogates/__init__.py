"""What we believe about objects that have been measured and objects that have not.

Imports torch, gpytorch and botorch alone: no SQL, no files, no scheduler.
"""

from flowscout.surrogates.acquisition import FrozenAcquisition, log_ei, ucb
from flowscout.surrogates.auto import AveragedGP, prior_weights
from flowscout.surrogates.diagnostics import PredictionScores, leave_one_out, score_predictions, spearman
from flowscout.surrogates.exact_gp import ExactGP
from flowscout.surrogates.kernels import HammingKernel, SymmetricKernel, Symmetry
from flowscout.surrogates.protocol import Surrogate

__all__ = [
    "AveragedGP",
    "ExactGP",
    "FrozenAcquisition",
    "HammingKernel",
    "PredictionScores",
    "Surrogate",
    "SymmetricKernel",
    "Symmetry",
    "leave_one_out",
    "log_ei",
    "prior_weights",
    "score_predictions",
    "spearman",
    "ucb",
]
