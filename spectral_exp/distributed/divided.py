"""A tensor whose rows lie in several places, and its stand-in in a checkpoint.

Imports no part of torch, as all that readers of checkpoints import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_SHAPE_KEY = "rows_of_shape"


class DividedTensor:
    """A tensor given by consecutive rows.

    Args:
        parts: tensors that are equal in all dimensions but the first, in order; at least one.
    """

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self._parts = parts
        self.shape = (sum(len(part) for part in parts), *parts[0].shape[1:])

    def rows(self, start: int, stop: int) -> Tensor:
        """Return a copy of the rows from `start` up to `stop`."""
        import torch

        pieces, first = [], 0
        for part in self._parts:
            pieces.append(part[max(0, start - first) : max(0, stop - first)])
            first += len(part)
        return torch.cat(pieces)

    def whole(self) -> Tensor:
        """Return a copy of all rows."""
        return self.rows(0, self.shape[0])


def stand_in(shape: Sequence[int]) -> dict[str, list[int]]:
    """Return what stands for a divided tensor of `shape` in a checkpoint."""
    return {_SHAPE_KEY: list(shape)}


def stand_in_shape(value: Any) -> list[int] | None:
    """Return the shape of the divided tensor that `value` stands for, or None for other values."""
    if not (isinstance(value, Mapping) and list(value) == [_SHAPE_KEY]):
        return None
    shape = value[_SHAPE_KEY]
    is_shape = isinstance(shape, list) and len(shape) > 0 and all(type(n) is int for n in shape)
    return shape if is_shape else None
