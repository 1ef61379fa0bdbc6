"""Walk through a space: forwards by a policy, backwards from finished objects, and give log-probabilities.

Exploration changes what is sampled, never what a policy says of it. Losses belong in `losses`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic

import torch
from torch import Tensor

from flowscout.errors import ConfigError
from flowscout.loop.gflownet.network import bucket
from flowscout.loop.gflownet.policy import Policy, masked, masked_log_softmax
from flowscout.loop.gflownet.trajectories import Walk
from flowscout.loop.spaces.protocol import S, Space

CHUNK_ROWS = 16_384
"""Rows of one forward pass outside training: bounds memory at 16 MB per layer of 256 units."""

NOISE_STEPS = 8
"""Steps whose noise is drawn at once."""

WIDE = 32
"""Actions from which one is drawn by cumulated probabilities."""

LIVE_SHARE = 0.7
"""Finished rows idle along until fewer than this share of the rows live; then they are dropped."""

CUDA_LOOK = 8
"""Steps between two looks at which rows are finished, where a look waits for the device."""


@dataclass(frozen=True)
class Draw(Generic[S]):
    """Finished objects drawn from a policy: `states`, `n` rows, and `log_pf`, float32 `n`.

    `log_pf` is the log-probability of the trajectory that was taken: in a tree, that of the state itself.
    """

    states: S
    log_pf: Tensor


def rollout(
    space: Space[S],
    policy: Policy,
    n: int,
    *,
    generator: torch.Generator,
    epsilon: Tensor | float = 0.0,
    temperature: Tensor | float = 1.0,
    condition: Tensor | None = None,
    rounds: bool = False,
) -> Walk[S]:
    """Return `n` trajectories of the policy, on the device of the generator.

    With probability `epsilon` a step takes a uniform legal action instead; logits are divided by `temperature`;
    each is one number, or `n` of them. `condition` is encoded, `n x c`; `rounds` is that of
    `Policy.frozen`.
    """
    record: _Record[S] = _Record()
    noise = _Noise(generator, epsilon, temperature)
    with torch.inference_mode():
        start, rounds = space.reset(n, generator.device), rounds and policy.rounds
        terminal = _walk(space, policy.frozen(rounds=rounds), start, noise, condition, record, rounds=rounds)
    # Outside of inference mode, because autograd refuses to save the tensors made inside it.
    return record.collect(terminal)


def regrow(
    space: Space[S],
    policy: Policy,
    state: S,
    n_steps: int,
    *,
    generator: torch.Generator,
    condition: Tensor | None,
) -> S:
    """Return the objects that the policy finishes from unfinished states, one each.

    In a space of fixed length all states are `n_steps` from their end; elsewhere a walk ends where it ends.
    """
    steps = n_steps if space.fixed_length else space.max_steps
    with torch.inference_mode():
        terminal = _walk(
            space, policy.frozen(), state, _Noise(generator, 0.0, 1.0), condition, None, n_steps=steps
        )
    return terminal[torch.arange(len(terminal), device=terminal.device)]


def draw(
    space: Space[S], policy: Policy, n: int, *, generator: torch.Generator, condition: Tensor | None = None
) -> Draw[S]:
    """Return `n` finished objects of the policy with their log-probabilities; no step is kept."""
    parts = []
    with torch.inference_mode():
        for rows in torch.split(torch.arange(n, device=generator.device), CHUNK_ROWS):
            log_pf = torch.zeros(len(rows), device=generator.device)
            state = space.reset(len(rows), generator.device)
            chunk = None if condition is None else condition[rows]
            terminal = _walk(space, policy.frozen(), state, _Noise(generator, 0.0, 1.0), chunk, None, log_pf)
            parts.append((terminal, log_pf))
    if not parts:
        return Draw(space.reset(0, generator.device), torch.zeros(0, device=generator.device))
    states = type(parts[0][0]).cat([terminal for terminal, _ in parts])
    log_pf = torch.cat([log_pf for _, log_pf in parts])
    return Draw(states[torch.arange(n, device=generator.device)], log_pf.clone())


def walk_back(
    space: Space[S],
    policy: Policy,
    terminal: S,
    *,
    generator: torch.Generator,
    condition: Tensor | None = None,
) -> tuple[Walk[S], Tensor]:
    """Return a trajectory to each finished object and the log-probability of walking it back, float32 `n`.

    Each is drawn from the policy's backward head, or uniformly where it has none.
    """
    n, device = len(terminal), terminal.device
    rows = torch.arange(n, device=device)
    lengths, log_pb = torch.zeros_like(rows), torch.zeros(n, device=device)
    steps_back: list[tuple[S, Tensor, Tensor]] = []
    state = terminal
    with torch.no_grad():
        for _ in range(space.max_steps):
            chosen = None if condition is None else condition[rows]
            back, log_p = _choose_back(space, policy, state, generator, chosen)
            action, state = space.retrace(state, back), space.step_back(state, back)
            steps_back.append((state, action, rows))
            log_pb.index_add_(0, rows, log_p)
            lengths[rows] += 1
            if not space.fixed_length:
                alive = space.backward_mask(state).any(dim=1).nonzero().squeeze(1)
                if len(alive) == 0:
                    break
                if len(alive) < len(rows):
                    state, rows = state[alive], rows[alive]
        found = type(terminal).cat([parent for parent, _, _ in steps_back])
        all_rows = torch.cat([part for _, _, part in steps_back])
        counts = torch.tensor([len(part) for _, _, part in steps_back], device=device)
        age = torch.arange(len(counts), device=device).repeat_interleave(counts, output_size=len(found))
        actions = torch.cat([action for _, action, _ in steps_back])
        encodings, masks = space.encode(found), space.forward_mask(found)
        walk = Walk(found, encodings, masks, actions, all_rows, lengths[all_rows] - 1 - age, terminal)
    return walk, log_pb


def step_back(
    space: Space[S],
    policy: Policy,
    terminal: S,
    n_steps: int,
    *,
    generator: torch.Generator,
    condition: Tensor | None = None,
) -> S:
    """Return each finished object after `n_steps` backward steps, at least one; the first state is the last."""
    state = terminal
    with torch.no_grad():
        for _ in range(n_steps):
            if space.fixed_length:
                back, _ = _choose_back(space, policy, state, generator, condition)
                state = space.step_back(state, back)
                continue
            # Rows that stand at the first state stay there: no step back is legal for them.
            alive = space.backward_mask(state).any(dim=1).nonzero().squeeze(1)
            if len(alive) == 0:
                break
            chosen = None if condition is None else condition[alive]
            back, _ = _choose_back(space, policy, state[alive], generator, chosen)
            place = torch.arange(len(state), device=state.device)
            place[alive] = torch.arange(len(alive), device=state.device) + len(state)
            state = type(state).cat([state, space.step_back(state[alive], back)])[place]
    return state


def log_prob(space: Space[S], policy: Policy, terminal: S, *, condition: Tensor | None = None) -> Tensor:
    """Return the exact log-probability of each finished object of a tree under the policy, float32 `b`.

    It is that of the state: with two strands, a key's probability is the sum over both of its strings.

    Raises:
        ConfigError: The space is not a tree.
    """
    if not space.is_tree:
        raise ConfigError(
            f"{space!r} is not a tree, expected one: elsewhere many trajectories lead to one object. "
            "Estimate log-probabilities with `estimate_log_prob` there."
        )
    return estimate_log_prob(
        space, policy, terminal, samples=1, generator=torch.Generator(terminal.device), condition=condition
    )


def estimate_log_prob(
    space: Space[S],
    policy: Policy,
    terminal: S,
    *,
    samples: int,
    generator: torch.Generator,
    condition: Tensor | None = None,
) -> Tensor:
    """Return an estimate of each finished object's log-probability under the policy, float32 `b`.

    P(x) is the mean of P_F(trajectory) / P_B(trajectory | x) over trajectories drawn from P_B: of `samples` of
    them here. Its logarithm errs downwards, the less the more samples; in a tree one sample is exact.
    """
    found = []
    rows = max(1, CHUNK_ROWS // (space.max_steps * samples))
    for index in torch.split(torch.arange(len(terminal), device=terminal.device), rows):
        copies = index.repeat_interleave(samples)
        chosen = None if condition is None else condition[copies]
        walk, log_pb = walk_back(space, policy, terminal[copies], generator=generator, condition=chosen)
        with torch.no_grad():
            logits = policy(walk.encodings, None if chosen is None else chosen[walk.rows])
            steps = masked_log_softmax(logits, walk.masks).gather(1, walk.actions.unsqueeze(1)).squeeze(1)
            log_pf = torch.zeros_like(log_pb).index_add_(0, walk.rows, steps)
            found.append((log_pf - log_pb).view(-1, samples).logsumexp(1) - math.log(samples))
    return torch.cat(found) if found else torch.zeros(0, device=terminal.device)


@dataclass
class _Noise:
    """The random numbers of steps to come, drawn for several at once: what is chosen, and where to explore."""

    generator: torch.Generator
    epsilon: Tensor | float
    temperature: Tensor | float

    def __post_init__(self) -> None:
        self._left = 0
        self._explores = isinstance(self.epsilon, Tensor) or self.epsilon > 0
        self._tempers = isinstance(self.temperature, Tensor) or self.temperature != 1.0

    def choose(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Return one legal action per row, `n`, drawn from the softmax of the legal logits.

        Narrow rows by the Gumbel-max trick; wide ones, where so much noise is the dearest part of a step, by one
        uniform number and the cumulated probabilities.
        """
        n, width = logits.shape
        if self._left == 0:
            self._refill(logits)
        self._left -= 1
        if self._tempers:
            logits = logits / _column(self.temperature)
        if self._explores:
            logits = logits.masked_fill(self._explore[self._left, :n], 0.0)
        noise = self._noise[self._left, :n]
        if width < WIDE:
            # The place of the maximum is found twice as fast together with its value.
            return masked(logits + noise, mask).max(dim=1).indices
        below = masked(logits, mask).softmax(1).cumsum(1)
        # The first action whose sum lies above: never one of probability 0. Without a legal action all is NaN.
        place = torch.searchsorted(below, noise * below[:, -1:], right=True).squeeze(1)
        return place.clamp_max_(width - 1)

    def keep(self, alive: Tensor) -> None:
        """Follow the rows of a batch that goes on without the others."""
        if isinstance(self.temperature, Tensor):
            self.temperature = self.temperature[alive]
        if isinstance(self.epsilon, Tensor):
            self.epsilon = self.epsilon[alive]
            self._left = 0

    def _refill(self, logits: Tensor) -> None:
        self._left = NOISE_STEPS
        n, width = logits.shape
        if width < WIDE:
            self._noise = _gumbel(logits.new_empty((NOISE_STEPS, n, width)), self.generator)
        else:
            self._noise = logits.new_empty((NOISE_STEPS, n, 1)).uniform_(generator=self.generator)
        if self._explores:
            chance = logits.new_empty((NOISE_STEPS, len(logits), 1)).uniform_(generator=self.generator)
            self._explore = chance < _column(self.epsilon)


@dataclass
class _Record(Generic[S]):
    """What happened at each step of a batch; rows that idle are left out at the end."""

    states: list[S] = field(default_factory=list)
    encodings: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    actions: list[Tensor] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    idle: list[Tensor] = field(default_factory=list)

    def note(self, state: S, encoding: Tensor, mask: Tensor, action: Tensor, rows: Tensor) -> None:
        """Add one step."""
        self.states.append(state)
        self.encodings.append(encoding)
        self.masks.append(mask)
        self.actions.append(action)
        self.rows.append(rows)

    def collect(self, terminal: S) -> Walk[S]:
        """Return the walk; its tensors are new ones."""
        device = terminal.device
        counts, n_steps = torch.tensor([len(part) for part in self.rows], device=device), sum(map(len, self.rows))
        steps = torch.arange(len(counts), device=device).repeat_interleave(counts, output_size=n_steps)
        walk = Walk(
            type(terminal).cat(self.states),
            torch.cat(self.encodings),
            torch.cat(self.masks),
            torch.cat(self.actions),
            torch.cat(self.rows),
            steps,
            terminal[torch.arange(len(terminal), device=device)],
        )
        return walk.only((~torch.cat(self.idle)).nonzero().squeeze(1)) if self.idle else walk


@dataclass
class _Front(Generic[S]):
    """The rows of a batch that still walk: `state`, the numbers `rows`, and which of them idle, if any do."""

    state: S
    rows: Tensor
    condition: Tensor | None
    idle: Tensor | None = None
    in_buckets: bool = False
    ended: list[tuple[S, Tensor]] = field(default_factory=list)

    def drop_idle(self, noise: _Noise) -> bool:
        """Set finished rows aside once they are many, and return whether all are finished.

        It waits for the device.
        """
        assert self.idle is not None
        n_idle = int(self.idle.sum())
        if n_idle == len(self.rows):
            return True
        if n_idle > (1 - LIVE_SHARE) * len(self.rows):
            n_alive = len(self.rows) - n_idle
            kept = min(len(self.rows), bucket(n_alive)) if self.in_buckets else n_alive
            order = self.idle.byte().argsort(stable=True)  # those that live first
            keep, drop = order[:kept], order[kept:]
            self.ended.append((self.state[drop], self.rows[drop]))
            self.idle = self.idle[keep] if kept > n_alive else None
            self.state, self.rows = self.state[keep], self.rows[keep]
            self.condition = None if self.condition is None else self.condition[keep]
            noise.keep(keep)
        return False

    def terminal(self) -> S:
        """Return the finished rows in their first order."""
        if not self.ended:
            return self.state
        order = torch.cat([*[rows for _, rows in self.ended], self.rows]).argsort()
        return type(self.state).cat([*[state for state, _ in self.ended], self.state])[order]


def _walk(
    space: Space[S],
    logits_of: Callable[[Tensor, Tensor | None], Tensor],
    start: S,
    noise: _Noise,
    condition: Tensor | None,
    record: _Record[S] | None,
    log_pf: Tensor | None = None,
    n_steps: int | None = None,
    *,
    rounds: bool = False,
) -> S:
    """Walk unfinished rows to their ends, at most `n_steps` away, and return the finished rows in their order.

    Every step goes into `record`; the log-probabilities of the actions are added to `log_pf`, `n`.
    """
    n_steps = space.max_steps if n_steps is None else n_steps
    front = _Front(start, torch.arange(len(start), device=start.device), condition, in_buckets=rounds)
    look = CUDA_LOOK if start.device.type == "cuda" else 1
    for step in range(1, n_steps + 1):
        state, idle = front.state, front.idle
        encoding, mask = space.encode(state), space.forward_mask(state)
        if rounds:
            encoding = encoding.bfloat16()  # as large passes read it: half the memory to copy
        logits = logits_of(encoding, front.condition)
        action = noise.choose(logits, mask)
        if idle is not None and space.stop_action is not None:
            action = action.masked_fill_(idle, space.stop_action)
        if record is not None:
            record.note(state, encoding, mask, action, front.rows)
            if not space.fixed_length:
                record.idle.append(torch.zeros_like(front.rows, dtype=torch.bool) if idle is None else idle)
        if log_pf is not None:
            chosen = masked_log_softmax(logits, mask).gather(1, action.unsqueeze(1)).squeeze(1)
            log_pf.index_add_(0, front.rows, chosen if idle is None else chosen.masked_fill(idle, 0.0))
        front.state = space.step(state, action)
        if not space.fixed_length:
            front.idle = space.done(front.state)
            if (step % look == 0 or step == n_steps) and front.drop_idle(noise):
                break
    return front.terminal()


def _gumbel(block: Tensor, generator: torch.Generator) -> Tensor:
    """Fill a float32 block with Gumbel noise and return it.

    Minus the log of minus the log of a uniform number: drawing exponential numbers takes four times as long. The
    floor, half of the smallest step of float32 below 1, keeps log(0) out of a row that has one legal action.
    """
    return block.uniform_(generator=generator).clamp_min_(2.0**-25).log_().neg_().log_().neg_()


def _column(value: Tensor | float) -> Tensor | float:
    return value.unsqueeze(1) if isinstance(value, Tensor) else value


def _choose_back(
    space: Space[S], policy: Policy, state: S, generator: torch.Generator, condition: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return a backward action per row, `n`, and its log-probability, float32 `n`."""
    mask = space.backward_mask(state)
    if space.is_tree:
        return mask.int().argmax(dim=1), torch.zeros(len(state), device=state.device)
    if policy.backward_head is None:
        logits = torch.zeros(mask.shape, device=state.device)
    else:
        found = policy.heads(space.encode(state), condition).backward
        assert found is not None
        logits = found
    gumbel = _gumbel(torch.empty_like(logits), generator)
    back = masked(logits + gumbel, mask).max(dim=1).indices
    log_p = masked_log_softmax(logits, mask).gather(1, back.unsqueeze(1)).squeeze(1)
    return back, log_p
