"""Synthetic text with an exactly known entropy rate, for checks of models and leaks."""

from __future__ import annotations

import string
from bisect import bisect_right
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spectral_exp.core.errors import require
from spectral_exp.data.corpus import Stamp, TextCorpus

_MAX_CONTEXTS = 4096
_MAX_TOKENS = 10**9
# Weight of the uniform distribution in every transition. It makes every context reachable, so the
# stationary distribution is unique for any concentration.
_UNIFORM_SHARE = 1e-3


class Markov(TextCorpus):
    """Letters from a random Markov chain, in which each depends on the `order` letters before it.

    The transition probabilities of each context are drawn from a symmetric Dirichlet distribution.
    A letter is one byte, so bits per letter are bits per byte.

    Args:
        order: letters of context, >= 1.
        n_symbols: size of the alphabet, 2 to 52 (a to z, then A to Z); n_symbols^order is at most
            4096.
        n_tokens: length of the text in letters.
        concentration: of the Dirichlet distribution; small values make the text predictable, large
            ones random.
        seed: of the chain and of the text.
        val_fraction, test_fraction: see TextCorpus.
    """

    def __init__(
        self,
        order: int = 2,
        n_symbols: int = 16,
        n_tokens: int = 1_000_000,
        concentration: float = 0.1,
        seed: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
    ) -> None:
        super().__init__(val_fraction, test_fraction)
        require(order >= 1, "order", order, ">= 1")
        require(2 <= n_symbols <= 52, "n_symbols", n_symbols, "from 2 to 52")
        most = max(k for k in range(1, 13) if n_symbols**k <= _MAX_CONTEXTS)
        allowed = f"at most {most} with n_symbols={n_symbols}"
        reason = f"n_symbols^order must not exceed {_MAX_CONTEXTS}"
        require(order <= most, "order", order, allowed, reason)
        require(1 <= n_tokens <= _MAX_TOKENS, "n_tokens", n_tokens, f"from 1 to {_MAX_TOKENS}")
        require(concentration > 0, "concentration", concentration, "> 0")
        require(seed >= 0, "seed", seed, ">= 0")
        self.order, self.n_symbols, self.n_tokens = order, n_symbols, n_tokens
        self.concentration, self.seed = concentration, seed

    @cached_property
    def transitions(self) -> npt.NDArray[np.float64]:
        """Transition probabilities (contexts, n_symbols).

        The oldest letter is the most significant digit of the context's index.
        """
        rng = np.random.default_rng([self.seed, 0])
        alpha = np.full(self.n_symbols, self.concentration)
        drawn = rng.dirichlet(alpha, size=self.n_symbols**self.order)
        return (1 - _UNIFORM_SHARE) * drawn + _UNIFORM_SHARE / self.n_symbols

    @cached_property
    def stationary(self) -> npt.NDArray[np.float64]:
        """Stationary probabilities (contexts,), from one linear solve."""
        n = self.n_symbols**self.order
        contexts = np.arange(n)
        chain = np.zeros((n, n))
        for symbol in range(self.n_symbols):
            chain[contexts, (contexts * self.n_symbols + symbol) % n] += self.transitions[:, symbol]
        # pi (chain - 1) = 0 determines pi up to its sum; sum = 1 replaces the redundant equation.
        system: npt.NDArray[np.float64] = chain.T - np.eye(n)
        system[-1] = 1.0
        right = np.zeros(n)
        right[-1] = 1.0
        return np.asarray(np.linalg.solve(system, right), dtype=np.float64)

    @property
    def entropy_bits_per_byte(self) -> float:
        """Entropy rate: the entropy of the next letter, averaged over the contexts."""
        information = (self.transitions * np.log2(self.transitions)).sum(axis=1)
        return float(-(self.stationary @ information))

    def read(self, cache: Path) -> bytes:
        """Draw the text; the first context comes from the stationary distribution."""
        rng = np.random.default_rng([self.seed, 1])
        n, contexts = self.n_symbols, self.n_symbols**self.order
        start = int(np.searchsorted(np.cumsum(self.stationary)[:-1], rng.random(), side="right"))
        letters = [start // n**power % n for power in reversed(range(self.order))]
        context = start
        # Each letter depends on the previous one, so this is a loop; bisect takes a third of a
        # microsecond.
        thresholds = np.cumsum(self.transitions, axis=1)[:, :-1].tolist()
        for uniform in rng.random(max(0, self.n_tokens - self.order)).tolist():
            letter = bisect_right(thresholds[context], uniform)
            letters.append(letter)
            context = (context * n + letter) % contexts
        alphabet = np.frombuffer(string.ascii_letters.encode(), dtype=np.uint8)
        return bytes(alphabet[np.array(letters[: self.n_tokens])])

    def stamp(self, cache: Path) -> Stamp:
        """Return all settings and the version of numpy, on which its distributions depend."""
        settings: Stamp = [
            self.order,
            self.n_symbols,
            self.n_tokens,
            repr(self.concentration),
            self.seed,
        ]
        return ["markov", np.__version__, *settings]
