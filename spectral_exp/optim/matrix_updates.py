"""Updates that need whole matrices, computed here or by the processes that own the matrices.

An optimizer that treats every number by itself works on any part of a matrix. One that transforms
matrices (RGD, Muon) hands `MatrixUpdate` objects to its `MatrixOwners`, which know how parameters
are spread over processes. This package knows one process only: `SoleOwner`.

Letters: N matrices of one shape, R rows of each, r rows that this process holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

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


class ComputedUpdate(NamedTuple):
    """The part of an update that belongs to this process.

    Attributes:
        request: the update as it was requested.
        rows: the rows that this process holds (N, r, ...).
        numbers: of all N matrices.
    """

    request: MatrixUpdate
    rows: Tensor
    numbers: Tensor


class MatrixOwners(Protocol):
    """Computes updates of whole matrices, each on one process."""

    def local(self, tensor: Tensor) -> Tensor:
        """Return the part of a parameter, or of a tensor like it, that this process holds."""

    def compute(self, updates: Iterable[MatrixUpdate]) -> Iterator[ComputedUpdate]:
        """Yield the results of `updates` in their order. All processes pass the same updates."""


class SoleOwner:
    """One process, which holds all matrices and computes each update when it is asked for."""

    def local(self, tensor: Tensor) -> Tensor:
        """Return `tensor`."""
        return tensor

    def compute(self, updates: Iterable[MatrixUpdate]) -> Iterator[ComputedUpdate]:
        """Yield the results of `updates`; the next one is not asked for before it is needed."""
        for update in updates:
            yield ComputedUpdate(update, *update.compute(*update.inputs))
