"""Ehrlich functions: closed-form landscapes of spaced motifs with infeasible sequences.

They come from the package pytorch-holo, which is imported here only.
"""

import string
from collections.abc import Sequence

import numpy as np
import torch
from landscape import ComputedLandscape

from flowscout.errors import ConfigError

LETTERS = string.ascii_uppercase + string.ascii_lowercase


class EhrlichLandscape(ComputedLandscape):
    """One Ehrlich function of `n_letters` letters; `instance` is the seed that its motifs are drawn by.

    The score is the product over `n_motifs` motifs of the share of their `motif_length` letters that is
    present with the right spacing, rounded down to one of `quantisation` levels; the optimum is 1. A sequence
    with a banned transition is infeasible: the package scores it minus infinity, here it scores 0, because a
    campaign takes finite numbers. Which transitions are banned is told to no method.
    Source: Stanton et al. 2024, arXiv:2407.00236, `holo.test_functions.closed_form.Ehrlich`, no epistasis.

    Raises: ConfigError if pytorch-holo is not installed, or there is no such function.
    """

    def __init__(
        self,
        name: str,
        *,
        n_letters: int,
        length: int,
        n_motifs: int,
        motif_length: int,
        quantisation: int,
        instance: int,
    ) -> None:
        if not 2 <= n_letters <= len(LETTERS) or min(length, n_motifs, motif_length, quantisation) < 1:
            raise ConfigError(
                f"{name} came, expected ehrlich-V-L-c-k-q-INSTANCE with 2 to {len(LETTERS)} letters V and a "
                "length L, c motifs of k letters and q levels of at least 1. Correct the name."
            )
        super().__init__(name, LETTERS[:n_letters], length)
        try:
            from holo.test_functions.closed_form import Ehrlich
            from holo.test_functions.elemental import sample_dmp
        except ImportError as error:
            raise ConfigError(
                f"{name} is computed by the package pytorch-holo, which cannot be imported here ({error}). "
                "Install it: pip install 'flowscout[bench]' && pip install --no-deps pytorch-holo==0.0.5 "
                "(its metadata asks for numpy < 2, which it does not need)"
            ) from error
        try:
            self.function = Ehrlich(
                num_states=n_letters,
                dim=length,
                num_motifs=n_motifs,
                motif_length=motif_length,
                quantization=quantisation,
                random_seed=instance,
            )
        except (ValueError, RuntimeError, IndexError, ZeroDivisionError) as error:
            raise ConfigError(
                f"{name} came, expected numbers that an Ehrlich function exists for; pytorch-holo says: "
                f"{str(error).rstrip('.')}. Take a longer sequence, or fewer or shorter motifs."
            ) from error
        self._sample = sample_dmp

    @property
    def optimum(self) -> str:
        """A sequence that scores 1."""
        return self._decode(self.function.optimal_solution()[None])[0]

    def compute(self, items: Sequence[str]) -> list[float]:
        """Return the scores of distinct `items`, order kept; 0 for those that are infeasible."""
        codes = torch.tensor([[self.alphabet.index(letter) for letter in item] for item in items])
        scores: list[float] = self.function(codes).double().tolist()
        return [score if score > 0.0 else 0.0 for score in scores]

    def start(self, rng: np.random.Generator, n: int) -> list[str]:
        """Return `n` different feasible sequences, drawn from the function's own Markov process."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        found: dict[str, None] = {}
        while len(found) < n:
            drawn = self._sample(
                initial_dist=self.function.stationary_dist.squeeze(-1),
                transition_matrix=self.function.transition_matrix,
                num_steps=self.length,
                num_samples=n,
                generator=generator,
            )
            found.update(dict.fromkeys(self._decode(drawn)))
        return list(found)[:n]

    def _decode(self, codes: torch.Tensor) -> list[str]:
        return ["".join(self.alphabet[code] for code in row) for row in codes.tolist()]
