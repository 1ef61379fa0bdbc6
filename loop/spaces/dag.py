"""Directed acyclic graphs over named nodes, grown by one edge a step.

Scores of graphs do not belong here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowscout.errors import ConfigError, ObjectError
from flowscout.loop.spaces.arguments import (
    names_of,
    read_set,
    require_enumerable,
    require_list,
    whole_number,
)
from flowscout.loop.spaces.records import PerDevice, TensorRecord

ENUMERATED_NODES = 7
"""The most nodes that `enumerate` takes: their edges still fit as bits in one int64."""


@dataclass(frozen=True, slots=True, eq=False)
class DagState(TensorRecord):
    """A batch of graphs of `n` nodes: `marks` and `closure`, both bool `b x (n^2 + 1)`.

    `marks` holds the adjacency matrix by rows and, in the last column, what has stopped. `closure` holds at
    `u n + v` whether `u` is `v` or can be reached from it; its last column is always False.
    """

    marks: Tensor
    closure: Tensor

    @property
    def adjacency(self) -> Tensor:
        """Whether there is an edge `u -> v`, bool `b x n x n`."""
        return _square(self.marks)

    @property
    def ancestors(self) -> Tensor:
        """Whether `v` is an ancestor of `u`, or `u` itself, at `[u, v]`, bool `b x n x n`."""
        return _square(self.closure)

    @property
    def stopped(self) -> Tensor:
        """Which rows are finished, bool `b`."""
        return self.marks[:, -1]


@dataclass(frozen=True, slots=True, eq=False)
class _Tables(TensorRecord):
    """What each action reads of the closure, int64 `A x 2n`; the rows `is_stop` and `empty`, bool `1 x A`."""

    reads: Tensor
    is_stop: Tensor
    empty: Tensor


class DagSpace:
    """All directed acyclic graphs over `nodes`, a number or a list of names, in which order of edges is free.

    Action `u n + v` adds the edge from node `u` to node `v`; action `n^2` stops, which every state allows. The
    `n` actions of a node to itself are never legal. Backward action `i` undoes forward action `i`, and every
    edge may be removed. With `max_parents` no node has more edges into it. A graph is written
    `{A->B, B->C}`, its edges in any order.

    Raises:
        ConfigError: An argument cannot be.
    """

    every_state_terminal = True
    fixed_length = False
    is_tree = False

    def __init__(self, nodes: int | Sequence[str], *, max_parents: int | None = None) -> None:
        self.names = names_of("nodes", nodes, least=2, without=("{", "}", ",", "->"))
        self._numbers = {name: number for number, name in enumerate(self.names)}
        n = len(self.names)
        self._max_parents = n - 1 if max_parents is None else whole_number("max_parents", max_parents, least=1)
        self._limited = self._max_parents < n - 1
        node = torch.arange(n)
        # The edge u -> v makes what can be reached from v reachable from what reaches u: column v of the
        # closure by row u. The stop reads as an edge from node 0 to itself, which changes nothing.
        column = node.unsqueeze(0) * n + node.unsqueeze(1)
        row = node.unsqueeze(1) * n + node.unsqueeze(0)
        reads = torch.cat([column.repeat(n, 1), row.repeat_interleave(n, dim=0)], dim=1)
        is_stop = torch.arange(n * n + 1) == n * n
        empty = torch.cat([torch.eye(n, dtype=torch.bool).flatten(), torch.tensor([False])])
        self._tables = PerDevice(_Tables(torch.cat([reads, reads[:1]]), is_stop.unsqueeze(0), empty.unsqueeze(0)))

    def __repr__(self) -> str:
        numbered = self.names == tuple(map(str, range(len(self.names))))
        limit = f", max_parents={self._max_parents}" if self._limited else ""
        return f"DagSpace({len(self.names) if numbered else list(self.names)!r}{limit})"

    @property
    def n_actions(self) -> int:
        """One action per ordered pair of nodes, and the stop."""
        return len(self.names) ** 2 + 1

    @property
    def n_backward_actions(self) -> int:
        """Each forward action has its own undoing."""
        return self.n_actions

    @property
    def stop_action(self) -> int | None:
        """The last action."""
        return len(self.names) ** 2

    @property
    def max_steps(self) -> int:
        """The most edges, and the stop."""
        return sum(min(before, self._max_parents) for before in range(len(self.names))) + 1

    @property
    def encoding_dim(self) -> int:
        """One column per ordered pair of nodes."""
        return len(self.names) ** 2

    @property
    def size(self) -> int | None:
        """The number of labelled graphs, or None with a limit of parents.

        Source: Robinson 1973, the recurrence over the number of nodes without parents (OEIS A003024).
        """
        if self._limited:
            return None
        counts = [1]
        for n in range(1, len(self.names) + 1):
            terms = [
                (-1) ** (k + 1) * math.comb(n, k) * 2 ** (k * (n - k)) * counts[n - k] for k in range(1, n + 1)
            ]
            counts.append(sum(terms))
        return counts[-1]

    def reset(self, n: int, device: torch.device | str = "cpu") -> DagState:
        """Return `n` graphs without edges."""
        marks = torch.zeros(n, self.n_actions, dtype=torch.bool, device=device)
        return DagState(marks, self._tables.on(marks.device).empty.repeat(n, 1))

    def forward_mask(self, state: DagState) -> Tensor:
        """Return bool `b x A`: the edges that close no cycle, and the stop."""
        marks = state.marks
        taken = marks | state.closure
        if self._limited:
            full = state.adjacency.sum(dim=1) >= self._max_parents
            _square(taken).logical_or_(full.unsqueeze(1))
        stopped = marks.view(torch.uint8).narrow(1, self.encoding_dim, 1)
        return ~taken.view(torch.uint8).bitwise_or_(stopped).view(torch.bool)

    def step(self, state: DagState, action: Tensor) -> DagState:
        """Add one edge, or stop."""
        n = len(self.names)
        marks = state.marks.scatter(1, action.unsqueeze(1), True)
        reads = self._tables.on(marks.device).reads.index_select(0, action)
        # As bytes, here and in the mask: PyTorch broadcasts bools two to five times slower.
        before = state.closure.view(torch.uint8)
        ends = before.gather(1, reads)
        closure = before.clone()
        _square(closure).bitwise_or_(ends.narrow(1, 0, n).unsqueeze(2) * ends.narrow(1, n, n).unsqueeze(1))
        return DagState(marks, closure.view(torch.bool))

    def done(self, state: DagState) -> Tensor:
        """Return which rows have stopped, bool `b`."""
        return state.marks.select(1, self.encoding_dim)

    def backward_mask(self, state: DagState) -> Tensor:
        """Return bool `b x A`: every edge that is there, or nothing but the stop."""
        marks = state.marks
        return marks & (marks.narrow(1, self.encoding_dim, 1) == self._tables.on(marks.device).is_stop)

    def step_back(self, state: DagState, action: Tensor) -> DagState:
        """Remove one edge, or undo the stop."""
        return self._closed(state.marks.scatter(1, action.unsqueeze(1), False))

    def reverse(self, state: DagState, action: Tensor) -> Tensor:  # noqa: ARG002 (the protocol's argument)
        """Return the same numbers, `b`."""
        return action

    def retrace(self, state: DagState, action: Tensor) -> Tensor:  # noqa: ARG002 (the protocol's argument)
        """Return the same numbers, `b`."""
        return action

    def log_symmetry(self, state: DagState) -> Tensor:
        """Return zeros, float64 `b`: the nodes have names, so a graph has one state."""
        return torch.zeros(len(state), dtype=torch.float64, device=state.device)

    def encode(self, state: DagState) -> Tensor:
        """Return the adjacency matrices by rows, float32 `b x n^2`; the stop is not seen."""
        # As bytes: PyTorch turns bools into floats five times slower.
        return state.marks.narrow(1, 0, self.encoding_dim).view(torch.uint8).float()

    def features(self, state: DagState) -> Tensor:
        """Return the adjacency matrices by rows, float64 `b x n^2`."""
        return state.marks[:, :-1].double()

    def decode(self, state: DagState) -> list[str]:
        """Return each row's edges in the order of the nodes, such as `{A->B, B->C}`."""
        return [self._write(row) for row in state.marks[:, :-1].tolist()]

    def parse(self, objects: Sequence[str], device: torch.device | str = "cpu") -> DagState:
        """Return the finished rows of graphs given as text.

        Raises:
            ObjectError: An object is not in the space; the message names it and what is wrong.
        """
        require_list(objects)
        rows = [[*self._read(text), True] for text in objects]
        return self._closed(torch.tensor(rows, dtype=torch.bool, device=device).reshape(-1, self.n_actions))

    def key(self, text: str) -> str:
        """Return the graph with its edges in the order of the nodes.

        Raises:
            ObjectError: The text is not in the space.
        """
        return self._write(self._read(text))

    def keys(self, state: DagState) -> list[str]:
        """Return the key of each row: what `decode` writes."""
        return self.decode(state)

    def validate(self, text: object) -> str | None:
        """Return why the text is not a graph of the space, or None if it is one."""
        try:
            self._read(text)
        except ObjectError as error:
            return str(error)
        return None

    def enumerate(self, device: torch.device | str = "cpu") -> DagState:
        """Return every graph once, by the number of edges.

        Raises:
            ConfigError: There are more than `ENUMERATION_LIMIT`, or more than seven nodes.
        """
        if len(self.names) > ENUMERATED_NODES:
            raise ConfigError(
                f"{self!r} has {len(self.names)} nodes, expected at most {ENUMERATED_NODES} to enumerate. "
                "Sample graphs instead, or compare a smaller space."
            )
        if self.size is not None:
            require_enumerable(self, self.size)
        bits = 2 ** torch.arange(self.encoding_dim, device=device)
        codes, found, count = torch.zeros(1, dtype=torch.int64, device=device), [], 0
        while len(codes):
            marks = (codes.unsqueeze(1) & bits) > 0
            state = self._closed(torch.cat([marks, torch.zeros_like(marks[:, :1])], dim=1))
            found.append(state.marks)
            count += len(codes)
            require_enumerable(self, count)
            row, edge = self.forward_mask(state)[:, :-1].nonzero(as_tuple=True)
            codes = torch.unique(codes[row] + bits[edge])
        return self._closed(torch.cat(found).index_fill(1, torch.tensor([self.encoding_dim], device=device), True))

    def distance(self, a: DagState, b: DagState) -> Tensor:
        """Return how many edges only one of two graphs has, float64 `n x m`: two for a turned edge."""
        return torch.cdist(self.features(a), self.features(b), p=1.0)

    def image(self, state: DagState) -> DagState:
        """Return the rows themselves: a graph has one state."""
        return state

    def neighbours(self, state: DagState) -> DagState:
        """Return every finished row with each edge removed that is there, or added that may be, in row order."""
        row, edge = self._edits(state).nonzero(as_tuple=True)
        return self._edited(state[row], edge)

    def mutate(self, state: DagState, generator: torch.Generator) -> DagState:
        """Return each finished row after one edit drawn uniformly from those of `neighbours`."""
        if len(state) == 0:
            return state
        return self._edited(state, self._edits(state).double().multinomial(1, generator=generator).squeeze(1))

    def _edits(self, state: DagState) -> Tensor:
        """Return which edges may be added or removed, bool `b x n^2`."""
        edges = state.marks[:, :-1]
        running = DagState(torch.cat([edges, torch.zeros_like(edges[:, :1])], dim=1), state.closure)
        return edges | self.forward_mask(running)[:, :-1]

    def _edited(self, state: DagState, edge: Tensor) -> DagState:
        column = edge.unsqueeze(1)
        return self._closed(state.marks.scatter(1, column, ~state.marks.gather(1, column)))

    def _closed(self, marks: Tensor) -> DagState:
        """Return the state of given marks: its closure, by squaring the paths until all lengths are there."""
        n = len(self.names)
        empty = self._tables.on(marks.device).empty
        reach = (_square(marks) | _square(empty)).float()
        for _ in range((n - 1).bit_length()):
            reach = (reach @ reach).clamp_max_(1)
        closure = empty.repeat(len(marks), 1)
        _square(closure).copy_(reach.transpose(1, 2) > 0)
        return DagState(marks, closure)

    def _write(self, row: Sequence[bool]) -> str:
        n = len(self.names)
        edges = [f"{self.names[i // n]}->{self.names[i % n]}" for i, there in enumerate(row) if there]
        return "{" + ", ".join(edges) + "}"

    def _read(self, text: object) -> list[bool]:
        n, example = len(self.names), f"{{{self.names[0]}->{self.names[1]}}}"
        row = [False] * (n * n)
        for part in read_set(text, example):
            ends = [self._numbers.get(name.strip()) for name in part.split("->")]
            if len(ends) != 2 or ends[0] is None or ends[1] is None:
                raise ObjectError(
                    f"The object {text!r} has {part!r}, expected an edge between two of the nodes "
                    f"{', '.join(self.names)}, as in {example}. Correct it, or change the nodes of the space."
                )
            edge = ends[0] * n + ends[1]
            if row[edge]:
                raise ObjectError(
                    f"The object {text!r} has the edge {part!r} twice, expected each edge once. Remove one."
                )
            row[edge] = True
        self._check_graph(text, row)
        return row

    def _check_graph(self, text: object, row: Sequence[bool]) -> None:
        n = len(self.names)
        parents = {v: {u for u in range(n) if row[u * n + v]} for v in range(n)}
        for node, above in parents.items():
            if len(above) > self._max_parents:
                raise ObjectError(
                    f"The object {text!r} has {len(above)} edges into {self.names[node]!r}, expected at most "
                    f"{self._max_parents}. Remove some, or raise max_parents."
                )
        left = set(parents)
        while free := {node for node in left if not parents[node] & left}:
            left -= free
        if left:
            raise ObjectError(
                f"The object {text!r} has a cycle among {', '.join(self.names[v] for v in sorted(left))}, "
                "expected a graph without cycles. Remove or turn an edge."
            )


def _square(rows: Tensor) -> Tensor:
    """Return all but the last column of `b x (n^2 + 1)` as `b x n x n`, without a copy."""
    n = math.isqrt(rows.shape[1] - 1)
    return rows.narrow(1, 0, n * n).view(-1, n, n)
