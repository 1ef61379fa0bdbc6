"""Edits of sequences that stay within the rules of a space: what local search, genetic search and drift make.

Every edit is drawn freely and kept where the automaton of the rules accepts it. What is not found in `TRIES` draws
is looked for in another way, so that every call ends. The edits of a plain space belong in `sequence`.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from flowscout.loop.spaces.alphabets import SequenceRules
from flowscout.loop.spaces.records import PerDevice, TensorRecord
from flowscout.loop.spaces.walking import BLANK, Walker

TRIES = 32
"""Free draws of an edit before it is looked for in another way."""

REGROWN = 1 / 32
"""The share of edits that build a sequence anew from a uniform place on: so every object can be reached."""

EXCHANGED = 0.25
"""The share of edits that change two places at once: a limit that is exhausted leaves few single ones."""

LENGTHENED = 0.25
"""The share of edits that put a letter in or take one out, where there are several lengths."""

LOOKED_THROUGH = 256
"""In how many rows of a call all substitutions are looked through, where free draws found none."""

_CHUNK = 2**18


@dataclass(frozen=True, slots=True, eq=False)
class _Tables(TensorRecord):
    """`letters` int64 `L x A`: those of each position, the others behind; `rank` int64 `L x A`: where each stands.

    `others` float64 `L`: how many other letters a position may have. `strands` int64 `L x s`: the codes of the
    wild type on each strand, without a wild type none.
    """

    letters: Tensor
    rank: Tensor
    others: Tensor
    strands: Tensor


class RuledEdits:
    """Edits of full sequences, given and returned as codes, int64 `b x L`, `BLANK` behind the end."""

    def __init__(self, rules: SequenceRules, walker: Walker) -> None:
        self._walker, self._n_letters, self._length = walker, len(rules.letters), rules.length
        self._least, self._ruled = rules.lengths[0], bool(rules.constraints)
        self._several = len(rules.lengths) > 1
        self._most = rules.constraints.max_mutations
        allowed = torch.tensor([[c in rules.choice(i) for c in rules.letters] for i in range(rules.length)])
        letters = (~allowed).long().argsort(dim=1, stable=True)
        codes = {letter: code for code, letter in enumerate(rules.letters)}
        wild, turned = rules.constraints.wild_type, rules.limits.turn
        strands = [] if wild is None else [wild] if rules.complement is None else [wild, turned(wild)]
        self._tables = PerDevice(
            _Tables(
                letters,
                letters.argsort(dim=1),
                allowed.sum(dim=1).double() - 1,
                torch.tensor([[codes[c] for c in strand] for strand in strands])
                .reshape(-1, rules.length)
                .T.contiguous(),
            )
        )

    def mutate(self, tokens: Tensor, generator: Generator) -> Tensor:
        """Return each row after one edit that the rules allow.

        Most are substitutions; an `EXCHANGED` share, where there are rules, two at once; a `REGROWN` share is
        built anew from a uniform place on, each completion equally likely. Where `TRIES` draws break a rule, it is
        any allowed substitution, in `LOOKED_THROUGH` rows at most, else the row built anew; the row stays only
        where that gives it back too.
        """
        found, left = tokens.clone(), torch.arange(len(tokens), device=tokens.device)
        for _ in range(TRIES):
            if len(left) == 0:
                return found
            rows = tokens[left]
            edited = self._draw(rows, generator)
            good = (edited != rows).any(dim=1) & self._walker.obeys(edited)
            found[left[good]] = edited[good]
            left = left[~good]
        return self._look_through(tokens, found, left, generator)

    def neighbours(self, tokens: Tensor) -> Tensor:
        """Return every single substitution that the rules allow, each row's without repeats.

        Where there are several lengths, also every letter put in or taken out.
        """
        parts = [self._near(tokens[row : row + 1]) for row in range(len(tokens))]
        return torch.cat([tokens[:0], *parts])

    def shift(self, tokens: Tensor, generator: Generator) -> Tensor:
        """Return each row with one letter taken out and one put in elsewhere; after `TRIES` draws, mutated."""
        found, left = tokens.clone(), torch.arange(len(tokens), device=tokens.device)
        for _ in range(TRIES):
            if len(left) == 0:
                return found
            rows = tokens[left]
            moved = _put_in(*_take_out(rows, generator), self._n_letters, generator)
            good = self._walker.obeys(moved)
            found[left[good]] = moved[good]
            left = left[~good]
        found[left] = self.mutate(tokens[left], generator)
        return found

    def crossover(self, a: Tensor, b: Tensor, generator: Generator) -> Tensor:
        """Return a child of each pair, each letter of either parent; after `TRIES` draws, the first parent."""
        found, left = a.clone(), torch.arange(len(a), device=a.device)
        for _ in range(TRIES):
            if len(left) == 0:
                break
            first, second = a[left], b[left]
            from_second = torch.rand(first.shape, generator=generator, device=a.device) < 0.5
            both = (first != BLANK) & (second != BLANK)
            child = torch.where(from_second & both, second, first)
            good = self._walker.obeys(child)
            found[left[good]] = child[good]
            left = left[~good]
        return found

    def _draw(self, tokens: Tensor, generator: Generator) -> Tensor:
        """Return each row after an edit drawn freely: it may break a rule, and may be the row itself."""
        kind = torch.rand(len(tokens), generator=generator, device=tokens.device)
        found = self._substituted(tokens, generator)
        if self._several:
            chosen = kind < LENGTHENED
            found[chosen] = self._lengthened(tokens[chosen], generator)
        if not self._ruled:
            return found
        kind = torch.rand(len(tokens), generator=generator, device=tokens.device)
        regrown = kind < REGROWN
        exchanged = ~regrown & (kind < REGROWN + EXCHANGED)
        found[exchanged] = self._exchanged(tokens[exchanged], found[exchanged], generator)
        found[regrown] = self._regrown(tokens[regrown], generator)
        return found

    def _substituted(self, tokens: Tensor, generator: Generator, *, among: Tensor | None = None) -> Tensor:
        """Return each row with another letter of its position at one place, each such letter equally likely.

        Where no further mutation is allowed the place is one that is mutated already; or one of `among`, bool.
        """
        tables, filled = self._tables.on(tokens.device), tokens != BLANK
        if len(tokens) == 0:
            return tokens.clone()
        mutated = self._mutated(tokens)
        if among is not None:
            filled = filled & among
        elif mutated is not None:
            filled = filled & (mutated | (mutated.sum(dim=1, keepdim=True) != self._most))
        weights = tables.others * filled
        weights[:, 0] += weights.sum(dim=1) == 0  # nothing can change: the row stays, and is refused
        place = weights.multinomial(1, generator=generator)
        own = tokens.gather(1, place)
        others = tables.others[place].clamp_min(1)
        draw = torch.rand(place.shape, generator=generator, device=tokens.device, dtype=torch.float64)
        rank = torch.minimum((draw * others).long(), others.long() - 1)
        rank = rank + (rank >= tables.rank[place, own.clamp_min(0)])
        letter = tables.letters[place, rank.clamp_max(self._n_letters - 1)]
        changes = (own != BLANK) & (tables.others[place] > 0)
        return tokens.scatter(1, place, torch.where(changes, letter, own))

    def _exchanged(self, tokens: Tensor, once: Tensor, generator: Generator) -> Tensor:
        """Return each row after two substitutions: two letters swapped, a mutation moved, or any two.

        `once` are the rows after one substitution.
        """
        kind = torch.randint(3, (len(tokens),), generator=generator, device=tokens.device)
        found = self._substituted(once, generator, among=tokens == once)
        swapped, mutated = kind == 0, self._mutated(tokens)
        found[swapped] = _swapped(tokens[swapped], generator)
        if mutated is not None:
            moved = (kind == 1) & mutated.any(dim=1)
            found[moved] = self._moved(tokens[moved], mutated[moved], generator)
        return found

    def _moved(self, tokens: Tensor, mutated: Tensor, generator: Generator) -> Tensor:
        """Return each row with one mutation taken back and another made elsewhere."""
        if len(tokens) == 0:
            return tokens
        wild = self._nearest(tokens)
        place = mutated.double().multinomial(1, generator=generator)
        back = tokens.scatter(1, place, wild.gather(1, place))
        return self._substituted(back, generator, among=~mutated)

    def _lengthened(self, tokens: Tensor, generator: Generator) -> Tensor:
        """Return each row with a letter put in or taken out, as its length leaves room for."""
        if len(tokens) == 0:
            return tokens
        length = (tokens != BLANK).sum(dim=1)
        grows = torch.rand(len(tokens), generator=generator, device=tokens.device) < 0.5
        grows = (grows | (length <= self._least)) & (length < self._length)
        found = _take_out(tokens, generator)[0]
        found[grows] = _put_in(tokens[grows], length[grows], self._n_letters, generator)
        return found

    def _regrown(self, tokens: Tensor, generator: Generator) -> Tensor:
        length = (tokens != BLANK).sum(dim=1)
        share = torch.rand(len(tokens), generator=generator, device=tokens.device)
        return self._walker.regrow(tokens, (share * length).long(), generator)

    def _look_through(self, tokens: Tensor, found: Tensor, left: Tensor, generator: Generator) -> Tensor:
        """Fill the rows `left` of `found` with an allowed substitution, or with the row built anew."""
        for row in left[:LOOKED_THROUGH].tolist():
            near = self._near(tokens[row : row + 1])
            if len(near):
                chosen = torch.randint(len(near), (1,), generator=generator, device=tokens.device)
                found[row] = near[chosen].squeeze(0)
        stuck = left[(found[left] == tokens[left]).all(dim=1)]
        for _ in range(TRIES):
            if len(stuck) == 0:
                break
            found[stuck] = self._walker.regrow(tokens[stuck], torch.zeros_like(stuck), generator)
            stuck = stuck[(found[stuck] == tokens[stuck]).all(dim=1)]
        return found

    def _near(self, row: Tensor) -> Tensor:
        """Return the neighbours of one row, `1 x L`."""
        tables = self._tables.on(row.device)
        length = int((row != BLANK).sum())
        allowed = tables.rank[:length] <= tables.others[:length].long().unsqueeze(1)
        allowed = allowed.scatter(1, row[0, :length].unsqueeze(1), value=False)
        place, letter = allowed.nonzero(as_tuple=True)
        near = row.repeat(len(place), 1).scatter(1, place.unsqueeze(1), letter.unsqueeze(1))
        parts = [near]
        if self._several:
            parts.append(torch.unique(torch.cat([*self._all_lengthened(row, length), row[:0]]), dim=0))
        some = torch.cat(parts)
        kept = [part[self._walker.obeys(part)] for part in torch.split(some, max(1, _CHUNK // self._length))]
        return torch.cat([row[:0], *kept])

    def _all_lengthened(self, row: Tensor, length: int) -> list[Tensor]:
        found, device = [], row.device
        if length > self._least:
            places = torch.arange(length, device=device).unsqueeze(1)
            found.append(_without(row.expand(length, -1), places))
        if length < self._length:
            places = torch.arange(length + 1, device=device).repeat_interleave(self._n_letters).unsqueeze(1)
            letters = torch.arange(self._n_letters, device=device).repeat(length + 1).unsqueeze(1)
            found.append(_with(row.expand(len(places), -1), places, letters))
        return found

    def _nearest(self, tokens: Tensor) -> Tensor:
        """Return the strand of the wild type that each row is nearer to, int64 `b x L`."""
        strands = self._tables.on(tokens.device).strands
        differs = (tokens.unsqueeze(2) != strands).sum(dim=1)
        return strands.T[differs.argmin(dim=1)]

    def _mutated(self, tokens: Tensor) -> Tensor | None:
        """Return where each row differs from the wild type, bool `b x L`; None without one."""
        return None if self._most is None else tokens != self._nearest(tokens)


def _swapped(tokens: Tensor, generator: Generator) -> Tensor:
    """Return each row with the letters of two uniform places swapped."""
    length = (tokens != BLANK).sum(dim=1, keepdim=True)
    share = torch.rand(2, len(tokens), 1, generator=generator, device=tokens.device)
    first, second = (share * length).long()
    swapped = tokens.scatter(1, first, tokens.gather(1, second))
    return swapped.scatter(1, second, tokens.gather(1, first))


def _take_out(tokens: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return each row without the letter of a uniform place, and its length then."""
    length = (tokens != BLANK).sum(dim=1)
    share = torch.rand(len(tokens), generator=generator, device=tokens.device)
    return _without(tokens, (share * length).long().unsqueeze(1)), length - 1


def _put_in(tokens: Tensor, length: Tensor, n_letters: int, generator: Generator) -> Tensor:
    """Return each row with a uniform letter put in at a uniform place, before the first to behind the last."""
    share = torch.rand(len(tokens), generator=generator, device=tokens.device)
    letter = torch.randint(n_letters, (len(tokens), 1), generator=generator, device=tokens.device)
    return _with(tokens, (share * (length + 1)).long().unsqueeze(1), letter)


def _without(tokens: Tensor, place: Tensor) -> Tensor:
    """Return rows, `b x L`, without the letter at a place each, `b x 1`."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    shorter = torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], BLANK)], dim=1)
    return torch.where(positions < place, tokens, shorter)


def _with(tokens: Tensor, place: Tensor, letter: Tensor) -> Tensor:
    """Return rows, `b x L`, with a letter put in at a place each, both `b x 1`."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    longer = torch.cat([letter, tokens[:, :-1]], dim=1)
    return torch.where(positions < place, tokens, torch.where(positions == place, letter, longer))
