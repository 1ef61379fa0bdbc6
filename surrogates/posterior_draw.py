"""One posterior draw as an acquisition: an object is worth what the drawn function says.

A batch that gives each place a draw of its own is chosen in `loop.selection`.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Generator, Tensor

from flowscout.errors import ConfigError, ObjectError
from flowscout.surrogates.acquisition import FrozenAcquisition
from flowscout.surrogates.protocol import Surrogate


@runtime_checkable
class HasPaths(Protocol):
    """A surrogate that can draw whole functions, because its kernel has a finite feature map."""

    def path(self, generator: Generator) -> Callable[[Tensor], Tensor]:
        """Return one posterior draw of the noise-free property as a function of `X`, `n x d`: `n`.

        The function keeps its draw: fitting the surrogate again does not change it.
        """


def thompson(surrogate: Surrogate, *, generator: Generator, pool: Tensor | None = None) -> FrozenAcquisition:
    """Return one posterior draw: a path where the surrogate has them, else a joint draw on `pool`, `m x d`.

    A draw on a pool values its rows, bit for bit, and nothing else. Pending objects change neither: as long
    as their outcomes are unknown the belief is what it was, and draws of their own keep a batch apart.

    Raises: ConfigError if there is neither a path nor a pool; when called, ObjectError for an object that is
    not in the pool.
    Source: Kandasamy et al. 2018, arXiv:1705.09236.
    """
    if isinstance(surrogate, HasPaths):
        return FrozenAcquisition(name="thompson", is_log=False, evaluate=surrogate.path(generator))
    if pool is None:
        raise ConfigError(
            f"{type(surrogate).__name__} draws no paths and no pool was given, expected one of the two. "
            "Pass the pool of objects, m x d, on which the draw is made."
        )
    values = surrogate.sample(pool, 1, generator=generator).squeeze(0)
    rows = {key: i for i, key in reversed(list(enumerate(_keys(pool))))}

    def evaluate(X: Tensor) -> Tensor:
        found = [rows.get(key) for key in _keys(X)]
        places = [i for i in found if i is not None]
        if len(places) < len(found):
            row = found.index(None)
            raise ObjectError(
                f"row {row} of {len(X)} is not among the {len(rows)} objects that the posterior was drawn on, "
                "expected rows of the pool. Draw on a pool that holds it, or use a surrogate with paths."
            )
        return values[places]

    return FrozenAcquisition(name="thompson", is_log=False, evaluate=evaluate)


def _keys(X: Tensor) -> list[bytes]:
    """Return each row of `X`, `n x d`, as bytes; -0.0 and 0.0 are one value."""
    return [row.tobytes() for row in (X.detach().cpu() + 0.0).contiguous().numpy()]
