"""The one protocol for everything that can be built step by step.

Concrete spaces do not belong here, and a reward belongs in no space.
"""

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor


class State(Protocol):
    """Hold a batch of partial or finished objects: a frozen record of tensors with dim 0 = batch.

    `flowscout.loop.spaces.records.TensorRecord` gives a dataclass of tensors all of this.
    """

    @property
    def device(self) -> torch.device:
        """The device of all tensors of the record."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor | slice) -> Self:
        """Return the rows that a boolean mask, an integer index or a slice chooses."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Return the same batch on a device."""
        ...

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of all parts, one part after the other; there is at least one part."""
        ...


S = TypeVar("S", bound=State)


class Space(Protocol[S]):
    """Say what can be built, one action at a time, in batches of `b` rows on any device.

    A space is stateless and may be shared. `A` is `n_actions`, `B` is `n_backward_actions`, `d` is
    `encoding_dim`; actions are int64. What a step from an illegal action does is undefined, but for one case:
    the stop action leaves a finished row as it is, so that a batch may go on while some of its rows idle.
    Where trajectories differ in length there is a stop action, it is the last step of every trajectory, and
    undoing it is the only backward action of a finished row.
    `flowscout.testing.spaces.SpaceContract` tests every property promised here.
    """

    @property
    def n_actions(self) -> int:
        """The number `A` of forward actions."""
        ...

    @property
    def n_backward_actions(self) -> int:
        """The number `B` of backward actions."""
        ...

    @property
    def max_steps(self) -> int:
        """The largest number of forward actions of a trajectory."""
        ...

    @property
    def stop_action(self) -> int | None:
        """The forward action that finishes an object, or None where objects finish by themselves."""
        ...

    @property
    def every_state_terminal(self) -> bool:
        """Whether the stop action is legal in every state."""
        ...

    @property
    def fixed_length(self) -> bool:
        """Whether every trajectory has exactly `max_steps` actions."""
        ...

    @property
    def is_tree(self) -> bool:
        """Whether every state but the first has exactly one parent."""
        ...

    @property
    def encoding_dim(self) -> int:
        """The width `d` of `encode`."""
        ...

    @property
    def size(self) -> int | None:
        """The number of different finished objects (of keys), or None where it is not known."""
        ...

    def reset(self, n: int, device: torch.device | str = "cpu") -> S:
        """Return `n` rows of the state that every trajectory starts from."""
        ...

    def forward_mask(self, state: S) -> Tensor:
        """Return which forward actions are legal, bool `b x A`; no action is in a finished row."""
        ...

    def step(self, state: S, action: Tensor) -> S:
        """Return the states after one legal forward action per row, `b`."""
        ...

    def done(self, state: S) -> Tensor:
        """Return which rows are finished objects, bool `b`."""
        ...

    def backward_mask(self, state: S) -> Tensor:
        """Return which backward actions are legal, bool `b x B`: each leads to a reachable parent."""
        ...

    def step_back(self, state: S, action: Tensor) -> S:
        """Return the states after one legal backward action per row, `b`."""
        ...

    def reverse(self, state: S, action: Tensor) -> Tensor:
        """Return the backward action, `b`, that undoes a forward `action` taken in `state`."""
        ...

    def retrace(self, state: S, action: Tensor) -> Tensor:
        """Return the forward action, `b`, that undoes a backward `action` taken in `state`."""
        ...

    def log_symmetry(self, state: S) -> Tensor:
        """Return the log of the number of finished states that share each row's key, float64 `b`.

        Subtracted from log R it makes samples proportional to R over keys instead of over states.
        """
        ...

    def encode(self, state: S) -> Tensor:
        """Return the policy's input, float32 `b x d`.

        Two unfinished states that differ have different encodings, and so have two finished ones. The
        encoding of a finished state may equal that of the state it was stopped in.

        Where a space has an attribute `has_prior` that is True, the last `A` columns are the log-probabilities of
        the next action that an untrained policy shall take: in a space whose uniform steps lead to few of its
        objects, those that lead to all of them alike.
        """
        ...

    def features(self, state: S) -> Tensor:
        """Return what a surrogate's kernel reads of finished objects, float64, one row each."""
        ...

    def decode(self, state: S) -> list[str]:
        """Return each row's object as text."""
        ...

    def parse(self, objects: Sequence[str], device: torch.device | str = "cpu") -> S:
        """Return the finished states of objects given as text.

        Raises:
            ObjectError: An object is not in the space.
        """
        ...

    def key(self, text: str) -> str:
        """Return the canonical identity of an object: equal exactly for two texts of the same object."""
        ...

    def keys(self, state: S) -> list[str]:
        """Return the key of each row's finished object: that of its text, without reading the text again."""
        ...

    def validate(self, text: str) -> str | None:
        """Return why the text is not an object of the space, or None if it is one."""
        ...

    def enumerate(self, device: torch.device | str = "cpu") -> S:
        """Return every finished state once, for exact tests and exhaustive search.

        Raises:
            ConfigError: There are too many.
        """
        ...

    def distance(self, a: S, b: S) -> Tensor:
        """Return how far finished objects are apart, float64 `n x m`: 0 exactly for equal keys."""
        ...


class EditableSpace(Space[S], Protocol[S]):
    """A space whose finished objects can also be changed in place, as local search does."""

    def image(self, state: S) -> S:
        """Return another finished state with each row's key, where there is one, else the row itself.

        A key of such a space has two states at most.
        """
        ...

    def neighbours(self, state: S) -> S:
        """Return every object one edit away; the neighbours of one row stand together, in row order."""
        ...

    def mutate(self, state: S, generator: torch.Generator) -> S:
        """Return each object after one edit drawn uniformly."""
        ...


@runtime_checkable
class CrossableSpace(EditableSpace[S], Protocol[S]):
    """A space that can also mix two objects, as genetic search does; it does without where a space cannot."""

    def crossover(self, a: S, b: S, generator: torch.Generator) -> S:
        """Return one child of each pair of finished rows, `n`, finished too; a child of twins is their equal."""
        ...
