"""Series of values at ascending steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Series:
    """Values of one quantity at ascending steps. Values may be NaN or infinite."""

    steps: FloatArray
    values: FloatArray

    def __post_init__(self) -> None:
        if self.steps.ndim != 1 or self.steps.shape != self.values.shape:
            raise ValueError(
                f"a series needs as many steps as values, got {self.steps.shape} and"
                f" {self.values.shape}"
            )

    def __len__(self) -> int:
        return int(self.steps.size)

    @property
    def finite(self) -> NDArray[np.bool_]:
        """True at finite values."""
        return np.isfinite(self.values)
