"""Exact laws over all finished objects of a small space: what a policy samples, what it ought to sample.

Everything here enumerates; nothing here trains. float64: a law is compared with R / Z to 1e-9.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from flowscout.errors import ConfigError, ShapeError
from flowscout.loop.gflownet.policy import Policy, masked_log_softmax, uniform_log_pb
from flowscout.loop.gflownet.sampler import CHUNK_ROWS
from flowscout.loop.spaces.protocol import S, Space

STATE_LIMIT = 2**22
"""The most states of one depth that `unfold` follows."""


@dataclass(frozen=True)
class Law(Generic[S]):
    """A law over finished states: `states`, `n` rows; `log_p`, float64 `n`; `log_z`, its claim of log Z."""

    states: S
    log_p: Tensor
    log_z: float


@dataclass(frozen=True)
class Edges:
    """The actions from one depth to the next: int64 `parent`, `action`, `child`; float64 `log_pb`; each `e`.

    `parent` and `child` count rows of their depth.
    """

    parent: Tensor
    action: Tensor
    child: Tensor
    log_pb: Tensor


@dataclass(frozen=True)
class StateGraph(Generic[S]):
    """Every reachable state once, by depth; `edges[t]` leads from `levels[t]` to `levels[t + 1]`."""

    levels: tuple[S, ...]
    edges: tuple[Edges, ...]


def unfold(space: Space[S], device: torch.device | str = "cpu") -> StateGraph[S]:
    """Return every state of a space of fixed length, and the actions between them.

    States that are reached in several ways are told by their encodings.

    Raises:
        ConfigError: The space is of variable length, or has more than `STATE_LIMIT` states at some depth.
    """
    if not space.fixed_length:
        raise ConfigError(f"{space!r} has no fixed length, expected one. Exact laws need states in depths.")
    levels, edges = [space.reset(1, device)], []
    for _ in range(space.max_steps):
        parent, action = space.forward_mask(levels[-1]).nonzero(as_tuple=True)
        if len(parent) > STATE_LIMIT:
            raise ConfigError(
                f"{space!r} has {len(parent):,} actions at one depth, expected at most {STATE_LIMIT:,} to "
                "compute an exact law. Compare a smaller space, or use samples."
            )
        reached = space.step(levels[-1][parent], action)
        child, first = _identify(space, reached)
        log_pb = uniform_log_pb(space, reached)
        levels.append(reached[first])
        edges.append(Edges(parent, action, child, log_pb))
    return StateGraph(tuple(levels), tuple(edges))


def policy_tables(space: Space[S], policy: Policy, graph: StateGraph[S]) -> tuple[Tensor, ...]:
    """Return the policy's log-probabilities in every state with actions, one float64 `n x A` per depth."""
    tables = []
    with torch.no_grad():
        for states in graph.levels[:-1]:
            logits = torch.cat([policy(rows) for rows in torch.split(space.encode(states), CHUNK_ROWS)])
            tables.append(masked_log_softmax(logits.double(), space.forward_mask(states)))
    return tuple(tables)


def terminal_law(graph: StateGraph[S], tables: Sequence[Tensor]) -> Tensor:
    """Return the log-probability, float64 `n`, of ending in each state of the last depth."""
    log_p = torch.zeros(1, dtype=torch.float64, device=graph.levels[0].device)
    for edges, table, states in zip(graph.edges, tables, graph.levels[1:], strict=True):
        arriving = log_p[edges.parent] + table[edges.parent, edges.action]
        log_p = _log_sum_by(edges.child, arriving, len(states))
    return log_p


def tabular_optimum(space: Space[S], graph: StateGraph[S], log_target: Tensor) -> tuple[tuple[Tensor, ...], float]:
    """Return the policy tables that sample the last depth in proportion to `exp(log_target)`, and log Z.

    `log_target` is float64 `n`. Flows are summed from the finished states backwards under a uniform backward
    policy; if the backward mask admits parents that cannot be reached, the law of the result is wrong, which
    is how the contract suite finds such masks.
    """
    log_flow, tables = log_target, []
    for edges, states in zip(reversed(graph.edges), reversed(graph.levels[:-1]), strict=True):
        flow = log_flow[edges.child] + edges.log_pb
        log_flow = _log_sum_by(edges.parent, flow, len(states))
        table = flow.new_full((len(states), space.n_actions), -math.inf)
        table[edges.parent, edges.action] = flow - log_flow[edges.parent]
        tables.append(table)
    return tuple(reversed(tables)), float(log_flow[0])


def exact_law(space: Space[S], policy: Policy) -> Law[S]:
    """Return the law from which the policy samples finished states, with its own `log_z`.

    Raises:
        ConfigError: The space cannot be unfolded.
    """
    graph = unfold(space, policy.log_z.device)
    log_p = terminal_law(graph, policy_tables(space, policy, graph))
    return Law(graph.levels[-1], log_p, float(policy.log_z.detach()))


def target_law(space: Space[S], log_reward: Callable[[S], Tensor], states: S) -> Law[S]:
    """Return the law R / Z of finished states, where `states` are all of them, each once.

    A key that several states share gets R in all, divided equally among them.
    """
    log_r = log_reward(states).detach()
    if log_r.shape != (len(states),):
        raise ShapeError(
            f"log_reward has shape {tuple(log_r.shape)}, expected ({len(states)},): one value per object. "
            "If your reward returns a column, squeeze it: reward(x).squeeze(-1)."
        )
    log_target = log_r.double() - space.log_symmetry(states)
    log_z = log_target.logsumexp(0)
    return Law(states, log_target - log_z, float(log_z))


def total_variation(p: Law[S], q: Law[S]) -> float:
    """Return half the L1 distance of two laws over the same states in the same order: from 0 to 1."""
    if p.log_p.shape != q.log_p.shape:
        raise ShapeError(
            f"The laws have {len(p.log_p)} and {len(q.log_p)} states, expected the same states in the same "
            "order. Build the second from the first: target_law(space, log_reward, first.states)."
        )
    return float((p.log_p.exp() - q.log_p.exp()).abs().sum() / 2)


def log_z_error(p: Law[S], q: Law[S]) -> float:
    """Return how far apart two laws believe log Z to be."""
    return abs(p.log_z - q.log_z)


def _identify(space: Space[S], states: S) -> tuple[Tensor, Tensor]:
    """Return for each row the number of its state, and for each number the first row that has it."""
    rows = torch.arange(len(states), device=states.device)
    if space.is_tree:
        return rows, rows
    _, number = torch.unique(space.encode(states), dim=0, return_inverse=True)
    first = rows.new_full((int(number.max()) + 1,), len(rows)).scatter_reduce(0, number, rows, "amin")
    return number, first


def _log_sum_by(group: Tensor, values: Tensor, n: int) -> Tensor:
    """Return the log of the sum of `exp(values)` in each of `n` groups, `n`: minus infinity if empty."""
    top = values.new_full((n,), -math.inf).scatter_reduce(0, group, values, "amax")
    anchor = top.clamp_min(torch.finfo(values.dtype).min)  # an empty group would give inf - inf
    return anchor + torch.zeros_like(top).index_add(0, group, (values - anchor[group]).exp()).log()
