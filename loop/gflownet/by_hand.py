"""The gradient of trajectory balance without autograd: the fastest step, for the commonest training.

Autograd spends as long on the bookkeeping of a small batch as the matrix products take. What is computed here
equals what `objectives` and autograd compute, to rounding; a test holds them together.
"""

import torch

from flowscout.loop.gflownet.network import Mlp, backward_pass, forward_pass, head, like, write_gradient
from flowscout.loop.gflownet.objectives import Batch, Objective, Outcome
from flowscout.loop.gflownet.policy import Policy, log_softmax, masked, softmax
from flowscout.loop.spaces.protocol import S


def can_balance_by_hand(objective: Objective, policy: Policy) -> bool:
    """Return whether `balance_by_hand` can take the place of the objective: TB, squared, a uniform P_B, an MLP."""
    plain = objective.loss == "trajectory_balance" and objective.residual == "squared"
    unconditional = policy.log_z_head is None
    return plain and not objective.learns_backward and unconditional and isinstance(policy.trunk, Mlp)


@torch.no_grad()
def balance_by_hand(policy: Policy, batch: Batch[S]) -> Outcome:
    """Return the outcome of trajectory balance, and write the gradient of its mean loss into `grad`."""
    paths, trunk, last = batch.trajectories, policy.trunk, policy.forward_head
    assert isinstance(trunk, Mlp)
    assert policy.log_z.grad is not None
    rounds, chosen = trunk.rounds, paths.actions.unsqueeze(1)
    saved = forward_pass(policy.seen(paths.encodings), trunk.weights, rounds=rounds)
    logits = policy.with_prior(head(saved[-1], last.weight, last.bias)[: len(chosen)], paths.encodings)
    logits = logits if paths.all_legal else masked(logits, paths.masks)
    log_p = log_softmax(logits)
    log_pf = paths.pad(log_p.gather(1, chosen).squeeze(1))
    samples = batch.log_reward + paths.log_pb_sums - log_pf.sum(1)
    error = samples - policy.log_z
    slope = error * (2 / len(error))
    torch.sum(-slope, 0, out=policy.log_z.grad)
    # log P_F of each step counts as log Z does; less its gradient is the probabilities, less 1 for the action.
    at_step = slope.expand(paths.horizon, -1).reshape(-1, 1) if paths.dense else slope[paths.rows].unsqueeze(1)
    p = log_p.exp_() if paths.all_legal else softmax(logits)
    grad = p.mul_(at_step).scatter_add_(1, chosen, -at_step)
    grad = like(grad, saved)
    write_gradient(last.weight, last.bias, grad, saved[-1], rounds=rounds)
    at_output = grad @ last.weight.to(grad.dtype)
    for number, at_sums, x in backward_pass(saved, at_output, rounds=rounds):
        write_gradient(trunk.weights[2 * number], trunk.weights[2 * number + 1], at_sums, x, rounds=rounds)
    return Outcome(error.square(), log_pf, samples, None)
