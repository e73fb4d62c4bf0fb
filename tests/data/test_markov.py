from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from spectral_exp.core.errors import SettingError
from spectral_exp.data import Markov

NOWHERE = Path()


def conditional_entropy_bits(text: bytes, order: int) -> float:
    """Entropy of the next letter given `order` letters, by counting."""
    pairs = Counter(text[i : i + order + 1] for i in range(len(text) - order))
    contexts = Counter(text[i : i + order] for i in range(len(text) - order))
    total = sum(pairs.values())
    return -sum(n / total * math.log2(n / contexts[pair[:-1]]) for pair, n in pairs.items())


@pytest.mark.parametrize(("order", "n_symbols"), [(1, 2), (1, 52), (2, 10), (3, 4)])
def test_the_text_has_the_stated_entropy_rate(order: int, n_symbols: int) -> None:
    corpus = Markov(order=order, n_symbols=n_symbols, n_tokens=300_000, concentration=0.3, seed=5)
    text = corpus.read(NOWHERE)
    assert len(text) == 300_000
    assert len(set(text)) <= n_symbols
    measured = conditional_entropy_bits(text, order)
    # Counting underestimates by about (parameters / 2 n ln 2) bits; the rest is chance, well under
    # 0.01 bits.
    bias = n_symbols**order * (n_symbols - 1) / (2 * len(text) * math.log(2))
    assert (
        corpus.entropy_bits_per_byte - bias - 0.01 < measured < corpus.entropy_bits_per_byte + 0.01
    )
    if order > 1:  # the order matters: less context leaves more uncertainty
        assert conditional_entropy_bits(text, order - 1) > corpus.entropy_bits_per_byte + 0.02


def test_the_stationary_distribution_is_exact() -> None:
    corpus = Markov(order=2, n_symbols=5, concentration=0.01)
    pi, n = corpus.stationary, 5
    joint = (pi[:, None] * corpus.transitions).reshape(n, n, n)
    np.testing.assert_allclose(joint.sum(axis=0).ravel(), pi, atol=1e-14)
    np.testing.assert_allclose(corpus.transitions.sum(axis=1), 1)
    assert pi.min() > 0
    assert pi.sum() == pytest.approx(1, abs=1e-12)


def test_two_states_have_the_closed_form() -> None:
    corpus = Markov(order=1, n_symbols=2, seed=3)
    a, b = corpus.transitions[0, 1], corpus.transitions[1, 0]

    def h(p: float) -> float:
        return -p * math.log2(p) - (1 - p) * math.log2(1 - p)

    assert corpus.entropy_bits_per_byte == pytest.approx((b * h(a) + a * h(b)) / (a + b), rel=1e-12)


def test_large_concentration_approaches_uniform() -> None:
    assert Markov(order=1, n_symbols=16, concentration=1e6).entropy_bits_per_byte == pytest.approx(
        4, abs=1e-4
    )


def test_the_text_is_a_function_of_the_settings() -> None:
    assert Markov(n_tokens=500).read(NOWHERE) == Markov(n_tokens=500).read(NOWHERE)
    assert Markov(n_tokens=500).read(NOWHERE) != Markov(n_tokens=500, seed=1).read(NOWHERE)
    assert Markov(n_tokens=500).read(NOWHERE) == Markov(n_tokens=900).read(NOWHERE)[:500]
    assert len(Markov(order=5, n_symbols=4, n_tokens=3).read(NOWHERE)) == 3
    stamps = [Markov(seed=s, concentration=c).stamp(NOWHERE) for s in (0, 1) for c in (0.1, 0.2)]
    assert len({str(stamp) for stamp in stamps}) == 4


def test_a_million_letters_take_less_than_three_seconds() -> None:
    start = time.perf_counter()
    assert len(Markov().read(NOWHERE)) == 1_000_000
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 0}, "order=0 must be >= 1"),
        ({"n_symbols": 1}, "n_symbols=1 must be from 2 to 52"),
        ({"n_symbols": 53}, "n_symbols=53 must be from 2 to 52"),
        (
            {"order": 4, "n_symbols": 16},
            r"order=4 must be at most 3 with n_symbols=16; n_symbols\^order must not",
        ),
        ({"order": 10**9, "n_symbols": 2}, "order=1000000000 must be at most 12"),
        ({"n_tokens": 0}, "n_tokens=0 must be from 1 to 1000000000"),
        ({"concentration": 0.0}, "concentration=0.0 must be > 0"),
        ({"seed": -1}, "seed=-1 must be >= 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Markov(**settings)
