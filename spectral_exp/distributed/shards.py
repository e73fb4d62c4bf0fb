"""The rows of a tensor that each process holds, as `fully_shard` divides them."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def local_part(tensor: Tensor) -> Tensor:
    """Return the rows of a sharded tensor that this process holds; other tensors unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def row_range(n_rows: int, rank: int, size: int) -> tuple[int, int]:
    """Return the first row that `rank` of `size` processes holds, and the one after its last."""
    most = -(-n_rows // size)
    return min(rank * most, n_rows), min((rank + 1) * most, n_rows)
