"""Walk the automaton of a space's rules with tensors: which sequences obey, and draws of those that do.

How the automaton is made belongs in `automaton`; what a sampler is told of it in `growth`.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from flowscout.loop.spaces.automaton import Automaton
from flowscout.loop.spaces.records import PerDevice, TensorRecord

BLANK = -1
"""The code of a position that is not filled yet."""


@dataclass(frozen=True, slots=True, eq=False)
class _Nodes(TensorRecord):
    """As in `Automaton`: `successor` int32 `N x A`, `legal` bool `N x A`, `accepts` bool, `weight` float64."""

    successor: Tensor
    legal: Tensor
    accepts: Tensor
    weight: Tensor


class Walker:
    """Follows many sequences through an automaton at once, on any device.

    Codes of letters are int64 `b x L`, aligned to the left, `BLANK` behind the end. A path is int32 `b x (L + 1)`:
    the node after so many letters; what stands behind a sequence's end means nothing.
    """

    def __init__(self, automaton: Automaton, length: int) -> None:
        self.length, self.n_letters = length, automaton.successor.shape[1]
        self._nodes = PerDevice(
            _Nodes(
                torch.from_numpy(automaton.successor),
                torch.from_numpy(automaton.legal),
                torch.from_numpy(automaton.accepts),
                torch.from_numpy(automaton.weight),
            )
        )

    @property
    def legal(self) -> Tensor:
        """Which letters a node may have next, bool `N x A`, on the CPU."""
        return self._nodes.on(torch.device("cpu")).legal

    @property
    def accepts(self) -> Tensor:
        """Which nodes are objects, bool `N`, on the CPU."""
        return self._nodes.on(torch.device("cpu")).accepts

    def follow(self, node: Tensor, code: Tensor) -> Tensor:
        """Return the nodes after one letter each, int32 `b`."""
        return self._nodes.on(node.device).successor.view(-1).index_select(0, node * self.n_letters + code)

    def walk(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the path of each sequence, and whether it is an object, bool `b`."""
        tables = self._nodes.on(tokens.device)
        successor, legal = tables.successor.view(-1), tables.legal.view(-1)
        node = torch.zeros(len(tokens), dtype=torch.int32, device=tokens.device)
        path, obeys = [node], torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        for code in tokens.unbind(1):
            at, filled = node * self.n_letters + code.clamp_min(0), code != BLANK
            obeys = obeys & (legal.index_select(0, at) | ~filled)
            node = torch.where(filled, successor.index_select(0, at), node)
            path.append(node)
        return torch.stack(path, dim=1), obeys & tables.accepts.index_select(0, node)

    def obeys(self, tokens: Tensor) -> Tensor:
        """Return whether each sequence is an object, bool `b`."""
        return self.walk(tokens)[1]

    def weights(self, node: Tensor) -> Tensor:
        """Return how many objects follow each letter, and the end, float64 `b x (A + 1)`, up to a factor."""
        tables = self._nodes.on(node.device)
        after = tables.successor.index_select(0, node)
        counts = tables.weight.index_select(0, after.flatten()).view_as(after) * tables.legal.index_select(0, node)
        return torch.cat([counts, tables.accepts.index_select(0, node).double().unsqueeze(1)], dim=1)

    def regrow(self, tokens: Tensor, keep: Tensor, generator: Generator) -> Tensor:
        """Return objects that begin with the first `keep` letters of each row: each of them equally likely.

        The first letters of a row are those of an object. Counts are exact to the rounding of float64.
        """
        node = torch.zeros(len(tokens), dtype=torch.int32, device=tokens.device)
        ended, found = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device), []
        for position, given in enumerate(tokens.unbind(1)):
            counts = self.weights(node)
            counts[ended, :] = 0.0
            counts[ended, -1] = 1.0
            scaled = counts / counts.amax(dim=1, keepdim=True)
            drawn = scaled.multinomial(1, generator=generator).squeeze(1) if len(tokens) else given
            code = torch.where(position < keep, given, drawn)
            ended = ended | (code == self.n_letters)
            code = code.masked_fill(ended, BLANK)
            node = torch.where(ended, node, self.follow(node, code.clamp_min(0)))
            found.append(code)
        return torch.stack(found, dim=1)

    def everything(self, device: torch.device | str) -> Tensor:
        """Return the codes of every object, shorter ones first, each length in the order of codes, `n x L`."""
        tables = self._nodes.on(torch.zeros(0, device=device).device)
        node = torch.zeros(1, dtype=torch.int64, device=device)
        tokens = torch.full((1, self.length), BLANK, dtype=torch.int64, device=device)
        found = [tokens[tables.accepts[node]]]
        for position in range(self.length):
            row, code = tables.legal[node].nonzero(as_tuple=True)
            tokens = tokens[row]
            tokens[:, position] = code
            node = tables.successor[node[row], code].long()
            found.append(tokens[tables.accepts[node]])
        return torch.cat(found)
