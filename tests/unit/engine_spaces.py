"""Tiny spaces that refuse every illegal action, and their exact flows, for tests of the engine."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowscout.errors import ObjectError
from flowscout.loop.gflownet import Policy
from flowscout.loop.spaces import SequenceSpace, TensorRecord


@dataclass(frozen=True, slots=True, eq=False)
class WalkState(TensorRecord):
    """`place`, int64 `b x k`, and whether the row was stopped there."""

    place: Tensor
    stopped: Tensor


class StopSpace:
    """What spaces with a stop action share: its number is the last one, forwards and backwards."""

    fixed_length = False

    def done(self, state: WalkState) -> Tensor:
        return state.stopped

    def forward_mask(self, state: WalkState) -> Tensor:
        return self.open_mask(state.place) & ~state.stopped.unsqueeze(1)

    def backward_mask(self, state: WalkState) -> Tensor:
        inner = self.parent_mask(state.place) & ~state.stopped.unsqueeze(1)
        return torch.cat([inner, state.stopped.unsqueeze(1)], dim=1)

    def step(self, state: WalkState, action: Tensor) -> WalkState:
        stop = action == self.stop_action
        legal = self.forward_mask(state).gather(1, action.unsqueeze(1)).squeeze(1)
        assert (legal | (state.stopped & stop)).all(), "an illegal action was taken"
        return WalkState(
            torch.where(stop.unsqueeze(1), state.place, self.moved(state.place, action)), state.stopped | stop
        )

    def step_back(self, state: WalkState, action: Tensor) -> WalkState:
        assert self.backward_mask(state).gather(1, action.unsqueeze(1)).all(), "an illegal step back was taken"
        stop = action == self.n_backward_actions - 1
        place = torch.where(stop.unsqueeze(1), state.place, self.moved_back(state.place, action))
        return WalkState(place, state.stopped & ~stop)

    def log_symmetry(self, state: WalkState) -> Tensor:
        return torch.zeros(len(state), dtype=torch.float64, device=state.device)

    def features(self, state: WalkState) -> Tensor:
        return state.place.double()

    def key(self, text: str) -> str:
        return text

    def keys(self, state: WalkState) -> list[str]:
        return self.decode(state)

    def distance(self, a: WalkState, b: WalkState) -> Tensor:
        return (a.place.unsqueeze(1) != b.place).sum(2).double()


class GridSpace(StopSpace):
    """Places of a `side ^ dims` grid, reached by unit steps away from the origin: a graph with many paths."""

    every_state_terminal, is_tree = True, False

    def __init__(self, side: int, dims: int = 2) -> None:
        self.side, self.dims = side, dims
        self.n_actions = self.n_backward_actions = dims + 1
        self.stop_action = dims
        self.max_steps = dims * (side - 1) + 1
        self.encoding_dim = dims * side
        self.size = side**dims

    def __repr__(self) -> str:
        return f"GridSpace({self.side}, {self.dims})"

    def reset(self, n: int, device: torch.device | str = "cpu") -> WalkState:
        place = torch.zeros(n, self.dims, dtype=torch.int64, device=device)
        return WalkState(place, torch.zeros(n, dtype=torch.bool, device=device))

    def open_mask(self, place: Tensor) -> Tensor:
        return torch.nn.functional.pad(place < self.side - 1, (0, 1), value=True)

    def parent_mask(self, place: Tensor) -> Tensor:
        return place > 0

    def moved(self, place: Tensor, action: Tensor) -> Tensor:
        return place + torch.nn.functional.one_hot(action, self.n_actions)[:, : self.dims]

    def moved_back(self, place: Tensor, action: Tensor) -> Tensor:
        return place - torch.nn.functional.one_hot(action, self.n_actions)[:, : self.dims]

    def reverse(self, state: WalkState, action: Tensor) -> Tensor:
        return action

    def retrace(self, state: WalkState, action: Tensor) -> Tensor:
        return action

    def encode(self, state: WalkState) -> Tensor:
        return torch.nn.functional.one_hot(state.place, self.side).flatten(1).float()

    def decode(self, state: WalkState) -> list[str]:
        return [",".join(map(str, row)) for row in state.place.tolist()]

    def parse(self, objects: Sequence[str], device: torch.device | str = "cpu") -> WalkState:
        for text in objects:
            if self.validate(text):
                raise ObjectError(f"{text!r} is not a place of {self!r}.")
        place = torch.tensor([[int(part) for part in text.split(",")] for text in objects], device=device)
        return WalkState(place, torch.ones(len(objects), dtype=torch.bool, device=device))

    def validate(self, text: str) -> str | None:
        legal = {str(number) for number in range(self.side)}
        parts = text.split(",")
        return None if len(parts) == self.dims and set(parts) <= legal else "not a place"

    def enumerate(self, device: torch.device | str = "cpu") -> WalkState:
        place = torch.cartesian_prod(*[torch.arange(self.side, device=device)] * self.dims)
        return WalkState(place, torch.ones(len(place), dtype=torch.bool, device=device))


class WordSpace(StopSpace):
    """Words of one to `longest` letters, written from the left and stopped: a tree of uneven length."""

    every_state_terminal, is_tree = False, True
    n_backward_actions = 2

    def __init__(self, letters: int, longest: int) -> None:
        self.letters, self.longest = letters, longest
        self.n_actions = letters + 1
        self.stop_action = letters
        self.max_steps = longest + 1
        self.encoding_dim = letters * longest
        self.size = sum(letters**length for length in range(1, longest + 1))

    def __repr__(self) -> str:
        return f"WordSpace({self.letters}, {self.longest})"

    def reset(self, n: int, device: torch.device | str = "cpu") -> WalkState:
        place = torch.full((n, self.longest), -1, device=device)
        return WalkState(place, torch.zeros(n, dtype=torch.bool, device=device))

    def open_mask(self, place: Tensor) -> Tensor:
        length = (place >= 0).sum(1, keepdim=True)
        return torch.cat([(length < self.longest).expand(-1, self.letters), length > 0], dim=1)

    def parent_mask(self, place: Tensor) -> Tensor:
        return place[:, :1] >= 0

    def moved(self, place: Tensor, action: Tensor) -> Tensor:
        length = (place >= 0).sum(1, keepdim=True).clamp_max(self.longest - 1)
        return place.scatter(1, length, action.unsqueeze(1))

    def moved_back(self, place: Tensor, action: Tensor) -> Tensor:
        last = (place >= 0).sum(1, keepdim=True) - 1
        return place.scatter(1, last.clamp_min(0), -1)

    def reverse(self, state: WalkState, action: Tensor) -> Tensor:
        return (action == self.stop_action).long()

    def retrace(self, state: WalkState, action: Tensor) -> Tensor:
        last = ((state.place >= 0).sum(1, keepdim=True) - 1).clamp_min(0)
        return torch.where(action == 1, self.stop_action, state.place.gather(1, last).squeeze(1))

    def encode(self, state: WalkState) -> Tensor:
        return torch.nn.functional.one_hot(state.place + 1, self.letters + 1)[:, :, 1:].flatten(1).float()

    def decode(self, state: WalkState) -> list[str]:
        return ["".join(chr(97 + code) for code in row if code >= 0) for row in state.place.tolist()]

    def parse(self, objects: Sequence[str], device: torch.device | str = "cpu") -> WalkState:
        for text in objects:
            if self.validate(text):
                raise ObjectError(f"{text!r} is not a word of {self!r}.")
        rows = [[ord(letter) - 97 for letter in text.ljust(self.longest, "`")] for text in objects]
        return WalkState(torch.tensor(rows, device=device), torch.ones(len(rows), dtype=torch.bool, device=device))

    def validate(self, text: str) -> str | None:
        legal = {chr(97 + code) for code in range(self.letters)}
        return None if 0 < len(text) <= self.longest and set(text) <= legal else "not a word"


@dataclass(frozen=True, slots=True, eq=False)
class SubsetState(TensorRecord):
    chosen: Tensor  # bool b x n


class SubsetSpace:
    """The k-subsets of n items in any order of choice: a graph of fixed length without a stop action."""

    stop_action = None
    every_state_terminal, fixed_length, is_tree = False, True, False

    def __init__(self, n: int, k: int) -> None:
        self.n_actions = self.n_backward_actions = self.encoding_dim = n
        self.max_steps = k
        self.size = math.comb(n, k)

    def __repr__(self) -> str:
        return f"SubsetSpace({self.n_actions}, {self.max_steps})"

    def reset(self, n: int, device: torch.device | str = "cpu") -> SubsetState:
        return SubsetState(torch.zeros(n, self.n_actions, dtype=torch.bool, device=device))

    def forward_mask(self, state: SubsetState) -> Tensor:
        return ~state.chosen & ~self.done(state).unsqueeze(1)

    def step(self, state: SubsetState, action: Tensor) -> SubsetState:
        assert self.forward_mask(state).gather(1, action.unsqueeze(1)).all(), "an illegal action was taken"
        return SubsetState(state.chosen.scatter(1, action.unsqueeze(1), True))

    def done(self, state: SubsetState) -> Tensor:
        return state.chosen.sum(dim=1) == self.max_steps

    def backward_mask(self, state: SubsetState) -> Tensor:
        return state.chosen

    def step_back(self, state: SubsetState, action: Tensor) -> SubsetState:
        assert state.chosen.gather(1, action.unsqueeze(1)).all(), "an illegal step back was taken"
        return SubsetState(state.chosen.scatter(1, action.unsqueeze(1), False))

    def reverse(self, state: SubsetState, action: Tensor) -> Tensor:
        return action

    def retrace(self, state: SubsetState, action: Tensor) -> Tensor:
        return action

    def log_symmetry(self, state: SubsetState) -> Tensor:
        return torch.zeros(len(state), dtype=torch.float64, device=state.device)

    def encode(self, state: SubsetState) -> Tensor:
        return state.chosen.float()

    def features(self, state: SubsetState) -> Tensor:
        return state.chosen.double()

    def decode(self, state: SubsetState) -> list[str]:
        return ["".join("01"[bit] for bit in row) for row in state.chosen.tolist()]

    def parse(self, objects: Sequence[str], device: torch.device | str = "cpu") -> SubsetState:
        for text in objects:
            if self.validate(text):
                raise ObjectError(f"{text!r} is not a subset of {self!r}.")
        return SubsetState(torch.tensor([[bit == "1" for bit in text] for text in objects], device=device))

    def key(self, text: str) -> str:
        return text

    def keys(self, state: SubsetState) -> list[str]:
        return self.decode(state)

    def validate(self, text: str) -> str | None:
        return None if len(text) == self.n_actions and text.count("1") == self.max_steps else "not a subset"

    def distance(self, a: SubsetState, b: SubsetState) -> Tensor:
        return (a.chosen.unsqueeze(1) != b.chosen).sum(dim=2).double()


SPACES = {
    "grid": lambda: GridSpace(4),
    "words": lambda: WordSpace(2, 3),
    "subset": lambda: SubsetSpace(5, 3),
    "sequence": lambda: SequenceSpace("01", 3),
}
"""Variable length and a graph; variable length and a tree; fixed length and a graph; fixed length and a tree."""


def hash_reward(space, *, scale: float = 1.0) -> Callable:
    """Return a log-reward of finished and unfinished states that is rough, and the same on every call."""
    weights = scale * torch.randn(space.encoding_dim, 2, generator=torch.Generator().manual_seed(5))

    def log_reward(state) -> Tensor:
        one, two = (space.encode(state) @ weights).unbind(1)
        return one + (3 * two).sin() * scale

    return log_reward


@dataclass
class ExactFlows:
    """Every state of a tiny space, and the flows under a backward policy, found with loops.

    `parts` holds one-row states; `log_flow[s]`; `log_pf[s][action]` and `log_pb[s][backward action]` are those of
    legal actions; `log_r` is that of finished states.
    """

    space: object
    parts: list
    log_flow: list[float]
    log_pf: list[dict[int, float]]
    log_pb: list[dict[int, float]]
    log_r: dict[int, float]
    number: dict

    @property
    def log_z(self) -> float:
        return self.log_flow[0]

    def law(self) -> dict[str, float]:
        """Return R / Z by object."""
        return {self.space.decode(self.parts[s])[0]: math.exp(r - self.log_z) for s, r in self.log_r.items()}


def identity(space, state) -> tuple:
    return (bool(space.done(state)[0]), *space.encode(state)[0].tolist())


def exact_flows(space, log_reward: Callable, *, backward_seed: int | None = None) -> ExactFlows:
    """Return the flows under a uniform backward policy, or under a random one with a seed."""
    parts, number, edges = [space.reset(1)], {}, []
    number[identity(space, parts[0])] = 0
    place = 0
    while place < len(parts):  # states are found in the order of their depth
        for action in space.forward_mask(parts[place])[0].nonzero().flatten().tolist():
            taken = torch.tensor([action])
            child = space.step(parts[place], taken)
            name = identity(space, child)
            if name not in number:
                number[name] = len(parts)
                parts.append(child)
            edges.append((place, action, number[name], int(space.reverse(parts[place], taken)[0])))
        place += 1
    generator = torch.Generator().manual_seed(backward_seed or 0)
    log_pb: list[dict[int, float]] = []
    for state in parts:
        legal = space.backward_mask(state)[0].nonzero().flatten()
        scores = torch.randn(len(legal), dtype=torch.float64, generator=generator)
        scores = scores if backward_seed is not None else torch.zeros_like(scores)
        log_pb.append(dict(zip(legal.tolist(), scores.log_softmax(0).tolist(), strict=True)))
    flow, log_r = [0.0] * len(parts), {}
    for s, state in enumerate(parts):
        if bool(space.done(state)[0]):
            log_r[s] = float(log_reward(state)[0]) - float(space.log_symmetry(state)[0])
            flow[s] = math.exp(log_r[s])
    edge_flow = {}
    for parent, action, child, back in reversed(edges):  # each state's edges come after those of its parents
        edge_flow[parent, action] = flow[child] * math.exp(log_pb[child][back])
        flow[parent] += edge_flow[parent, action]
    log_pf: list[dict[int, float]] = [{} for _ in parts]
    for (parent, action), value in edge_flow.items():
        log_pf[parent][action] = math.log(value / flow[parent])
    return ExactFlows(space, parts, [math.log(f) for f in flow], log_pf, log_pb, log_r, number)


class Lookup(nn.Module):
    """A trunk that maps each known encoding to a one-hot row."""

    def __init__(self, encodings: Tensor) -> None:
        super().__init__()
        self.known = encodings

    def forward(self, encoding: Tensor) -> Tensor:
        same = (encoding.unsqueeze(1) == self.known).all(2)
        assert same.any(1).all(), "an encoding that is of no state"
        return torch.nn.functional.one_hot(same.int().argmax(1), len(self.known)).float()


def exact_policy(flows: ExactFlows, objective, partial: Callable | None = None) -> Policy:
    """Return a policy whose heads hold exact flows, as `objective` reads them."""
    space = flows.space
    encodings = torch.cat([space.encode(state) for state in flows.parts])
    # An unfinished state comes before the finished one of the same encoding.
    known = list(dict.fromkeys(map(tuple, encodings.tolist())))
    policy = Policy(
        space.encoding_dim,
        space.n_actions,
        generator=torch.Generator().manual_seed(0),
        width=len(known),
        n_backward_actions=space.n_backward_actions if objective.learns_backward else 0,
        log_flow=objective.needs_log_flow,
        trunk=Lookup(torch.tensor(known)),
    )
    seen = set()
    with torch.no_grad():
        policy.log_z.fill_(flows.log_z)
        for s, state in enumerate(flows.parts):
            row = tuple(encodings[s].tolist())
            if row in seen:
                continue
            seen.add(row)
            column = known.index(row)
            scale = flows.log_flow[s] if objective.loss == "flow_matching" else 0.0
            for action, value in flows.log_pf[s].items():
                policy.forward_head.weight[action, column] = value + scale
            if policy.backward_head is not None:
                for back, value in flows.log_pb[s].items():
                    policy.backward_head.weight[back, column] = value
            if policy.flow_head is not None:
                offset = flows.log_z if partial is None else float(partial(state)[0])
                policy.flow_head.weight[0, column] = flows.log_flow[s] - offset
    return policy


def policy_law(space, policy: Policy, condition: Tensor | None = None) -> dict[str, float]:
    """Return the probability of each object, found by following every action; `condition` is `1 x c`."""
    ends: dict[str, float] = {}
    level, weight = space.reset(1), torch.ones(1, dtype=torch.float64)
    while len(level):
        given = None if condition is None else condition.expand(len(level), -1)
        mask = space.forward_mask(level)
        with torch.no_grad():
            logits = policy(space.encode(level), given).double()
        p = logits.masked_fill(~mask, -math.inf).softmax(1) * weight.unsqueeze(1)
        parent, action = mask.nonzero(as_tuple=True)
        child, weight = space.step(level[parent], action), p[parent, action]
        done = space.done(child)
        for text, value in zip(space.decode(child[done]), weight[done].tolist(), strict=True):
            ends[text] = ends.get(text, 0.0) + value
        child, weight = child[~done], weight[~done]
        if len(child):
            _, number = torch.unique(space.encode(child), dim=0, return_inverse=True)
            first = torch.full((int(number.max()) + 1,), len(child)).scatter_reduce(
                0, number, torch.arange(len(child)), "amin"
            )
            weight = torch.zeros(len(first), dtype=torch.float64).index_add(0, number, weight)
            child = child[first]
        level = child
    return ends


def distance(p: dict[str, float], q: dict[str, float]) -> float:
    """Return the total variation of two laws."""
    return sum(abs(p.get(name, 0.0) - q.get(name, 0.0)) for name in {*p, *q}) / 2
