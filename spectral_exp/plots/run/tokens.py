"""The tokens and waves that the figures of a wave embedding show.

Letters: V vocabulary, N tokens shown, W waves, M harmonics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spectral_exp.core.series import FloatArray, IntArray
from spectral_exp.plots.series import even_rows

TAU = 2 * np.pi
MAX_SENTENCE = 32
"""Tokens of a sentence that the axes of the largest panel can name."""

_HEAT_ROWS = 256
_NAMED_ROWS = 18


def heat_rows(n: int) -> IntArray:
    """Return evenly spaced rows of `n`, as many as a heat map has room for."""
    return even_rows(n, _HEAT_ROWS)


def named_rows(n_rows: int) -> IntArray:
    """Return the rows of a heat map that have a label."""
    return even_rows(n_rows, _NAMED_ROWS)


@dataclass(frozen=True)
class Tokens:
    """The token of each row of an array.

    Args:
        ids: (N,) token ids of the rows.
        vocab_size: V.
        texts: id -> text, for some of the tokens.
    """

    ids: NDArray[np.int64]
    vocab_size: int
    texts: Mapping[int, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """The number of tokens shown, for a heading."""
        n = len(self.ids)
        if n == self.vocab_size:
            return f"{n:,} tokens"
        return f"{n:,} of {self.vocab_size:,} tokens, evenly spaced"


@dataclass(frozen=True)
class Waves:
    """The waves of N tokens.

    Args:
        freqs: (N, W) base frequencies, in cycles.
        phases: (N, W) phases, in radians.
        amps: (N, W, M) amplitudes of the harmonics.
        rates: (W,) position rates, in radians per position; None if the model has none.
    """

    freqs: FloatArray
    phases: FloatArray
    amps: FloatArray
    rates: FloatArray | None

    def packet(self, row: int, tau: FloatArray, positions: FloatArray) -> NDArray[np.complex128]:
        """Return the complex sum of a token's waves; its imaginary part is the packet.

        Args:
            row: index of the token.
            tau: phase time; the embedding reads its waves at tau = 1.
            positions: positions t, of the same shape as `tau`.
        """
        turn = np.exp(1j * TAU * np.outer(self.freqs[row], tau))
        rates = np.zeros(len(turn)) if self.rates is None else self.rates
        # Horner's scheme over the harmonics: a_1 z + a_2 z^2 + ... without a power per harmonic.
        total = np.zeros_like(turn)
        for amplitudes in self.amps[row].T[::-1]:
            total = (total + amplitudes[:, None]) * turn
        shift = np.exp(1j * (self.phases[row][:, None] + np.outer(rates, positions)))
        return np.asarray((total * shift).sum(axis=0))
