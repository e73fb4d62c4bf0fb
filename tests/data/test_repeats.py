"""The share of a text that stands in the training text too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.data import Byte, TextFile, prepare
from spectral_exp.data.repeats import WINDOW, repeated_share

DTYPES = (np.uint8, np.uint16, np.uint32)


@given(
    seed=st.integers(0, 2**32 - 1),
    n_copied=st.integers(0, 6),
    n_new=st.integers(0, 6),
    dtype=st.sampled_from(DTYPES),
    n_symbols=st.sampled_from([2, 200]),
)
def test_copied_passages_are_counted(
    seed: int, n_copied: int, n_new: int, dtype: type[np.unsignedinteger], n_symbols: int
) -> None:
    """Copied from any place of the training text, which is longer than what is hashed at once."""
    rng = np.random.default_rng(seed)
    train = rng.integers(0, n_symbols, 200_000).astype(dtype)
    starts = rng.integers(0, len(train) - WINDOW + 1, n_copied)
    passages = [train[start : start + WINDOW] for start in starts]
    passages += list(rng.integers(0, n_symbols, (n_new, WINDOW)).astype(dtype))
    rng.shuffle(passages)
    rest = rng.integers(0, n_symbols, 17).astype(dtype)
    part = np.concatenate([*passages, rest])
    expected = n_copied / len(passages) if passages else 0
    assert repeated_share(train, part) == pytest.approx(expected)


@pytest.mark.parametrize("end", ["first", "last"])
def test_the_ends_of_the_training_text_count(end: str) -> None:
    train = np.random.default_rng(1).integers(0, 256, 70_000).astype(np.uint8)
    part = train[:WINDOW] if end == "first" else train[-WINDOW:]
    assert repeated_share(train, part) == 1
    assert repeated_share(train[1:-1], part) == 0


def test_one_other_symbol_makes_another_passage() -> None:
    train = np.zeros(1000, dtype=np.uint8)
    for place in range(WINDOW):
        part = np.zeros(WINDOW, dtype=np.uint8)
        assert repeated_share(train, part) == 1
        part[place] = 1
        assert repeated_share(train, part) == 0


@pytest.mark.parametrize(("n_train", "n_part"), [(0, 500), (WINDOW - 1, 500), (500, WINDOW - 1)])
def test_short_texts_repeat_nothing(n_train: int, n_part: int) -> None:
    train, part = np.zeros(n_train, dtype=np.uint8), np.zeros(n_part, dtype=np.uint8)
    assert repeated_share(train, part) == 0


def test_of_many_passages_some_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectral_exp.data.repeats._MOST_PASSAGES", 50)
    train = np.random.default_rng(1).integers(0, 256, 100 * WINDOW).astype(np.uint8)
    part = np.concatenate([train, train[::-1]])  # the first half of its passages
    assert repeated_share(train, part) == pytest.approx(0.5, abs=0.02)


def test_a_text_that_is_given_twice_is_recorded_as_repeated(tmp_path: Path) -> None:
    once = np.random.default_rng(1).integers(97, 123, 50_000).astype(np.uint8).tobytes()
    (tmp_path / "once.txt").write_bytes(once)
    (tmp_path / "twice.txt").write_bytes(once + once)
    for name, share in (("once", 0), ("twice", 1)):
        corpus = TextFile(str(tmp_path / f"{name}.txt"), test_fraction=0.2)
        for _ in range(2):  # the second time from the cache
            data = prepare(corpus, Byte(), block_size=8, cache_dir=tmp_path / "cache")
            assert data.repeated_shares == {"val": share, "test": share}
