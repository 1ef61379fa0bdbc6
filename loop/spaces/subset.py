"""Subsets of named items: exact k-subsets, and all subsets that keep rules which no removal can break.

What makes a subset good does not belong here, nor does a rule that a smaller subset may break.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from flowscout.errors import ConfigError, ObjectError
from flowscout.loop.spaces.arguments import (
    names_of,
    read_set,
    require_enumerable,
    require_list,
    whole_number,
    whole_weights,
)
from flowscout.loop.spaces.records import PerDevice, TensorRecord

COUNTED_ITEMS = 16
"""Up to so many items the subsets that keep conflicts or weights are counted one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class SubsetState(TensorRecord):
    """A batch of subsets: `marks` bool `b x (n + 1)`, what is chosen and, in the last column, what stopped."""

    marks: Tensor

    @property
    def chosen(self) -> Tensor:
        """Which items are in each subset, bool `b x n`."""
        return self.marks[:, :-1]

    @property
    def stopped(self) -> Tensor:
        """Which rows have taken the stop action, bool `b`; none does where subsets have one size."""
        return self.marks[:, -1]


@dataclass(frozen=True, slots=True, eq=False)
class _Tables(TensorRecord):
    """`is_stop` bool `1 x (n + 1)`; `blocks` float32 `(n + 1) x (n + 1)`: what each mark rules out."""

    is_stop: Tensor
    blocks: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Budget(TensorRecord):
    """Exact whole numbers in float64: `weights`, `n + 1` with 0 for the stop, and `capacity`, 1."""

    weights: Tensor
    capacity: Tensor


class SubsetSpace:
    """Subsets of `items`, a number or a list of names, grown by one item a step in any order.

    With `size` and nothing else these are the subsets of that many items, which finish by themselves: action
    `i` chooses item `i`. Otherwise they are all subsets that keep the rules, the empty one included; action
    `n` stops, which every state allows. Backward action `i` undoes forward action `i`.

    The rules: at most `max_size` items; no pair of `conflicts` together (names, or positions from 0); the sum
    of `weights`, one per item, at most `capacity`. Numbers are taken as the decimals they are written as, so
    that 0.1 + 0.2 fits in 0.3. A subset is written `{a, c}`, in any order.

    Raises:
        ConfigError: An argument cannot be, or `size` is given together with a rule: a walk could then get
            stuck before it has enough items.
    """

    is_tree = False

    def __init__(
        self,
        items: int | Sequence[str],
        *,
        size: int | None = None,
        max_size: int | None = None,
        conflicts: Sequence[tuple[str | int, str | int]] | None = None,
        weights: Sequence[float] | None = None,
        capacity: float | None = None,
    ) -> None:
        self.names = names_of("items", items, least=1, without=("{", "}", ","))
        self._numbers = {name: number for number, name in enumerate(self.names)}
        n = len(self.names)
        rules = {"max_size": max_size, "conflicts": conflicts, "weights": weights, "capacity": capacity}
        given = [name for name, value in rules.items() if value is not None]
        if size is not None and given:
            raise ConfigError(
                f"size came with {' and '.join(given)}, expected size alone: with another rule a walk could get "
                "stuck before it has enough items. Use max_size in place of size, or put the rule in the reward."
            )
        self._k = None if size is None else whole_number("size", size, least=1, most=n)
        self._max_size = n if max_size is None else min(n, whole_number("max_size", max_size, least=1))
        self._pairs = self._read_conflicts(() if conflicts is None else conflicts)
        self._weights, self._capacity, self._unit = whole_weights(n, weights, capacity)
        self._rules = ", ".join(
            f"{name}={value!r}" for name, value in {"size": size, **rules}.items() if value is not None
        )

        blocks = torch.eye(n + 1)
        blocks[n] = 1
        for a, b in self._pairs:
            blocks[a, b] = blocks[b, a] = 1
        self._tables = PerDevice(_Tables(torch.tensor([[False] * n + [True]]), blocks))
        self._budgets = [] if self._max_size == n else [_budget([1] * n, self._max_size)]
        if weights is not None:
            self._budgets.append(_budget(self._weights, self._capacity))

    def __repr__(self) -> str:
        numbered = self.names == tuple(map(str, range(len(self.names))))
        items = len(self.names) if numbered else list(self.names)
        return f"SubsetSpace({items!r}{', ' if self._rules else ''}{self._rules})"

    @property
    def n_actions(self) -> int:
        """One action per item, and the stop where there is one."""
        return len(self.names) + (self._k is None)

    @property
    def n_backward_actions(self) -> int:
        """Each forward action has its own undoing."""
        return self.n_actions

    @property
    def stop_action(self) -> int | None:
        """The last action, or None for subsets of one size."""
        return len(self.names) if self._k is None else None

    @property
    def every_state_terminal(self) -> bool:
        """Whether subsets may have any size: a part of a subset that keeps the rules keeps them too."""
        return self._k is None

    @property
    def fixed_length(self) -> bool:
        """Whether all subsets have one size."""
        return self._k is not None

    @property
    def max_steps(self) -> int:
        """The most items that can be together, and the stop; with conflicts, no fewer than that."""
        if self._k is not None:
            return self._k
        # The lightest items, as many as fit; of each pair of a matching in the conflicts one stays out.
        loads = torch.tensor(sorted(self._weights)).cumsum(0)
        matched: set[int] = set()
        for pair in self._pairs:
            if matched.isdisjoint(pair):
                matched.update(pair)
        return min(self._max_size, int((loads <= self._capacity).sum()), len(self.names) - len(matched) // 2) + 1

    @property
    def encoding_dim(self) -> int:
        """One column per item."""
        return len(self.names)

    @cached_property
    def size(self) -> int | None:
        """The number of subsets, or None where only counting all of them would tell."""
        n = len(self.names)
        if self._k is not None:
            return math.comb(n, self._k)
        if not self._pairs and sum(self._weights) <= self._capacity:
            return sum(math.comb(n, k) for k in range(self._max_size + 1))
        return len(self.enumerate()) if n <= COUNTED_ITEMS else None

    def reset(self, n: int, device: torch.device | str = "cpu") -> SubsetState:
        """Return `n` empty subsets."""
        return SubsetState(torch.zeros(n, len(self.names) + 1, dtype=torch.bool, device=device))

    def forward_mask(self, state: SubsetState) -> Tensor:
        """Return bool `b x A`: the items that may be added, and the stop."""
        if self._k is not None:
            return ~(state.chosen | self.done(state).unsqueeze(1))
        return self._open(state.marks)

    def step(self, state: SubsetState, action: Tensor) -> SubsetState:
        """Choose one item, or stop."""
        return SubsetState(state.marks.scatter(1, action.unsqueeze(1), True))

    def done(self, state: SubsetState) -> Tensor:
        """Return which rows have stopped, or have all their items, bool `b`."""
        if self._k is None:
            return state.marks.select(1, len(self.names))
        return state.marks.view(torch.uint8).sum(dim=1) == self._k

    def backward_mask(self, state: SubsetState) -> Tensor:
        """Return bool `b x A`: the items that are chosen, or nothing but the stop."""
        if self._k is not None:
            return state.chosen
        marks = state.marks
        return marks & (marks.narrow(1, len(self.names), 1) == self._on(marks).is_stop)

    def step_back(self, state: SubsetState, action: Tensor) -> SubsetState:
        """Give back one item, or undo the stop."""
        return SubsetState(state.marks.scatter(1, action.unsqueeze(1), False))

    def reverse(self, state: SubsetState, action: Tensor) -> Tensor:  # noqa: ARG002 (the protocol's argument)
        """Return the same numbers, `b`."""
        return action

    def retrace(self, state: SubsetState, action: Tensor) -> Tensor:  # noqa: ARG002 (the protocol's argument)
        """Return the same numbers, `b`."""
        return action

    def log_symmetry(self, state: SubsetState) -> Tensor:
        """Return zeros, float64 `b`: a subset has one state."""
        return torch.zeros(len(state), dtype=torch.float64, device=state.device)

    def encode(self, state: SubsetState) -> Tensor:
        """Return what is chosen, float32 `b x n`; the stop is not seen."""
        # As bytes: PyTorch turns bools into floats five times slower.
        return state.marks.narrow(1, 0, len(self.names)).view(torch.uint8).float()

    def features(self, state: SubsetState) -> Tensor:
        """Return what is chosen, float64 `b x n`."""
        return state.chosen.double()

    def decode(self, state: SubsetState) -> list[str]:
        """Return each row's names in the order of the items, such as `{a, c}`."""
        return [self._write(row) for row in state.chosen.tolist()]

    def parse(self, objects: Sequence[str], device: torch.device | str = "cpu") -> SubsetState:
        """Return the finished rows of subsets given as text.

        Raises:
            ObjectError: An object is not in the space; the message names it and what is wrong.
        """
        require_list(objects)
        rows = [[*self._read(text), self._k is None] for text in objects]
        return SubsetState(torch.tensor(rows, dtype=torch.bool, device=device).reshape(-1, len(self.names) + 1))

    def key(self, text: str) -> str:
        """Return the subset with its names in the order of the items.

        Raises:
            ObjectError: The text is not in the space.
        """
        return self._write(self._read(text))

    def keys(self, state: SubsetState) -> list[str]:
        """Return the key of each row: what `decode` writes."""
        return self.decode(state)

    def validate(self, text: object) -> str | None:
        """Return why the text is not a subset of the space, or None if it is one."""
        try:
            self._read(text)
        except ObjectError as error:
            return str(error)
        return None

    def enumerate(self, device: torch.device | str = "cpu") -> SubsetState:
        """Return every subset once.

        Raises:
            ConfigError: There are more than `ENUMERATION_LIMIT`.
        """
        n = len(self.names)
        if self._k is not None:
            require_enumerable(self, math.comb(n, self._k))
            items = torch.combinations(torch.arange(n, device=device), self._k)
            return SubsetState(self.reset(len(items), device).marks.scatter(1, items, True))
        marks = self.reset(1, device).marks
        for item in range(n):  # every part of a subset that keeps the rules keeps them too
            more = marks[self._open(marks)[:, item]]
            more[:, item] = True
            marks = torch.cat([marks, more])
            require_enumerable(self, len(marks))
        return SubsetState(marks.index_fill(1, torch.tensor([n], device=device), True))

    def distance(self, a: SubsetState, b: SubsetState) -> Tensor:
        """Return in how many items subsets differ, float64 `n x m`."""
        return torch.cdist(self.features(a), self.features(b), p=1.0)

    def image(self, state: SubsetState) -> SubsetState:
        """Return the rows themselves: a subset has one state."""
        return state

    def neighbours(self, state: SubsetState) -> SubsetState:
        """Return every finished row after each edit that the rules allow, in row order.

        An edit adds or removes one item; where all subsets have one size it exchanges one for another.
        """
        row, edit = self._edits(state).nonzero(as_tuple=True)
        return self._edited(state[row], edit)

    def mutate(self, state: SubsetState, generator: torch.Generator) -> SubsetState:
        """Return each finished row after one edit drawn uniformly from those of `neighbours`."""
        mask = self._edits(state)
        if not mask.any():  # there are no rows, or the space has one object only
            return state
        return self._edited(state, mask.double().multinomial(1, generator=generator).squeeze(1))

    def _edits(self, state: SubsetState) -> Tensor:
        """Return which edits are legal, bool `b x n`, or `b x n^2` (what goes, what comes) with one size."""
        chosen = state.chosen
        if self._k is not None:
            return (chosen.unsqueeze(2) & ~chosen.unsqueeze(1)).flatten(1)
        running = torch.cat([chosen, torch.zeros_like(chosen[:, :1])], dim=1)
        return chosen | self._open(running)[:, :-1]

    def _edited(self, state: SubsetState, edit: Tensor) -> SubsetState:
        column = edit.unsqueeze(1)
        if self._k is None:
            return SubsetState(state.marks.scatter(1, column, ~state.marks.gather(1, column)))
        n = len(self.names)
        return SubsetState(state.marks.scatter(1, column // n, False).scatter(1, column % n, True))

    def _open(self, marks: Tensor) -> Tensor:
        """Return which marks may be set next, bool like `marks`: none in a row that has stopped."""
        if self._pairs:
            mask = (marks.view(torch.uint8).float() @ self._on(marks).blocks) == 0
        else:
            mask = ~(marks | marks.narrow(1, len(self.names), 1))
        for budget in self._budgets:
            limit = budget.on(marks.device)
            load = marks.view(torch.uint8).double() @ limit.weights
            mask &= load.unsqueeze(1) + limit.weights <= limit.capacity
        return mask

    def _on(self, marks: Tensor) -> _Tables:
        return self._tables.on(marks.device)

    def _write(self, row: Sequence[bool]) -> str:
        return "{" + ", ".join([name for name, chosen in zip(self.names, row, strict=True) if chosen]) + "}"

    def _read(self, text: object) -> list[bool]:
        row = [False] * len(self.names)
        for name in read_set(text, self._write([True] * min(2, len(row)) + [False] * (len(row) - 2))):
            number = self._numbers.get(name)
            if number is None or row[number]:
                fault = "which is no item" if number is None else "twice"
                raise ObjectError(
                    f"The object {text!r} has {name!r}, {fault}; expected distinct names from "
                    f"{', '.join(self.names)}. Correct it, or change the items of the space."
                )
            row[number] = True
        self._check_rules(text, row)
        return row

    def _check_rules(self, text: object, row: Sequence[bool]) -> None:
        count = sum(row)
        expected = f"at most {self._max_size}" if self._k is None else str(self._k)
        if count > self._max_size or self._k not in (None, count):
            raise ObjectError(
                f"The object {text!r} has {count} items, expected {expected}. Correct it, or change the space."
            )
        for a, b in self._pairs:
            if row[a] and row[b]:
                raise ObjectError(
                    f"The object {text!r} has {self.names[a]!r} and {self.names[b]!r}, expected one of them at "
                    "most: they are in conflict. Remove one."
                )
        load = sum(weight for weight, chosen in zip(self._weights, row, strict=True) if chosen)
        if load > self._capacity:
            raise ObjectError(
                f"The object {text!r} weighs {load / self._unit:g}, expected at most "
                f"{self._capacity / self._unit:g}. Remove an item, or raise the capacity."
            )

    def _read_conflicts(self, conflicts: Sequence[tuple[str | int, str | int]]) -> list[tuple[int, int]]:
        pairs = []
        for pair in conflicts:
            numbers = [] if isinstance(pair, str) or not isinstance(pair, Sequence) else [*map(self._number, pair)]
            if len(numbers) != 2 or None in numbers or numbers[0] == numbers[1]:
                raise ConfigError(
                    f"conflicts has {pair!r}, expected two different items of {', '.join(self.names)}, by name or "
                    "by position from 0. Correct the pair."
                )
            pairs.append((numbers[0], numbers[1]))
        return pairs  # type: ignore[return-value]

    def _number(self, item: object) -> int | None:
        if isinstance(item, int) and not isinstance(item, bool):
            return item if 0 <= item < len(self.names) else None
        return self._numbers.get(item) if isinstance(item, str) else None


def _budget(weights: Sequence[int], capacity: int) -> PerDevice[_Budget]:
    return PerDevice(
        _Budget(
            torch.tensor([*weights, 0], dtype=torch.float64),
            torch.tensor([min(capacity, sum(weights))], dtype=torch.float64),
        )
    )
