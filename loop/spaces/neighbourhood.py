"""The neighbourhood of given sequences: all that lie within a few substitutions of one of them.

Which sequences are worth it does not belong here.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from flowscout.errors import ConfigError, ObjectError
from flowscout.loop.spaces.arguments import require_enumerable, require_list, whole_number
from flowscout.loop.spaces.growth import SequenceState
from flowscout.loop.spaces.records import PerDevice, TensorRecord
from flowscout.loop.spaces.sequence import SequenceSpace
from flowscout.loop.spaces.walking import BLANK

_WRITTEN = re.compile(r"(?P<letters>.*)@(?P<centre>\d{1,9})", re.DOTALL)
COUNTED = 2**16
"""A neighbourhood of so many states is counted object by object when its size is asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class NeighbourState(TensorRecord):
    """`tokens` int64 `b x L`, blank, and `centre` int64 `b`, -1, before one is chosen; `stopped` bool `b`."""

    tokens: Tensor
    centre: Tensor
    stopped: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Tables(TensorRecord):
    """`centres` int64 `(m + 1) x L`, the last row blank; `own` bool `(m + 1) x (L V)`: their letters."""

    centres: Tensor
    own: Tensor


class NeighbourhoodSpace:
    """Sequences of one length within `radius` substitutions of one of `centres`, texts of `sequences`.

    Action `i` chooses centre `i`, which comes first; action `m + p V + a` gives place `p` the letter `a`, which is
    not that of the centre, at most `radius` times, from left to right; the last action stops. Backward action 0
    takes back the last letter, or the centre where there is none; backward action 1 undoes the stop.

    It is a tree with few steps, whatever the length: a policy learns which letters to change, and what a good
    sequence is stands in its centres. An object is the sequence, its key: one that is near several centres has a
    state for each, and `log_symmetry` counts them. A state is written `ACGU@3`, its letters and its centre.

    Raises:
        ConfigError: Sequences have several lengths or rules, or the centres are none, or not all different.
        ObjectError: A centre is not one of the sequences.
    """

    every_state_terminal = False
    fixed_length = False
    is_tree = True
    has_prior = False
    n_backward_actions = 2

    def __init__(self, sequences: SequenceSpace, centres: Sequence[str], radius: int) -> None:
        if not sequences.fixed_length or sequences.rules.ruled:
            raise ConfigError(
                f"sequences is {sequences!r}, expected a space of one length without rules: a substitution may "
                "break one. Choose another way to search it."
            )
        self.sequences, self.texts = sequences, tuple(sequences.decode(sequences.parse(list(centres))))
        if not self.texts or len(set(self.texts)) < len(self.texts):
            raise ConfigError(
                f"centres are {len(self.texts)} sequences, {len(set(self.texts))} of them different, expected at "
                "least one and each once. Leave out those that stand twice."
            )
        self.length, self.n_letters = sequences.rules.length, len(sequences.rules.letters)
        self.radius = whole_number("radius", radius, least=1, most=self.length)
        tokens = sequences.features(sequences.parse(self.texts)).long()
        tokens = torch.cat([tokens, torch.full_like(tokens[:1], BLANK)])
        own = functional.one_hot(tokens.clamp_min(0), self.n_letters).bool() & (tokens != BLANK).unsqueeze(2)
        self._tables = PerDevice(_Tables(tokens, own.flatten(1)))

    def __repr__(self) -> str:
        return f"NeighbourhoodSpace({self.sequences!r}, {len(self.texts)} centres, {self.radius})"

    @property
    def n_actions(self) -> int:
        """One for each centre, one for each letter of each place, and the stop."""
        return len(self.texts) + self.length * self.n_letters + 1

    @property
    def stop_action(self) -> int:
        """The last action."""
        return self.n_actions - 1

    @property
    def max_steps(self) -> int:
        """The choice of a centre, `radius` letters, and the stop."""
        return self.radius + 2

    @property
    def encoding_dim(self) -> int:
        """Letters, centres, the place from which letters may change, and how many have changed."""
        return self.length * self.n_letters + len(self.texts) + self.length + 1 + self.radius + 1

    @property
    def n_states(self) -> int:
        """The number of finished states: an object that is near several centres counts several times."""
        ways = [math.comb(self.length, n) * (self.n_letters - 1) ** n for n in range(self.radius + 1)]
        found: int = len(self.texts) * sum(ways)
        return found

    @cached_property
    def size(self) -> int | None:
        """The number of objects; of more than `COUNTED` states only with one centre, else it is not known."""
        if len(self.texts) == 1 and self.sequences.symmetry is None:
            return self.n_states
        return len(set(self.keys(self.enumerate()))) if self.n_states <= COUNTED else None

    def reset(self, n: int, device: torch.device | str = "cpu") -> NeighbourState:
        """Return `n` rows without a centre."""
        return NeighbourState(
            torch.full((n, self.length), BLANK, dtype=torch.int64, device=device),
            torch.full((n,), -1, dtype=torch.int64, device=device),
            torch.zeros(n, dtype=torch.bool, device=device),
        )

    def forward_mask(self, state: NeighbourState) -> Tensor:
        """Return bool `b x A`: the centres, or the letters behind the last change, and the stop."""
        begun, (after, changes) = state.centre >= 0, self._changes(state)
        places = torch.arange(self.length, device=state.device)
        free = (begun & (changes < self.radius)).unsqueeze(1) & (places >= after.unsqueeze(1))
        letters = free.repeat_interleave(self.n_letters, dim=1) & ~self._own(state)
        choices = (~begun).unsqueeze(1).expand(-1, len(self.texts))
        return torch.cat([choices, letters, begun.unsqueeze(1)], dim=1) & ~state.stopped.unsqueeze(1)

    def step(self, state: NeighbourState, action: Tensor) -> NeighbourState:
        """Choose a centre, change a letter, or stop."""
        centres, stop = self._tables.on(state.device).centres, action == self.stop_action
        chooses = action < len(self.texts)
        centre = torch.where(chooses, action, state.centre)
        tokens = torch.where(chooses.unsqueeze(1), centres[centre], state.tokens)
        change = (action - len(self.texts)).clamp_min(0)
        place = (change // self.n_letters).clamp_max(self.length - 1).unsqueeze(1)
        kept = (chooses | stop).unsqueeze(1)
        letter = torch.where(kept, tokens.gather(1, place), (change % self.n_letters).unsqueeze(1))
        return NeighbourState(tokens.scatter(1, place, letter), centre, state.stopped | stop)

    def done(self, state: NeighbourState) -> Tensor:
        """Return which rows have stopped, bool `b`."""
        return state.stopped

    def backward_mask(self, state: NeighbourState) -> Tensor:
        """Return bool `b x 2`: whether a step can be taken back, or the stop."""
        return torch.stack([(state.centre >= 0) & ~state.stopped, state.stopped], dim=1)

    def step_back(self, state: NeighbourState, action: Tensor) -> NeighbourState:
        """Undo the last change, the choice of a centre, or the stop."""
        own, (after, _) = self._tables.on(state.device).centres[state.centre], self._changes(state)
        undoes = action == 0
        place = (after - 1).clamp_min(0).unsqueeze(1)
        changed = (undoes & (after > 0)).unsqueeze(1)
        tokens = state.tokens.scatter(1, place, torch.where(changed, own, state.tokens).gather(1, place))
        leaves = undoes & (after == 0)
        return NeighbourState(
            tokens.masked_fill(leaves.unsqueeze(1), BLANK),
            state.centre.masked_fill(leaves, -1),
            state.stopped & undoes,
        )

    def reverse(self, state: NeighbourState, action: Tensor) -> Tensor:  # noqa: ARG002 (the protocol's argument)
        """Return 1 for the stop, else 0, `b`."""
        return (action == self.stop_action).long()

    def retrace(self, state: NeighbourState, action: Tensor) -> Tensor:
        """Return the forward action, `b`, that does again what a backward action undoes."""
        after, _ = self._changes(state)
        place = (after - 1).clamp_min(0)
        letter = state.tokens.gather(1, place.unsqueeze(1)).squeeze(1)
        change = len(self.texts) + place * self.n_letters + letter
        return torch.where(action == 1, self.stop_action, torch.where(after > 0, change, state.centre))

    def log_symmetry(self, state: NeighbourState) -> Tensor:
        """Return the log of how many centres each object is near to, float64 `b`.

        With two strands those are counted that its reverse complement is near to, too, unless it is its own.
        """
        counts = self._near(state.tokens).sum(dim=1)
        if self.sequences.symmetry is not None:
            other = self._other(state)
            counts = counts + self._near(other).sum(dim=1) * (other != state.tokens).any(dim=1)
        return counts.clamp_min(1).double().log()

    def encode(self, state: NeighbourState) -> Tensor:
        """Return one-hot letters, centre, place after the last change and number of changes, float32 `b x d`."""
        after, changes = self._changes(state)
        letters = functional.one_hot(state.tokens - BLANK, self.n_letters + 1)[:, :, 1:].flatten(1)
        centre = functional.one_hot(state.centre + 1, len(self.texts) + 1)[:, 1:]
        counts = functional.one_hot(after, self.length + 1), functional.one_hot(changes, self.radius + 1)
        return torch.cat([letters, centre, *counts], dim=1).float()

    def features(self, state: NeighbourState) -> Tensor:
        """Return the letters' integer codes, float64 `b x L`."""
        return state.tokens.double()

    def objects(self, state: NeighbourState) -> SequenceState:
        """Return the sequences of finished rows, as states of the space they are from."""
        return self.sequences.of_codes(state.tokens)

    def states(self, objects: SequenceState) -> tuple[NeighbourState, Tensor]:
        """Return every finished state of each of some sequences, `k`, and which of them each is of, int64 `k`."""
        tokens = self.sequences.features(objects).long()
        row, centre = self._near(tokens).nonzero(as_tuple=True)
        return NeighbourState(tokens[row], centre, torch.ones_like(row, dtype=torch.bool)), row

    def decode(self, state: NeighbourState) -> list[str]:
        """Return the letters of each row, and the number of its centre: `ACGU@3`."""
        texts = self.sequences.decode(self.objects(state))
        return [f"{text}@{centre}" for text, centre in zip(texts, state.centre.tolist(), strict=True)]

    def parse(self, objects: Sequence[str], device: torch.device | str = "cpu") -> NeighbourState:
        """Return the finished rows of objects; of a text without a centre the first that it is near to.

        Raises:
            ObjectError: An object is not near the centre that it names, or to none; the message names it.
        """
        require_list(objects)
        found = [self._read(text) for text in objects]
        tokens = self.sequences.features(self.sequences.parse([text for text, _ in found], device)).long()
        centre = torch.tensor([number for _, number in found], dtype=torch.int64, device=device)
        return NeighbourState(tokens, centre, torch.ones(len(found), dtype=torch.bool, device=device))

    def key(self, text: str) -> str:
        """Return the canonical sequence.

        Raises:
            ObjectError: The text is not in the space.
        """
        return self.sequences.key(self._read(text)[0])

    def keys(self, state: NeighbourState) -> list[str]:
        """Return the sequence of each row."""
        return self.sequences.keys(self.objects(state))

    def validate(self, text: object) -> str | None:
        """Return why the text is not in the space, or None if it is."""
        try:
            self._read(text)
        except ObjectError as error:
            return str(error)
        return None

    def enumerate(self, device: torch.device | str = "cpu") -> NeighbourState:
        """Return every finished state once.

        Raises:
            ConfigError: There are more than `ENUMERATION_LIMIT`.
        """
        require_enumerable(self, self.n_states)
        level = self.step(self.reset(len(self.texts), device), torch.arange(len(self.texts), device=device))
        found = [level]
        for _ in range(self.radius):
            row, action = self.forward_mask(level)[:, :-1].nonzero(as_tuple=True)
            level = self.step(level[row], action)
            found.append(level)
        every = NeighbourState.cat(found)
        return self.step(every, torch.full((len(every),), self.stop_action, device=device))

    def distance(self, a: NeighbourState, b: NeighbourState) -> Tensor:
        """Return in how many places sequences differ, float64 `n x m`; with two strands the least of both."""
        return self.sequences.distance(self.objects(a), self.objects(b))

    def _changes(self, state: NeighbourState) -> tuple[Tensor, Tensor]:
        """Return the place after the last change, and how many there are, int64 `b` both."""
        differs = state.tokens != self._tables.on(state.device).centres[state.centre]
        places = torch.arange(1, self.length + 1, device=state.device)
        return (differs * places).amax(dim=1), differs.sum(dim=1)

    def _own(self, state: NeighbourState) -> Tensor:
        return self._tables.on(state.device).own[state.centre]

    def _near(self, tokens: Tensor) -> Tensor:
        """Return to which centres each row of tokens is near, bool `b x m`."""
        centres = self._tables.on(tokens.device).centres[:-1]
        return (tokens.unsqueeze(1) != centres).sum(dim=2) <= self.radius

    def _other(self, state: NeighbourState) -> Tensor:
        return self.sequences.features(self.sequences.image(self.objects(state))).long()

    def _read(self, text: object) -> tuple[str, int]:
        """Return the letters of a text, and the number of its centre."""
        whole = isinstance(text, str) and len(text) != self.length  # letters may be @ and digits
        written = _WRITTEN.fullmatch(text) if whole and isinstance(text, str) else None
        letters = text if written is None else written["letters"]
        reason = self.sequences.rules.validate(letters)
        if reason is not None:
            raise ObjectError(reason)
        assert isinstance(letters, str)
        near = self._near(self.sequences.features(self.sequences.parse([letters])).long())[0].nonzero()
        centres = near.squeeze(1).tolist()
        if written is not None:
            number = int(written["centre"])
            if number in centres:
                return self.sequences.rules.normalise(letters), number
            raise ObjectError(
                f"The object {text!r} is not within {self.radius} substitutions of centre {number}, expected one "
                f"of the centres it is near to: {', '.join(map(str, centres)) or 'there is none'}. Correct it."
            )
        if not centres:
            raise ObjectError(
                f"The object {text!r} is farther than {self.radius} substitutions from every centre. Correct it, "
                "or widen the radius."
            )
        return self.sequences.rules.normalise(letters), centres[0]
