"""Which sequences are in a sequence space: alphabets, lengths, strands and canonical keys.

Tensors do not belong here: the command line checks objects with this module and never loads torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from flowscout.errors import ConfigError, ObjectError

Strand = Literal["single", "double"]

ALPHABETS = {"dna": "ACGT", "rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}
"""The letters of each named alphabet, in the order of their integer codes."""

COMPLEMENTS = {"dna": "TGCA", "rna": "UGCA"}
"""What pairs with each letter of `ALPHABETS`, in the same order."""


@dataclass(frozen=True)
class SequenceRules:
    """Say which strings are sequences of a space, and which of them are the same object.

    `alphabet` is a name (`dna`, `rna`, `protein`: lower case is read as upper case) or distinct characters,
    as a string or a list (case matters). `length` is the number of letters of every object. With the strand
    `double`, a sequence and its reverse complement are one object.

    Raises:
        ConfigError: The alphabet, length or strand cannot be.
    """

    alphabet: Sequence[str]
    length: int
    strand: Strand = "single"
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

    @property
    def size(self) -> int:
        """The number of different objects: keys, not strings."""
        strings: int = len(self.letters) ** self.length
        if self.complement is None:
            return strings
        # No letter is its own complement, so a sequence that equals its reverse complement has an even
        # length and its first half decides it.
        palindromes: int = 0 if self.length % 2 else len(self.letters) ** (self.length // 2)
        return (strings + palindromes) // 2

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
        if self.alphabet not in ALPHABETS:
            return text
        # Not str.upper: it turns a dotless i and a long s, which are no amino acids, into I and S.
        return text.translate({ord(letter.lower()): letter for letter in self.letters})

    def validate(self, text: object) -> str | None:
        """Return why the text is not an object of the space, or None if it is one."""
        if not isinstance(text, str):
            return (
                f"The object {text!r} is of type {type(text).__name__}, expected a string of {self.length} "
                f"letters from {self.description}. Write it as text."
            )
        for position, letter in enumerate(self.normalise(text), start=1):
            if letter not in self.letters:
                return (
                    f"The object {text!r} has {letter!r} at position {position}, expected a letter of "
                    f"{self.description}. Correct the letter, or change the alphabet of the space."
                )
        if len(text) != self.length:
            return (
                f"The object {text!r} has {len(text)} letters, expected {self.length} from "
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
        normal = self.require(text)
        return normal if self.complement is None else min(normal, self.reverse_complement(normal))

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
