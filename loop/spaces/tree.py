"""A balanced tree over rows of numbers, near rows under one node: how to choose one of many in few steps.

What the rows stand for belongs in the space that chooses among them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowscout.loop.spaces.records import TensorRecord


@dataclass(frozen=True, slots=True, eq=False)
class TreeTables(TensorRecord):
    """The nodes of a tree, level by level, `N` of them: node 0 is the root, the last `n` are the leaves.

    `parent`, `rank` (which child of its parent), `first_child` and `n_children` are int64 `N`, the children of
    one node following each other; `row` is int64 `N`, the row of a leaf and -1 elsewhere; `path` is int64
    `N x depth`, the ranks on the way from the root, -1 behind the node's own level; `mean` is float32 `N x d`,
    the mean of the rows below.
    """

    parent: Tensor
    rank: Tensor
    first_child: Tensor
    n_children: Tensor
    row: Tensor
    path: Tensor
    mean: Tensor


def shape_of(n: int, branching: int) -> tuple[int, int]:
    """Return the depth, the least at which `branching` is enough for `n` leaves, and the least width enough then.

    So 100,000 leaves with a branching of 16 make five levels of 10.
    """
    depth = 1
    while branching**depth < n:
        depth += 1
    width = 1
    while width**depth < n:
        width += 1
    return depth, width


def balanced_tree(X: Tensor, *, branching: int) -> TreeTables:
    """Return a tree whose leaves, all at one depth, are the rows of `X`, `n x d` in float64.

    A node has as few children as its rows need, their sizes one apart at most, so that uniform choices reach
    all rows with nearly one probability. Its rows are halved along the coordinate in which they vary most, and
    the halves again, until each part is a child.
    """
    n = len(X)
    depth, width = shape_of(n, branching)
    order, sizes = torch.arange(n), torch.tensor([n])
    levels, children_of = [sizes], []
    for below in reversed(range(depth)):
        parts = (sizes + width**below - 1) // width**below
        children = _evenly(sizes, parts)
        order = _sorted_into(X, order, parts, children)
        children_of.append(parts)
        levels.append(children)
        sizes = children
    return _tables(X, order, levels, children_of)


def _evenly(sizes: Tensor, parts: Tensor) -> Tensor:
    """Return the sizes of the parts that each number of rows is divided into, part after part."""
    node = torch.arange(len(sizes)).repeat_interleave(parts)
    rank = torch.arange(len(node)) - _starts(parts)[node]
    return sizes[node] // parts[node] + (rank < sizes[node] % parts[node])


def _sorted_into(X: Tensor, order: Tensor, parts: Tensor, children: Tensor) -> Tensor:
    """Return `order`, `n`, sorted within each node so that its children are runs of near rows.

    Every group of children, at first those of one node, is sorted along its widest coordinate and halved.
    """
    number = parts
    while bool((number > 1).any()):
        group_of_child = torch.arange(len(number)).repeat_interleave(number)
        group = group_of_child.repeat_interleave(children)
        rows = X[order]
        key = rows.gather(1, _widest(rows, group, len(number))[group].unsqueeze(1)).squeeze(1)
        key = torch.where(number[group] > 1, key, 0.0)  # what is one child already stays in its order
        by_key = key.argsort(stable=True)
        order = order[by_key[group[by_key].argsort(stable=True)]]
        number = torch.stack([number // 2, number - number // 2], dim=1).flatten()
        number = number[number > 0]
    return order


def _widest(rows: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Return the coordinate of each group, `n_groups`, in which its rows have the largest sum of squares."""
    counts = torch.bincount(group, minlength=n_groups).unsqueeze(1)
    mean = rows.new_zeros(n_groups, rows.shape[1]).index_add_(0, group, rows) / counts
    spread = (rows - mean[group]).square_()
    return rows.new_zeros(n_groups, rows.shape[1]).index_add_(0, group, spread).argmax(dim=1)


def _tables(X: Tensor, order: Tensor, levels: list[Tensor], children_of: list[Tensor]) -> TreeTables:
    """Return the tables of a tree from its leaves in order, the sizes of its nodes and their child counts."""
    n, depth = len(X), len(children_of)
    n_children = torch.cat([*children_of, torch.zeros(n, dtype=torch.int64)])
    total = len(n_children)
    first_child = torch.where(n_children > 0, 1 + _starts(n_children), 0)
    parent = torch.cat([torch.zeros(1, dtype=torch.int64), torch.arange(total).repeat_interleave(n_children)])
    rank = torch.arange(total) - first_child[parent]
    rank[0] = -1
    row = torch.full((total,), -1)
    row[total - n :] = order

    path = torch.full((total, depth), -1)
    sums = torch.cat([X.new_zeros(1, X.shape[1]), X[order].cumsum(dim=0)])
    mean = torch.empty(total, X.shape[1], dtype=torch.float32)
    first = 0
    for level, sizes in enumerate(levels):
        here = slice(first, first + len(sizes))
        ends = sizes.cumsum(dim=0)
        mean[here] = ((sums[ends] - sums[ends - sizes]) / sizes.unsqueeze(1)).float()
        if level:
            path[here] = path[parent[here]]
            path[here, level - 1] = rank[here]
        first += len(sizes)
    return TreeTables(parent, rank, first_child, n_children, row, path, mean)


def _starts(counts: Tensor) -> Tensor:
    return counts.cumsum(dim=0) - counts
