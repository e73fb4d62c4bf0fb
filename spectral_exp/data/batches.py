"""Training batches and validation windows as pure functions, without state to save or restore.

Letters: B batch, T tokens of a block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spectral_exp.core.errors import require

if TYPE_CHECKING:
    import torch

    Pair = tuple[torch.Tensor, torch.Tensor]

Tokens = npt.NDArray[np.unsignedinteger[Any]]

# Second half of the generator's key; separates these draws from other uses of the same seed.
_STREAM = 0x62617463686573


class Batches:
    """Uniformly random windows of a text, as a pure function of (seed, step, micro_batch).

    The counter-based generator Philox-4x64 (Salmon et al. 2011) draws the window starts, with the
    seed in its key and (micro_batch, step) in two upper words of its counter. Each
    combination has 2^64 blocks of random words of its own. Only raw words are used, which are the
    same in every version of numpy.

    Args:
        tokens: (N,) ids, N > block_size; usually a memory map.
        block_size: T.
        batch_size: B, sequences of a micro-batch on one device.
        seed: 0 to 2^64 - 1.
    """

    def __init__(self, tokens: Tokens, block_size: int, batch_size: int, seed: int) -> None:
        _check_windows(tokens, block_size, batch_size)
        require(0 <= seed < 1 << 64, "seed", seed, "from 0 to 2^64 - 1")
        self._windows = np.lib.stride_tricks.sliding_window_view(np.asarray(tokens), block_size + 1)
        self._batch_size = batch_size
        self._key = np.array([seed, _STREAM], dtype=np.uint64)

    def __call__(self, step: int, micro_batch: int = 0) -> Pair:
        """Return inputs x and targets y, the next tokens: (B, T) int64 on the CPU."""
        counter = np.array([0, micro_batch, step, 0], dtype=np.uint64)
        words = np.random.Philox(key=self._key, counter=counter).random_raw(self._batch_size)
        uniform = (words >> np.uint64(11)) * 2.0**-53  # 53 random bits: [0, 1)
        starts = (uniform * len(self._windows)).astype(np.int64)
        return _pair(self._windows[starts])


class EvalWindows:
    """Fixed windows of a text for evaluation, evenly spaced and without overlap.

    Iteration yields (x, y, n_bytes): (B, T) int64 tensors on the CPU, with fewer rows in the last
    batch if necessary, and the exact number of UTF-8 bytes in the targets of each row, (B,).

    Args:
        tokens: (N,) ids, N > block_size.
        token_bytes: (V,) bytes of each id.
        block_size: T.
        batch_size: B.
        max_windows: upper limit on the number of windows; None uses all that fit.

    Attributes:
        n_windows: total number of windows.
        n_available: number of windows of the whole text.
        n_targets: total number of targets, n_windows * T.
    """

    def __init__(
        self,
        tokens: Tokens,
        token_bytes: npt.NDArray[np.int64],
        block_size: int,
        batch_size: int,
        max_windows: int | None = None,
    ) -> None:
        _check_windows(tokens, block_size, batch_size)
        is_allowed = max_windows is None or max_windows >= 1
        require(is_allowed, "max_windows", max_windows, ">= 1, or null for all")
        self.n_available = available = (len(tokens) - 1) // block_size
        self.n_windows = available if max_windows is None else min(available, max_windows)
        self.n_targets = self.n_windows * block_size
        # Integer arithmetic spreads the selected windows over all that fit, without repetition.
        self._starts = (
            np.arange(self.n_windows, dtype=np.int64) * available // self.n_windows * block_size
        )
        self._windows = np.lib.stride_tricks.sliding_window_view(np.asarray(tokens), block_size + 1)
        self._token_bytes, self._batch_size = token_bytes, batch_size

    def __len__(self) -> int:
        return -(-self.n_windows // self._batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        import torch

        for first in range(0, self.n_windows, self._batch_size):
            rows = self._windows[self._starts[first : first + self._batch_size]]
            yield (*_pair(rows), torch.from_numpy(self._token_bytes[rows[:, 1:]].sum(axis=1)))


class SlidingWindows:
    """Overlapping windows of a text that predict each of its tokens, but the first, once.

    Each window advances by `stride` tokens, and only the targets that no window before it had
    count: the last `stride` of them, with at least block_size - stride tokens of context. All
    targets of the first window count. The last window ends with the text.

    Iteration yields (x, y, counts): (B, T) int64 tensors on the CPU, and (B, T) bool, true where a
    target counts.

    Args:
        tokens: (N,) ids, N > block_size.
        block_size: T.
        stride: from 1 to T, which is without overlap.
        batch_size: B.
        max_windows: upper limit on the number of windows, which are then evenly spread; None uses
            all.

    Attributes:
        n_windows: total number of windows.
    """

    def __init__(
        self,
        tokens: Tokens,
        block_size: int,
        stride: int,
        batch_size: int,
        max_windows: int | None = None,
    ) -> None:
        _check_windows(tokens, block_size, batch_size)
        require(1 <= stride <= block_size, "stride", stride, f"from 1 to {block_size}")
        is_allowed = max_windows is None or max_windows >= 1
        require(is_allowed, "max_windows", max_windows, ">= 1, or null for all")
        last = len(tokens) - 1 - block_size
        starts = np.append(np.arange(0, last, stride, dtype=np.int64), last)
        new = np.diff(starts, prepend=starts[0] - block_size)
        self.n_windows = len(starts) if max_windows is None else min(len(starts), max_windows)
        chosen = np.arange(self.n_windows, dtype=np.int64) * len(starts) // self.n_windows
        self._starts, self._new = starts[chosen], new[chosen]
        self._windows = np.lib.stride_tricks.sliding_window_view(np.asarray(tokens), block_size + 1)
        self._block_size, self._batch_size = block_size, batch_size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        import torch

        for first in range(0, self.n_windows, self._batch_size):
            batch = slice(first, first + self._batch_size)
            places = np.arange(self._block_size) >= self._block_size - self._new[batch, None]
            yield (*_pair(self._windows[self._starts[batch]]), torch.from_numpy(places))


def _check_windows(tokens: Tokens, block_size: int, batch_size: int) -> None:
    require(block_size >= 1, "block_size", block_size, ">= 1")
    require(batch_size >= 1, "batch_size", batch_size, ">= 1")
    allowed = f"less than the text's {len(tokens)} tokens"
    require(block_size < len(tokens), "block_size", block_size, allowed)


def _pair(rows: npt.NDArray[Any]) -> Pair:
    """Split rows of T + 1 ids into contiguous inputs and targets."""
    import torch  # imported here so that importing the package alone stays fast

    x, y = rows[:, :-1].astype(np.int64, order="C"), rows[:, 1:].astype(np.int64, order="C")
    return torch.from_numpy(x), torch.from_numpy(y)
