"""Any surrogate on one writing of each object, where a symmetry gives two: it then cannot tell them apart.

Exact GPs have the symmetry in their kernel and need none of this.
"""

from copy import copy

from botorch.posteriors.posterior import Posterior
from torch import Generator, Tensor

from flowscout.surrogates.kernels import Symmetry
from flowscout.surrogates.protocol import Surrogate


class CanonicalSurrogate:
    """Ask `surrogate` of the smaller of `X` and `symmetry(X)`, row by row, in the order of their codes."""

    def __init__(self, surrogate: Surrogate, symmetry: Symmetry) -> None:
        self.surrogate = surrogate
        self._symmetry = symmetry

    def fit(self, X: Tensor, Y: Tensor) -> None:
        """Fit to `X`, `n x d`, and `Y`, `n x 1`. Raises as the surrogate does."""
        self.surrogate.fit(canonical(X, self._symmetry), Y)

    def mean_sd(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the marginal posterior mean and sd at `X`, `n x d`: `n` and `n`."""
        return self.surrogate.mean_sd(canonical(X, self._symmetry))

    def posterior(self, X: Tensor) -> Posterior:
        """Return the joint posterior at `X`, `n x d`; event shape `n x 1`."""
        return self.surrogate.posterior(canonical(X, self._symmetry))

    def sample(self, X: Tensor, n_draws: int, *, generator: Generator) -> Tensor:
        """Return joint posterior draws at `X`, `n_draws x n`."""
        return self.surrogate.sample(canonical(X, self._symmetry), n_draws, generator=generator)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the surrogate's state."""
        return self.surrogate.state_dict()

    def load_state_dict(self, state: dict[str, Tensor], X: Tensor, Y: Tensor) -> None:
        """Rebuild from the surrogate's state. Raises as the surrogate does."""
        self.surrogate.load_state_dict(state, canonical(X, self._symmetry), Y)

    def diagnostics(self) -> dict[str, float]:
        """Return those of the surrogate."""
        return self.surrogate.diagnostics()

    def __copy__(self) -> "CanonicalSurrogate":
        """Return a copy that keeps its predictions when this one is fitted again."""
        return CanonicalSurrogate(copy(self.surrogate), self._symmetry)


def canonical(X: Tensor, symmetry: Symmetry | None) -> Tensor:
    """Return the smaller of `X`, `n x d`, and `symmetry(X)`, row by row; `X` where there is no symmetry."""
    if symmetry is None:
        return X
    image = symmetry(X)
    first = X.ne(image).long().argmax(1, keepdim=True)  # 0 where nothing differs: either will do
    return X.where(X.gather(1, first) <= image.gather(1, first), image)
