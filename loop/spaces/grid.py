"""The hypergrid: whole-number coordinates that only grow, a graph small enough for exact tests.

Rewards on the grid do not belong here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flowscout.errors import ObjectError
from flowscout.loop.spaces.arguments import require_enumerable, require_list, whole_number
from flowscout.loop.spaces.records import PerDevice, TensorRecord

NUMBER = re.compile("[0-9]+")


@dataclass(frozen=True, slots=True, eq=False)
class GridState(TensorRecord):
    """A batch of points: `cells` int64 `b x (D + 1)`, the coordinates and 1 in the last column once stopped."""

    cells: Tensor

    @property
    def position(self) -> Tensor:
        """The coordinates, int64 `b x D`, each from 0 to `side - 1`."""
        return self.cells[:, :-1]

    @property
    def stopped(self) -> Tensor:
        """Which rows are finished, bool `b`."""
        return self.cells[:, -1] > 0


@dataclass(frozen=True, slots=True, eq=False)
class _Tables(TensorRecord):
    """`moves` int64 `A x (D + 1)`, `top` and `is_stop` `1 x (D + 1)`, `one_hot` float32 `side x side`."""

    moves: Tensor
    top: Tensor
    is_stop: Tensor
    one_hot: Tensor


class GridSpace:
    """All points of a grid with `dim` axes of `side` cells, reached from the origin one cell at a time.

    Action `i` adds 1 to coordinate `i`, for `i < dim`; action `dim` stops, which every state allows.
    Backward action `i` undoes forward action `i`. A point is written as its coordinates: `3,0,7`.

    Raises:
        ConfigError: There is no axis, or an axis has fewer than two cells.
    """

    every_state_terminal = True
    fixed_length = False

    def __init__(self, dim: int, side: int) -> None:
        self.dim = whole_number("dim", dim, least=1)
        self.side = whole_number("side", side, least=2)
        self._tables = PerDevice(
            _Tables(
                moves=torch.eye(dim + 1, dtype=torch.int64),
                top=torch.tensor([[side - 1] * dim + [1]]),
                is_stop=torch.tensor([[False] * dim + [True]]),
                one_hot=torch.eye(side),
            )
        )

    def __repr__(self) -> str:
        return f"GridSpace({self.dim}, {self.side})"

    @property
    def n_actions(self) -> int:
        """One action per axis, and the stop."""
        return self.dim + 1

    @property
    def n_backward_actions(self) -> int:
        """Each forward action has its own undoing."""
        return self.n_actions

    @property
    def stop_action(self) -> int | None:
        """The last action."""
        return self.dim

    @property
    def max_steps(self) -> int:
        """The steps to the far corner, and the stop."""
        return self.dim * (self.side - 1) + 1

    @property
    def is_tree(self) -> bool:
        """Whether there is one axis only."""
        return self.dim == 1

    @property
    def encoding_dim(self) -> int:
        """One column per axis and cell."""
        return self.dim * self.side

    @property
    def size(self) -> int:
        """The number of points."""
        size: int = self.side**self.dim
        return size

    def reset(self, n: int, device: torch.device | str = "cpu") -> GridState:
        """Return `n` rows at the origin."""
        return GridState(torch.zeros(n, self.dim + 1, dtype=torch.int64, device=device))

    def forward_mask(self, state: GridState) -> Tensor:
        """Return bool `b x (D + 1)`: the axes that have cells left, and the stop."""
        below = state.cells < self._on(state).top
        return below & below.narrow(1, self.dim, 1)

    def step(self, state: GridState, action: Tensor) -> GridState:
        """Go on by one cell, or stop."""
        tables = self._on(state)
        # The minimum leaves a row that has stopped as it is when it stops again.
        return GridState(torch.minimum(state.cells + tables.moves.index_select(0, action), tables.top))

    def done(self, state: GridState) -> Tensor:
        """Return which rows have stopped, bool `b`."""
        return state.cells.select(1, self.dim) > 0

    def backward_mask(self, state: GridState) -> Tensor:
        """Return bool `b x (D + 1)`: the axes that are not at 0, or nothing but the stop."""
        above = state.cells > 0
        return above & (above.narrow(1, self.dim, 1) == self._on(state).is_stop)

    def step_back(self, state: GridState, action: Tensor) -> GridState:
        """Go back by one cell, or undo the stop."""
        return GridState(state.cells - self._on(state).moves.index_select(0, action))

    def reverse(self, state: GridState, action: Tensor) -> Tensor:  # noqa: ARG002 (the protocol's argument)
        """Return the same numbers, `b`."""
        return action

    def retrace(self, state: GridState, action: Tensor) -> Tensor:  # noqa: ARG002 (the protocol's argument)
        """Return the same numbers, `b`."""
        return action

    def log_symmetry(self, state: GridState) -> Tensor:
        """Return zeros, float64 `b`: a point has one state."""
        return torch.zeros(len(state), dtype=torch.float64, device=state.device)

    def encode(self, state: GridState) -> Tensor:
        """Return one-hot coordinates, float32 `b x (D side)`; the stop is not seen."""
        return functional.embedding(state.position, self._on(state).one_hot).flatten(1)

    def features(self, state: GridState) -> Tensor:
        """Return the coordinates, float64 `b x D`."""
        return state.position.double()

    def decode(self, state: GridState) -> list[str]:
        """Return each row's coordinates, such as `3,0,7`."""
        return [",".join(map(str, row)) for row in state.position.tolist()]

    def parse(self, objects: Sequence[str], device: torch.device | str = "cpu") -> GridState:
        """Return the finished rows of points given as text.

        Raises:
            ObjectError: An object is not in the space; the message names it and what is wrong.
        """
        require_list(objects)
        rows = [[*self._read(text), 1] for text in objects]
        return GridState(torch.tensor(rows, dtype=torch.int64, device=device).reshape(-1, self.dim + 1))

    def key(self, text: str) -> str:
        """Return the point without spaces and leading zeros.

        Raises:
            ObjectError: The text is not in the space.
        """
        return ",".join(map(str, self._read(text)))

    def keys(self, state: GridState) -> list[str]:
        """Return the key of each row: what `decode` writes."""
        return self.decode(state)

    def validate(self, text: object) -> str | None:
        """Return why the text is not a point of the grid, or None if it is one."""
        try:
            self._read(text)
        except ObjectError as error:
            return str(error)
        return None

    def enumerate(self, device: torch.device | str = "cpu") -> GridState:
        """Return every point once, the last coordinate running fastest.

        Raises:
            ConfigError: There are more than `ENUMERATION_LIMIT`.
        """
        require_enumerable(self, self.size)
        places = torch.tensor([self.side**power for power in range(self.dim - 1, -1, -1)], device=device)
        position = torch.arange(self.size, device=device).unsqueeze(1) // places % self.side
        return GridState(torch.cat([position, torch.ones_like(position[:, :1])], dim=1))

    def distance(self, a: GridState, b: GridState) -> Tensor:
        """Return the number of cells between points along the axes, float64 `n x m`."""
        return torch.cdist(self.features(a), self.features(b), p=1.0)

    def image(self, state: GridState) -> GridState:
        """Return the rows themselves: a point has one state."""
        return state

    def neighbours(self, state: GridState) -> GridState:
        """Return every finished row moved by one cell along each axis, both ways, in row order."""
        row, edit = self._edits(state).nonzero(as_tuple=True)
        return self._edited(state[row], edit)

    def mutate(self, state: GridState, generator: torch.Generator) -> GridState:
        """Return each finished row after one move drawn uniformly from those of `neighbours`."""
        if len(state) == 0:
            return state
        return self._edited(state, self._edits(state).double().multinomial(1, generator=generator).squeeze(1))

    def _edits(self, state: GridState) -> Tensor:
        """Return which moves stay on the grid, bool `b x 2D`: up each axis, then down."""
        return torch.cat([state.position < self.side - 1, state.position > 0], dim=1)

    def _edited(self, state: GridState, edit: Tensor) -> GridState:
        moves = self._on(state).moves
        change = moves.index_select(0, edit % self.dim) * (1 - 2 * (edit // self.dim)).unsqueeze(1)
        return GridState(state.cells + change)

    def _on(self, state: GridState) -> _Tables:
        return self._tables.on(state.cells.device)

    def _read(self, text: object) -> list[int]:
        example = ",".join(["0"] * self.dim)
        if not isinstance(text, str):
            raise ObjectError(
                f"The object {text!r} is of type {type(text).__name__}, expected a text such as {example!r}. "
                "Write it as text."
            )
        parts = [part.strip() for part in text.split(",")]
        if len(parts) != self.dim:
            raise ObjectError(
                f"The object {text!r} has {len(parts)} coordinates, expected {self.dim}, such as {example!r}. "
                "Correct the object, or change the dim of the space."
            )
        for position, part in enumerate(parts, start=1):
            # Not int alone: it reads signs, underscores and digits of other scripts.
            if not NUMBER.fullmatch(part) or len(part) > 9 or int(part) >= self.side:
                raise ObjectError(
                    f"The object {text!r} has {part!r} at coordinate {position}, expected a whole number from "
                    f"0 to {self.side - 1}. Correct it, or change the side of the space."
                )
        return [int(part) for part in parts]
