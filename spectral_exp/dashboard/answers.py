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


class FrameWriter:
    """Collects columns; the header finds each of them by its offset, counted in float64."""

    def __init__(self) -> None:
        self._columns: list[FloatArray] = []
        self._n_floats = 0

    def add(self, columns: Sequence[FloatArray] | FloatArray) -> int:
        """Append columns and return the offset of the first."""
        offset = self._n_floats
        for column in columns:
            self._columns.append(np.ascontiguousarray(column, dtype="<f8"))
            self._n_floats += len(column)
        return offset

    def content(self, header: Mapping[str, Any]) -> bytes:
        """Return the answer: length of the header, header, padding to 8 bytes, columns."""
        text = json_bytes(header)
        padding = b" " * (-(4 + len(text)) % 8)  # not counted in the length
        parts = [struct.pack("<I", len(text)), text, padding]
        return b"".join([*parts, *(column.tobytes() for column in self._columns)])
