"""Sequences of letters: of one length or of several, grown at one end or at both.

Checking text without torch belongs in `alphabets`, the steps that build a sequence in `growth`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from flowscout.errors import ConfigError
from flowscout.loop.spaces.alphabets import SequenceRules, Strand
from flowscout.loop.spaces.arguments import ENUMERATION_LIMIT, require_enumerable, require_list
from flowscout.loop.spaces.constraints import Constraints
from flowscout.loop.spaces.edits import RuledEdits
from flowscout.loop.spaces.growth import Ends, RuledGrowth, RuledState, SequenceState, growth_of
from flowscout.loop.spaces.records import PerDevice, TensorRecord
from flowscout.loop.spaces.walking import BLANK, Walker

__all__ = ["BLANK", "ENUMERATION_LIMIT", "SequenceSpace", "SequenceState"]


@dataclass(frozen=True, slots=True, eq=False)
class _Tables(TensorRecord):
    """`one_hot` float32 `(A + 1) x A`, blank first; `complement` int64 `A + 1`: what pairs, blank last."""

    one_hot: Tensor
    complement: Tensor


class SequenceSpace:
    """All sequences of `length` letters, or of `min_length` to `length`, added one a step.

    `alphabet`, `length`, `strand` and `min_length` are those of `SequenceRules`; `letters` says which letters
    each position may have, one text for each of the `length` positions. With two strands a key has two states
    unless it is its own reverse complement; `log_symmetry` tells them apart.

    Action `i` appends letter `i`. With `ends="both"` action `A + i` puts letter `i` in front, once there is a
    letter, and an object has many trajectories; positions then shift, so `letters` is refused. With
    `min_length` below `length` the last action stops: it is legal from `min_length` on, and the only one at
    full length. Without, objects finish by themselves. Backward action 0 removes the last letter, 1 the first
    (with both ends, from two letters on), and the last one undoes the stop.

    `wild_type` with `max_mutations`, `forbid`, `gc` and `homopolymer` are the rules of `Constraints`. They are
    masks without dead ends, so letters are only appended. With two strands both strings of an object obey, or
    neither. Edits stay within all rules, those of `letters` and of several lengths too: see `RuledEdits`.

    Raises:
        ConfigError: An argument cannot be, two do not go together, or no sequence obeys the rules.
    """

    every_state_terminal = False

    def __init__(
        self,
        alphabet: Sequence[str],
        length: int,
        *,
        strand: Strand = "single",
        min_length: int | None = None,
        ends: Ends = "append",
        letters: Sequence[str] | None = None,
        wild_type: str | None = None,
        max_mutations: int | None = None,
        forbid: Sequence[str] = (),
        gc: Sequence[float] | None = None,
        homopolymer: int | None = None,
    ) -> None:
        if ends not in get_args(Ends):
            raise ConfigError(
                f"ends is {ends!r}, expected append or both. Choose both to add letters in front as well."
            )
        if ends == "both" and letters is not None:
            raise ConfigError(
                f"ends is 'both' and letters is {letters!r}, expected one of them: a letter put in front moves "
                "the others to positions where they may not be. Leave one out."
            )
        given = Constraints(wild_type, max_mutations, forbid, gc, homopolymer)
        if ends == "both" and given:
            raise ConfigError(
                f"ends is 'both' and the rules are {', '.join(given.named)}, expected one of them: whether an "
                "object can still obey them is known only where letters are appended. Choose the end append."
            )
        self._set(SequenceRules(alphabet, length, strand, min_length, letters, given), ends)

    @classmethod
    def of_rules(cls, rules: SequenceRules) -> "SequenceSpace":
        """Return the space of some rules, letters appended.

        Raises:
            ConfigError: No sequence obeys them.
        """
        space = cls.__new__(cls)
        space._set(rules, "append")
        return space

    def _set(self, rules: SequenceRules, ends: Ends) -> None:
        self.rules, self.ends = rules, ends
        given = rules.constraints
        self._growth = growth_of(self.rules, ends, self._walker if given else None)
        self._codes = {letter: code for code, letter in enumerate(self.rules.letters)}
        self._double = self.rules.complement is not None
        pairs = [self._codes[letter] for letter in self.rules.complement or self.rules.letters]
        one_hot = torch.cat([torch.zeros(1, len(pairs)), torch.eye(len(pairs))])
        self._tables = PerDevice(_Tables(one_hot, torch.tensor([*pairs, BLANK])))

    def __repr__(self) -> str:
        rules = self.rules
        several = "" if self.fixed_length else f", min_length={rules.lengths[0]}"
        ends = "" if self.ends == "append" else f", ends={self.ends!r}"
        letters = "" if rules.choices is None else f", letters={list(rules.choices)!r}"
        given = rules.constraints
        names = ("wild_type", *given.named) if "max_mutations" in given.named else given.named
        further = "".join(f", {name}={getattr(given, name)!r}" for name in names)
        return (
            f"SequenceSpace({rules.alphabet!r}, {rules.length}, strand={rules.strand!r}{several}{ends}{letters}"
            f"{further})"
        )

    @cached_property
    def _walker(self) -> Walker:
        return Walker(self.rules.automaton, self.rules.length)

    @cached_property
    def _edits(self) -> RuledEdits | None:
        """What keeps edits within the rules, None where every substitution is allowed."""
        plain = self.fixed_length and self.rules.choices is None and not self.rules.constraints
        return None if plain else RuledEdits(self.rules, self._walker)

    @property
    def n_actions(self) -> int:
        """The number of letters, for each end, and the stop where there is one."""
        return self._growth.n_actions

    @property
    def n_backward_actions(self) -> int:
        """One action for each end, and one for the stop where there is one."""
        return self._growth.n_backward_actions

    @property
    def max_steps(self) -> int:
        """The number of letters of the longest object, and the stop where there is one."""
        return self._growth.max_steps

    @property
    def stop_action(self) -> int | None:
        """The last action, or None where all objects have one length."""
        return self._growth.stop_action

    @property
    def fixed_length(self) -> bool:
        """Whether all objects have one length."""
        return self._growth.stop_action is None

    @property
    def is_tree(self) -> bool:
        """Whether letters are only appended."""
        return self._growth.is_tree

    @property
    def encoding_dim(self) -> int:
        """One column per position and letter, and under rules one per action."""
        return self.rules.length * len(self._codes) + (self.n_actions if self.has_prior else 0)

    @property
    def has_prior(self) -> bool:
        """Whether an untrained policy is told of the rules: step by step, a few mutations would all come first."""
        return bool(self.rules.constraints)

    @property
    def size(self) -> int:
        """The number of different objects: with two strands, about half the number of strings."""
        return self.rules.size

    def reset(self, n: int, device: torch.device | str = "cpu") -> SequenceState:
        """Return `n` empty sequences."""
        fields = (
            torch.full((n, self.rules.length), BLANK, dtype=torch.int64, device=device),
            torch.zeros(n, dtype=torch.int64, device=device),
            torch.zeros(n, dtype=torch.bool, device=device),
        )
        if not self.rules.constraints:
            return SequenceState(*fields)
        return RuledState(*fields, torch.zeros(n, self.rules.length + 1, dtype=torch.int32, device=device))

    def forward_mask(self, state: SequenceState) -> Tensor:
        """Return bool `b x A`: the letters that may come next, and the stop."""
        return self._growth.forward_mask(state)

    def step(self, state: SequenceState, action: Tensor) -> SequenceState:
        """Add one letter to every row, or stop."""
        return self._growth.step(state, action)

    def done(self, state: SequenceState) -> Tensor:
        """Return which rows are finished, bool `b`."""
        return state.finished

    def backward_mask(self, state: SequenceState) -> Tensor:
        """Return bool `b x B`: the letters that can be removed, or nothing but the stop."""
        return self._growth.backward_mask(state)

    def step_back(self, state: SequenceState, action: Tensor) -> SequenceState:
        """Remove one letter of every row, or undo the stop."""
        return self._growth.step_back(state, action)

    def reverse(self, state: SequenceState, action: Tensor) -> Tensor:  # noqa: ARG002 (the protocol's argument)
        """Return the backward action, `b`, that takes back what a forward action adds."""
        return self._growth.reverse(action)

    def retrace(self, state: SequenceState, action: Tensor) -> Tensor:
        """Return the forward action, `b`, that adds again what a backward action removes."""
        return self._growth.retrace(state, action)

    def log_symmetry(self, state: SequenceState) -> Tensor:
        """Return log 2 where the reverse complement is another string, else 0; float64 `b`."""
        if not self._double:
            return torch.zeros(len(state), dtype=torch.float64, device=state.device)
        differs = (self._other_strand(state.tokens) != state.tokens).any(dim=1)
        return differs.double() * math.log(2)

    def encode(self, state: SequenceState) -> Tensor:
        """Return one-hot letters, float32 `b x (L A)`: a position that is blank is all zeros.

        Under rules, beside them the log-probability of each action in a uniform draw, `b x A`.
        """
        if isinstance(self._growth, RuledGrowth):
            return torch.cat([self._one_hot(state.tokens), self._growth.prior(state)], dim=1)
        return self._one_hot(state.tokens)

    def features(self, state: SequenceState) -> Tensor:
        """Return the letters' integer codes, float64 `b x L`, -1 behind the end of a shorter sequence."""
        return state.tokens.double()

    def of_codes(self, codes: Tensor) -> SequenceState:
        """Return the finished rows of letters' codes, int64 `b x L`: what `features` says of them, as integers."""
        return self._finished(codes)

    def decode(self, state: SequenceState) -> list[str]:
        """Return the filled letters of each row."""
        return self._write(state.tokens)

    def _write(self, tokens: Tensor) -> list[str]:
        """Return the text of each row of tokens, `b x L`; all at once, as a search writes thousands."""
        points = self._point_of_code[tokens.cpu()].contiguous().numpy()
        texts: list[str] = points.view(f"U{points.shape[1]}").ravel().tolist()  # which end before their blanks
        return texts

    @cached_property
    def _point_of_code(self) -> Tensor:
        """The Unicode code point of each letter as NumPy's text holds them, 0 for `BLANK`, which is last."""
        return torch.tensor([*map(ord, self.rules.letters), 0], dtype=torch.int32, device="cpu")

    def parse(self, objects: Sequence[str], device: torch.device | str = "cpu") -> SequenceState:
        """Return the finished rows of sequences given as text.

        Raises:
            ObjectError: An object is not in the space; the message names it and what is wrong.
        """
        require_list(objects)
        tokens = self._read_together(objects)
        if tokens is None:
            rows = [[self._codes[letter] for letter in self.rules.require(text)] for text in objects]
            padded = [row + [BLANK] * (self.rules.length - len(row)) for row in rows]
            tokens = torch.tensor(padded, dtype=torch.int64, device="cpu").reshape(len(rows), self.rules.length)
        return self._finished(tokens.to(device))

    def _read_together(self, objects: Sequence[str]) -> Tensor | None:
        """Return the tokens of plain texts, `b x L`; None where each is to be looked at by itself.

        A campaign's labels are read several times a round, a hundred thousand of them in a twentieth of the time.
        """
        try:
            joined = "".join(objects)
        except TypeError:  # one is no text
            return None
        if self.rules.ruled or not joined.isascii():
            return None
        lengths = torch.tensor([*map(len, objects)], dtype=torch.int64, device="cpu")
        letters = torch.frombuffer(bytearray(joined, "ascii") or bytearray(1), dtype=torch.uint8)
        codes = self._code_of_byte[letters[: len(joined)].long()]
        short, long = self.rules.lengths[0], self.rules.lengths[-1]
        if bool((codes == BLANK).any() | (lengths < short).any() | (lengths > long).any()):
            return None
        tokens = torch.full((len(objects), self.rules.length), BLANK, dtype=torch.int64, device="cpu")
        tokens[torch.arange(self.rules.length, device="cpu") < lengths.unsqueeze(1)] = codes
        return tokens

    @cached_property
    def _code_of_byte(self) -> Tensor:
        """The code of each ASCII character, `BLANK` of those that are no letter of the space."""
        codes = [self._codes.get(self.rules.normalise(chr(byte)), BLANK) for byte in range(128)]
        return torch.tensor(codes, device="cpu")

    def key(self, text: str) -> str:
        """Return the canonical identity of a sequence; see `SequenceRules.key`."""
        return self.rules.key(text)

    def keys(self, state: SequenceState) -> list[str]:
        """Return the key of each row; with two strands the first of both in the order of letters."""
        texts = self._write(state.tokens)
        return list(map(min, texts, self._write(self._other_strand(state.tokens)))) if self._double else texts

    def validate(self, text: str) -> str | None:
        """Return why the text is not in the space, or None if it is; see `SequenceRules.validate`."""
        return self.rules.validate(text)

    def enumerate(self, device: torch.device | str = "cpu") -> SequenceState:
        """Return every string once, shorter ones first, each length in the order of codes.

        With two strands these are both strings of a key.

        Raises:
            ConfigError: There are more than `ENUMERATION_LIMIT`.
        """
        if self.rules.constraints:
            require_enumerable(self, self.rules.automaton.strings)
            return self._finished(self._walker.everything(device))
        choices = [[self._codes[c] for c in self.rules.choice(place)] for place in range(self.rules.length)]
        ways = [math.prod(map(len, choices[:length])) for length in self.rules.lengths]
        require_enumerable(self, sum(ways))
        found = []
        for length, count in zip(self.rules.lengths, ways, strict=True):
            ranks = torch.arange(count, device=device)
            columns = [torch.full_like(ranks, BLANK)] * (self.rules.length - length)
            for choice in reversed(choices[:length]):
                columns.insert(0, torch.tensor(choice, device=device)[ranks % len(choice)])
                ranks = ranks // len(choice)
            found.append(torch.stack(columns, dim=1))
        return self._finished(torch.cat(found))

    def distance(self, a: SequenceState, b: SequenceState) -> Tensor:
        """Return in how many positions sequences differ, float64 `n x m`: a missing letter differs from any.

        With two strands it is the least over the strings of both keys.
        """
        longer = torch.maximum(a.length.unsqueeze(1), b.length.unsqueeze(0)).double()
        left, right = self._one_hot(a.tokens), self._one_hot(b.tokens)
        matches = left @ right.T  # float32 counts matches exactly up to 2^24
        if self._double:
            matches = torch.maximum(matches, left @ self._one_hot(self._other_strand(b.tokens)).T)
        if self._double and not self.fixed_length:  # turning both strands moves them against each other
            turned = self._one_hot(self._other_strand(a.tokens))
            matches = torch.maximum(matches, turned @ right.T)
            matches = torch.maximum(matches, turned @ self._one_hot(self._other_strand(b.tokens)).T)
        return longer - matches.double()

    def uniform(self, n: int, generator: torch.Generator) -> SequenceState:
        """Return `n` finished rows, each string of the space equally likely, on the generator's device.

        Uniform steps give that only where every letter leaves equally many objects.
        """
        blank = torch.full((n, self.rules.length), BLANK, dtype=torch.int64, device=generator.device)
        keep = torch.zeros(n, dtype=torch.int64, device=generator.device)
        return self._finished(self._walker.regrow(blank, keep, generator))

    def neighbours(self, state: SequenceState) -> SequenceState:
        """Return every single substitution of every full row that the rules allow, in row order.

        Without rules these are `b L (A - 1)` rows. Where there are several lengths, also every letter put in or
        taken out.
        """
        if self._edits is not None:
            return self._finished(self._edits.neighbours(state.tokens))
        n_letters, length = len(self._codes), self.rules.length
        shifts = torch.arange(1, n_letters, device=state.device).repeat(length)
        places = torch.arange(length, device=state.device).repeat_interleave(n_letters - 1)
        rows = state.tokens.repeat_interleave(len(places), dim=0)
        return self._substitute(rows, places.repeat(len(state)), shifts.repeat(len(state)))

    def mutate(self, state: SequenceState, generator: torch.Generator) -> SequenceState:
        """Return each full row after one edit: a uniform position gets a uniform other letter.

        Under rules, or with several lengths, it is one of the edits of `RuledEdits.mutate`.
        """
        if self._edits is not None:
            return self._finished(self._edits.mutate(state.tokens, generator))
        n, device = len(state), state.device
        places = torch.randint(self.rules.length, (n,), generator=generator, device=device)
        shifts = torch.randint(1, len(self._codes), (n,), generator=generator, device=device)
        return self._substitute(state.tokens, places, shifts)

    def shift(self, state: SequenceState, generator: torch.Generator) -> SequenceState:
        """Return each full row after one letter was taken out and a uniform one put in, both at uniform places.

        What stands between the two places moves by one. Where the rules allow no such draw, the row is mutated.
        """
        if self._edits is not None:
            return self._finished(self._edits.shift(state.tokens, generator))
        shape, device = (len(state), 1), state.device
        out = torch.randint(self.rules.length, shape, generator=generator, device=device)
        into = torch.randint(self.rules.length, shape, generator=generator, device=device)
        letters = torch.randint(len(self._codes), shape, generator=generator, device=device)
        places = torch.arange(self.rules.length, device=device).expand(len(state), -1)
        left = ((places >= out) & (places < into)).long()
        right = ((places <= out) & (places > into)).long()
        moved = state.tokens.gather(1, places + left - right)
        return self._finished(moved.scatter(1, into, letters.to(moved.dtype)))

    def crossover(self, a: SequenceState, b: SequenceState, generator: torch.Generator) -> SequenceState:
        """Return a child of each pair of rows: every letter is that of either parent, with equal probability.

        A child is as long as its first parent; where the second has ended, it has the letters of the first. Where
        no such draw obeys the rules, the child is the first parent again.
        """
        if self.rules.constraints and self._edits is not None:
            return self._finished(self._edits.crossover(a.tokens, b.tokens, generator))
        from_b = torch.rand(a.tokens.shape, generator=generator, device=a.device) < 0.5
        both = (a.tokens != BLANK) & (b.tokens != BLANK)
        return self._finished(torch.where(from_b & both, b.tokens, a.tokens))

    @property
    def symmetry(self) -> Callable[[Tensor], Tensor] | None:
        """Map features `n x L` to those of the other strand, or None where there is one strand."""
        if not self._double:
            return None
        return lambda codes: self._other_strand(codes.long()).to(codes.dtype)

    def image(self, state: SequenceState) -> SequenceState:
        """Return the other state of each row's object: its reverse complement, or itself with one strand."""
        return self._finished(self._other_strand(state.tokens)) if self._double else state

    def _substitute(self, tokens: Tensor, places: Tensor, shifts: Tensor) -> SequenceState:
        column = places.unsqueeze(1)
        letters = (tokens.gather(1, column) + shifts.unsqueeze(1)) % len(self._codes)
        return self._finished(tokens.scatter(1, column, letters))

    def _finished(self, tokens: Tensor) -> SequenceState:
        length = (tokens != BLANK).sum(dim=1)
        finished = torch.ones_like(length, dtype=torch.bool)
        if not self.rules.constraints:
            return SequenceState(tokens, length, finished)
        return RuledState(tokens, length, finished, self._walker.walk(tokens)[0])

    def _one_hot(self, tokens: Tensor) -> Tensor:
        return functional.embedding(tokens - BLANK, self._tables.on(tokens.device).one_hot).flatten(1)

    def _other_strand(self, tokens: Tensor) -> Tensor:
        """Return the codes of the other strand, aligned to the left as well."""
        turned = self._tables.on(tokens.device).complement[tokens.flip(1)]  # the last entry pairs blanks
        if self.fixed_length:
            return turned
        filled = tokens != BLANK
        blanks = (~filled).sum(dim=1, keepdim=True)
        places = torch.arange(tokens.shape[1], device=tokens.device) + blanks
        moved = turned.gather(1, places.clamp_max(tokens.shape[1] - 1))
        return torch.where(filled, moved, BLANK)
