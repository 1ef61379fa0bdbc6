"""How we propose: a policy that samples objects in proportion to a reward, its trainer and exact checks.

Spaces are known by their protocol only, rewards as a function; batches and histories do not belong here.
"""

from flowscout.loop.gflownet.exact import Law, exact_law, log_z_error, target_law, total_variation
from flowscout.loop.gflownet.losses import log_partition_variance, trajectory_balance
from flowscout.loop.gflownet.policy import Policy
from flowscout.loop.gflownet.sampler import Draw, Trajectories, backtrack, draw, log_prob, rollout
from flowscout.loop.gflownet.threads import one_thread
from flowscout.loop.gflownet.trainer import Trainer, TrainerSettings, TrainingRecord

__all__ = [
    "Draw",
    "Law",
    "Policy",
    "Trainer",
    "TrainerSettings",
    "TrainingRecord",
    "Trajectories",
    "backtrack",
    "draw",
    "exact_law",
    "log_partition_variance",
    "log_prob",
    "log_z_error",
    "one_thread",
    "rollout",
    "target_law",
    "total_variation",
    "trajectory_balance",
]
