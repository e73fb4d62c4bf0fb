"""What the server sends: JSON, and JSON followed by columns of numbers."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from spectral_exp.core.json_value import jsonable
from spectral_exp.core.series import FloatArray


def json_bytes(value: Any) -> bytes:
    """Return JSON. NaN and infinities become null."""
    try:
        return orjson.dumps(value)
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        return json.dumps(jsonable(value)).encode()


def round_numbers(values: FloatArray) -> FloatArray:
    """Return the nearest float32 of each number, or the number if that is not near."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rounded = values.astype(np.float32).astype(np.float64)
        is_near = np.abs(rounded - values) <= 1e-6 * np.abs(values)
    return np.where(is_near, rounded, values)


class FrameWriter:
    """Collects columns; the header finds each of them by its offset, counted in float64.

    Args:
        rounded: whether seven digits of each number will do, which compress better.
    """

    def __init__(self, *, rounded: bool = False) -> None:
        self._rounded = rounded
        self._columns: list[FloatArray] = []
        self._n_floats = 0

    def add(self, columns: Sequence[FloatArray] | FloatArray, *, exact: bool = False) -> int:
        """Append columns and return the offset of the first, which is never rounded.

        Args:
            columns: of one series.
            exact: whether to round none of them.
        """
        offset = self._n_floats
        for place, column in enumerate(columns):
            is_rounded = self._rounded and not exact and place > 0
            numbers = round_numbers(column) if is_rounded else column
            self._columns.append(np.ascontiguousarray(numbers, dtype="<f8"))
            self._n_floats += len(column)
        return offset

    def content(self, header: Mapping[str, Any]) -> bytes:
        """Return the answer: length of the header, header, padding to 8 bytes, columns."""
        text = json_bytes(header)
        padding = b" " * (-(4 + len(text)) % 8)  # not counted in the length
        parts = [struct.pack("<I", len(text)), text, padding]
        return b"".join([*parts, *(column.tobytes() for column in self._columns)])
