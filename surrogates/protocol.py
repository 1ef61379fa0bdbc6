"""What every surrogate can do, whatever it is made of.

A surrogate states a belief about labels; what to do with a belief is the acquisition's business.
"""

from typing import Protocol

from botorch.posteriors.posterior import Posterior
from torch import Generator, Tensor


class Surrogate(Protocol):
    """A probabilistic model of one property, fitted to labels.

    `X` is `n x d`: float64 features or category codes, as the surrogate's own documentation says. `Y` is
    `n x m`; `m` is 1 until surrogates of several outputs exist. Predictions are of the noise-free property,
    on the scale of the labels.

    Guarantees that callers rely on:

    1. `fit` and `load_state_dict` replace what the surrogate holds and never change a tensor in place, so
       that `copy.copy(surrogate)` keeps its predictions when the original is fitted again. A frozen
       acquisition is built on this.
    2. The same `X` and `Y`, in the same order, give the same fit.
    3. A point's mean and sd do not depend on the other points of the call, to float64 rounding.
    """

    def fit(self, X: Tensor, Y: Tensor) -> None:
        """Fit to `X`, `n x d`, and `Y`, `n x m`.

        Raises: ShapeError for wrong shapes or dtypes; LabelError, naming the row, for a label that is not
        finite.
        """

    def posterior(self, X: Tensor) -> Posterior:
        """Return the joint posterior at `X`, `n x d`, with event shape `n x m`."""

    def mean_sd(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return the marginal posterior mean and standard deviation, `n` and `n`: the fast path."""

    def sample(self, X: Tensor, n_draws: int, *, generator: Generator) -> Tensor:
        """Return joint posterior draws at `X`, `n_draws x n`."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a rebuild needs besides the data: hyper-parameters and label scale."""

    def load_state_dict(self, state: dict[str, Tensor], X: Tensor, Y: Tensor) -> None:
        """Rebuild without fitting; with the data of the fit the predictions are equal to the last bit.

        Raises: ShapeError if the state does not belong to these data.
        """

    def diagnostics(self) -> dict[str, float]:
        """Return what is worth storing about the fit; every value is finite.

        A score that the data do not define (R2 of constant labels) is left out.
        """
