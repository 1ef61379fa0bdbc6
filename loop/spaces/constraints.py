"""What a bench rules out: mutants far from a wild type, motifs, GC shares, runs of one letter; said in words.

Which sequences are left, and how many, belongs in `automaton`; tensors belong in `growth`.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from flowscout.errors import ConfigError

AMBIGUOUS = {
    "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip
"""What the letters of IUPAC stand for in a motif of DNA; in RNA with U for T."""

_PLACE = re.compile(r"\[\^?[^\[\]^]+\]|.", re.DOTALL)


@dataclass(frozen=True)
class Motif:
    """A forbidden motif: its text, and the letters of each of its places.

    `turned` says that it is the other strand of what the text says.
    """

    text: str
    places: tuple[str, ...]
    turned: bool = False


@dataclass(frozen=True)
class Constraints:
    """Rules beyond letters and lengths. None, or nothing forbidden, is no rule.

    `max_mutations` is how many positions may differ from `wild_type`. `forbid` are motifs that may stand nowhere:
    letters, a wildcard (`.`, `x`, and the letters of IUPAC in DNA and RNA, so `N`), classes such as `[ST]` and
    `[^P]`. `gc` are the least and the largest share of G and C. `homopolymer` is the longest run of one letter.

    With two strands an object obeys if its motifs are on neither strand, and if either strand is near enough to
    the wild type: so both strands of an object obey, or neither does.
    """

    wild_type: str | None = None
    max_mutations: int | None = None
    forbid: Sequence[str] = ()
    gc: Sequence[float] | None = None
    homopolymer: int | None = None

    def __bool__(self) -> bool:
        """Return whether there is any rule."""
        given = (self.max_mutations, self.wild_type, self.gc, self.homopolymer)
        return self.forbid != () or any(one is not None for one in given)

    @property
    def named(self) -> list[str]:
        """The rules that there are, by the names of a campaign file."""
        found = {
            "max_mutations": self.wild_type is not None,
            "forbid": self.forbid != (),
            "gc": self.gc is not None,
            "homopolymer": self.homopolymer is not None,
        }
        return [name for name, given in found.items() if given]

    def without(self, name: str) -> "Constraints":
        """Return these rules less one of `named`."""
        if name == "max_mutations":
            return replace(self, wild_type=None, max_mutations=None)
        if name == "forbid":
            return replace(self, forbid=())
        return replace(self, gc=None) if name == "gc" else replace(self, homopolymer=None)


@dataclass(frozen=True)
class Limits:
    """Constraints as they were checked against letters and lengths, ready to be asked.

    `letters` are those of the space, `choices` those of each position, `complement` what pairs with each where
    there are two strands. A run that is too long is in `motifs` too, without a text.
    """

    constraints: Constraints
    letters: str
    complement: str | None
    lengths: range
    choices: tuple[str, ...]
    motifs: tuple[Motif, ...]

    def count_range(self, length: int) -> tuple[int, int]:
        """Return the least and the most letters G and C of an object of so many letters."""
        if self.constraints.gc is None:
            return 0, length
        low, high = (Fraction(str(share)) * length for share in self.constraints.gc)
        return math.ceil(low), math.floor(high)

    def turn(self, text: str) -> str:
        """Return the other strand of a text, or the text itself with a single strand."""
        return text if self.complement is None else text[::-1].translate(self._pairs)

    def complaint(self, text: str) -> str | None:
        """Return which rule a normalised text of the right letters breaks, and where; None if it obeys all.

        It is the second half of a sentence: `has ..., expected ...`.
        """
        rules = self.constraints
        if rules.homopolymer is not None and (run := self._runs.search(text)) is not None:
            return (
                f"has {run.end() - run.start()} letters {run[0][0]} in a row from position {run.start() + 1} on, "
                f"expected at most {rules.homopolymer} of one letter"
            )
        if self._texts and self._any.search(text) is not None:
            return self._motif_in(text)
        if rules.gc is not None:
            count, (least, most) = sum(text.count(letter) for letter in "GC"), self.count_range(len(text))
            if not least <= count <= most:
                low, high = rules.gc
                return (
                    f"has {count} letters G or C of {len(text)}, a share of {count / len(text):.3g}, expected "
                    f"{low:g} to {high:g}"
                )
        return None if rules.wild_type is None else self._far_from_wild_type(text)

    def _far_from_wild_type(self, text: str) -> str | None:
        wild, most = self.constraints.wild_type, self.constraints.max_mutations
        assert wild is not None
        assert most is not None
        strands = [text] if self.complement is None else [text, self.turn(text)]
        pairs = [zip(wild, strand, strict=True) for strand in strands]
        found = [[place for place, (a, b) in enumerate(both, start=1) if a != b] for both in pairs]
        mutated = min(found, key=len)
        if len(mutated) <= most:
            return None
        places = ", ".join(map(str, mutated[:10])) + (", ..." if len(mutated) > 10 else "")
        either = "" if self.complement is None else ", counted on the nearer strand"
        return (
            f"has {len(mutated)} mutations of the wild type {_short(wild)} (at position {places}{either}), "
            f"expected at most {most}"
        )

    def _motif_in(self, text: str) -> str | None:
        for motif in self._texts:
            found = re.search(_pattern(motif), text)
            if found is not None:
                strand = " on the other strand" if motif.turned else ""
                return (
                    f"has {found[0]} at position {found.start() + 1}, the motif {motif.text!r}{strand}, expected "
                    "nowhere"
                )
        return None

    @cached_property
    def _any(self) -> re.Pattern[str]:
        return re.compile("|".join(map(_pattern, self._texts)))

    @cached_property
    def _texts(self) -> list[Motif]:
        return [motif for motif in self.motifs if motif.text]

    @cached_property
    def _runs(self) -> re.Pattern[str]:
        return re.compile(rf"(.)\1{{{self.constraints.homopolymer},}}", re.DOTALL)

    @cached_property
    def _pairs(self) -> dict[int, int]:
        return str.maketrans(self.letters, self.complement or self.letters)


def check_constraints(
    given: Constraints,
    *,
    alphabet: str,
    letters: str,
    complement: str | None,
    lengths: range,
    choices: tuple[str, ...],
    normalise: Callable[[str], str],
) -> Limits:
    """Return the constraints in normal form, motifs read, ready to be asked.

    Raises:
        ConfigError: A rule cannot be, or does not go with the alphabet or the lengths.
    """
    wild_type = _checked_wild_type(given, letters=letters, lengths=lengths, normalise=normalise)
    if given.homopolymer is not None and not _is_whole(given.homopolymer, 1):
        raise ConfigError(
            f"homopolymer is {given.homopolymer!r}, expected a whole number of at least 1: how many times one "
            "letter may follow itself in a row, itself counted. Give such a number, or leave it out."
        )
    gc = None if given.gc is None else _checked_gc(given.gc, alphabet=alphabet)
    forbid = _checked_motifs(given.forbid)
    motifs = [Motif(text, read_motif(text, alphabet=alphabet, letters=letters)) for text in forbid]
    if complement is not None:
        pairs = str.maketrans(letters, complement)
        known = {motif.places for motif in motifs}
        for motif in list(motifs):
            places = tuple(_ordered(place.translate(pairs), letters) for place in reversed(motif.places))
            if places not in known:
                known.add(places)
                motifs.append(Motif(motif.text, places, turned=True))
    if given.homopolymer is not None:
        run = min(given.homopolymer, lengths[-1]) + 1  # of a limit that no object reaches, no more is said
        motifs += [Motif("", (letter,) * run) for letter in letters]
    checked = Constraints(wild_type, given.max_mutations, forbid, gc, given.homopolymer)
    short = tuple(motif for motif in motifs if len(motif.places) <= lengths[-1])
    return Limits(checked, letters, complement, lengths, choices, short)


def read_motif(text: str, *, alphabet: str, letters: str) -> tuple[str, ...]:
    """Return the letters that each place of a motif may have, in the order of the alphabet.

    Raises:
        ConfigError: It is no motif of these letters.
    """
    named = letters != alphabet
    written = text.upper() if named and text.isascii() else text
    wild = _wildcards(alphabet, letters)
    known = {letter: letter for letter in letters}
    places = []
    for part in _PLACE.findall(written):
        refused = part.startswith("[^") and len(part) > 3
        body = part[2:-1] if refused else part[1:-1] if len(part) > 1 else part
        named_letters = [(known | wild).get(letter) for letter in body]
        found = {letter for some in named_letters if some is not None for letter in some}
        found = set(letters) - found if refused else found
        if None in named_letters or not found:
            raise ConfigError(
                f"the motif {text!r} has {part!r}, expected letters of {letters}, a wildcard "
                f"({', '.join(wild) or 'there is none in this alphabet'}), or a class of letters such as "
                f"[{letters[:2]}] or [^{letters[0]}] that leaves a letter. Correct the motif."
            )
        places.append(_ordered("".join(found), letters))
    if not places or all(len(place) == len(letters) for place in places):
        raise ConfigError(
            f"the motif {text!r} forbids every sequence of so many letters, expected a letter that matters. "
            "Correct it, or leave it out."
        )
    return tuple(places)


def _wildcards(alphabet: str, letters: str) -> dict[str, str]:
    """Return what stands for several letters; a letter of the alphabet stands for itself alone."""
    found = {".": letters, "X" if letters != alphabet else "x": letters}
    if alphabet in ("dna", "rna"):
        found |= {mark: some.replace("T", letters[-1]) for mark, some in AMBIGUOUS.items()}
    return {mark: some for mark, some in found.items() if mark not in letters}


def _checked_wild_type(
    given: Constraints, *, letters: str, lengths: range, normalise: Callable[[str], str]
) -> str | None:
    wild, most = given.wild_type, given.max_mutations
    if wild is None and most is None:
        return None
    if wild is None or most is None:
        missing = "wild_type" if wild is None else "max_mutations"
        raise ConfigError(
            f"wild_type is {wild!r} and max_mutations is {most!r}, expected both or neither. Add {missing}."
        )
    if len(lengths) > 1:
        raise ConfigError(
            f"a wild type came for objects of {lengths[0]} to {lengths[-1]} letters, expected one length: "
            "mutations are substitutions. Leave out min_length."
        )
    text = normalise(wild) if isinstance(wild, str) else wild
    if not isinstance(text, str) or len(text) != lengths[0] or not set(text) <= set(letters):
        came = f"has {len(text)} letters" if isinstance(text, str) and len(text) != lengths[0] else f"is {wild!r}"
        raise ConfigError(
            f"the wild type {came}, expected {lengths[0]} letters of {letters}. Correct it, or the length."
        )
    if not _is_whole(most, 0):
        raise ConfigError(
            f"max_mutations is {most!r}, expected a whole number of at least 0: at how many positions an object "
            "may differ from the wild type. Give such a number."
        )
    return text


def _checked_gc(gc: Sequence[float], *, alphabet: str) -> tuple[float, float]:
    if alphabet not in ("dna", "rna"):
        raise ConfigError(f"gc is {gc!r} with the alphabet {alphabet!r}, expected dna or rna. Leave gc out.")
    good = isinstance(gc, Sequence) and len(gc) == 2
    numbers = good and all(isinstance(share, int | float) and not isinstance(share, bool) for share in gc)
    if not numbers or not 0 <= gc[0] <= gc[1] <= 1:
        raise ConfigError(
            f"gc is {gc!r}, expected the least and the largest share of G and C, from 0 to 1. Write [0.4, 0.6]."
        )
    return float(gc[0]), float(gc[1])


def _checked_motifs(forbid: Sequence[str]) -> tuple[str, ...]:
    if isinstance(forbid, str) or not isinstance(forbid, Sequence):
        raise ConfigError(f"forbid is {forbid!r}, expected a list of motifs. Write a list such as ['GGG'].")
    for text in forbid:
        if not isinstance(text, str) or not text:
            raise ConfigError(
                f"forbid has {text!r}, expected a motif as text. Write it in quotes, such as 'N[^P][ST]'."
            )
    return tuple(dict.fromkeys(forbid))


def _is_whole(number: object, least: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= least


def _ordered(some: str, letters: str) -> str:
    return "".join(letter for letter in letters if letter in some)


def _pattern(motif: Motif) -> str:
    return "".join(f"[{re.escape(place)}]" for place in motif.places)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."
