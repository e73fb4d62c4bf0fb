from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.core.errors import SettingError
from spectral_exp.data import Batches, Bpe, ByteTokenizer, CharTokenizer, EvalWindows, Tokenizer

COUNTING = np.arange(50_000, dtype=np.uint16)
UNIT = np.ones(65536, dtype=np.int64)
TEXT = "Größe: 日本語 and 😀, naïve café\n" * 40


def starts(batches: Batches, step: int, micro_batch: int = 0) -> list[int]:
    """Where the windows begin: the counting text holds its own positions."""
    return [int(start) for start in batches(step, micro_batch)[0][:, 0]]


def test_targets_are_the_inputs_moved_on_by_one() -> None:
    x, y = Batches(COUNTING, block_size=64, batch_size=12, seed=1)(1)
    assert x.shape == y.shape == (12, 64)
    assert x.dtype == y.dtype == torch.int64
    assert x.is_contiguous()
    assert y.is_contiguous()
    assert torch.equal(y, x + 1)
    assert torch.equal(x, x[:, :1] + torch.arange(64))


def test_a_batch_is_a_pure_function_of_its_arguments() -> None:
    one, other = (Batches(COUNTING, 8, 16, seed=7) for _ in range(2))
    forward = [starts(one, step, micro) for step in range(1, 5) for micro in range(2)]
    backward = [starts(other, step, micro) for step in range(4, 0, -1) for micro in (1, 0)]
    assert forward == backward[::-1]
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global generator must not matter)
    assert starts(one, 3, 1) == forward[5]


def test_batches_never_change_between_versions() -> None:
    assert starts(Batches(COUNTING, 8, 4, seed=7), 3, 1) == [2949, 48433, 49177, 42824]


def test_every_argument_gives_another_stream() -> None:
    drawn = [
        tuple(starts(Batches(COUNTING, 8, 32, seed=seed), step, micro))
        for seed in (0, 1, 2**64 - 1)
        for step in range(6)
        for micro in (0, 1)
    ]
    assert len(set(drawn)) == len(drawn)
    every = [start for batch in drawn for start in batch]
    # 1152 draws of 49992 places: about 13 coincide by chance; overlapping streams would share far
    # more.
    assert len(every) - len(set(every)) < 40


def test_starts_are_uniform_and_reach_both_ends() -> None:
    tokens = np.arange(14, dtype=np.uint8)
    batches = Batches(tokens, block_size=4, batch_size=1000, seed=3)
    counts = np.bincount(
        [start for step in range(20) for start in starts(batches, step)], minlength=10
    )
    assert len(counts) == 10
    expected = 20_000 / 10
    assert (
        (counts - expected) ** 2 / expected
    ).sum() < 33.7  # chi-squared, 9 degrees of freedom, p = 1e-4


def test_micro_batches_are_uncorrelated() -> None:
    a, b = (
        np.array(starts(Batches(COUNTING, 8, 4000, seed=3), 1, micro), dtype=float)
        for micro in (0, 1)
    )
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.08


def test_the_shortest_text_has_one_window() -> None:
    assert starts(Batches(COUNTING[:9], 8, 3, seed=0), 1) == [0, 0, 0]


def test_a_batch_takes_under_a_hundred_microseconds() -> None:
    batches = Batches(COUNTING, 64, 12, seed=1)
    times = []
    for step in range(300):
        start = time.perf_counter()
        batches(step)
        times.append(time.perf_counter() - start)
    assert min(times) < 100e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_size": 0}, "block_size=0 must be >= 1"),
        ({"block_size": 50_000}, "block_size=50000 must be less than the text's 50000 tokens"),
        ({"batch_size": 0}, "batch_size=0 must be >= 1"),
        ({"seed": -1}, "seed=-1 must be from 0 to"),
        ({"seed": 2**64}, "seed=18446744073709551616 must be from 0 to"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Batches(**{"tokens": COUNTING, "block_size": 8, "batch_size": 2, "seed": 0, **settings})  # type: ignore[arg-type]


@given(
    n=st.integers(2, 300),
    block_size=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    most=st.none() | st.integers(1, 50),
)
def test_windows_are_fixed_even_and_disjoint(
    n: int, block_size: int, batch_size: int, most: int | None
) -> None:
    if n <= block_size:
        with pytest.raises(SettingError, match="block_size"):
            EvalWindows(COUNTING[:n], UNIT, block_size, batch_size, most)
        return
    windows = EvalWindows(COUNTING[:n], UNIT, block_size, batch_size, most)
    batches = list(windows)
    fitting = (n - 1) // block_size
    assert windows.n_windows == min(fitting, most or fitting)
    assert len(batches) == len(windows)
    assert [len(x) for x, _, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    targets = torch.cat([y.flatten() for _, y, _ in batches]).tolist()
    assert (
        len(targets)
        == windows.n_targets
        == len(set(targets))
        == sum(int(n_bytes.sum()) for _, _, n_bytes in batches)
    )
    assert targets == sorted(targets)
    if most is None:
        assert targets == list(range(1, fitting * block_size + 1))
    first = torch.cat([x[:, 0] for x, _, _ in batches]).diff()
    assert first.numel() == 0 or first.max() - first.min() <= block_size  # evenly spread
    again = list(windows)
    assert all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
        for a, b in zip(batches, again, strict=True)
    )


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_bytes_of_all_windows_are_the_bytes_of_the_text_covered(kind: str, tmp_path: Any) -> None:
    tokenizer: Tokenizer
    if kind == "bpe":
        pytest.importorskip("tokenizers")
        tokenizer = Bpe(vocab_size=280).build(TEXT, tmp_path)
    else:
        tokenizer = ByteTokenizer() if kind == "byte" else CharTokenizer(TEXT)
    ids = tokenizer.encode(TEXT)
    windows = EvalWindows(ids, tokenizer.token_bytes, block_size=7, batch_size=4)
    covered = ids[1 : 1 + windows.n_targets]
    text = b"".join(tokenizer._pieces[i] for i in covered)
    assert text in TEXT.encode()
    assert sum(int(n_bytes.sum()) for _, _, n_bytes in windows) == len(text)
    # with the first id and what is left at the end it is the whole text
    rest = (
        tokenizer.token_bytes[ids[:1]].sum()
        + tokenizer.token_bytes[ids[1 + windows.n_targets :]].sum()
    )
    assert len(text) + rest == len(TEXT.encode())


def test_max_windows_must_be_positive() -> None:
    with pytest.raises(SettingError, match="max_windows=0 must be >= 1, or null for all"):
        EvalWindows(COUNTING, UNIT, 8, 2, max_windows=0)
