"""Which sequences are in a sequence space: alphabets, lengths, strands and canonical keys.

Tensors do not belong here: the command line checks objects with this module and never loads torch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

from flowscout.errors import ConfigError, ObjectError
from flowscout.loop.spaces.constraints import Constraints, Limits, check_constraints

if TYPE_CHECKING:
    from flowscout.loop.spaces.automaton import Automaton

Strand = Literal["single", "double"]

ALPHABETS = {"dna": "ACGT", "rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}
"""The letters of each named alphabet, in the order of their integer codes."""

MAX_LENGTH = 10_000
"""Letters of an object at most: what is said of each position is listed before anything else can be checked."""

COMPLEMENTS = {"dna": "TGCA", "rna": "UGCA"}
"""What pairs with each letter of `ALPHABETS`, in the same order."""


@dataclass(frozen=True)
class SequenceRules:
    """Say which strings are sequences of a space, and which of them are the same object.

    `alphabet` is a name (`dna`, `rna`, `protein`: lower case is read as upper case) or distinct characters,
    as a string or a list (case matters). `length` is the number of letters of every object; with `min_length`
    objects have from so many to `length` letters. With the strand `double`, a sequence and its reverse
    complement are one object. `choices` says which letters each position may have: `length` strings, or None
    for all letters everywhere. With two strands the choices must read the same on both. `constraints` are further
    rules, which `misspelt` leaves aside.

    Raises:
        ConfigError: The alphabet, a length, the strand, the choices or the constraints cannot be.
    """

    alphabet: Sequence[str]
    length: int
    strand: Strand = "single"
    min_length: int | None = None
    choices: Sequence[str] | None = None
    constraints: Constraints = field(default_factory=Constraints)
    letters: str = field(init=False)
    complement: str | None = field(init=False)

    def __post_init__(self) -> None:
        name = self.alphabet if isinstance(self.alphabet, str) else "".join(self._letters_of_list())
        letters = ALPHABETS.get(name, name)
        complement = COMPLEMENTS.get(name) if self.strand == "double" else None
        object.__setattr__(self, "alphabet", name)
        object.__setattr__(self, "letters", letters)
        object.__setattr__(self, "complement", complement)
        self._check_letters()
        self._check_shape()
        if self.choices is not None:
            object.__setattr__(self, "choices", self._checked_choices(self.choices))
        if self.constraints:
            object.__setattr__(self, "constraints", self.limits.constraints)

    @property
    def lengths(self) -> range:
        """The numbers of letters that an object may have."""
        return range(self.length if self.min_length is None else self.min_length, self.length + 1)

    @property
    def size(self) -> int:
        """The number of different objects: keys, not strings.

        Raises:
            ConfigError: Under constraints: there is none, or they are too many to be counted.
        """
        return self.automaton.size if self.constraints else sum(map(self._count, self.lengths))

    @cached_property
    def limits(self) -> Limits:
        """The constraints, checked, with the letters of each position."""
        return check_constraints(
            self.constraints,
            alphabet=str(self.alphabet),
            letters=self.letters,
            complement=self.complement,
            lengths=self.lengths,
            choices=tuple(self.choice(position) for position in range(self.length)),
            normalise=self.normalise,
        )

    @property
    def automaton(self) -> "Automaton":
        """All objects as an automaton, compiled when it is first asked for.

        Raises:
            ConfigError: There is no object, or the automaton would be too large.
        """
        from flowscout.loop.spaces.automaton import compile_limits  # numpy, which plain spaces do without

        return compile_limits(self.limits)

    def choice(self, position: int) -> str:
        """Return the letters that a position, counted from 0, may have, in the order of the alphabet."""
        return self.letters if self.choices is None else self.choices[position]

    @property
    def image(self) -> Callable[[str], str] | None:
        """How to write the same object the other way: its reverse complement, or None with a single strand."""
        return None if self.complement is None else self.reverse_complement

    @property
    def description(self) -> str:
        """The alphabet in words, for messages: its name, if it has one, and its letters."""
        named = self.alphabet in ALPHABETS
        return f"the {self.alphabet} alphabet {self.letters}" if named else f"the alphabet {self.letters}"

    def normalise(self, text: str) -> str:
        """Return the text with the letters of a named alphabet in upper case; anything else is kept."""
        return text if self.alphabet not in ALPHABETS else text.translate(self._to_upper)

    @cached_property
    def _to_upper(self) -> dict[int, str]:
        # Not str.upper: it turns a dotless i and a long s, which are no amino acids, into I and S.
        return {ord(letter.lower()): letter for letter in self.letters}

    def validate(self, text: object) -> str | None:
        """Return why the text is not an object of the space, or None if it is one."""
        reason = self.misspelt(text)
        if reason is not None or not isinstance(text, str):
            return reason
        for position, letter in enumerate(self.normalise(text) if self.choices is not None else ""):
            if letter not in self.choice(position):
                return (
                    f"The object {text!r} has {letter!r} at position {position + 1}, expected one of "
                    f"{self.choice(position)} there. Correct the letter, or change the letters of the position."
                )
        broken = self.limits.complaint(self.normalise(text)) if self.constraints else None
        return None if broken is None else f"The object {text!r} {broken}. Correct it, or relax the rule."

    def misspelt(self, text: object) -> str | None:
        """Return why the text has not the letters or the length of the space, or None if it has both."""
        if not isinstance(text, str):
            return (
                f"The object {text!r} is of type {type(text).__name__}, expected a string of {self._span} "
                f"letters from {self.description}. Write it as text."
            )
        normal = self.normalise(text)
        strange = normal.strip(self.letters) != ""  # one call for a text that is right, as most are
        for position, letter in enumerate(normal if strange else "", start=1):
            if letter not in self.letters:
                return (
                    f"The object {text!r} has {letter!r} at position {position}, expected a letter of "
                    f"{self.description}. Correct the letter, or change the alphabet of the space."
                )
        if len(text) not in self.lengths:
            return (
                f"The object {text!r} has {len(text)} letters, expected {self._span} from "
                f"{self.description}. Correct the object, or change the length of the space."
            )
        return None

    def require(self, text: str) -> str:
        """Return the normalised text of an object of the space.

        Raises:
            ObjectError: The text is not in the space; the message names the object and what is wrong.
        """
        reason = self.validate(text)
        if reason is not None:
            raise ObjectError(reason)
        return self.normalise(text)

    def told(self, text: str) -> tuple[str, str]:
        """Return the key and the normalised text of a sequence of the space's letters and length, allowed or not.

        What the rules forbid may have been measured all the same, such as a relative of the wild type.

        Raises:
            ObjectError: It has other letters, or another length.
        """
        reason = self.misspelt(text)
        if reason is not None:
            raise ObjectError(reason)
        normal = self.normalise(text)
        return self._key(normal), normal

    @property
    def ruled(self) -> bool:
        """Whether there are sequences of the space's letters and length that are not in the space."""
        return bool(self.constraints) or self.choices is not None

    def reverse_complement(self, text: str) -> str:
        """Return the other strand of a normalised text, read in its own direction.

        Raises:
            ConfigError: The rules are those of a single strand.
        """
        if self.complement is None:
            raise ConfigError(
                f"The reverse complement of {text!r} was asked for in a space of strand {self.strand!r}, "
                "expected strand 'double'. Set `strand: double` with the alphabet dna or rna."
            )
        return text[::-1].translate(str.maketrans(self.letters, self.complement))

    def key(self, text: str) -> str:
        """Return the canonical identity of an object: equal exactly for two texts of the same object.

        With two strands it is the one that comes first in the order of letters.

        Raises:
            ObjectError: The text is not in the space.
        """
        return self._key(self.require(text))

    def _key(self, normal: str) -> str:
        return normal if self.complement is None else min(normal, self.reverse_complement(normal))

    @property
    def _span(self) -> str:
        return str(self.length) if len(self.lengths) == 1 else f"{self.lengths[0]} to {self.length}"

    def _count(self, length: int) -> int:
        """Return the number of different objects of one length."""
        ways = [len(self.choice(position)) for position in range(length)]
        if self.complement is None:
            return math.prod(ways)
        # No letter is its own complement, so a sequence that equals its reverse complement has an even
        # length and its first half decides it.
        palindromes = 0 if length % 2 else math.prod(ways[: length // 2])
        return (math.prod(ways) + palindromes) // 2

    def _checked_choices(self, choices: Sequence[str]) -> tuple[str, ...]:
        """Return the choices in upper case where letters are, each in the order of the alphabet."""
        if isinstance(choices, str) or not isinstance(choices, Sequence) or len(choices) != self.length:
            raise ConfigError(
                f"The letters by position are {choices!r}, expected a list of {self.length} texts, one for each "
                "position. Write a list such as ['AC', 'ACGT', 'T']."
            )
        normal = [self.normalise(choice) if isinstance(choice, str) else choice for choice in choices]
        for position, choice in enumerate(normal, start=1):
            good = isinstance(choice, str) and choice and len(set(choice)) == len(choice)
            if not good or not set(choice) <= set(self.letters):
                raise ConfigError(
                    f"The letters of position {position} are {choice!r}, expected distinct letters of "
                    f"{self.description}, at least one. Correct them."
                )
        if self.complement is not None:
            self._check_both_strands(normal)
        return tuple("".join(letter for letter in self.letters if letter in choice) for choice in normal)

    def _check_both_strands(self, choices: Sequence[str]) -> None:
        for length in self.lengths:
            for position in range(length):
                other = self.reverse_complement(choices[length - 1 - position])
                if set(choices[position]) != set(other):
                    raise ConfigError(
                        f"In objects of {length} letters position {position + 1} may have {choices[position]} "
                        f"and, on the other strand, {other}, expected the same letters: both strands are one "
                        "object. Choose letters that read the same on both, or strand single."
                    )

    def _letters_of_list(self) -> list[str]:
        letters = list(self.alphabet)
        for letter in letters:
            if not isinstance(letter, str) or len(letter) != 1:
                raise ConfigError(
                    f"The alphabet {letters!r} has the entry {letter!r}, expected single characters. "
                    "Give each letter a character of its own."
                )
        return letters

    def _check_letters(self) -> None:
        distinct = len(set(self.letters)) == len(self.letters)
        if len(self.letters) < 2 or not distinct or any(c.isspace() or not c.isprintable() for c in self.letters):
            raise ConfigError(
                f"The alphabet is {self.alphabet!r}, expected one of {', '.join(ALPHABETS)} or at least two "
                "distinct, printable characters without spaces. Remove what is repeated or blank."
            )

    def _check_shape(self) -> None:
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1:
            raise ConfigError(
                f"The length is {self.length!r}, expected a whole number of at least 1. "
                "Give the number of letters of one object."
            )
        least = self.min_length
        if least is not None and (
            isinstance(least, bool) or not isinstance(least, int) or not 1 <= least <= self.length
        ):
            raise ConfigError(
                f"The min_length is {least!r}, expected a whole number from 1 to the length, {self.length}. "
                "Give the number of letters of the shortest object, or omit it for one length."
            )
        if self.strand not in get_args(Strand):
            raise ConfigError(
                f"The strand is {self.strand!r}, expected single or double. "
                "Choose double if a sequence and its reverse complement are the same object."
            )
        if self.strand == "double" and self.complement is None:
            raise ConfigError(
                f"The strand is double and the alphabet {self.alphabet!r}, expected an alphabet with a "
                f"complement: {' or '.join(COMPLEMENTS)}. Choose one of these, or strand single."
            )
