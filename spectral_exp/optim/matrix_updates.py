"""Updates that need whole matrices, computed here or by the processes that own the matrices.

An optimizer that treats every number by itself works on any part of a matrix. One that transforms
matrices (RGD, Muon) hands `MatrixUpdate` objects to its `MatrixOwners`, which know how parameters
are spread over processes. This package knows one process only: `SoleOwner`.

Letters: N matrices of one shape, R rows of each, r rows that this process holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class MatrixUpdate:
    """The update of N matrices of one shape, which one process computes in one call.

    Attributes:
        parameters: the N matrices as the optimizer knows them; they have the whole shape (R, ...).
        inputs: the parts of stacks of N matrices that this process holds, each (N, r, ...).
        compute: whole stacks (N, R, ...) -> the update (N, R, ...), of the type of the first input,
            and one floating-point number per matrix (N). A pure function.
        is_rowwise: whether `compute` treats every row by itself, so that it can be called with some
            of the rows. Its numbers are means over rows.
    """

    parameters: Sequence[Tensor]
    inputs: tuple[Tensor, ...]
    compute: Callable[..., tuple[Tensor, Tensor]]
    is_rowwise: bool = False


class MatrixOwners(Protocol):
    """Computes updates of whole matrices, each on one process."""

    def local(self, tensor: Tensor) -> Tensor:
        """Return the part of a parameter, or of a tensor like it, that this process holds."""

    def compute(self, updates: Iterable[MatrixUpdate]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the result of each of `updates`, in their order.

        Args:
            updates: of the same matrices on all processes.

        Yields:
            The rows of the update that this process holds (N, r, ...), and the numbers of all N
            matrices.
        """


class SoleOwner:
    """One process, which holds all matrices and computes each update when it is asked for."""

    def local(self, tensor: Tensor) -> Tensor:
        """Return `tensor`."""
        return tensor

    def compute(self, updates: Iterable[MatrixUpdate]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the result of each of `updates`, before it takes the next one."""
        for update in updates:
            yield update.compute(*update.inputs)
