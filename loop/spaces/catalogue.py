"""One object of a list that can be bought: chosen step by step in a tree that keeps near objects together.

Reading the list belongs in `listing`, making the tree in `tree`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from flowscout.errors import ConfigError
from flowscout.loop.spaces.arguments import require_list, whole_number
from flowscout.loop.spaces.listing import Listing, read_listing
from flowscout.loop.spaces.records import PerDevice, TensorRecord
from flowscout.loop.spaces.tree import balanced_tree, shape_of

Metric = Literal["euclid", "tanimoto"]

NEAREST = 16
"""How many of the nearest objects an object may be changed into."""

MAX_COORDINATES = 16
"""The most coordinates that the tree is made of, and that a policy sees of each node."""

_APART = 1e-9
"""The least distance of two objects: their features may be equal, and 0 would make them one."""

_CHUNK = 64

_MAX_COUNT = 32
"""Up to which count minima of whole numbers are summed by products of indicators, the faster way."""

_COLUMNS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, eq=False)
class CatalogueState(TensorRecord):
    """A batch of places in the tree: `node` int64 `b`, a leaf where a row is finished."""

    node: Tensor


class CatalogueSpace:
    """The objects of a list, `names` with `features` `n x d`, one of which is chosen by few steps down a tree.

    The tree has the least depth at which a node needs no more than `branching` children, and all leaves at that
    depth; objects that are near by their features share most of their way. Action `i` goes to child `i`; the
    one backward action goes up. Every object has one path, and all paths have one length. An object is written
    by its name, which is its key.

    `metric` is `euclid`, on standardised features, or `tanimoto`, one less the sum of minima over the sum of
    maxima, for counts and fingerprints. An edit puts one of the `NEAREST` nearest objects in an object's place;
    who is nearest is looked for when it is first asked, and kept.

    Raises:
        ConfigError: A name stands twice, features are not finite (or negative, with `tanimoto`), or another
            argument cannot be.
    """

    every_state_terminal = False
    fixed_length = True
    is_tree = True
    n_backward_actions = 1

    def __init__(
        self,
        names: Sequence[str],
        features: Tensor | Sequence[Sequence[float]],
        *,
        columns: Sequence[str] = (),
        metric: Metric = "euclid",
        branching: int = 16,
    ) -> None:
        numbers = features.cpu().numpy() if isinstance(features, Tensor) else features
        self._begin(Listing(names, numbers, columns), metric, branching)  # type: ignore[arg-type]

    @classmethod
    def of_listing(cls, listing: Listing, *, metric: Metric = "euclid", branching: int = 16) -> Self:
        """Return the space of a catalogue that was read before."""
        space = cls.__new__(cls)
        space._begin(listing, metric, branching)
        return space

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        column: str | None = None,
        features: Sequence[str] | None = None,
        metric: Metric = "euclid",
        branching: int = 16,
    ) -> Self:
        """Return the space of a CSV file: names in `column`, numbers in `features`; see `read_listing`.

        Raises:
            ConfigError: The file cannot be read, or says what cannot be; the message names line and column.
        """
        listing = read_listing(Path(path), column=column, features=features)
        return cls.of_listing(listing, metric=metric, branching=branching)

    def _begin(self, listing: Listing, metric: Metric, branching: int) -> None:
        if metric not in get_args(Metric):
            raise ConfigError(
                f"metric is {metric!r}, expected euclid or tanimoto. Choose tanimoto for counts and fingerprints."
            )
        whole_number("branching", branching, least=2)
        self.rules, self.metric = listing, metric
        X = torch.from_numpy(listing.features)
        if metric == "tanimoto" and bool((X < 0).any()):
            row, column = (X < 0).nonzero()[0].tolist()
            raise ConfigError(
                f"The object {listing.names[row]!r} has {X[row, column].item():g} as {listing.columns[column]!r}, "
                "expected numbers of at least 0 with the metric tanimoto. Use the metric euclid, or counts."
            )
        self._features = X
        whole = bool((X.floor() == X).all()) and X.max().item() <= _MAX_COUNT
        self._most = int(X.max().item()) if whole else None
        centre, scale = _scales(X)
        # Counts are compared as they are: scaled, the rarest would weigh the most.
        coordinates = _coordinates(X - centre if metric == "tanimoto" else (X - centre) / scale)
        self._scale = scale
        self._depth, self._width = shape_of(len(X), branching)
        tree = balanced_tree(coordinates, branching=branching)
        self._tables = PerDevice(tree)
        self._leaf = torch.empty(len(X), dtype=torch.int64)
        leaves = torch.arange(len(tree) - len(X), len(tree))
        self._leaf[tree.row[leaves]] = leaves
        self._nearest = torch.full((len(X), min(NEAREST, len(X) - 1)), -1)

    def __repr__(self) -> str:
        return f"CatalogueSpace({self.size:,} objects, {len(self.rules.columns)} features, {self.metric!r})"

    @property
    def n_actions(self) -> int:
        """The most children that a node has."""
        return self._width

    @property
    def stop_action(self) -> int | None:
        """None: an object is finished when it is reached."""
        return None

    @property
    def max_steps(self) -> int:
        """The depth of the tree."""
        return self._depth

    @property
    def encoding_dim(self) -> int:
        """The path, one column for each level and child, the node's mean coordinates, and its children's."""
        return self._depth * self._width + (1 + self._width) * self._tables.on(torch.device("cpu")).mean.shape[1]

    @property
    def size(self) -> int:
        """The number of objects."""
        return self.rules.size

    def reset(self, n: int, device: torch.device | str = "cpu") -> CatalogueState:
        """Return `n` rows at the root."""
        return CatalogueState(torch.zeros(n, dtype=torch.int64, device=device))

    def forward_mask(self, state: CatalogueState) -> Tensor:
        """Return bool `b x A`: the children that there are."""
        count = self._tables.on(state.device).n_children[state.node]
        return torch.arange(self._width, device=state.device) < count.unsqueeze(1)

    def step(self, state: CatalogueState, action: Tensor) -> CatalogueState:
        """Go to one child of every row."""
        return CatalogueState(self._tables.on(state.device).first_child[state.node] + action)

    def done(self, state: CatalogueState) -> Tensor:
        """Return which rows are at a leaf, bool `b`."""
        return self._tables.on(state.device).n_children[state.node] == 0

    def backward_mask(self, state: CatalogueState) -> Tensor:
        """Return bool `b x 1`: every node but the root has a parent."""
        return (state.node > 0).unsqueeze(1)

    def step_back(self, state: CatalogueState, action: Tensor) -> CatalogueState:  # noqa: ARG002 (there is one)
        """Go to the parent of every row."""
        return CatalogueState(self._tables.on(state.device).parent[state.node])

    def reverse(self, state: CatalogueState, action: Tensor) -> Tensor:  # noqa: ARG002 (the protocol's argument)
        """Return zeros, `b`: there is one way back."""
        return torch.zeros_like(action)

    def retrace(self, state: CatalogueState, action: Tensor) -> Tensor:  # noqa: ARG002 (the protocol's argument)
        """Return which child of its parent each row is, `b`."""
        return self._tables.on(state.device).rank[state.node]

    def log_symmetry(self, state: CatalogueState) -> Tensor:
        """Return zeros, float64 `b`: an object has one leaf."""
        return torch.zeros(len(state), dtype=torch.float64, device=state.device)

    def encode(self, state: CatalogueState) -> Tensor:
        """Return path and mean coordinates, float32 `b x d`.

        The path is one-hot by level; the node's mean coordinates follow, and how far each child's are from
        them: what lets a policy carry over what it learned under one node to another.
        """
        tables = self._tables.on(state.device)
        child = torch.arange(self._width, device=state.device)
        path = tables.path[state.node].unsqueeze(2) == child
        own = tables.mean[state.node]
        children = tables.first_child[state.node].unsqueeze(1) + child
        there = child < tables.n_children[state.node].unsqueeze(1)
        means = tables.mean[torch.where(there, children, 0)]
        apart = (means - own.unsqueeze(1)) * there.unsqueeze(2)
        return torch.cat([path.flatten(1).float(), own, apart.flatten(1)], dim=1)

    def features(self, state: CatalogueState) -> Tensor:
        """Return the columns of the list, float64 `b x d`, as they were given."""
        return self._features[self._rows(state).cpu()].to(state.device)

    def decode(self, state: CatalogueState) -> list[str]:
        """Return each row's name; of an unfinished row there is none, and the text is empty."""
        names = self.rules.names
        return [names[row] if row >= 0 else "" for row in self._rows(state).tolist()]

    def parse(self, objects: Sequence[str], device: torch.device | str = "cpu") -> CatalogueState:
        """Return the finished rows of objects given by name.

        Raises:
            ObjectError: A name is not in the catalogue.
        """
        require_list(objects)
        rows = torch.tensor([self.rules.row(text) for text in objects], dtype=torch.int64)
        return CatalogueState(self._leaf[rows].to(device))

    def key(self, text: str) -> str:
        """Return the name as the catalogue writes it.

        Raises:
            ObjectError: The name is not in the catalogue.
        """
        return self.rules.key(text)

    def keys(self, state: CatalogueState) -> list[str]:
        """Return the key of each row: its name."""
        return self.decode(state)

    def validate(self, text: object) -> str | None:
        """Return why the text is not an object of the catalogue, or None if it is one."""
        return self.rules.validate(text)

    def enumerate(self, device: torch.device | str = "cpu") -> CatalogueState:
        """Return every object once, in the order of the list."""
        return CatalogueState(self._leaf.to(device))

    def distance(self, a: CatalogueState, b: CatalogueState) -> Tensor:
        """Return how far objects are apart by the metric, float64 `n x m`."""
        rows, others = self._rows(a).cpu(), self._rows(b).cpu()
        same = rows.unsqueeze(1) == others.unsqueeze(0)
        found = self._apart(rows, others, exact=True).clamp_min(_APART).masked_fill(same, 0.0)
        return found.to(a.device)

    def image(self, state: CatalogueState) -> CatalogueState:
        """Return the rows themselves: an object has one state."""
        return state

    def neighbours(self, state: CatalogueState) -> CatalogueState:
        """Return the nearest objects of every finished row, the nearest first, in row order."""
        near = self._near(self._rows(state).cpu())
        return CatalogueState(self._leaf[near.flatten()].to(state.device))

    def mutate(self, state: CatalogueState, generator: torch.Generator) -> CatalogueState:
        """Return one of the nearest objects in place of each, drawn uniformly."""
        n_near = self._nearest.shape[1]
        if n_near == 0 or len(state) == 0:
            return state
        pick = torch.randint(n_near, (len(state), 1), generator=generator, device=state.device).cpu()
        near = self._near(self._rows(state).cpu()).gather(1, pick).squeeze(1)
        return CatalogueState(self._leaf[near].to(state.device))

    def _rows(self, state: CatalogueState) -> Tensor:
        return self._tables.on(state.device).row[state.node]

    def _near(self, rows: Tensor) -> Tensor:
        """Return the nearest other rows of each, `b x k`, looking for those that were never asked."""
        if self._nearest.shape[1]:
            unknown = torch.unique(rows[self._nearest[rows, 0] < 0])
            for some in unknown.split(_CHUNK):
                distance = self._apart(some, None, exact=False)
                distance[torch.arange(len(some)), some] = torch.inf
                self._nearest[some] = distance.topk(self._nearest.shape[1], largest=False).indices
        return self._nearest[rows]

    def _apart(self, rows: Tensor, others: Tensor | None, *, exact: bool) -> Tensor:
        """Return the distance of rows by the metric, `n x m`; `others` None stands for all.

        Where it need not be `exact`, products of matrices take it: much faster, and 1e-7 off near 0.
        """
        a, b = self._features[rows], self._features if others is None else self._features[others]
        if self.metric == "euclid":
            mode = "donot_use_mm_for_euclid_dist" if exact else "use_mm_for_euclid_dist_if_necessary"
            return torch.cdist(a / self._scale, b / self._scale, compute_mode=mode)
        # The sums of minima and of maxima have a known sum and, as their difference, the L1 distance.
        total = a.sum(dim=1).unsqueeze(1) + b.sum(dim=1)
        most = self._most
        between = torch.cdist(a, b, p=1.0) if most is None else total - 2 * _shared_counts(a, b, most)
        return torch.where(total > 0, 2 * between / (total + between), 0.0)


def _shared_counts(a: Tensor, b: Tensor, most: int) -> Tensor:
    """Return the sum of minima of whole numbers from 0 to `most`, `n x d` and `m x d`, as float64 `n x m`.

    A minimum is the number of thresholds that both reach. float32 is exact up to 2^24 of them.
    """
    shared = a.new_zeros(len(a), len(b))
    for threshold in range(1, most + 1):
        reached = (a >= threshold).float()
        for first in range(0, len(b), _COLUMNS_AT_ONCE):
            some = slice(first, first + _COLUMNS_AT_ONCE)
            shared[:, some] += reached @ (b[some] >= threshold).float().T
    return shared


def _scales(X: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and sd of each column, `d` and `d`; the sd is 1 where the column is constant."""
    centre = X.mean(dim=0)
    sd = (X - centre).square().mean(dim=0).sqrt()
    return centre, torch.where(sd > 1e-12 * X.abs().amax(dim=0), sd, 1.0)


def _coordinates(X: Tensor) -> Tensor:
    """Return centred features `n x d`, or about their first `MAX_COORDINATES` principal coordinates.

    Two rounds of subspace iteration from a fixed start: the tree needs directions of much variance, not the
    exact ones. Source: Halko et al. 2011, arXiv:0909.4061, algorithm 4.4.
    """
    if X.shape[1] <= MAX_COORDINATES:
        return X
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(X.shape[1], MAX_COORDINATES, generator=generator, dtype=X.dtype)
    for _ in range(2):
        basis = torch.linalg.qr(X.T @ (X @ basis)).Q
    found = X @ basis
    return found / found.std().clamp_min(torch.finfo(X.dtype).tiny)
