"""How sequences grow: where a letter may be added, when an object may stop, and how each step is undone.

Text, features and distances belong in `sequence`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flowscout.loop.spaces.alphabets import SequenceRules
from flowscout.loop.spaces.records import PerDevice, TensorRecord
from flowscout.loop.spaces.walking import BLANK, Walker

Ends = Literal["append", "both"]


LEAST_PRIOR = -20.0
"""The least log-probability of a legal action before training: what training can still overcome."""


@dataclass(frozen=True, slots=True, eq=False)
class SequenceState(TensorRecord):
    """A batch of sequences, finished or not, aligned to the left.

    `tokens` int64 `b x L`, `BLANK` where unfilled; `length` int64 `b`; `finished` bool `b`.
    """

    tokens: Tensor
    length: Tensor
    finished: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class RuledState(SequenceState):
    """A batch of sequences under rules: also the `path` of each through their automaton, int32 `b x (L + 1)`.

    So a step back asks nothing of the letters before it.
    """

    path: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _LetterTable(TensorRecord):
    """Which letters may come next after so many, bool `(L + 1) x A`."""

    allowed: Tensor


class AppendGrowth:
    """Append letters until the one length is reached: a tree without a stop action.

    Action `i` appends letter `i`; the only backward action, 0, removes the last letter.
    """

    stop_action: int | None = None
    is_tree = True
    n_backward_actions = 1

    def __init__(self, rules: SequenceRules) -> None:
        self.n_actions = len(rules.letters)
        self.max_steps = rules.length
        self._tables = PerDevice(_LetterTable(_allowed_letters(rules)))

    def forward_mask(self, state: SequenceState) -> Tensor:
        """Return bool `b x A`: the letters of the next position, until the sequence is full."""
        return self._tables.on(state.tokens.device).allowed.index_select(0, state.length)

    def step(self, state: SequenceState, action: Tensor) -> SequenceState:
        """Append one letter to every row."""
        tokens = state.tokens.scatter(1, state.length.unsqueeze(1), action.unsqueeze(1))
        length = state.length + 1
        return SequenceState(tokens, length, length == self.max_steps)

    def backward_mask(self, state: SequenceState) -> Tensor:
        """Return bool `b x 1`: the last letter can be removed, if there is one."""
        return (state.length > 0).unsqueeze(1)

    def step_back(self, state: SequenceState, action: Tensor) -> SequenceState:  # noqa: ARG002 (there is one)
        """Remove the last letter of every row."""
        last = state.length - 1
        tokens = state.tokens.scatter(1, last.unsqueeze(1), BLANK)
        return SequenceState(tokens, last, torch.zeros_like(state.finished))

    def reverse(self, action: Tensor) -> Tensor:
        """Return zeros, `b`: every append is undone by removing the last letter."""
        return torch.zeros_like(action)

    def retrace(self, state: SequenceState, action: Tensor) -> Tensor:  # noqa: ARG002 (there is one)
        """Return the code of the last letter of every row, `b`."""
        return state.tokens.gather(1, (state.length - 1).unsqueeze(1)).squeeze(1)


@dataclass(frozen=True, slots=True, eq=False)
class _OpenTables(TensorRecord):
    """What depends on the length alone, or on the action alone.

    `forward` bool `(L + 2) x A` and `backward` bool `(L + 2) x B`: the masks by length, the last row for what
    has stopped. `code`, `grows`, `undo` int64 `A`: the letter of an action (`BLANK` for the stop), 1 if it
    adds one, and the backward action that undoes it. `positions` int64 `1 x L`, from 0.
    """

    forward: Tensor
    backward: Tensor
    code: Tensor
    grows: Tensor
    undo: Tensor
    positions: Tensor


class OpenGrowth:
    """Append letters, or add them at both ends, to one length or to any of several.

    Action `i` appends letter `i`. With both ends, action `A + i` prepends letter `i`, once there is a letter.
    With several lengths the last action stops; an object of full length stops too. Backward action 0 removes
    the last letter; with both ends 1 removes the first, if there are two; the last one undoes the stop.
    """

    def __init__(self, rules: SequenceRules, ends: Ends) -> None:
        self._letters, self._full = len(rules.letters), rules.length
        self._both = ends == "both"
        self._stops = len(rules.lengths) > 1
        self.is_tree = not self._both
        adding = self._letters * (1 + self._both)
        self.n_actions = adding + self._stops
        self.n_backward_actions = 1 + self._both + self._stops
        self.stop_action: int | None = adding if self._stops else None
        self.max_steps = rules.length + self._stops

        lengths = torch.arange(rules.length + 1)
        allowed = _allowed_letters(rules)
        forward, backward = [allowed], [(lengths > 0).unsqueeze(1)]
        if self._both:
            forward.append(allowed & (lengths > 0).unsqueeze(1))
            backward.append((lengths > 1).unsqueeze(1))
        if self._stops:
            forward.append((lengths >= rules.lengths[0]).unsqueeze(1))
            backward.append(torch.zeros(len(lengths), 1, dtype=torch.bool))
        stopped = torch.arange(self.n_backward_actions) == self.n_backward_actions - 1
        action = torch.arange(self.n_actions)
        self._tables = PerDevice(
            _OpenTables(
                forward=torch.cat([torch.cat(forward, dim=1), torch.zeros(1, self.n_actions, dtype=torch.bool)]),
                backward=torch.cat([torch.cat(backward, dim=1), stopped.unsqueeze(0)]),
                code=torch.where(action < adding, action % self._letters, BLANK),
                grows=(action < adding).long(),
                undo=action // self._letters if self._both else (action == adding).long(),
                positions=lengths[:-1].unsqueeze(0),
            )
        )

    def forward_mask(self, state: SequenceState) -> Tensor:
        """Return bool `b x A`: the letters of the next position, and the stop from the least length on."""
        return self._tables.on(state.tokens.device).forward.index_select(0, self._row(state))

    def step(self, state: SequenceState, action: Tensor) -> SequenceState:
        """Add one letter to every row, or stop."""
        tables = self._tables.on(state.tokens.device)
        code = tables.code.index_select(0, action).unsqueeze(1)
        place = state.length.unsqueeze(1)
        tokens = state.tokens
        if self._both:
            prepends = ((action >= self._letters) & (action < 2 * self._letters)).unsqueeze(1)
            tokens = torch.where(prepends, tokens.roll(1, dims=1), tokens)
            place = place.masked_fill(prepends, 0)
        # A stop writes a blank behind the last letter, where there is one already or no position at all.
        tokens = torch.where(tables.positions == place, code, tokens)
        length = state.length + tables.grows.index_select(0, action)
        if self._stops:
            return SequenceState(tokens, length, state.finished | (action == self.stop_action))
        return SequenceState(tokens, length, length == self._full)

    def backward_mask(self, state: SequenceState) -> Tensor:
        """Return bool `b x B`: the letters that can be removed, or nothing but the stop."""
        return self._tables.on(state.tokens.device).backward.index_select(0, self._row(state))

    def step_back(self, state: SequenceState, action: Tensor) -> SequenceState:
        """Remove one letter of every row, or undo the stop."""
        tables = self._tables.on(state.tokens.device)
        removes = torch.ones_like(action)
        if self._stops:
            removes = (action < self.n_backward_actions - 1).long()
        length = state.length - removes
        tokens = state.tokens
        if self._both:
            tokens = torch.where((action == 1).unsqueeze(1), tokens.roll(-1, dims=1), tokens)
        tokens = torch.where(tables.positions < length.unsqueeze(1), tokens, BLANK)
        return SequenceState(tokens, length, torch.zeros_like(state.finished))

    def reverse(self, action: Tensor) -> Tensor:
        """Return the backward action, `b`, that takes the added letter or the stop back."""
        return self._tables.on(action.device).undo.index_select(0, action)

    def retrace(self, state: SequenceState, action: Tensor) -> Tensor:
        """Return the forward action, `b`, that adds the removed letter again, or stops."""
        last = state.tokens.gather(1, (state.length - 1).unsqueeze(1)).squeeze(1)
        forward = last
        if self._both:
            forward = torch.where(action == 1, state.tokens[:, 0] + self._letters, forward)
        if self.stop_action is not None:
            forward = forward.masked_fill(action == self.n_backward_actions - 1, self.stop_action)
        return forward

    def _row(self, state: SequenceState) -> Tensor:
        """Return each state's row of the masks, `b`."""
        return state.length.masked_fill(state.finished, self._full + 1) if self._stops else state.length


@dataclass(frozen=True, slots=True, eq=False)
class _RuledTables(TensorRecord):
    """`forward` bool `(N + 1) x A`: the mask of each node, the last row for what has stopped.

    `prior` float32 `(N + 1) x A`: the log-probabilities of the actions where every string is equally likely, 0
    where an action is illegal. `positions` int64 `1 x (L + 1)`, from 0.
    """

    forward: Tensor
    prior: Tensor
    positions: Tensor


class RuledGrowth:
    """Append letters as the automaton of the rules allows, to one length or to any of several: always a tree.

    Action `i` appends letter `i`; with several lengths the last action stops. Backward action 0 removes the last
    letter, 1 undoes the stop. No mask has a dead end, for the automaton has none; and what comes before the last
    letter of a legal sequence is legal too.
    """

    is_tree = True

    def __init__(self, rules: SequenceRules, walker: Walker) -> None:
        self._walker, self._letters, self._full = walker, len(rules.letters), rules.length
        self._stops = len(rules.lengths) > 1
        self.n_actions = self._letters + self._stops
        self.n_backward_actions = 1 + self._stops
        self.stop_action: int | None = self._letters if self._stops else None
        self.max_steps = rules.length + self._stops
        columns = [walker.legal, walker.accepts.unsqueeze(1)] if self._stops else [walker.legal]
        forward = torch.cat(columns, dim=1)
        self._nodes = len(forward)
        idle = torch.zeros(1, self.n_actions, dtype=torch.bool)
        positions = torch.arange(rules.length + 1).unsqueeze(0)
        forward = torch.cat([forward, idle])
        self._tables = PerDevice(_RuledTables(forward, _prior(walker, forward), positions))

    def prior(self, state: SequenceState) -> Tensor:
        """Return each action's log-probability in a uniform draw of the finished strings, float32 `b x A`.

        It is at least `LEAST_PRIOR`, and 0 where an action is illegal.
        """
        row = self._row(state)
        return self._tables.on(row.device).prior.index_select(0, row)

    def forward_mask(self, state: SequenceState) -> Tensor:
        """Return bool `b x A`: the letters that an object can have next, and the stop where it is one."""
        row = self._row(state)
        return self._tables.on(row.device).forward.index_select(0, row)

    def step(self, state: SequenceState, action: Tensor) -> SequenceState:
        """Append one letter to every row, or stop."""
        place = state.length.unsqueeze(1)
        if not self._stops:
            node = self._walker.follow(_node(state), action)
            tokens = state.tokens.scatter(1, place, action.unsqueeze(1))
            length = state.length + 1
            path = _path(state).scatter(1, place + 1, node.unsqueeze(1))
            return RuledState(tokens, length, length == self._full, path)
        stop, positions = action >= self._letters, self._tables.on(action.device).positions
        node = self._walker.follow(_node(state), action.masked_fill(stop, 0))
        # A stop writes a blank behind the last letter, where there is one already or no position at all.
        code = action.masked_fill(stop, BLANK).unsqueeze(1)
        tokens = torch.where(positions[:, :-1] == place, code, state.tokens)
        path = torch.where(positions == place + 1, node.unsqueeze(1), _path(state))
        return RuledState(tokens, state.length + (~stop).long(), state.finished | stop, path)

    def backward_mask(self, state: SequenceState) -> Tensor:
        """Return bool `b x B`: the last letter can be removed, or nothing but the stop."""
        if not self._stops:
            return (state.length > 0).unsqueeze(1)
        return torch.stack([(state.length > 0) & ~state.finished, state.finished], dim=1)

    def step_back(self, state: SequenceState, action: Tensor) -> SequenceState:
        """Remove the last letter of every row, or undo the stop."""
        length = state.length - (action == 0).long()
        positions = self._tables.on(action.device).positions[:, :-1]
        tokens = torch.where(positions < length.unsqueeze(1), state.tokens, BLANK)
        return RuledState(tokens, length, torch.zeros_like(state.finished), _path(state))

    def reverse(self, action: Tensor) -> Tensor:
        """Return the backward action, `b`, that takes the letter or the stop back."""
        return (action == self._letters).long()

    def retrace(self, state: SequenceState, action: Tensor) -> Tensor:
        """Return the forward action, `b`, that adds the removed letter again, or stops."""
        last = state.tokens.gather(1, (state.length - 1).clamp_min(0).unsqueeze(1)).squeeze(1)
        return last.masked_fill(action == 1, self._letters)

    def _row(self, state: SequenceState) -> Tensor:
        """Return each state's row of the tables, int32 `b`."""
        return _node(state).masked_fill(state.finished, self._nodes) if self._stops else _node(state)


def _prior(walker: Walker, forward: Tensor) -> Tensor:
    """Return the prior of every row of the masks, float32."""
    found = torch.zeros(forward.shape, dtype=torch.float32)
    nodes = torch.arange(len(forward) - 1, dtype=torch.int32)
    for some in torch.split(nodes, 2**16):
        ways = walker.weights(some)[:, : forward.shape[1]]
        log_p = (ways.log() - ways.sum(dim=1, keepdim=True).log()).clamp_min(LEAST_PRIOR)
        found[some.long()] = log_p.float().masked_fill(~forward[some.long()], 0.0)
    return found


def _node(state: SequenceState) -> Tensor:
    """Return where each row stands in the automaton, int32 `b`."""
    return _path(state).gather(1, state.length.unsqueeze(1)).squeeze(1)


def _path(state: SequenceState) -> Tensor:
    assert isinstance(state, RuledState)
    return state.path


Growth = AppendGrowth | OpenGrowth | RuledGrowth
"""What `SequenceSpace` asks for every step; the methods are those of `Space`."""


def growth_of(rules: SequenceRules, ends: Ends, walker: Walker | None) -> Growth:
    """Return the fastest way to grow the sequences of some rules; a `walker` knows those with constraints."""
    if walker is not None:
        return RuledGrowth(rules, walker)
    plain = ends == "append" and len(rules.lengths) == 1
    return AppendGrowth(rules) if plain else OpenGrowth(rules, ends)


def _allowed_letters(rules: SequenceRules) -> Tensor:
    """Return which letters may follow so many, bool `(L + 1) x A`: none after the last position."""
    rows = [[letter in rules.choice(position) for letter in rules.letters] for position in range(rules.length)]
    return torch.tensor([*rows, [False] * len(rules.letters)])
